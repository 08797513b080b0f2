"""The measuring tools beside the comparison: quality against float32, peak memory, the probe in C."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import __main__ as bench
from benchmarks import memory, peers, probe, quality
from benchmarks.process import BenchmarkError, parse_json, run
from tests.support import assembly

# --- quality ---------------------------------------------------------------------------------------


def test_kl_is_zero_for_equal_logits_and_known_for_two_coins():
    p, q = np.log([[0.5, 0.5]], dtype=np.float32), np.log([[0.25, 0.75]], dtype=np.float32)
    assert quality.kl(p, p + 7)[0] == pytest.approx(0, abs=1e-6)
    assert quality.kl(p, q)[0] == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(2 / 3), rel=1e-5)


def test_perplexity_of_uniform_logits_is_the_vocabulary():
    nll = quality.negative_log_likelihood(np.zeros((4, 50), np.float32), [1, 2, 3, 4])
    assert nll.shape == (3,)
    assert quality.perplexity(nll) == pytest.approx(50)


def test_the_likelihood_is_that_of_the_next_token():
    logits = np.full((3, 5), -30, np.float32)
    logits[0, 4] = logits[1, 2] = 30
    assert quality.negative_log_likelihood(logits, [0, 4, 2]).max() < 1e-6
    assert quality.negative_log_likelihood(logits, [4, 2, 0]).min() > 50


class Noisy:
    """Logits of a fixed random model, plus noise."""

    def __init__(self, size: float) -> None:
        self.size = size

    def logits(self, tokens: Any) -> Any:
        exact = np.random.default_rng(1).normal(size=(len(tokens), 100))
        return (exact + self.size * np.random.default_rng(2).normal(size=exact.shape)).astype(np.float32)


@pytest.mark.parametrize(("ours", "good"), [(0.001, True), (1.0, False)])
def test_the_verdict_follows_the_distance_to_the_reference(ours, good):
    engines: Any = {"reference": Noisy(0), "memfirst": Noisy(ours), "llama.cpp": Noisy(0.01)}
    found = quality.summarize([quality.compare_chunk(engines, list(range(64)))] * 2)
    assert found["tokens"] == 128
    assert not quality.verdict(found)["tokens"]
    assert quality.verdict(found)["kl"] is good
    assert quality.verdict(found)["top1"] is good


def test_the_text_is_long_enough_for_the_bar():
    contexts = len(quality.TEXT.read_bytes()) // 4 // quality.CONTEXT  # a token is at most 4 bytes on average
    assert contexts * quality.CONTEXT >= quality.MIN_TOKENS


# --- memory ----------------------------------------------------------------------------------------


def test_vm_hwm_is_read_in_bytes():
    assert memory.vm_hwm("Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t  1 kB\n") == 2 << 20
    assert memory.vm_hwm("Name:\tx\nState:\tZ\n") is None


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
def test_the_peak_of_a_process_is_seen_from_outside():
    hold = "import time; b = bytearray(80_000_000); time.sleep(0.1); del b; time.sleep(0.05); print('done')"
    peak, output = memory.peak_of([sys.executable, "-c", hold])
    assert output.strip() == "done"
    assert 80_000_000 < peak < 140_000_000


def test_the_limit_is_weights_plus_cache_plus_300_mb():
    assert memory.limit({"packed_weight_bytes": 7, "kv_allocated_bytes": 5}) == 300_000_012
    with pytest.raises(BenchmarkError):
        memory.limit({"packed_weight_bytes": 7})


# --- the probe in C --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def probe_binary(tmp_path_factory) -> Path:
    if not (shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")):
        pytest.skip("no C compiler")
    return probe.compile_probe(tmp_path_factory.mktemp("build"))


def test_the_probe_compiles_once_and_gives_a_plausible_number(probe_binary):
    made = probe_binary.stat().st_mtime_ns
    assert probe.compile_probe(probe_binary.parent).stat().st_mtime_ns == made
    found = parse_json(run([str(probe_binary), "2", "160", "0.05"]), "probe")
    assert found["bytes"] == 160 << 20 and len(found["rounds_GBps"]) >= 5
    assert found["pattern"] in found["screened_GBps"]
    assert min(found["rounds_GBps"]) > 0.05 and max(found["screened_GBps"].values()) < 5000
    assert found["check"] != 0  # the loads were not optimized away


def test_the_probe_reads_streams_prefetch_regions_and_chunks(probe_binary):
    patterns = probe_run(probe_binary)["screened_GBps"]
    assert len(patterns) >= 10
    for word in ("1 stream,", "2 streams", "4 streams", "prefetch", "own regions", "claimed chunks"):
        assert any(word in name for name in patterns), word


def probe_run(binary: Path) -> Any:
    return parse_json(run([str(binary), "1", "160", "0.01"]), "probe")


X86 = platform.machine() in ("x86_64", "AMD64")


@pytest.mark.parametrize(
    ("flags", "register"),
    [
        (["-march=x86-64"], "%xmm"), (["-mavx2"], "%ymm"), (["-mavx512f", "-mavx2"], "%zmm"),
        ([probe.NATIVE_FLAGS[0]], ""),
    ],
)  # fmt: skip
@pytest.mark.skipif(not X86, reason="flags of x86-64")
def test_no_loop_of_the_probe_touches_the_stack(probe_binary, tmp_path, flags, register):
    text = tmp_path / "probe.s"
    run([probe.compiler(), *probe.FLAGS, *flags, "-S", "-o", str(text), str(probe.SOURCE)])
    found = assembly.functions(text.read_text(), r"read_(?!once)\w+")
    assert len(found) == 6
    for name, lines in found.items():
        inner = assembly.loops(lines)
        assert inner, name
        for loop in inner:
            assert not assembly.touches_stack(loop), name
            loads = [line for line in loop if "mm" in line and "(%r" in line]
            assert loads and all(register in line for line in loads), name


WIDE = """
read_wide:
\tmovl\t$8, %edx
.L3:
\tvmovdqa\t(%rdi), %ymm0
\tvmovdqa\t%ymm0, -40(%rsp)
\taddq\t$32, %rdi
\tcmpq\t%rax, %rdi
\tjne\t.L3
\tret
\t.size\tread_wide, .-read_wide
"""
"""How gcc 12 reads a 64-byte vector with AVX2: split through the stack."""


def test_a_loop_through_the_stack_is_found():
    (loop,) = assembly.loops(assembly.functions(WIDE, "read_wide")["read_wide"])
    assert len(loop) == 4 and assembly.touches_stack(loop) == ["\tvmovdqa\t%ymm0, -40(%rsp)"]


@pytest.mark.parametrize("arguments", ["", "0 512 1", "1 100 1", "1 512 0", "x y z"])
def test_the_probe_refuses_a_buffer_that_a_cache_could_hold(probe_binary, arguments):
    done = subprocess.run([str(probe_binary), *arguments.split()], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "usage" in done.stderr


def test_without_a_compiler_the_message_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(probe.shutil, "which", lambda name: None)
    with pytest.raises(BenchmarkError, match="no C compiler"):
        probe.compile_probe(tmp_path)


# --- python -m benchmarks --------------------------------------------------------------------------


def test_peers_come_from_the_environment_and_flags_win(tmp_path):
    model = tmp_path / "m.gguf"
    model.write_bytes(b"")
    parser = bench.parser({"MEMFIRST_LLAMA_BENCH": "old", "MEMFIRST_IK_PYTHON": "py"})
    words = bench.peer_arguments(parser.parse_args([str(model), "--threads", "2", "--llama-bench", "new"]))
    chosen = peers.parser().parse_args(words)
    assert [engine.name for engine in peers.engines(chosen)] == ["memfirst", "llama.cpp", "ik_llama.cpp"]
    assert (chosen.llama_bench, chosen.ik_python, chosen.threads) == ("new", "py", [2])


@pytest.mark.parametrize("words", [["smollm2:135m", "--llama-bench", "b"], [__file__], [__file__, "--ik-path", "d"]])
def test_without_a_file_or_a_peer_there_is_no_comparison(words):
    assert bench.peer_arguments(bench.parser({}).parse_args(words)) == []


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["smollm2:135m", "--llama-python", "py"], ["share", "depth", "batch"]),
        ([__file__], ["share", "depth", "batch", "memory"]),
        ([__file__, "--llama-python", "py"], ["share", "depth", "batch", "memory", "quality"]),
    ],
)
def test_every_bar_is_run_that_can_be(words, names):
    runs = bench.bars(bench.parser({}).parse_args([*words, "--threads", "1,2"]))
    assert [run.__module__.split(".")[1] for run, _ in runs] == names
    assert all(" ".join(given).endswith("--threads 2") for _, given in runs)


@pytest.mark.parametrize("text", ["0", "1,-2", "two", ""])
def test_thread_counts_are_positive_integers(text):
    with pytest.raises(ValueError):
        probe.thread_list(text)
