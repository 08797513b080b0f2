"""The tests of llama.cpp's own server, against this one.

    python -m tests.support.llama_cpp_suite LLAMA_CPP/tools/server/tests [pytest's options]

It runs as llama-server for them (below), as a pytest plugin that leaves out what is not for this server, and as the
command that puts the two together. The model is SmolLM2 instead of theirs: tests that look for their model's words or
count its tokens fail, those that are known are left out.
"""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

WORDS = "words or tokens of their model"
LEFT_OUT: dict[str, str] = {
    "test_compat_gcp": "Vertex's form",
    "test_ctx_shift": "contexts are not shifted: a prompt that does not fit is refused, an answer ends",
    "test_embedding": "embeddings",
    "test_infill": "infill",
    "test_kv_keep_only_active": "options of its prompt cache",
    "test_lora": "adapters",
    "test_mcp_servers": "runs tools itself",
    "test_metrics": "pins names that begin with llamacpp:",
    "test_proxy": "its proxy for web pages",
    "test_rerank": "ranking",
    "test_router": "several models behind one port",
    "test_sleep": "unloads an idle model",
    "test_slot_save": "saves slots to files that a request names",
    "test_speculative": "options and counts of its drafting",
    "test_tools_builtin": "runs tools itself",
    "test_vision_api": "images",
    "test_security.py::test_cors": "CORS is off unless --allow-origin names a site",
    "test_security.py::test_local_media_file": "images",
    "test_security.py::test_access_static": "files of its page",
    "test_security.py::test_correct_api_key": "/completions is OpenAI's form here, theirs at /completion",
    "test_template.py": "other templates by option: the model's own is used",
    "test_basic.py::test_server_multiple_addresses": "one address",
    "test_basic.py::test_load_split_model": "downloads a model",
    "test_basic.py::test_server_model_aliases_and_tags": "tags",
    "test_basic.py::test_server_slots": "/slots is always there",
    "test_basic.py::test_server_props": "defaults of sampling by option",
    "test_completion.py::test_n_probs_post": "probabilities after sampling",
    "test_completion.py::test_completion_unified": "a pool that fails as a whole",
    "test_completion.py::test_nocache_long_input_prompt": "the length of a prompt in their model's tokens",
    "test_completion.py::test_completion[": WORDS,
    "test_completion.py::test_completion_stream[": WORDS,
    "test_completion.py::test_completion_with_openai_library": WORDS,
    "test_completion.py::test_completion_stream_with_openai_library": WORDS,
    "test_completion.py::test_completion_stream_vs_non_stream": "a seed for all requests by option",
    "test_completion.py::test_completion_with_tokens_input": "a temperature for all requests by option",
    "test_compat_oai_responses.py::test_responses_with_openai_library": WORDS,
    "test_compat_oai_responses.py::test_responses_stream_with_llama_telemetry": "progress of prompts; answers that "
    "max_output_tokens cut short end with response.incomplete, as OpenAI's",
    "test_tokenize.py::test_tokenize_with_bos": WORDS,
    "test_ignore_eos.py": "how it excludes tokens inside",
}
"""By file or by the beginning of a test's name, what it is about and is not here."""

NAMES = ("gpt-3.5-turbo", "gpt-3.5-turbo-instruct", "gpt-4.1", "gpt-4", "davinci-002", "test", "any", "tinyllama-2",
         "claude-3-5-sonnet-20241022", "dummy")  # fmt: skip
"""What their requests call the model."""


# --- as llama-server


def options(given: list[str]) -> list[str]:
    """llama-server's options as ours; what has no counterpart is left out."""
    values = {name: value for name, value in zip(given, [*given[1:], ""], strict=True) if name.startswith("--")}
    slots = int(values.get("--parallel", 4))
    made = [os.environ["MEMFIRST_SUITE_MODEL"], "--port", values["--port"], "--threads", "2"]
    made += ["--max-sequences", str(slots), "--ctx", str(int(values.get("--ctx-size", 4096)) // slots)]
    for name in (*values.get("--alias", "served").split(","), *NAMES):
        made += ["--name", name]
    for option, default in (("--temp", "temperature"), ("--seed", "seed"), ("--n-predict", "max_tokens")):
        if values.get(option, "-1") != "-1":
            made += ["--default", f"{default}={values[option]}"]
    if "--embedding" in values:
        made += ["--pooling", values.get("--pooling", "mean")]
    for option, ours in ("--api-key", "--api-key"), ("--chat-template-file", "--chat-template"):
        made += [ours, values[option]] if option in values else []
    if values.get("--chat-template") == "chatml":
        made += ["--chat-template", "chatml"]
    return [*made, "--allow-origin", "*"] + (["--no-page"] if "--no-ui" in values else [])


# --- as a plugin of pytest


def pytest_load_initial_conftests() -> None:
    """Nothing is downloaded."""
    sys.modules.setdefault("wget", types.ModuleType("wget"))


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """Leave out what is not for this server."""
    import utils  # type: ignore[import-not-found]  # theirs

    utils.ServerPreset.load_all = staticmethod(lambda: None)
    kept, left = [], []
    for item in items:
        name = item.nodeid.removeprefix("unit/")
        (left if any(name.startswith(one) for one in LEFT_OUT) else kept).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=left)


# --- as a command


def main(suite: Path, more: list[str]) -> int:
    """Run their tests; pytest's exit code."""
    from memfirst import hub

    root = Path(__file__).parent.parent.parent
    with TemporaryDirectory() as folder:
        shim = Path(folder, "llama-server")
        shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tests.support.llama_cpp_suite --serve "$@"\n')
        shim.chmod(0o755)
        env = os.environ | {
            "LLAMA_SERVER_BIN_PATH": str(shim), "MEMFIRST_SUITE_MODEL": str(hub.resolve("smollm2:135m")),
            "PYTHONPATH": os.pathsep.join([str(root), str(suite)]), "LLAMA_CACHE": folder,
        }  # fmt: skip
        command = [sys.executable, "-m", "pytest", "-p", "tests.support.llama_cpp_suite", "-p", "no:cacheprovider"]
        command += ["--rootdir", str(suite), "-q", "-m", "not slow", *(more or ["unit"])]
        return subprocess.run(command, cwd=suite, env=env, check=False).returncode


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        ours = [sys.executable, "-m", "memfirst", "serve", *options(sys.argv[2:])]
        os.execv(sys.executable, ours)
    sys.exit(main(Path(sys.argv[1]).resolve(), sys.argv[2:]))
