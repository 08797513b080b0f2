"""Routed experts from disk: pools of slots that keep those which were picked often and lately, and a queue of the rest.

Which experts a step needs is known when the layer's router has spoken. Those that are in no slot are read then, gate
and up of all before down of any, so that the first are multiplied while the last are read.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from memfirst.backends.cpu.readers import Job, Source
from memfirst.formats.checkpoint import Checkpoint
from memfirst.kernels.cpu import arena
from memfirst.lower.program import Program, RoutedFromDisk

HALF_LIFE = 16
"""Steps in which a use's weight halves. Simulated with 64 experts a layer, 6 a token, half of them in memory: 8, 32 and
128 hit 71, 73 and 75 % where popularity is Zipf's, and 73, 62 and 56 % where half of a token's experts stay for the
next."""

_LARGEST = 1e100


class Residents:
    """Which of `experts` lie in which of `slots`: those whose uses weigh most, where a use's weight decays."""

    def __init__(self, slots: int, experts: int) -> None:
        self.slot: NDArray[np.int64] = np.full(experts, -1, np.int64)
        """Of each expert; -1: it is not in memory."""
        self._free = list(range(slots))
        self._slots = slots
        self._weight: NDArray[np.float64] = np.zeros(experts)
        self._use = 1.0  # a use's weight now: it grows where those of all before would have to shrink

    def tick(self) -> None:
        """A step begins."""
        self._use *= 2 ** (1 / HALF_LIFE)
        if self._use > _LARGEST:
            self._weight /= self._use
            self._use = 1.0

    def take(self, wanted: NDArray[np.int64]) -> NDArray[np.int64]:
        """Give all of `wanted`, at most as many as there are slots, a place; those that had none before."""
        self._weight[wanted] += self._use
        missing: NDArray[np.int64] = wanted[self.slot[wanted] < 0]
        if (short := len(missing) - len(self._free)) > 0:
            self._evict(short, wanted)
        for expert in missing:
            self.slot[expert] = self._free.pop()
        return missing

    def _evict(self, count: int, wanted: NDArray[np.int64]) -> None:
        there = self.slot >= 0
        there[wanted] = False
        others = np.flatnonzero(there)
        least = others[np.argpartition(self._weight[others], count - 1)[:count]]
        self._free += self.slot[least].tolist()
        self.slot[least] = -1

    def clear(self) -> None:
        """Nothing is in memory any more; what was used how often is still known."""
        self.slot[:] = -1
        self._free = list(range(self._slots))


class ExpertCache:
    """The pools of one program's routed experts, as a queue of what is to be read into them.

    Args:
        routing: Tokens that each expert got in the step that runs, of all operations of routed experts one after the
            other: what kernels wrote.
    """

    def __init__(self, program: Program, checkpoint: Checkpoint, routing: NDArray[np.int32]) -> None:
        streaming = program.streaming
        self._routing, self._pools = routing, streaming.pools
        self._memory = [arena.allocate(pool.slots * pool.nbytes) for pool in streaming.pools]
        self._residents = [Residents(pool.slots, pool.experts) for pool in streaming.pools]
        self._names = names = [name for routed in streaming.routed for name in routed.tensors]
        self._sources = {name: Source(program.weights[name], checkpoint) for name in names}
        self._sizes = {name: program.weights[name].matrix_bytes for name in names}
        self._owner = {name: routed for routed in streaming.routed for name in routed.tensors}
        self.places = {n: self._memory[r.pool] for n, r in self._owner.items()}
        """The memory that each tensor's experts lie in."""
        self.tables = {n: np.zeros(r.experts, np.int64) for n, r in self._owner.items()}
        """Where each expert's matrix begins there."""
        self._number = {name: i for i, name in enumerate(names)}
        self._wanted: deque[Job] = deque()
        self._open: Counter[str] = Counter()
        self._begun: set[str] = set()
        self._read: Counter[str] = Counter()
        self._found: dict[str, int] = {}
        self._missing = 0

    def restart(self) -> None:
        self._wanted.clear()
        self._open.clear()
        self._begin()
        for residents in self._residents:
            residents.clear()

    def begin(self) -> None:
        """A step begins."""
        self._begin()
        for residents in self._residents:
            residents.tick()

    def _begin(self) -> None:
        self._begun, self._read, self._found, self._missing = set(), Counter(), {}, 0

    def need(self, tensors: Collection[str]) -> None:
        """Phases come to these tensors' experts: the router has spoken."""
        for name in tensors:
            routed = self._owner[name]
            if routed.op not in self._begun:
                self._begun.add(routed.op)
                self._fetch(routed)

    def has(self, tensors: Collection[str]) -> bool:
        """Whether all that the step needs of these tensors is there."""
        return not any(self._open[name] for name in tensors)

    def end(self) -> tuple[Mapping[str, int], Mapping[str, int], int]:
        """The step is over; by operation the bytes that were read for it and the experts that were there before, then
        how many were not."""
        return self._read, self._found, self._missing

    def next(self) -> Job | None:
        return self._wanted.popleft() if self._wanted else None

    def arrived(self, job: Job) -> None:
        name = self._names[job.weight]
        self._open[name] -= 1
        self._read[self._owner[name].op] += job.part.nbytes

    def _fetch(self, routed: RoutedFromDisk) -> None:
        """Slots for the active experts of an operation; what is not there is to be read."""
        counts = self._routing[routed.counts : routed.counts + routed.experts]
        active = np.flatnonzero(counts)
        residents, pool = self._residents[routed.pool], self._pools[routed.pool]
        missing = residents.take(active + routed.first) - routed.first
        self._found[routed.op] = len(active) - len(missing)
        self._missing += len(missing)
        slots = residents.slot[routed.first : routed.first + routed.experts]
        for name, offset in zip(routed.tensors, routed.offsets, strict=True):
            places = self.tables[name]
            places[active] = slots[active] * pool.nbytes + offset
            memory, size, source = self._memory[routed.pool], self._sizes[name], self._sources[name]
            for expert in missing.tolist():
                at = int(places[expert])
                for part in source.slices(memory[at : at + size], expert):
                    self._open[name] += 1
                    self._wanted.append(Job(self, source, part, self._number[name]))
