"""`memfirst run` with the real engine, as a process: what a user can get wrong, interrupt, or take away."""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import psutil
import pytest

from memfirst.codecs.base import U8
from memfirst.convert.gguf_write import write_gguf
from memfirst.convert.mixes import MIXES
from memfirst.convert.synthetic import SyntheticCheckpoint, synthetic
from memfirst.convert.synthetic_shapes import SyntheticShape
from tests.cli.test_cli import MEMFIRST, check_one_line, command
from tests.support.recurrent_configs import RWKV7

INTERRUPTED, CLOSED_PIPE = 130, 141
CAP_DAC_OVERRIDE, PR_CAPBSET_DROP = 1, 24


def run(*args: object, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    return command(MEMFIRST, "run", *map(str, args), stdin=stdin, **env)


def start(*args: object, **env: str) -> subprocess.Popen[bytes]:
    """A run in a session of its own, both outputs as pipes."""
    return subprocess.Popen(
        [*MEMFIRST, "run", *map(str, args)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | env, start_new_session=True,
    )  # fmt: skip


def small(architecture: str = "llama", mix: str = "q4_0") -> SyntheticCheckpoint:
    """One layer, head dim 32, 300 tokens, a context of 128."""
    return synthetic(SyntheticShape(architecture, 64, 1, 2, 1, 96, 300, head_dim=32, max_position_embeddings=128), mix)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(small(), tmp_path_factory.mktemp("model") / "small.gguf")


@pytest.fixture(scope="module")
def real(smollm2: Path) -> Path:
    """The real model, its kernels compiled, those of prompts too."""
    subprocess.run([*MEMFIRST, "run", smollm2, "-p", "hi " * 20, "-n", "2"], check=True, capture_output=True)
    return smollm2


def write(
    made: SyntheticCheckpoint,
    path: Path,
    change: Callable[[str, U8], U8] = lambda name, data: data,
    metadata: Mapping[str, object] = MappingProxyType({}),
) -> Path:
    """The model as a file, some of its bytes or metadata replaced."""
    infos = list(made.tensors.values())
    write_gguf(path, {**made.metadata, **metadata}, infos, lambda i: [change(i.name, made.read(i.name).copy())])
    return path


def test_an_answer_and_its_line(real: Path) -> None:
    ran = run(real, "-n", 24, "--temperature", 0, stdin="What is the capital of France, and what is it known for?\n")
    assert ran.returncode == 0
    assert "Paris" in ran.stdout and ran.stdout.endswith("\n")
    line, bar, *more = ran.stderr.splitlines()
    assert " tok/s · " in line and "█ weights 6" in bar and not more


def test_a_model_without_attention_answers(tmp_path: Path) -> None:
    """RWKV-7, its vocabulary and chat from the file."""
    shape = {**RWKV7, "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 300}
    made = SyntheticCheckpoint(shape, MIXES["q8_0"], 0, "tiny rwkv")
    ran = run(write(made, tmp_path / "rwkv.gguf"), "-p", "Hi", "-n", 4, "--json")
    report = json.loads(ran.stdout)
    assert ran.returncode == 0 and 1 <= report["generated_tokens"] <= 4
    assert report["prompt_tokens"] == 20  # BOS, a byte each, and a paragraph's end that is a token
    assert report["predicted_bytes"]["state_write"] == report["recorded_bytes"]["state_write"] > 0


def test_json_is_one_object_and_nothing_else(real: Path) -> None:
    ran = run(real, "-p", "Hi", "-n", 3, "--json")
    assert ran.returncode == 0 and ran.stderr == ""
    report = json.loads(ran.stdout)
    assert report["generated_tokens"] == 3 and report["stop_reason"] == "length"
    assert report["predicted_bytes"]["head"] == 30_083_328
    counted = {purpose: n for purpose, n in report["predicted_bytes"].items() if purpose != "activations"}
    assert report["recorded_bytes"] == counted, (
        "predicted = recorded; activations stay in the caches, nobody counts them"
    )
    assert report["decode_s"] > 0 and report["prefill_s"] > 0 and report["model"] == str(real) and report["text"]


def test_a_closed_pipe_ends_it(real: Path) -> None:
    process = start(real, "-p", "Tell a long story.")
    assert process.stdout and process.stderr
    process.stdout.read(5)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(10) == CLOSED_PIPE


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_ctrl_c(real: Path, phase: str, threads: int) -> None:
    prompt = "word and thing " * 2400 if phase == "prefill" else "Tell a very long story."
    process = start(real, "-p", prompt, "--threads", threads)
    assert process.stdout
    if phase == "decode":
        assert process.stdout.read(1)
    else:
        time.sleep(3)  # 7,200 tokens take longer than that
        assert process.poll() is None
    check_interrupted(process)


def check_interrupted(process: subprocess.Popen[bytes], within: float = 0.5) -> None:
    """SIGINT ends it soon and silently. The clock allows for a busy machine: twice the bar."""
    sent = time.perf_counter()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=20)
    assert time.perf_counter() - sent < 2 * within
    assert (process.returncode, stderr) == (INTERRUPTED, b"")


def test_ctrl_c_while_kernels_compile(model: Path, tmp_path: Path) -> None:
    process = start(model, "-p", "x", MEMFIRST_CACHE_DIR=str(tmp_path))
    children = wait_for_children(process)
    check_interrupted(process, within=1.0)
    deadline = time.monotonic() + 2
    while any(child.is_running() for child in children) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not [child for child in children if child.is_running()]
    left = [p for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".o"]
    assert not left


def wait_for_children(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    deadline, children = time.monotonic() + 20, list[psutil.Process]()
    while not children:
        children = psutil.Process(process.pid).children()
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.3)
    return children


# prompts


def test_a_model_without_a_chat_template_continues_the_text(tmp_path: Path) -> None:
    """And says so; a system message has no place there."""
    made = small()
    tokens = ["<|mark|>" if token == "<|im_start|>" else token for token in made.metadata["tokenizer.ggml.tokens"]]
    model = write(made, tmp_path / "base.gguf", metadata={"tokenizer.ggml.tokens": tokens})
    ran, raw = (run(model, "-p", "x", "-n", 4, "--seed", 1, *more) for more in ((), ("--raw",)))
    assert ran.returncode == 0 and ran.stdout == raw.stdout and ran.stdout.strip()
    assert "no chat template: it continues the text" in ran.stderr and "template" not in raw.stderr
    ran = run(model, "-p", "x", "--system", "y")
    assert ran.returncode == 1 and "--system" in ran.stderr and ran.stdout == ""
    check_one_line(ran.stderr)


def test_temperature_0_is_greedy(real: Path) -> None:
    """No penalty unless one is asked for."""
    greedy = [run(real, "-p", "Name three colours.", "-n", 24, "--temperature", 0, *more).stdout for more in (
        (), ("--repetition-penalty", 1), ("--seed", 3), ("--repetition-penalty", 1.5))]  # fmt: skip
    assert greedy[0] == greedy[1] == greedy[2] != greedy[3]


# files


def test_a_missing_file_and_a_text_file(tmp_path: Path) -> None:
    missing = run(tmp_path / "no.gguf", "-p", "x")
    (tmp_path / "text.gguf").write_text("A model? No: a text.\n" * 50)
    text = run(tmp_path / "text.gguf", "-p", "x")
    for ran, word in ((missing, "no.gguf"), (text, "GGUF")):
        assert ran.returncode == 1 and word in ran.stderr and ran.stdout == ""
        check_one_line(ran.stderr)


@pytest.mark.parametrize("share", [0.0, 1e-7, 0.0005, 0.05, 0.5, 0.999999])
def test_a_cut_file(smollm2: Path, tmp_path: Path, share: float) -> None:
    cut = tmp_path / "cut.gguf"
    with smollm2.open("rb") as whole:
        cut.write_bytes(whole.read(int(smollm2.stat().st_size * share)))
    ran = run(cut, "-p", "x")
    assert ran.returncode == 1 and "cut.gguf" in ran.stderr
    check_one_line(ran.stderr)


def test_an_unknown_architecture(tmp_path: Path) -> None:
    path = write(small(), tmp_path / "m.gguf", metadata={"general.architecture": "mamba9"})
    ran = run(path, "-p", "x")
    assert ran.returncode == 1 and "mamba9" in ran.stderr and "qwen3" in ran.stderr
    check_one_line(ran.stderr)
    assert command(MEMFIRST, "inspect", str(path)).returncode == 0


def test_an_unsupported_codec(model: Path, tmp_path: Path) -> None:
    data = bytearray(model.read_bytes())
    name = b"blk.0.ffn_up.weight"
    at = data.index(name) + len(name) + 4 + 2 * 8  # after the count and two sizes: the type
    data[at : at + 4] = (17).to_bytes(4, "little")  # IQ2_XS
    (tmp_path / "m.gguf").write_bytes(data)
    ran = run(tmp_path / "m.gguf", "-p", "x")
    assert ran.returncode == 1 and "iq2_xs" in ran.stderr.lower()
    check_one_line(ran.stderr)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_weights_that_are_not_numbers(tmp_path: Path, backend: str) -> None:
    def break_scales(name: str, data: U8) -> U8:
        if name == "blk.0.ffn_up.weight":
            data.reshape(-1, 18)[:, :2] = np.array([0x00, 0x7E], np.uint8)  # f16 NaN
        return data

    ran = run(write(small(), tmp_path / "nan.gguf", break_scales), "--raw", "-p", "x", "--backend", backend)
    assert ran.returncode == 1 and "nan" in ran.stderr and "finite" in ran.stderr
    check_one_line(ran.stderr)


# context, threads, memory


def test_a_prompt_longer_than_the_context(real: Path) -> None:
    ran = run(real, "-p", "many words " * 40, "--ctx", 64)
    assert ran.returncode == 1 and "64" in ran.stderr and "--ctx" in ran.stderr
    check_one_line(ran.stderr)


def test_the_context_fills_mid_answer(real: Path) -> None:
    ran = run(real, "-p", "Tell a long story.", "--ctx", 64, "--temp", 0)
    assert ran.returncode == 0 and ran.stdout.strip() and "stopped: the context is full" in ran.stderr
    as_json = run(real, "-p", "Tell a long story.", "--ctx", 64, "--temp", 0, "--json")
    report = json.loads(as_json.stdout)
    assert report["stop_reason"] == "context"
    assert report["prompt_tokens"] + report["generated_tokens"] == 65  # the last one is shown, not stored


@pytest.mark.parametrize(
    ("option", "value", "word"),
    [
        ("--ctx", 9000, "8192"),
        ("--ctx", 10**8, "8192"),
        ("--threads", 10**6, "threads"),
        ("--temperature", 1000, "temperature"),
        ("--repetition-penalty", 1000, "repetition_penalty"),
    ],
)
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_options_out_of_range(smollm2: Path, option: str, value: int, word: str, backend: str) -> None:
    ran = run(smollm2, "-p", "x", option, value, "--backend", backend)
    assert ran.returncode == 1 and word in ran.stderr
    check_one_line(ran.stderr)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_more_than_memory_holds_is_refused_before_it_is_read(tmp_path: Path, backend: str) -> None:
    """The trained context is large, so the cache for it would take 4 GB a head: far more than a machine has."""
    shape = SyntheticShape("llama", 64, 64, 64, 64, 96, 300, head_dim=256, max_position_embeddings=1 << 28)
    checkpoint = synthetic(shape, "q4_0")
    ran = run(write(checkpoint, tmp_path / "m.gguf"), "-p", "x", "--ctx", 1 << 28, "--backend", backend)
    assert ran.returncode == 1 and "GB are needed" in ran.stderr and "--ctx" in ran.stderr
    check_one_line(ran.stderr)


def test_many_threads_on_few_cores(model: Path) -> None:
    answers = {run(model, "--raw", "-p", "x", "-n", 4, "--seed", 1, "--threads", n).stdout for n in (1, 64)}
    assert len(answers) == 1 and answers != {""}


def test_the_reference_backend_answers_alike(model: Path) -> None:
    answers = [
        run(model, "--raw", "-p", "x", "-n", 3, "--temperature", 0, "--backend", b) for b in ("cpu", "reference")
    ]
    assert [a.returncode for a in answers] == [0, 0]
    assert answers[0].stdout == answers[1].stdout


def test_input_that_is_no_text(model: Path) -> None:
    ran = subprocess.run([*MEMFIRST, "run", model], input=b"abc\xff\xfe", capture_output=True, check=False, timeout=60)
    assert ran.returncode == 2 and b"UTF-8" in ran.stderr and b"Traceback" not in ran.stderr


# a cache that cannot be written


def without_root_powers() -> None:
    """Even root must respect permissions: drop the capability that passes them by."""
    ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE)


def test_a_cache_that_cannot_be_written(model: Path, tmp_path: Path) -> None:
    """Kernels are compiled all the same, and it is said once."""
    sealed = tmp_path / "sealed"
    sealed.mkdir(mode=0o500)
    ran = subprocess.run(
        [*MEMFIRST, "run", str(model), "--raw", "-p", "xyz", "-n", "2"], capture_output=True, text=True, check=False,
        timeout=120, preexec_fn=without_root_powers, env=os.environ | {"MEMFIRST_CACHE_DIR": str(sealed)},
    )  # fmt: skip
    assert ran.returncode == 0 and ran.stdout.strip()
    assert ran.stderr.count("cannot be written") == 1 and "Traceback" not in ran.stderr
    assert not list(sealed.iterdir())


def test_a_cache_that_is_a_file(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ran = run(model, "--raw", "-p", "x", "-n", 2, MEMFIRST_CACHE_DIR=str(tmp_path / "file"))
    assert ran.returncode == 0 and ran.stderr.count("cannot be written") == 1


def test_what_these_tests_break_is_good_to_begin_with(model: Path) -> None:
    assert run(model, "--raw", "-p", "x", "-n", 2).returncode == 0


def test_bench_of_a_file(model: Path) -> None:
    """A file, without any option of synthetic models."""
    done = command(MEMFIRST, "bench", str(model), "--prompt", "8", "--generate", "2", "--json")
    found = json.loads(done.stdout)
    assert found["decode_tok_s"] > 0
    assert "profile" not in found


def test_bench_with_a_profile(model: Path, tmp_path: Path) -> None:
    """As a page as wide as the terminal, as JSON, and as a trace."""
    asked, trace = ("bench", str(model), "--prompt", "8", "--generate", "2"), tmp_path / "trace.json"
    done = command(MEMFIRST, *asked, "--profile", COLUMNS="72")
    assert done.returncode == 0, done.stderr
    page = done.stdout[done.stdout.index("a step of 8 tokens") :]
    assert "one token:" in page and "outside the walk (Python)" in page
    assert max(map(len, page.splitlines())) <= 72
    done = command(MEMFIRST, *asked, "--json", "--trace", str(trace))
    found = json.loads(done.stdout)["profile"]
    assert [step["tokens"] for step in found] == [8, 1]
    assert all(step["bytes_as_predicted"] for step in found)
    assert {event["ph"] for event in json.loads(trace.read_text())["traceEvents"]} == {"M", "X"}
    done = command(MEMFIRST, *asked, "--trace", str(tmp_path / "no" / "folder"))
    assert done.returncode == 2, "before anything is measured"


def test_an_answer_in_a_form(smollm2: Path, tmp_path: Path) -> None:
    schema, grammar = tmp_path / "s.json", tmp_path / "g.gbnf"
    schema.write_text('{"type": "object", "properties": {"n": {"type": "integer", "maximum": 9}}, "required": ["n"]}')
    grammar.write_text('root ::= "<" [a-z]{3} ">"\n')
    ask = [smollm2, "A number?", "-q", "--temp", 0, "--ctx", 256]
    for option, form in (
        (["--schema", schema], r"\{\s*\"n\"\s*:\s*-?\d+\s*\}"),
        (["--grammar", grammar], "<[a-z]{3}>"),
        (["--regex", "[0-9]{4}"], "[0-9]{4}"),
    ):
        done = run(*ask, *option)
        assert done.returncode == 0 and re.fullmatch(form, done.stdout.strip()), done
    done = run(*ask, "--regex", "a", "--schema", schema)
    assert done.returncode == 2 and "--schema and --regex together" in " ".join(done.stderr.split())
    schema.write_text('{"type": "object", "if": {}}')
    done = run(*ask, "--schema", schema)
    assert done.returncode == 1 and '"if"' in done.stderr
