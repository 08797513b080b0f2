"""Reading memory as fast as it goes: the ceiling that a kernel's speed stands beside.

Several access patterns, as the fastest one differs between processors and with the number of threads. Workers wait for
rounds in here: threads that sleep between rounds of 10 ms are woken on one core, and two then read as fast as one.
"""

from memfirst.kernels.cpu.lang import inline, kernel, macro, static
from memfirst.kernels.cpu.read_patterns import (
    CHUNK,
    CLAIMS,
    LEFT,
    NEXT,
    PATTERN,
    ROUND,
    SIZE,
    STOP,
    SUMS,
    TOOK,
    WORKERS,
)
from memfirst.kernels.cpu.simd import REGISTER, load_register, prefetch_once, word_sum, xor
from memfirst.kernels.cpu.threads import atomic_load, atomic_store, atomic_swap_if, cycles, pause

LINE = 64


@inline
def _add(team, at, n):
    """Adds to a word; returns what it was."""
    while True:
        old = atomic_load(team, at)
        if atomic_swap_if(team, at, old, old + n):
            return old


@macro
def _streams(w, sums, at, lo, hi, STREAMS, TURN, AHEAD):
    """Reads MiB lo..hi as STREAMS equal parts side by side, TURN bytes of each at a time, prefetching AHEAD bytes.

    Leaves a checksum in sums[at], so that no load can be dropped.
    """
    part = ((hi - lo) << 20) // STREAMS
    a = load_register(w, lo << 20)
    b, c, d = a, a, a
    for p in range(lo << 20, (lo << 20) + part, TURN):
        for s in static(STREAMS):
            if AHEAD > 0:
                for k in static(TURN // LINE):
                    prefetch_once(w, p + s * part + AHEAD + LINE * k)
            for k in static(TURN // (4 * REGISTER)):
                a = xor(a, load_register(w, p + s * part + (4 * k) * REGISTER))
                b = xor(b, load_register(w, p + s * part + (4 * k + 1) * REGISTER))
                c = xor(c, load_register(w, p + s * part + (4 * k + 2) * REGISTER))
                d = xor(d, load_register(w, p + s * part + (4 * k + 3) * REGISTER))
    sums[at] += word_sum(xor(xor(a, b), xor(c, d)))


@kernel
def read(w: "u8", team: "i64", worker, lo, hi):
    """Worker 0 reads one round and returns; others read round after round until STOP is set. Returns bytes.

    Own regions are MiB lo..hi. Words of `team` are those of `read_patterns`.
    """
    at = SUMS + 8 * worker
    total, seen, begin = 0, 0, 0
    while True:
        if worker == 0:
            atomic_store(team, LEFT, team[WORKERS] - 1)
            atomic_store(team, NEXT, 0)
            begin = cycles()
            atomic_store(team, ROUND, team[ROUND] + 1)
        else:
            while atomic_load(team, ROUND) == seen:
                if atomic_load(team, STOP) != 0:
                    return total
                pause()
            seen += 1
        pattern, claims, size = team[PATTERN], team[CLAIMS], team[SIZE]
        first, last = lo, hi
        if claims != 0:
            first = _add(team, NEXT, CHUNK)
            last = min(first + CHUNK, size)
        while first < last:
            if pattern == 0:
                _streams(w, team, at, first, last, 1, 1024, 0)
            elif pattern == 1:
                _streams(w, team, at, first, last, 2, 2048, 0)
            elif pattern == 2:
                _streams(w, team, at, first, last, 4, 1024, 0)
            elif pattern == 3:
                _streams(w, team, at, first, last, 1, 512, 4096)
            elif pattern == 4:
                _streams(w, team, at, first, last, 1, 256, 6144)
            else:
                _streams(w, team, at, first, last, 2, 256, 2048)
            total += (last - first) << 20
            if claims == 0:
                break
            first = _add(team, NEXT, CHUNK)
            last = min(first + CHUNK, size)
        if worker == 0:
            while atomic_load(team, LEFT) != 0:
                pause()
            team[TOOK] = cycles() - begin
            return total
        _add(team, LEFT, -1)
