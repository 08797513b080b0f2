"""The CPU backend: packs a model's weights, compiles or loads its kernels, and does steps with a team of threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memfirst.backends.cpu.bandwidth import read_bandwidth
from memfirst.backends.cpu.bind import ROOM, Bound, Counts
from memfirst.backends.cpu.pack import pack_weights
from memfirst.backends.cpu.step import StepArrays
from memfirst.backends.cpu.topk import KEY, Chooser
from memfirst.codecs.base import F32
from memfirst.errors import CapacityError
from memfirst.formats.checkpoint import Checkpoint
from memfirst.graph import Graph, Step
from memfirst.graph.ops.rope import Rope
from memfirst.graph.traffic import exactly
from memfirst.kernels.cpu import arena
from memfirst.kernels.cpu.library import Key, Library, Progress
from memfirst.kernels.cpu.team import Native, Team, native
from memfirst.ledger import Entry, Ledger, Memory, memory, price
from memfirst.lower.cpu import CAPACITIES, lower
from memfirst.lower.program import Call, Program

STATES_PER_SEQUENCE = 2
"""Slots of recurrent state: the one that a step reads is what an interrupted step goes back to."""


@dataclass(frozen=True)
class CpuOptions:
    """How to run: worker threads, positions of context for each sequence, sequences at once."""

    threads: int
    context: int
    sequences: int = 1


class CpuBackend:
    """Runs steps of one model; not for use from several threads at once."""

    make_library: Callable[[], Any] = Library  # the interpreted backend has its own
    make_team: Callable[[int, Any], Any] = Team
    make_native: Callable[[Any], Native] = staticmethod(native)

    def __init__(
        self,
        graph: Graph,
        checkpoint: Checkpoint,
        options: CpuOptions,
        program: Program | None = None,
        progress: Progress | None = None,
        stage: Callable[[str], None] = lambda name: None,
    ) -> None:
        self.graph, self.options, self._progress = graph, options, progress
        self.library = self.make_library()
        self._programs: dict[int, Bound] = {}
        self.blocks = tuple(
            options.sequences * group.cache.most_blocks(options.context, CAPACITIES[-1]) for group in graph.cache_groups
        )
        """Blocks of each cache group."""
        self.slots = STATES_PER_SEQUENCE * options.sequences
        """Slots of recurrent state: a step reads one and writes another."""
        program = program or lower(graph, 1, options.context, options.threads)
        self.library.load(self._kernels(program), progress)
        stage("kernels")
        self._memory, self._weights = pack_weights(program, checkpoint, options.threads)
        self._caches = {
            f"kv.{i}": arena.allocate(n * group.block_bytes).view(np.uint16)
            for i, (n, group) in enumerate(zip(self.blocks, graph.cache_groups, strict=True))
        }
        self._caches["state"] = arena.allocate(self.slots * sum(c.state_bytes for c in graph.states)).view(np.float32)
        self._tables = _rope_tables(graph, options.context)
        stage("weights")
        self.team = self.make_team(options.threads, self.library)
        self._counts = Counts(ROOM * options.threads * len(program.calls))
        self._arrays = StepArrays(CAPACITIES[-1], options.context, options.sequences, graph, self.blocks, self.slots)
        self._bind(program)
        stage("program")

    def _kernels(self, program: Program) -> frozenset[Key]:
        """What a start needs; where it must compile, also what prompts will need: waiting once is better than twice."""
        always = ("walk.walk", "walk.serve", "walk.read_cycles", "probe.read")
        keys = program.kernels | {(name, ()) for name in always} | {KEY}
        if self.library.has(keys):
            return keys
        return keys | lower(self.graph, CAPACITIES[-1], self.options.context, self.options.threads).kernels

    def own_tables(self, index: int = 0) -> tuple[tuple[int, ...], ...]:
        """Block tables of sequence `index`, where each of `options.sequences` has blocks of its own."""
        return self.graph.own_tables(index, self.options.context, self.max_tokens)

    @property
    def block_storage(self) -> list[NDArray[np.uint8]]:
        """The bytes of each cache group's blocks, [blocks, block_bytes]."""
        return [self._caches[f"kv.{i}"].view(np.uint8).reshape(n, -1) for i, n in enumerate(self.blocks)]

    @property
    def max_tokens(self) -> int:
        """Most new tokens of one step."""
        return CAPACITIES[-1]

    def _bind(self, program: Program) -> Bound:
        entries = self.library.load(program.kernels, self._progress)
        arrays: dict[tuple[str, str], NDArray[Any]] = {("cache", name): a for name, a in self._caches.items()}
        arrays |= {("weight", name): a for name, a in self._weights.items()}
        arrays |= {("table", name): a for name, a in self._tables.items()}
        arrays |= {("step", name): a for name, a in self._arrays.arrays.items()}
        bound = Bound(program, arrays, entries, self.team, self._counts)
        self._programs[program.capacity] = bound
        return bound

    def program(self, tokens: int) -> Bound:
        """The program for a step of that many tokens, made when first needed."""
        if tokens > CAPACITIES[-1]:
            raise CapacityError(f"a step of {tokens} tokens", f"at most {CAPACITIES[-1]}", "cut it into several")
        capacity = next(c for c in CAPACITIES if c >= tokens)
        if capacity not in self._programs:
            self._bind(lower(self.graph, capacity, self.options.context, self.options.threads))
        return self._programs[capacity]

    def step(self, step: Step, tokens: Sequence[int] | NDArray[np.int32]) -> F32:
        """Do a step; logits [step.logits, vocab] (a view that the next step overwrites)."""
        count = len(tokens)
        bound = self.program(count)
        self.team.begin()
        rows = self._arrays.fill(step, tokens, self.options.threads)
        self.team.run(bound.walk_args, len(bound.program.phases))
        return bound.logits(rows)

    def predicted(self, step: Step) -> Ledger:
        """What `step` will move: the price of the program that does it."""
        return price(self.program(step.tokens).program, step)

    def counted(self) -> NDArray[np.int64]:
        """Bytes that each worker read in each call of each program so far, for `moved` and `recorded`."""
        return self._counts.copy()

    def moved(self, before: NDArray[np.int64], after: NDArray[np.int64]) -> NDArray[np.int64]:
        """Bytes that each of `calls` read between two counts, all workers together."""
        return self._counts.between(before, after)

    def spent(self) -> NDArray[np.float64]:
        """Seconds in each call of each program so far, all workers together."""
        total: NDArray[np.float64] = np.concatenate([b.spent.sum(0) for b in self._programs.values()])
        seconds: NDArray[np.float64] = total / self.team.frequency
        return seconds

    def calls(self) -> list[Call]:
        """The calls that `moved` and `spent` are of."""
        return [call for bound in self._programs.values() for call in bound.calls]

    def recorded(self, step: Step, before: NDArray[np.int64], after: NDArray[np.int64]) -> Ledger:
        """What the kernels read between two counts, by operation and purpose."""
        return ledger_of(self.calls(), self.moved(before, after), step.tokens)

    def chooser(self) -> Chooser:
        """What finds a sampler's candidates, for one sampler."""
        return Chooser(self.make_native(self.library.load([KEY])[KEY]))

    def memory(self, contexts: Iterable[int]) -> Memory:
        """What is held for sequences of these lengths."""
        return memory(self._programs[1].program, contexts, self.options.threads)

    def read_bandwidth(self, seconds: float = 0.33) -> float:
        """Bytes per second that the team's threads can read just now."""
        return read_bandwidth(self.library, self.options.threads, seconds, self._memory)

    def close(self) -> None:
        """End the worker threads."""
        self.team.close()


def ledger_of(calls: Sequence[Call], moved: NDArray[np.int64], tokens: int) -> Ledger:
    """Bytes counted by calls, as a ledger."""
    entries = (
        Entry(call.op, call.purpose, exactly(int(n)))
        for call, n in zip(calls, moved, strict=True) if call.purpose and n
    )  # fmt: skip
    return Ledger(tuple(entries), tokens)


def _rope_tables(graph: Graph, context: int) -> dict[str, NDArray[np.float32]]:
    """Cosines and sines [context, pairs] of each RoPE; operations that rotate alike share theirs."""
    made: dict[Any, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}
    out = {}
    positions = np.arange(context, dtype=np.float64)
    for op in graph.ops:
        if isinstance(op, Rope):
            frequencies = op.frequencies_for(context)
            key = frequencies, op.factor, op.temperature, op.original if op.temperature else 0
            if key not in made:
                angles, factors = np.outer(positions, np.array(frequencies, np.float64)), op.factors(positions)[:, None]
                cos, sin = ((factors * f(angles)).astype(np.float32).reshape(-1) for f in (np.cos, np.sin))
                made[key] = cos, sin
            out[f"cos:{op.name}"], out[f"sin:{op.name}"] = made[key]
    return out
