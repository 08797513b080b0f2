"""The ceiling: every pattern reads every byte, its loops touch no stack, its threads end whatever happens."""

from __future__ import annotations

import platform
import threading
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from memfirst.backends.cpu import bandwidth
from memfirst.backends.cpu.bandwidth import ReadProbe
from memfirst.hardware import host
from memfirst.kernels.cpu import arena, build, isa
from memfirst.kernels.cpu.library import Library
from memfirst.kernels.cpu.read_patterns import CHUNK, PATTERNS, SUMS
from tests.support import assembly


@pytest.fixture(scope="module")
def library() -> Library:
    return Library()


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[NDArray[np.uint8]]:
    """12 MiB of random bytes, which the probe takes for enough."""
    monkeypatch.setattr(bandwidth, "LEAST", 1)
    monkeypatch.setattr(host, "last_level_cache", lambda: 0)
    memory = arena.allocate(12 << 20)
    memory[:] = np.random.default_rng(5).integers(0, 256, memory.size, np.uint8)
    yield memory


def probe(library: Library, threads: int, memory: NDArray[np.uint8] | None) -> ReadProbe:
    return ReadProbe(library, threads, memory)


def word_sum(part: NDArray[np.uint8]) -> int:
    """What a kernel leaves of a region: the exclusive or of its registers, its 32-bit words added up."""
    folded = np.bitwise_xor.reduce(part.view(np.int32).reshape(-1, isa.register_bytes() // 4), axis=0)
    return int(folded.sum(dtype=np.int32))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("pattern", range(len(PATTERNS)), ids=[name for name, _, _ in PATTERNS])
def test_every_byte_is_read_in_every_pattern(
    library: Library, memory: NDArray[np.uint8], threads: int, pattern: int
) -> None:
    reader = probe(library, threads, memory)
    size = CHUNK << 20 if PATTERNS[pattern][2] else memory.size // threads
    with reader._team() as team:
        rate = reader._round(team, pattern)
        first = sum(team[SUMS::8].tolist())
        assert first == sum(word_sum(region) for region in memory.reshape(-1, size))
        memory[len(memory) // 2 + 100] ^= 1  # one bit
        reader._round(team, pattern)
        second = sum(team[SUMS::8].tolist()) - first
        assert second == sum(word_sum(region) for region in memory.reshape(-1, size)) != first
    assert 1e7 < rate < 1e13


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="reads assembly of x86-64")
def test_no_loop_of_the_kernel_touches_the_stack() -> None:
    text = build.assembly("probe", "read", {})
    (body,) = assembly.functions(text, r"\S*memfirst_probe_read\S*").values()
    reading = [loop for loop in assembly.loops(body) if any("mm" in line for line in loop)]
    assert len(reading) == 6  # one of each shape
    register = {64: "%zmm", 32: "%ymm", 16: "%xmm"}[isa.register_bytes()]
    for loop in reading:
        assert not assembly.touches_stack(loop)
        assert all(register in line for line in loop if "mm" in line)


def test_the_fastest_pattern_is_named(library: Library, memory: NDArray[np.uint8]) -> None:
    found = probe(library, 2, memory).measure(0.01)
    assert found.pattern in [name for name, _, _ in PATTERNS]
    assert 1e7 < found.rate < 1e13


def test_the_finalists_are_found_once(
    library: Library, memory: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rates as given: the pattern that is fastest when it counts is the one that is told."""
    reader, rounds = probe(library, 1, memory), []

    def rate(team: NDArray[np.int64], pattern: int) -> float:
        rounds.append(pattern)
        return {3: 30e9, 7: 40e9, 9: 35e9}.get(pattern, 10e9)

    monkeypatch.setattr(reader, "_round", rate)
    assert reader.measure(0).pattern == PATTERNS[7][0] and set(rounds) == set(range(len(PATTERNS)))
    rounds.clear()
    assert reader.measure(0).rate == 40e9 and set(rounds) == {0, 3, 7, 9}


def test_small_memory_is_not_read(library: Library, memory: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache could hold it. Memory of its own is given back after each measurement; most of what is free stays so."""
    taken: dict[int, weakref.ref[NDArray[np.uint8]]] = {}

    def allocate(nbytes: int) -> NDArray[np.uint8]:
        made = np.zeros(nbytes, np.uint8)
        taken[nbytes >> 20] = weakref.ref(made)
        return made

    def own(cache_mib: int, free_mib: int) -> int:
        """MiB that a measurement takes, none of which is left."""
        taken.clear()
        monkeypatch.setattr(host, "last_level_cache", lambda: cache_mib << 20)
        monkeypatch.setattr(host, "available_memory", lambda: free_mib << 20)
        reader = probe(library, 1, memory)
        with reader._team():
            assert all(ref() is not None and reader.size <= size for size, ref in taken.items())
        assert all(ref() is None for ref in taken.values())
        return sum(taken)

    monkeypatch.setattr(arena, "allocate", allocate)
    assert own(6, 1 << 20) == 0, "the given memory is large enough"
    assert own(8, 1 << 20) == bandwidth.OWN
    assert own(260, 1 << 20) == bandwidth.LARGEST_OWN
    assert own(260, 1200) == 300 and own(260, 4) == CHUNK


def test_threads_end_when_a_round_fails(library: Library, memory: NDArray[np.uint8]) -> None:
    reader, before = probe(library, 3, memory), threading.active_count()
    with pytest.raises(KeyboardInterrupt), reader._team():
        assert threading.active_count() == before + 2
        raise KeyboardInterrupt
    assert threading.active_count() == before
