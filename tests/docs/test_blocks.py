"""No block of a page is a picture of what was once so: each is executed, or stands here with the reason why not."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from memfirst.catalog.configs import find_config
from memfirst.hardware.machines import find_machine
from memfirst.kernels.cpu import lang
from memfirst.models import olmo2
from memfirst.models.base import ShapeOnly
from tests.docs.test_pages import ROOT, executed

PAGES = [
    "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md",
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")),
]  # fmt: skip

TESTED = {
    "docs/serve.md curl -s localhost:8080/v1/chat/completions": "tests/docs/test_serve_page.py",
    "docs/serve.md {\n": "tests/docs/test_serve_page.py: the answer to the curl above",
    "docs/serve.md from openai import OpenAI": "tests/docs/test_serve_page.py",
    "docs/serve.md from pydantic import BaseModel": "tests/docs/test_serve_page.py",
    "docs/serve.md made = client.embeddings.create": "tests/docs/test_serve_page.py",
    'docs/serve.md {"at": ': "tests/docs/test_serve_page.py",
    "docs/add-an-architecture.md FAMILY = ": "below",
    "docs/kernels.md @kernel": "below",
    'docs/memory-model.md {"models": ': "below",
    'docs/timing.md {"machines": ': "below",
    "docs/cli.md memfirst run smollm2:135m": "test_pages.py: made by docs/cli_page.py, and each line parses",
    "docs/cli.md memfirst serve smollm2:135m": "test_pages.py: made by docs/cli_page.py, and each line parses",
    "docs/load.md memfirst bench smollm2:135m --serve http": "needs a server that runs: tests/measure/test_load.py",
    "docs/fewer-bytes.md memfirst run big.gguf": "tests/runtime/test_draft.py runs two such files",
}
"""Blocks that a test of their own executes, by page and beginning."""

NOT_EXECUTED = {
    "README.md make demo": "installs, and runs this suite",
    "README.md pip install .": "installs: `make wheel` does, in fresh environments",
    "README.md podman build": "needs podman, and root or user namespaces",
    "CONTRIBUTING.md make test": "runs this suite; test_packaging.py: each target is there",
    "benchmarks/README.md python -m benchmarks.peers SmolLM2": "needs builds of llama.cpp and ik_llama.cpp, and hours",
    "benchmarks/README.md cmake -S": "builds llama.cpp from source that is not here",
    "benchmarks/README.md python -m benchmarks.peers $(": "needs builds of llama.cpp and ik_llama.cpp, and hours",
    "docs/start.md memfirst probe": "needs vLLM on an H100",
    "docs/start.md python -m pytest": "runs tests",
    "docs/serve.md pip install '.[serve]'": "installs",
    "docs/serve.md pip install '.[serve,scale]'": "needs MPI; tests/distributed runs two processes where it is",
    "docs/serve.md memfirst serve --replica": "needs two machines; tests/server/test_front.py has two servers on one",
    "docs/serve.md podman build": "needs podman, and root or user namespaces",
    "docs/fewer-bytes.md  text so far": "a drawing",
    "docs/fewer-bytes.md  sketch S": "a drawing",
    "docs/fewer-bytes.md  bfloat16": "a drawing",
    'docs/index.md  "Why is the sky blue?"': "a drawing",
}
"""Blocks that nothing executes, and why."""


def blocks() -> Iterator[tuple[str, str, str]]:
    """(page, what stands behind the fence, text) of each that `docs/executed.py` does not execute."""
    for page in PAGES:
        for mark, text in re.findall(r"^```([^\n]*)\n(.*?)^```$", (ROOT / page).read_text("utf-8"), re.M | re.S):
            if page not in executed.PAGES or mark.partition(" ")[0] not in ("console", "python", "text"):
                yield page, mark, text


def named(page: str, text: str) -> list[str]:
    """The lines above that mean this block."""
    return [key for key in (*TESTED, *NOT_EXECUTED) if f"{page} {text}".startswith(key)]


def test_every_block_is_executed_or_has_a_reason() -> None:
    unnamed = [f"{page}: {text[:60]!r}" for page, _, text in blocks() if len(named(page, text)) != 1]
    assert not unnamed, "make it `console` with `$ `, test it, or say why not"
    used = {key for page, _, text in blocks() for key in named(page, text)}
    assert used == {*TESTED, *NOT_EXECUTED}, "of a block that is gone"


def test_blocks_to_execute_are_marked_as_such() -> None:
    for page in PAGES:
        text = (ROOT / page).read_text("utf-8")
        for block in executed.blocks(text):
            if block.language == "console":
                assert page in executed.PAGES and block.text.startswith("$ "), f"{page}: {block.text[:60]!r}"
        assert "console" not in re.findall(r"^```(?:sh|bash|shell|console \S+ .*)$", text, re.M)


def block(page: str, beginning: str) -> str:
    return next(text for name, _, text in blocks() if name == page and text.startswith(beginning))


def test_rows_of_ones_own_are_taken_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMFIRST_CONFIG_DIR", str(tmp_path))
    (tmp_path / "machines.json").write_text(block("docs/timing.md", '{"machines"'))
    (tmp_path / "models.json").write_text(block("docs/memory-model.md", '{"models"'))
    machine = find_machine("mine")
    assert (machine.memory, machine.bandwidth, machine.cores) == (64 << 30, 89.6e9, 8)
    shown = json.loads((tmp_path / "models.json").read_text())["models"][0]
    assert find_config("mine:deep").config["num_hidden_layers"] == shown["config"]["num_hidden_layers"]


def test_the_model_file_of_the_guide_is_an_architecture() -> None:
    """Executed where the real one is: it builds the same operations."""
    names = dict(vars(olmo2))
    exec(compile(block("docs/add-an-architecture.md", "FAMILY"), "add-an-architecture.md", "exec"), names)
    config = find_config("olmo-2:7b").config
    graphs = [
        each.build(each.from_hf(config, False), ShapeOnly("q8_0"))
        for each in (names["ARCHITECTURE"], olmo2.ARCHITECTURE)
    ]
    assert graphs[0].ops == graphs[1].ops and len(graphs[0].ops) > 100


def test_the_kernel_of_the_guide_is_one() -> None:
    names = dict(vars(lang))
    exec(compile(block("docs/kernels.md", "@kernel"), "kernels.md", "exec"), names)
    assert "bias" in names["add_bias"].__doc__
