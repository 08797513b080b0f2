"""The stated ceiling is one: nothing reads memory faster. `make test-ceiling`, alone on a quiet machine (4 minutes).

Skipped otherwise: a neighbour's minute would decide it.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks import probe
from memfirst.backends.cpu.bandwidth import ReadProbe
from memfirst.convert.synthetic_shapes import SyntheticShape
from memfirst.kernels.cpu import arena
from memfirst.kernels.cpu.library import Library
from memfirst.measure.calibrate import Small

pytestmark = pytest.mark.skipif(
    "MEMFIRST_TEST_CEILING" not in os.environ, reason="make test-ceiling: needs the machine"
)

ROUNDS, SECONDS, MEBIBYTES, PASSES = 7, 0.3, 512, 4
THREADS = [1, 2]
LEAST = 0.97
"""Of the fastest other loop: what is left for noise."""


def sum_of_floats(words: NDArray[np.float32]) -> float:
    total = np.float32(0)
    for i in range(words.size):
        total += words[i]
    return float(total)


def largest_word(words: NDArray[np.float32]) -> int:
    most, as_ints = 0, words.view(np.int32)
    for i in range(as_ints.size):
        most = max(most, as_ints[i])
    return most


def bits_of_two_halves(words: NDArray[np.float32]) -> int:
    as_ints, seen = words.view(np.int64), 0
    half = as_ints.size // 2
    for i in range(half):
        seen |= as_ints[i] ^ as_ints[i + half]
    return seen


def with_numpy(words: NDArray[np.float32]) -> int:
    return int(np.bitwise_or.reduce(words.view(np.int64)))


class Python:
    """Three loops that Numba compiles and one of NumPy's, on Python threads."""

    def __init__(self, threads: int, memory: NDArray[np.uint8]) -> None:
        from numba import njit

        compiled = [njit(nogil=True, fastmath=True)(f) for f in (sum_of_floats, largest_word, bits_of_two_halves)]
        self.loops: dict[str, Callable[[NDArray[np.float32]], float]] = {f.__name__: f for f in [*compiled, with_numpy]}
        self.parts = [part.view(np.float32) for part in memory.reshape(threads, -1)]
        for f in self.loops.values():
            f(self.parts[0][:1024])

    def rate(self, name: str) -> float:
        """Bytes per second of `PASSES` passes by every thread."""
        loop, ready = self.loops[name], threading.Barrier(len(self.parts))
        times: list[tuple[float, float]] = []

        def work(part: NDArray[np.float32]) -> None:
            ready.wait()
            begin = time.perf_counter()
            for _ in range(PASSES):
                loop(part)
            times.append((begin, time.perf_counter()))

        workers = [threading.Thread(target=work, args=(part,)) for part in self.parts]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        seconds = max(end for _, end in times) - min(begin for begin, _ in times)
        return PASSES * sum(part.nbytes for part in self.parts) / seconds


@pytest.fixture(scope="module")
def c_loops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    binary = tmp_path_factory.mktemp("ceiling") / "loops"
    source = Path(__file__).with_name("loops.c")
    command = [probe.compiler(), *probe.FLAGS, probe.NATIVE_FLAGS[0], "-o", str(binary), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return binary


@pytest.fixture(scope="module")
def memory() -> NDArray[np.uint8]:
    memory = arena.allocate(MEBIBYTES << 20)
    memory.view(np.uint64)[:] = np.random.default_rng(1).integers(0, 2**60, memory.size // 8, np.uint64)
    return memory


def read_in_c(binary: Path, threads: int) -> dict[str, float]:
    command = [str(binary), str(threads), str(MEBIBYTES), str(PASSES)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return {name: float(rate) for name, rate in map(str.split, lines)}


@pytest.mark.parametrize("threads", THREADS)
def test_no_other_loop_reads_faster(c_loops: Path, memory: NDArray[np.uint8], threads: int) -> None:
    """Both probes beside ten loops in turns; a loop's share is the median of its rounds' ratios."""
    engine, python = ReadProbe(Library(), threads, memory), Python(threads, memory)
    rounds = []
    for _ in range(ROUNDS):
        ours, stated = engine.measure(SECONDS).rate, 1e9 * probe.probe(threads, SECONDS)
        others = read_in_c(c_loops, threads) | {name: python.rate(name) for name in python.loops}
        again = engine.measure(SECONDS).rate
        rounds.append({"C": stated, "engine": (ours + again) / 2, **others})
    names = [name for name in rounds[0] if name not in ("C", "engine")]
    assert len(names) == 10
    told = {name: [median(r[who] / r[name] for r in rounds) for who in ("C", "engine")] for name in names}
    table = "\n".join(f"{name:<22} C probe {c:.3f}  engine {e:.3f}" for name, (c, e) in told.items())
    agree = median(r["engine"] / r["C"] for r in rounds)
    rates = ", ".join(f"{who} {median(r[who] for r in rounds) / 1e9:.1f}" for who in ("C", "engine"))
    print(f"\n{threads} threads, GB/s: {rates}; engine ÷ C {agree:.3f}\n{table}")
    assert min(c for c, _ in told.values()) >= LEAST and min(e for _, e in told.values()) >= LEAST, table
    assert LEAST <= agree <= 1 / LEAST


STREAM = SyntheticShape("llama", 2048, 6, 32, 8, 8192, 512)
"""365 million weights: 388 MB in Q8_0."""


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("codec", ["f16", "q8_0", "q4_0"])
def test_no_kernel_reads_faster(codec: str, threads: int) -> None:
    """Decoded tokens' bytes a second, beside the ceiling of the same moment."""
    with Small(STREAM, codec, threads, 64) as model:
        step = model.step(8)
        nbytes = model.backend.predicted(step).bytes_per_token
        model.run(step, 4)
        ratios = []
        for _ in range(ROUNDS):
            before = model.backend.read_bandwidth(SECONDS / 2)
            rate = nbytes / model.run(step, 8)
            ratios.append(rate * 2 / (before + model.backend.read_bandwidth(SECONDS / 2)))
        print(f"\n{codec}, {threads} threads: {median(ratios):.3f} of the ceiling")
        assert median(ratios) <= 1 / LEAST
