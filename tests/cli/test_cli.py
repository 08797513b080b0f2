"""The command line as a user meets it: exit codes, streams, terminals, interruptions."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from memfirst.cli import contents, display, inspect
from memfirst.cli.app import COMMANDS
from memfirst.formats.checkpoint import TensorInfo
from memfirst.formats.open import open_checkpoint
from memfirst.runtime.sampling import SamplingParams

MEMFIRST = [sys.executable, "-m", "memfirst"]
FAKE = [sys.executable, "-m", "tests.support.fake_engine"]


def command(program: Sequence[str], *args: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    """Run to the end; stdin is a pipe."""
    return subprocess.run(
        [*program, *args],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | env,
    )


def check_one_line(stderr: str) -> None:
    """A failure says one line and shows no traceback."""
    assert stderr.startswith("memfirst: ") and stderr.count("\n") == 1, stderr


# exit codes and messages


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["--version"], 0),
        ([], 0),
        (["--help"], 0),
        *[([name, "--help"], 0) for name in COMMANDS],
        (["nonsense"], 2),
        (["run", "--nonsense"], 2),
        (["run", "m.gguf", "-p", "x", "--top-p", "1.5"], 2),
        (["run", "m.gguf", "-p", "x", "--backend", "gpu"], 2),
        (["run", "m.gguf", "-p", ""], 2),
        (["run", "m.gguf"], 2),  # standard input is empty
        (["inspect"], 2),
        (["bench"], 2),
        (["bench", "m.gguf", "--synthetic", "llama-1b"], 2),
        (["bench", "m.gguf", "--write", "x.gguf"], 2),
        (["bench", "m.gguf", "--layers", "2"], 2),
        (["bench", "--synthetic", "no-such-name"], 1),
        (["run", "missing.gguf", "-p", "x"], 1),
        (["run", "m.gguf", "-p", "x", "--temperature", "0.0001"], 1),
        (["pull", "no-such-name"], 1),
        (["rm", "no-such-name"], 1),
        (["inspect", "missing.gguf"], 1),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else str(v),
)
def test_exit_codes(args: list[str], code: int, tmp_path: Path) -> None:
    ran = command(MEMFIRST, *args, MEMFIRST_CACHE_DIR=str(tmp_path))
    assert ran.returncode == code, ran
    if code:
        assert ran.stdout == ""
        check_one_line(ran.stderr)
    else:
        assert ran.stdout and ran.stderr == ""


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello, this is a text file\n" * 100,
        b"GGUF",
        b"GGUF\x03\0\0\0" + b"\xff" * 16,
        os.urandom(4096),
        b"{",
    ],
    ids=["empty", "text", "magic only", "absurd counts", "noise", "cut json"],
)
@pytest.mark.parametrize("name", ["m.gguf", "m.bin"])
def test_inspect_refuses_what_is_no_model(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    ran = command(MEMFIRST, "inspect", str(tmp_path / name))
    assert ran.returncode == 1
    check_one_line(ran.stderr)


def test_inspect_refuses_a_cut_file(tmp_path: Path, smollm2: Path) -> None:
    for kept in (1000, 1_000_000, 50_000_000):
        with smollm2.open("rb") as whole:
            (tmp_path / "cut.gguf").write_bytes(whole.read(kept))
        ran = command(MEMFIRST, "inspect", str(tmp_path / "cut.gguf"))
        assert ran.returncode == 1
        check_one_line(ran.stderr)


def test_errors_of_many_lines_become_one(capsys: pytest.CaptureFixture[str]) -> None:
    from memfirst.cli import fail
    from memfirst.errors import FormatError

    assert fail(FormatError("a\nb", "c\r\n  d")) == 1
    assert capsys.readouterr().err == "memfirst: a b; expected c d\n"


# streams


def test_nobody_reads_our_output(smollm2: Path) -> None:
    """`memfirst inspect … | true`: no traceback, the code of a broken pipe."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        args = [*MEMFIRST, "inspect", str(smollm2), "--tensors"]
        ran = subprocess.run(args, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    finally:
        os.close(writer)
    assert (ran.returncode, ran.stderr) == (141, "")


def test_stdout_is_closed_altogether() -> None:
    ran = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", *MEMFIRST, "list"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in ran.stderr


def test_interrupted_without_a_traceback() -> None:
    args = [*FAKE, "run", "m.gguf", "-p", "hi"]
    with subprocess.Popen(
        args,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"FAKE_SLEEP_S": "1"},
    ) as ran:
        assert ran.stdout and ran.stdout.read(6) == "Memory", "it generates"
        ran.send_signal(signal.SIGINT)
        out, err = ran.communicate(timeout=20)
    assert (ran.returncode, out, err) == (130, "", "closed\n"), "the model is closed on the way out"


def test_json_is_one_object_and_nothing_else(tmp_path: Path, smollm2: Path) -> None:
    for args in (["list", "--json"], ["list", "--catalogue", "--json"], ["inspect", str(smollm2), "--json"]):
        ran = command(MEMFIRST, *args)
        assert isinstance(json.loads(ran.stdout), dict) and ran.stderr == ""


# run, over an engine of canned words


def test_run_prints_the_answer_and_what_it_cost() -> None:
    ran = command(FAKE, "run", "m.gguf", "-p", "hi", "-n", "3")
    assert (ran.returncode, ran.stdout) == (0, "Memory is the\n")
    line, bar, *rest = ran.stderr.splitlines()
    assert line == "100 tok/s · 10.0 GB/s · KV 1.0 MB held" and rest == ["closed"]
    assert bar.endswith("  █ weights 68 % · ▒ head 31 % · ░ KV 1 %")


def test_run_hands_over_what_was_asked() -> None:
    options = [
        "--temperature",
        "0.5",
        "--top-k",
        "3",
        "--seed",
        "7",
        "--stop",
        "a",
        "--stop",
        "b",
        "--threads",
        "2",
    ]
    ran = command(
        FAKE,
        "run",
        "m.gguf",
        "--system",
        "Be brief.",
        *options,
        "--ctx",
        "99",
        "--memory",
        "4G",
        "--json",
        stdin="hë\n",
    )
    asked = json.loads(ran.stdout)
    user = {"role": "user", "content": "hë"}
    assert asked["prompt"] == [{"role": "system", "content": "Be brief."}, user]
    assert asked["params"].startswith("SamplingParams(temperature=0.5, top_k=3, top_p=0.95")
    assert "seed=7" in asked["params"]
    assert asked["stop"] == ["a", "b"] and asked["max_tokens"] is None
    assert asked["options"] == {
        "path": "m.gguf",
        "threads": 2,
        "ctx": 99,
        "kv": "f16",
        "backend": "cpu",
        "memory": 4_000_000_000,
        "speculate": "auto",
        "draft": None,
        "pack": "auto",
        "head": "full",
        "split": "",
    }
    raw = json.loads(command(FAKE, "run", "m.gguf", "--raw", "-p", "Once", "--json").stdout)
    assert raw["prompt"] == "Once"


def prompt_of(*args: str, stdin: str = "") -> str:
    """What the model is asked."""
    ran = command(FAKE, "run", "m.gguf", "--raw", "--json", *args, stdin=stdin)
    return str(json.loads(ran.stdout)["prompt"])


def test_a_prompt_is_an_argument_or_an_option_with_piped_text_after_it(tmp_path: Path) -> None:
    assert prompt_of("Sum up:") == prompt_of("-p", "Sum up:") == "Sum up:"
    assert prompt_of("Sum up:", stdin="a\nb\n") == prompt_of("-p", "Sum up:", stdin="a\nb\n") == "Sum up:\n\na\nb"
    (tmp_path / "text").write_text("from a file")
    with (tmp_path / "text").open() as stdin:
        args = [*FAKE, "run", "m.gguf", "Sum up:", "--raw", "--json"]
        ran = subprocess.run(args, stdin=stdin, capture_output=True, check=True)
    assert json.loads(ran.stdout)["prompt"] == "Sum up:\n\nfrom a file"
    twice = command(FAKE, "run", "m.gguf", "a", "-p", "b")
    assert twice.returncode == 2 and "given twice" in twice.stderr


def test_a_pipe_that_is_only_open_is_not_waited_for() -> None:
    """As a program has it that starts another one."""
    args = [*FAKE, "run", "m.gguf", "-p", "hi", "-n", "1"]
    pipe = subprocess.PIPE
    with subprocess.Popen(args, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as ran:
        assert ran.stdout and ran.stderr
        assert ran.stdout.read() == "Memory\n" and "not part of the prompt" in ran.stderr.read()


def test_run_help_shows_the_samplers_defaults() -> None:
    shown = command(MEMFIRST, "run", "--help", COLUMNS="200").stdout
    for name, default in vars(SamplingParams()).items():
        option = f"--{name.replace('_', '-')}"
        if option in shown and default is not None:
            line = shown[shown.index(option) :].partition("\n  --")[0]
            assert f"default: ({default})" in " ".join(line.split()), option


def test_run_refuses_input_that_is_no_text() -> None:
    ran = subprocess.run([*FAKE, "run", "m.gguf"], input=b"\xff\xfe", capture_output=True, timeout=60, check=False)
    assert ran.returncode == 2 and b"not UTF-8" in ran.stderr


def test_an_answer_that_fails_half_way() -> None:
    ran = command(FAKE, "run", "m.gguf", "-p", "hi", FAKE_ERROR="1")
    assert ran.returncode == 1 and "memfirst: the context is full; expected fewer tokens" in ran.stderr


# inspect


def test_inspect_counts_the_real_model(smollm2: Path) -> None:
    facts = json.loads(command(MEMFIRST, "inspect", str(smollm2), "--json", "--tensors").stdout)
    assert facts["architecture"] == "llama" and facts["weights"] == 134_515_008
    assert facts["file_bytes"] == 98_362_432 and facts["tensor_bytes"] == 96_576_768
    assert facts["runs"] and facts["why_not"] == ""
    # 30 layers of 3 KV heads × 64 × 2 bytes × (K and V); 16 packed rows of the embedding of 576 weights at 8.5 bits.
    assert facts["bytes_per_token_of_context"] == 30 * 3 * 64 * 2 * 2
    read = facts["bytes_per_token"]
    assert read["embedding"] == 16 * 576 * 34 // 32 and read["head"] == 49152 * 576 * 34 // 32 + 576 * 4
    assert read["weights"] + read["head"] == 96_576_768, "the head is tied, so all tensors are read"
    assert sum(g["nbytes"] for g in facts["by_group"]) == sum(g["nbytes"] for g in facts["by_codec"]) == 96_576_768
    assert {g["name"]: g["tensors"] for g in facts["by_group"]} == {
        "feed-forward": 90, "attention": 120, "embedding": 1, "norms": 61}  # fmt: skip
    assert len(facts["tensors"]) == 272


class Table:
    """A checkpoint of shapes."""

    kind, path, architecture, has_bytes = "gguf", "", "qwen3moe", False

    def __init__(self, *tensors: TensorInfo, **metadata: int) -> None:
        self.tensors = {t.name: t for t in tensors}
        self.metadata = {f"qwen3moe.{k}": v for k, v in metadata.items()}


EMBED = TensorInfo("token_embd.weight", (100, 8), "f16", 1600)
HEAD = TensorInfo("output.weight", (100, 8), "f16", 1600)
EXPERTS = TensorInfo("blk.0.ffn_up_exps.weight", (4, 8, 8), "f16", 512)


def test_a_model_that_does_not_run_is_described() -> None:
    facts = contents.describe(Table(EMBED, EXPERTS, expert_count=4, expert_used_count=1))  # type: ignore[arg-type]
    assert not facts["runs"] and "qwen3moe" in facts["why_not"]
    assert facts["bytes_per_token"] == {"embedding": 16, "head": 1600, "experts": 128}
    assert facts["estimated"] and facts["bytes_per_token_of_context"] == 0
    text = inspect.page(facts)
    assert "does not run" in text and "about 1.7 kB (1,744 bytes)" in text


def test_a_file_that_tells_nothing_is_described() -> None:
    facts = contents.describe(Table(EXPERTS))  # type: ignore[arg-type]
    assert facts["bytes_per_token"] == {} and facts["bytes_per_token_of_context"] is None
    assert "unknown" in inspect.page(facts)


CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 128,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}


@pytest.mark.parametrize("model_type", ["llama", "strange"])
def test_a_bare_config_is_priced_where_it_can_be(tmp_path: Path, model_type: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"model_type": model_type}))
    facts = json.loads(command(MEMFIRST, "inspect", str(tmp_path / "config.json"), "--json").stdout)
    assert not facts["runs"]
    if model_type == "llama":
        per_layer = 64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 128  # q and o, k and v, the three of the feed-forward
        norms = 5 * 64 * 4
        assert facts["tensor_bytes"] == 2 * per_layer * 2 + 100 * 64 * 2 + norms
        assert facts["bytes_per_token_of_context"] == 2 * 2 * 2 * 16 * 2
        assert not facts["estimated"]
    else:
        assert "strange" in facts["why_not"] and facts["estimated"]
        assert facts["bytes_per_token_of_context"] == 2 * 2 * 2 * 16 * 2


def test_a_file_cannot_steer_the_terminal() -> None:
    assert display.printable("a\x1b[2Jb\x07\nc\u202e") == "a\ufffd[2Jb\ufffd\nc\ufffd"


def test_sizes_and_tables() -> None:
    assert [display.size(n) for n in (0, 999, 1000, 98_362_432, 5e12)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "98.4 MB",
        "5.00 TB",
    ]
    assert display.table([("a", "1"), ("bb", "10")], numbers=[1]) == "a    1\nbb  10"
    assert display.table([]) == ""


# start-up


def test_version_and_help_start_fast_and_import_little() -> None:
    code = (
        "import sys; from memfirst.cli import run_command; run_command(['{}'])\n"
        "heavy = ('numpy', 'numba', 'llvmlite', 'rich', 'huggingface_hub', 'tokenizers', 'jinja2', 'torch')\n"
        "print([m for m in heavy if m in sys.modules], file=sys.stderr)"
    )
    for option in ("--version", "--help"):
        ran = subprocess.run([sys.executable, "-c", code.format(option)], capture_output=True, text=True, check=True)
        assert ran.stderr.strip() == "[]"


def test_progress_is_drawn_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with display.progress() as quiet:
        quiet.note("not seen")
        quiet.update("x", 1, 2)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with display.progress() as shown:
        shown.note("seen")
        for done in (1, 2):
            shown.update("file[red].gguf", done, 2)
        shown.update("kernels", 1, 3, "kernels")
    err = capsys.readouterr().err
    assert "seen" in err and "\x1b[?25l" not in err.rpartition("\x1b[?25h")[2], "the cursor is shown again"


def test_bench_names_the_model_and_codec_that_it_made(tmp_path: Path) -> None:
    """Of a config.json, shortened and written: the page's head says which, and the file is that model."""
    config = {"model_type": "olmo2", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
              "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 300, "max_position_embeddings": 128,
              "rms_norm_eps": 1e-6, "rope_theta": 10000.0}  # fmt: skip
    (tmp_path / "tiny-olmo").mkdir()
    (tmp_path / "tiny-olmo" / "config.json").write_text(json.dumps(config))
    options = ["--layers", "2", "--codec", "Q8_0", "--prompt", "8", "--generate", "2", "--threads", "1"]
    ran = command(MEMFIRST, "bench", "--synthetic", str(tmp_path / "tiny-olmo"), *options)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("tiny-olmo, 2 layers q8_0, random weights, 1 thread\n")
    file = tmp_path / "made.gguf"
    ran = command(MEMFIRST, "bench", "--synthetic", str(tmp_path / "tiny-olmo"), *options, "--write", str(file))
    assert ran.returncode == 0 and ran.stdout.startswith("made.gguf, 1 thread\n")
    found = open_checkpoint(file)
    assert found.metadata["general.name"] == "tiny-olmo, 2 layers q8_0"
    assert "blk.1.attn_q.weight" in found.tensors and "blk.2.attn_q.weight" not in found.tensors
