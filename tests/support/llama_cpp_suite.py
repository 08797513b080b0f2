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

from requests.structures import CaseInsensitiveDict

WORDS = "words or tokens of their model"
FIRST = "the first chunk of a stream has an empty text, as OpenAI's, not null"
BARE = "/completions is OpenAI's form here, theirs is at /completion"
DATES = "dates that their server gives to templates: chat_template_kwargs does here"
IMAGES = "images"
LEFT_OUT: dict[str, str] = {
    "test_compat_gcp": "Vertex's form",
    "test_infill": "infill",
    "test_kv_keep_only_active": "options of its prompt cache",
    "test_lora": "adapters",
    "test_mcp_servers": "runs tools itself",
    "test_proxy": "its proxy for web pages",
    "test_rerank": "ranking",
    "test_router": "several models behind one port",
    "test_sleep": "unloads an idle model",
    "test_slot_save": "saves slots to files that a request names",
    "test_speculative": "options and counts of its drafting",
    "test_stream": "several models behind one port",
    "test_tools_builtin": "runs tools itself",
    "test_vision_api": IMAGES,
    "test_basic.py::test_server_multiple_addresses": "one address",
    "test_basic.py::test_load_split_model": "downloads a model",
    "test_basic.py::test_server_model_aliases_and_tags": "tags",
    "test_basic.py::test_server_slots": "/slots is always there",
    "test_chat_completion.py::test_chat_completion[": WORDS,
    "test_chat_completion.py::test_chat_completion_cached_tokens": WORDS,
    "test_chat_completion.py::test_chat_completion_stream[": WORDS,
    "test_chat_completion.py::test_chat_completion_with_openai_library": WORDS,
    "test_chat_completion.py::test_chat_completion_with_timings_per_token": FIRST,
    "test_chat_completion.py::test_logprobs_stream": FIRST,
    "test_chat_completion.py::test_chat_template$": "templates by its names",
    "test_chat_completion.py::test_chat_template_assistant_prefill[prefill1": "parts are joined by one line break",
    "test_chat_completion.py::test_apply_chat_template": "templates by its names",
    "test_chat_completion.py::test_context_size_exceeded": "the error is OpenAI's: context_length_exceeded",
    "test_chat_completion.py::test_invalid_chat_completion_req[messages7]": "two answers at the end are none",
    "test_chat_completion.py::test_return_progress[64-4": "how many batches it makes of a prompt",
    "test_compat_anthropic.py::test_anthropic_empty_messages": "an empty conversation is refused",
    "test_compat_anthropic.py::test_anthropic_tool_result_with_image": "images are refused by 400, not 500",
    "test_compat_anthropic.py::test_anthropic_vision": IMAGES,
    "test_compat_oai_responses.py::test_responses_with_openai_library": WORDS,
    "test_compat_oai_responses.py::test_responses_stream_with_llama_telemetry": "its timings; answers that "
    "max_output_tokens cut short end with response.incomplete, as OpenAI's",
    "test_completion.py::test_completion[": WORDS,
    "test_completion.py::test_completion_stream[": WORDS,
    "test_completion.py::test_completion_with_openai_library": WORDS,
    "test_completion.py::test_completion_stream_with_openai_library": WORDS,
    "test_completion.py::test_completion_prompt_cache": WORDS,
    "test_completion.py::test_completion_response_fields[I believe the meaning of life is-32": WORDS,
    "test_completion.py::test_completion_unified": WORDS,
    "test_completion.py::test_nocache_long_input_prompt": WORDS,
    "test_completion.py::test_n_probs_post": "probabilities after sampling",
    "test_ctx_shift.py::test_ctx_shift_enabled": "contexts are not shifted: an answer ends",
    "test_ctx_shift.py::test_ctx_shift_disabled_short": WORDS,
    "test_ctx_shift.py::test_ctx_shift_disabled_long": WORDS,
    "test_embedding.py::test_embedding_mixed_input[-False]": "an empty text has no vector",
    "test_embedding.py::test_embedding_pooling_none": "vectors of single tokens",
    "test_embedding.py::test_embedding_usage": WORDS,
    "test_metrics.py::test_metrics_disabled": "/metrics is always there",
    "test_metrics.py::test_metrics_prometheus_format": "a maximum that it calls a counter",
    "test_metrics.py::test_metrics_timings_on_prompt_progress": "its timings beside prompt_progress",
    "test_security.py::test_access_static": "files of its page",
    "test_security.py::test_correct_api_key": BARE,
    "test_security.py::test_cors_options[origin-Access-Control-Allow-Credentials": "no cookies are used",
    "test_security.py::test_cors_options[web.mydomain.fr-Access-Control-Allow-Headers": "those asked for are named: "
    "* does not stand for Authorization",
    "test_security.py::test_cors_proxy": "its proxy for web pages",
    "test_security.py::test_local_media_file[../../../tools-file://mtmd/test-1.jpeg-True": IMAGES,
    "test_security.py::test_local_media_file[../../../tools-file:////mtmd": IMAGES,
    "test_template.py::test_date_inside_prompt": DATES,
    "test_tokenize.py::test_tokenize_with_bos": WORDS,
    **{
        f"test_tool_call.py::test_completion_without_tool_call_fast[meta-llama-Llama-3.3-70B-Instruct-128-tools{n}-None-"
        "CompletionMode.STREAMED": FIRST
        for n in (0, 1)
    },
    "test_tool_call.py::test_completion_without_tool_call_fast[meta-llama-Llama-3.3-70B-Instruct-128-tools2-none-"
    "CompletionMode.STREAMED": FIRST,
}
"""By file or by the beginning of a test's name ($: its end), what it is about and is not here."""

NAMES = ("gpt-3.5-turbo", "gpt-3.5-turbo-instruct", "gpt-4.1", "gpt-4", "davinci-002", "test", "any", "tinyllama-2",
         "claude-3-5-sonnet-20241022", "dummy", "text-embedding-3-small")  # fmt: skip
"""What their requests call the model."""


EVERY = "MEMFIRST_SUITE_EVERY"
"""Set: nothing is left out."""


# --- as llama-server


def options(given: list[str]) -> list[str]:
    """llama-server's options as ours; what has no counterpart is left out."""
    values = {name: value for name, value in zip(given, [*given[1:], ""], strict=True) if name.startswith("--")}
    slots = int(values.get("--parallel", 4))
    made = [os.environ["MEMFIRST_SUITE_MODEL"], "--port", values["--port"], "--threads", "2"]
    context = int(values.get("--ctx-size", 4096)) // (1 if "--kv-unified" in given else slots)
    made += ["--max-sequences", str(slots), "--ctx", str(context)]
    for name in (*values.get("--alias", "served").split(","), *NAMES):
        made += ["--name", name]
    for option, default in (("--temp", "temperature"), ("--seed", "seed"), ("--n-predict", "max_tokens")):
        if values.get(option, "-1") != "-1":
            made += ["--default", f"{default}={values[option]}"]
    if "--embedding" in values:
        made += ["--pooling", values.get("--pooling", "mean")]
    for option, ours in ("--api-key", "--api-key"), ("--chat-template-file", "--chat-template"):
        made += [ours, values[option]] if option in values else []
    if "--reasoning" in values:  # theirs says it to every template
        thinks = "false" if values["--reasoning"] == "off" else "true"
        made += ["--default", f'chat_template_kwargs={{"enable_thinking": {thinks}}}']
    if values.get("--chat-template") == "chatml":
        made += ["--chat-template", "chatml"]
    made += ["--allow-origin", values.get("--cors-origins", "localhost" if "--tools" in values else "*")]
    made += ["--default", "verbose=true"] if "--verbose" in values else []
    return made + (["--no-page"] if "--no-ui" in values else [])


def theirs(given: list[str]) -> list[str]:
    """llama-server's options with our model, for a run beside."""
    made = list(given)
    for name in ("--hf-repo", "--hf-file"):
        if name in made:
            at = made.index(name)
            del made[at : at + 2]
    return ["-m", os.environ["MEMFIRST_SUITE_MODEL"], "-t", "1", *(one for one in made if one != "--offline")]


# --- as a plugin of pytest


class Kept:
    """A server that stays for the next test with the same options, where that needs no new one: starting takes most of
    the time."""

    def __init__(self, server_class: Any) -> None:
        self._start, self._stop = server_class.start, server_class.stop
        self._options, self._server, self.fresh = "", None, False
        kept = self

        def start(server: Any, timeout_seconds: int = 300) -> None:
            kept.start(server, timeout_seconds)

        def stop(server: Any) -> None:
            kept.stop(server)

        server_class.start, server_class.stop = start, stop
        ask = server_class.make_request

        def make_request(*args: Any, **options: Any) -> Any:
            """Names of headers in any case."""
            response = ask(*args, **options)
            response.headers = CaseInsensitiveDict(response.headers)
            return response

        server_class.make_request = make_request

    def start(self, server: Any, seconds: int) -> None:
        """A new one, or the one that is there."""
        import utils  # theirs

        own = {name: value for name, value in vars(server).items() if name not in ("process", "_log", "ready")}
        options = repr(sorted(own.items()))
        alive = self._server is not None and self._server.process.poll() is None
        if alive and options == self._options and not self.fresh:
            server.process = self._server.process
        else:
            self.end()
            self._start(server, timeout_seconds=max(seconds, 300))
            self._server, self._options = server, options
        utils.server_instances.add(server)

    def stop(self, server: Any) -> None:
        """The test is done with it."""
        import utils

        utils.server_instances.discard(server)
        if self.fresh:
            self.end()

    def end(self) -> None:
        """None is kept any more."""
        if self._server is not None and self._server.process is not None:
            self._server._log = sys.stdout  # a closed capture of the test that started it
            self._stop(self._server)
        self._server = None


FRESH = ("test_metrics", "test_sleep", "test_security", "cached_tokens", "return_progress", "test_no_ui")
"""Parts of names of tests that need a server of their own."""
KEPT: list[Kept] = []


def pytest_runtest_setup(item: Any) -> None:
    """Whether the test needs a new server."""
    if KEPT:
        KEPT[0].fresh = any(part in item.nodeid for part in FRESH)


def pytest_sessionfinish() -> None:
    """The last one ends."""
    for kept in KEPT:
        kept.end()


def pytest_load_initial_conftests() -> None:
    """Nothing is downloaded."""
    sys.modules.setdefault("wget", types.ModuleType("wget"))


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """Leave out what is not for this server."""
    import utils  # type: ignore[import-not-found]  # theirs

    utils.ServerPreset.load_all = staticmethod(lambda: None)
    KEPT.append(Kept(utils.ServerProcess))
    kept, left = [], []
    for item in items:
        name = item.nodeid.removeprefix("unit/")
        (left if not os.environ.get(EVERY) and any(f"{name}$".startswith(one) for one in LEFT_OUT) else kept).append(
            item
        )
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
        if other := os.environ.get("LLAMA_SERVER"):
            os.execv(other, [other, *theirs(sys.argv[2:])])
        ours = [sys.executable, "-m", "memfirst", "serve", *options(sys.argv[2:])]
        os.execv(sys.executable, ours)
    sys.exit(main(Path(sys.argv[1]).resolve(), sys.argv[2:]))
