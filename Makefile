# make            this help
# PYTHON=python3.12 make demo   with another interpreter (3.11 or newer)

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMPS := $(VENV)/.stamps
MODEL  ?= smollm2:135m
PROMPT ?= What is the capital of France, and what is it known for?
BENCH  ?= --threads 2
MINUTES ?= 30
LLAMA_PYTHON ?= python3
LLAMA_CPP ?= ../llama.cpp
# Files of tests side by side: a file's fixtures (one takes minutes) are made once.
PYTEST ?= -n logical --maxprocesses 4 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help demo test test-ceiling fuzz-models fuzz-server hang-ups soak clients page llama-server-tests check bench parity parity-llama docs wheel clean

help: ## this page
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(STAMPS)/run ## set up, fetch a small real model (98 MB), and let it answer
	$(BIN)/memfirst pull $(MODEL)
	$(BIN)/memfirst run $(MODEL) -p "$(PROMPT)" -n 128 --temperature 0

test: $(STAMPS)/dev ## the test suite (comparisons that need torch are skipped; see parity)
	$(BIN)/python -m pytest $(PYTEST)

test-ceiling: $(STAMPS)/dev ## no loop and no kernel reads faster than the stated ceiling (needs the machine alone, 2 minutes)
	MEMFIRST_TEST_CEILING=1 $(BIN)/python -m pytest tests/ceiling -s

fuzz-models: $(STAMPS)/dev ## 20,000 changed models of every architecture and codec: each is refused or runs (40 minutes)
	$(BIN)/python -m tests.fuzz.fuzz_models --cases 20000

fuzz-server: $(STAMPS)/clients ## schemathesis over /openapi.json: 20,000 requests, every answer checked, no memory lost (20 minutes)
	$(BIN)/python -m tests.support.fuzz_server

hang-ups: $(STAMPS)/dev ## 1,000 requests to a server, one in five hangs up somewhere: nothing is lost, nothing stays (5 minutes)
	$(BIN)/python -m tests.support.hang_ups 1000

soak: $(STAMPS)/dev ## 30 minutes of eight clients with schemas, tools, streams that are left: no error, memory within 2 %
	$(BIN)/python -m tests.support.soak $(MINUTES) $(MODEL)

page: $(STAMPS)/page ## the live page in Chromium (apt install chromium), while it serves: figures, axe-core, screenshots in build/page
	$(BIN)/python -m tests.support.browse_page build/page $(MODEL)

llama-server-tests: $(STAMPS)/dev ## llama.cpp's own tests of its server against this one (LLAMA_CPP: its source)
	$(BIN)/python -m tests.support.llama_cpp_suite $(LLAMA_CPP)/tools/server/tests

clients: $(STAMPS)/clients ## the server by libraries that people use: Ollama, LangChain, pydantic-ai, llm; with npm the AI SDK too
	if command -v npm > /dev/null; then cd tests/server/clients && npm install --no-package-lock --silent; fi
	$(BIN)/python -m pytest tests/server/clients -rs

check: $(STAMPS)/dev ## ruff, mypy --strict and the house rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_house.py

bench: $(STAMPS)/run ## measure the small model on this machine
	$(BIN)/memfirst bench $(MODEL) $(BENCH)

parity: $(STAMPS)/parity ## the suite with torch and transformers installed (gigabytes), what is skipped named
	$(BIN)/python -m pytest -rs $(PYTEST)

parity-llama: $(STAMPS)/dev ## small models of every architecture beside llama.cpp (LLAMA_PYTHON: a Python that has llama-cpp-python)
	$(BIN)/python -m tests.support.llama_parity --llama-python $(LLAMA_PYTHON)

docs: $(STAMPS)/docs ## rewrite what is computed: docs/cli.md, docs/claims.md, and the output shown in other pages
	$(BIN)/python docs/cli_page.py > docs/cli.md.new
	mv docs/cli.md.new docs/cli.md
	$(BIN)/python -m benchmarks.claims > docs/claims.md.new
	mv docs/claims.md.new docs/claims.md
	$(BIN)/python docs/executed.py
	$(BIN)/python docs/notebook.py

wheel: $(STAMPS)/dev ## build the wheel and use it from fresh environments, with each Python of 3.11 to 3.14 that is here
	$(BIN)/python -m tests.support.check_wheel

clean: ## remove the environment and what tools left (the model cache stays)
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info build

# A stamp is newer than what it was made from, so that a second `make` does nothing.
$(STAMPS)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "memfirst needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo missing)." >&2; \
	  echo "Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	  echo "could not make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/run: pyproject.toml $(STAMPS)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(STAMPS)/dev: pyproject.toml $(STAMPS)/run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@

$(STAMPS)/clients: $(STAMPS)/dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[clients]"
	@touch $@

$(STAMPS)/page: $(STAMPS)/dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[page]"
	@touch $@

$(STAMPS)/docs: $(STAMPS)/dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[docs]"
	@touch $@

$(STAMPS)/parity: $(STAMPS)/dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "torch==2.13.0" transformers
	@touch $@
