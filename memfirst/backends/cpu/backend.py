"""The CPU backend: packs a model's weights, compiles or loads its kernels, and does steps with a thread pool."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memfirst.backends.base import STATES_PER_SEQUENCE, FromDisk, Peers, StepResult, Storage, routing_of
from memfirst.backends.cpu.bandwidth import ReadProbe
from memfirst.backends.cpu.bind import ROOM, Bound, Counts, Operands
from memfirst.backends.cpu.from_disk import Disk
from memfirst.backends.cpu.pack import KEY as PACK_KERNEL
from memfirst.backends.cpu.pack import Compiled, Pack, pack_weights
from memfirst.backends.cpu.pack import places as weight_places
from memfirst.backends.cpu.peak import VALUES, multiply_rate
from memfirst.backends.cpu.sketch import make_sketch, sketch_tables
from memfirst.backends.cpu.step import StepArrays
from memfirst.backends.cpu.step_log import StepLog
from memfirst.backends.cpu.tables import expert_tables, factor_tables, rope_tables
from memfirst.backends.cpu.topk import COMPILED, TopK
from memfirst.backends.cpu.twelve_bits import NOTHING, Found, LookUps
from memfirst.errors import BackendError, CapacityError, UnsupportedError
from memfirst.formats.checkpoint import Checkpoint
from memfirst.graph import Graph, Step
from memfirst.graph.hidden import hidden
from memfirst.graph.ops.embed import Embed
from memfirst.graph.ops.sketched import sketched
from memfirst.graph.traffic import (
    EMBEDDING,
    EXPERTS,
    FROM_DISK,
    HEAD,
    KV_READ,
    KV_WRITE,
    STATE_READ,
    STATE_WRITE,
    WEIGHTS,
    exactly,
)
from memfirst.kernels.cpu import arena
from memfirst.kernels.cpu.background import Background
from memfirst.kernels.cpu.library import Library
from memfirst.kernels.cpu.sources import Key
from memfirst.kernels.cpu.thread_pool import WALK, Native, ThreadPool, native
from memfirst.ledger import Entry, Ledger, Memory, memory, price
from memfirst.lower.cpu import BETWEEN, CAPACITIES, INLINE_TOKENS, Lowering
from memfirst.lower.default import LOGITS
from memfirst.lower.program import Call, Program
from memfirst.progress import Progress, Silent

HIDDEN_CAPACITIES = tuple(c for c in CAPACITIES if c > INLINE_TOKENS)
"""Step sizes of embeddings: the final norm is a phase, not something that each worker does for itself."""

_PURPOSES = ("", EMBEDDING, WEIGHTS, HEAD, EXPERTS, KV_READ, KV_WRITE, STATE_READ, STATE_WRITE)


@dataclass(frozen=True)
class CpuOptions:
    """How to run.

    threads    worker threads
    context    positions of one sequence at most
    sequences  sequences of one step at most
    pool       whole contexts of KV cache, shared by all sequences; default one for each sequence
    drafts     programs for 2, 3, 5 and 6 tokens too; no step waits for the kernels of a small one: a larger one serves
               while they are compiled
    given      blocks of each cache group instead, which need not be whole contexts
    snapshots  slots of recurrent state besides two for each sequence
    """

    threads: int
    context: int
    sequences: int = 1
    pool: int | None = None
    drafts: bool = False
    given: tuple[int, ...] | None = None
    snapshots: int = 0

    def blocks(self, graph: Graph) -> tuple[int, ...]:
        """Blocks of each cache group."""
        if self.given is not None:
            return self.given
        contexts = self.pool or self.sequences
        return tuple(contexts * g.cache.most_blocks(self.context, CAPACITIES[-1]) for g in graph.cache_groups)


class CpuBackend:
    """Runs steps of one model; not for use from several threads at once."""

    rows_are_exact = True
    make_library: Callable[[], Any] = Library  # the interpreted backend has its own
    make_pool: Callable[[int, Any], Any] = ThreadPool
    make_native: Callable[[Any], Native] = staticmethod(native)
    make_pack: Callable[[Any], Pack] = staticmethod(Compiled)

    def __init__(
        self,
        graph: Graph,
        checkpoint: Checkpoint,
        options: CpuOptions,
        lowering: Lowering | None = None,
        progress: Progress | None = None,
        stage: Callable[[str], None] = lambda name: None,
        pool: ThreadPool | None = None,
        twelve_bits: Found = NOTHING,
        peers: Peers | None = None,
    ) -> None:
        """Load a model.

        pool         threads of another backend, as many as `options.threads`, for who steps both by turns; they end
                     with whichever is closed first
        twelve_bits  the matrices that `graph` has in 12 bits, as `measure` found them
        peers        the processes that run the other parts, where `graph` is a part of a model
        """
        self._peers = peers
        self.graph, self.options, self._progress = graph, options, progress or Silent()
        self._lowering = lowering or Lowering(graph, options.context)
        program = self._lowering.program(1, options.threads)
        self._memory, places = weight_places(program)
        touching = arena.Touching(self._memory)  # until the weights are packed, while kernels are loaded
        self.library = self.make_library()
        self._background = Background(self.library)
        self._sizes = sorted({*CAPACITIES, *BETWEEN}) if options.drafts else list(CAPACITIES)
        self._programs: dict[int, Bound] = {}
        self._hidden: dict[int, Bound] = {}
        self._hidden_lowering: Lowering | None = None
        self._operands: dict[tuple[int, bool], Operands] = {}
        self._standing_in: dict[int, tuple[int, Bound]] = {}  # kernels made when it was chosen, and a larger program
        self._read_probe: ReadProbe | None = None
        self.read_pattern = ""
        """How the last `read_bandwidth` read: streams, prefetch, own regions or claimed chunks."""
        self.blocks = options.blocks(graph)
        """Blocks of each cache group."""
        self.slots = STATES_PER_SEQUENCE * options.sequences + options.snapshots
        """Slots of recurrent state: a step reads one and writes another."""
        self.library.load(self._kernels(program), self._compiling)
        stage("kernels")
        self._weights = {n: p.view(np.float32) if program.weights[n].pack == "plain" else p for n, p in places.items()}
        self._caches = {
            f"kv.{i}": arena.allocate(n * group.block_bytes)
            for i, (n, group) in enumerate(zip(self.blocks, graph.cache_groups, strict=True))
        }
        self._caches["state"] = arena.allocate(self.slots * sum(c.state_bytes for c in graph.states)).view(np.float32)
        self._tables: dict[str, NDArray[Any]] = {
            **rope_tables(graph, options.context),
            **factor_tables(graph, options.context, CAPACITIES[-1]),
            **expert_tables(program),
            **sketch_tables(graph),
        }
        self._arrays = StepArrays(CAPACITIES[-1], options.context, options.sequences, graph, self.blocks, self.slots)
        tables = {op.name: op.weight.alias or op.weight.name for op in graph.of(Embed)}
        self._look_ups = LookUps(tables, twelve_bits.packed)
        pack = self.make_pack(self.library)
        self._disk = Disk(program, checkpoint, self._arrays.arrays["routing"], pack)
        self.pool = pool or self.make_pool(options.threads, self.library)
        # However the backend goes, its threads end before the memory that they read is unmapped.
        self._end = weakref.finalize(self, _end, self._background, self.pool, self._disk)
        self._counts = Counts(ROOM * options.threads * len(program.calls))
        self._logs: list[StepLog] = []
        self._purpose_of = np.zeros(0, np.intp)
        self._counted: NDArray[np.int64] | None = None  # as the last step left them: one copy a step, not two
        self._bind(program)
        stage("program")
        touching.stop()
        pack_weights(program, checkpoint, places, options.threads, self._progress, pack, twelve_bits)
        self._disk.start()
        if (head := sketched(graph)) is not None:
            make_sketch(self, head, self._weights, self._tables[f"inverse:{head.name}"])
        stage("weights")

    def _kernels(self, program: Program) -> frozenset[Key]:
        """What a start needs; where it must compile, also what prompts will need: waiting once is better than twice."""
        always = ("walk.serve", "walk.read_cycles", "probe.read")
        keys = program.kernels | {(name, ()) for name in always} | {WALK, PACK_KERNEL, *COMPILED}
        if self.library.has(keys):
            return keys
        return keys | self._lowering.program(CAPACITIES[-1], self.options.threads).kernels

    def _compiling(self, done: int, total: int, kernel: str) -> None:
        self._progress.update("compiling kernels (kept for the next time)", done, total, unit="kernels")

    def own_tables(self, index: int = 0) -> tuple[tuple[int, ...], ...]:
        """Block tables of sequence `index`, where each of `options.sequences` has blocks of its own."""
        return self.graph.own_tables(index, self.options.context, self.max_tokens)

    @property
    def block_storage(self) -> list[NDArray[np.uint8]]:
        """The bytes of each cache group's blocks, [blocks, block_bytes]."""
        return [self._caches[f"kv.{i}"].view(np.uint8).reshape(n, -1) for i, n in enumerate(self.blocks)]

    @property
    def storage(self) -> Storage | None:
        """As of `Backend`; of a part of a model None, as the other parts' bytes are elsewhere."""
        if self._peers is not None:
            return None
        return Storage(self.block_storage, self._caches["state"].view(np.uint8).reshape(self.slots, -1))

    @property
    def max_tokens(self) -> int:
        """Most new tokens of one step."""
        return CAPACITIES[-1]

    def _bind(self, program: Program) -> Bound:
        entries = self.library.load(program.kernels, self._compiling)
        arrays: dict[tuple[str, str], NDArray[Any]] = {("cache", name): a for name, a in self._caches.items()}
        arrays |= {("weight", name): a for name, a in self._weights.items()}
        arrays |= {("table", name): a for name, a in self._tables.items()} | self._disk.places
        arrays |= {("step", name): a for name, a in self._arrays.arrays.items()}
        key = program.room, program.graph is not self.graph
        operands = self._operands.get(key)
        if operands is None:
            operands = self._operands[key] = Operands(program, arrays, entries, self.pool, self._counts)
        bound = (self._hidden if key[1] else self._programs)[program.capacity] = Bound(
            program, operands, entries, self.pool
        )
        return bound

    def program(self, tokens: int, hidden: bool = False) -> Bound:
        """The program for a step of that many tokens, made when first needed; `hidden`: without the head."""
        if tokens > CAPACITIES[-1]:
            raise CapacityError(f"a step of {tokens} tokens", f"at most {CAPACITIES[-1]}", "cut it into several")
        if hidden:
            return self._hidden_program(next(c for c in HIDDEN_CAPACITIES if c >= tokens))
        capacity = next(c for c in self._sizes if c >= tokens)
        return self._programs.get(capacity) or self._made(capacity)

    def _made(self, capacity: int) -> Bound:
        """A program of that size; where its kernels are not there yet and nobody waits for them, of a larger one."""
        made, serving = self._standing_in.get(capacity, (-1, None))
        if serving is not None and made == self._background.made:
            return serving
        made = self._background.made
        program = self._lowering.program(capacity, self.options.threads)
        if not self.options.drafts or capacity == CAPACITIES[-1] or self._background.ready(program.kernels):
            self._standing_in.pop(capacity, None)
            return self._bind(program)
        serving = self.program(capacity + 1)
        self._standing_in[capacity] = made, serving
        return serving

    def _hidden_program(self, capacity: int) -> Bound:
        if capacity not in self._hidden:
            if self._peers is not None or self._disk.reads:
                found = "embeddings of a model in several processes, or with weights on disk"
                raise UnsupportedError(found, "all of it in one process's memory")
            self._hidden_lowering = self._hidden_lowering or Lowering(hidden(self.graph), self.options.context)
            self._bind(self._hidden_lowering.program(capacity, self.options.threads))
        return self._hidden[capacity]

    def warm_up_hidden(self) -> None:
        """Bind the programs that embeddings need; UnsupportedError where there are none."""
        for capacity in HIDDEN_CAPACITIES:
            self._hidden_program(capacity)

    def warm_up(self) -> None:
        """Bind the programs of all sizes: a first prompt takes 50 ms less, 4 s where kernels must be compiled."""
        for capacity in self._sizes:
            self.program(capacity)

    def finish_compiling(self) -> None:
        """Wait for the kernels of all sizes, and bind them: what is measured then no longer changes."""
        self.warm_up()
        self._background.wait()
        self.warm_up()

    @property
    def max_sequences(self) -> int:
        """Most sequences of one step."""
        return self.options.sequences

    def step_log(self, step: Step, tokens: Sequence[int] | NDArray[np.int32]) -> StepLog:
        """Room for the log of such a step; give it to `step`, and read it after `quiesce`."""
        bound = self.program(len(tokens), step.hidden)
        self.pool.begin()
        self._arrays.fill(step, tokens, self.options.threads)
        return StepLog(bound, self._arrays.most_counts(), self.options.threads)

    def check(self, step: Step, tokens: Sequence[int] | NDArray[np.int32]) -> None:
        """Raises for a step of `tokens` that `step` would refuse before it computes anything."""
        self.program(len(tokens), step.hidden)
        self._arrays.check(step, tokens)

    def step(
        self, step: Step, tokens: Sequence[int] | NDArray[np.int32], log: StepLog | None = None
    ) -> StepResult:  # fmt: skip
        """Do a step of `tokens`; with `log`, by the walk that writes it."""
        if not self._end.alive:
            raise BackendError("a step of a closed backend", "one that is open", "load the model again")
        bound = self.program(len(tokens), step.hidden)
        before, self._counted = self._counts.copy() if self._counted is None else self._counted, None
        self.pool.begin()
        bound.operands.alternate()
        rows = self._arrays.fill(step, tokens, self.options.threads)
        if log is not None:
            self._logs.append(log)  # a worker that comes late may still write it
        disk = self._walk(bound, step, tokens, log)
        self._counted = after = self._counts.copy()
        aside = self._look_ups.of(tokens)
        routed, listed = self._arrays.routed(), self._arrays.listed()
        return StepResult(bound.logits(rows), (before, after), routed, disk, aside, listed)

    def _walk(
        self, bound: Bound, step: Step, tokens: Sequence[int] | NDArray[np.int32], log: StepLog | None
    ) -> FromDisk:
        """All phases, stretch by stretch as weights come from disk; what came."""
        with self._disk.step(step, tokens) as coming:
            for stretch, walk in zip(bound.stretches, (bound if log is None else log).walks, strict=True):
                self._exchange(bound, stretch.start, step)
                coming.wait(stretch)
                self.pool.begin()
                self.pool.run(walk.ctypes.data, stretch.end - stretch.start, log is not None)
                coming.free(stretch)
            self._exchange(bound, len(bound.program.phases), step)
        return coming.read

    def _exchange(self, bound: Bound, phase: int, step: Step) -> None:
        """What other processes need or give before a phase."""
        for exchange in bound.exchanges.get(phase, ()):
            place = exchange.part or exchange.whole
            if self._peers is None or place is None:
                raise BackendError("a part of a model without the others", "one that runs beside them")
            rows = step.logits if place.per == LOGITS else step.tokens
            if not rows:
                continue
            part, whole = (None if r is None else bound.operands.rows(r, rows) for r in (exchange.part, exchange.whole))
            if part is not None and whole is not None:
                self._peers.gather(part, whole, exchange.parts, place.per != LOGITS)
            elif part is not None:
                self._peers.send(part, exchange.peer)
            elif whole is not None:
                self._peers.receive(whole, exchange.peer)

    def quiesce(self) -> None:
        """After logged steps: returns once no worker writes a log any more."""
        self.pool.quiesce()
        self._logs.clear()

    def copy_block(self, group: int, source: int, target: int) -> None:
        """Copy a block of a cache group."""
        storage = self.block_storage[group]
        storage[target] = storage[source]

    def predicted(self, step: Step) -> Ledger:
        """What `step` will move: the price of the program that does it."""
        return price(self.program(step.tokens, step.hidden).program, step)

    def counted(self) -> NDArray[np.int64]:
        """Bytes that each worker read in each call of each program so far, for `moved`."""
        return self._counts.copy()

    def moved(self, before: NDArray[np.int64], after: NDArray[np.int64]) -> NDArray[np.int64]:
        """Bytes that each of `calls` read between two counts, all workers together."""
        return self._counts.between(before, after)

    def calls(self) -> list[Call]:
        """The calls that `moved` is of: for each room those of one of its programs."""
        return [call for operands in self._operands.values() for call in operands.calls]

    def recorded(self, step: Step, result: StepResult) -> Ledger:
        """What the kernels read in a step, by operation and purpose."""
        counted = ledger_of(self.calls(), self.moved(*result.counts), step.tokens)
        disk = tuple(Entry(op, FROM_DISK, exactly(n)) for op, n in result.disk.bytes.items())
        return replace(counted, entries=counted.entries + disk)

    def by_purpose(self, result: StepResult) -> dict[str, int]:
        """What the kernels read in a step, by purpose: 15 µs where `recorded` takes 300."""
        moved = self.moved(*result.counts)
        if len(moved) != len(self._purpose_of):
            self._purpose_of = np.array([_PURPOSES.index(call.purpose) for call in self.calls()], np.intp)
        sums = np.bincount(self._purpose_of, moved, len(_PURPOSES)).tolist()  # float64: exact below 2^53
        found = {purpose: int(n) for purpose, n in zip(_PURPOSES, sums, strict=True) if purpose and n}
        return found | ({FROM_DISK: result.disk.total} if result.disk.bytes else {})

    def routing(self, result: StepResult) -> Mapping[str, tuple[int, ...]]:
        """By operation of routed experts, the tokens that each expert got."""
        return routing_of(self.graph, result)

    def top(self) -> TopK:
        """What finds a sampler's candidates, for one sampler."""
        entries = self.library.load(COMPILED)
        return TopK(*(self.make_native(entries[key]) for key in COMPILED))

    def memory(self, contexts: Iterable[int]) -> Memory:
        """What is held for sequences of these lengths."""
        return memory(self._programs[1].program, contexts, self.options.threads)

    def read_bandwidth(self, seconds: float = 0.33) -> float:
        """Measured read bandwidth of as many threads, bytes/s: of the fastest pattern, `read_pattern`."""
        if self._read_probe is None:
            self._read_probe = ReadProbe(self.library, self.options.threads, self._memory, self._disk.reads)
        found = self._read_probe.measure(seconds)
        self.read_pattern = found.pattern
        return found.rate

    def disk_bandwidth(self, seconds: float = 0.33) -> float | None:
        """Measured read bandwidth of the disk that weights are streamed from, bytes/s; None where all are in memory."""
        return self._disk.bandwidth(seconds)

    def multiply_rates(self, seconds: float = 0.1) -> dict[str, float]:
        """Measured multiply-adds a second of the pool's threads, of values in registers: int8 and f32."""
        return {kind: multiply_rate(self.library, self.options.threads, kind, seconds) for kind in VALUES}

    def close(self) -> None:
        """End the worker threads."""
        self._end()


def _end(background: Background, pool: ThreadPool, disk: Disk) -> None:
    background.close()
    pool.close()
    disk.close()


def ledger_of(calls: Sequence[Call], moved: NDArray[np.int64], tokens: int) -> Ledger:
    """Bytes counted by calls, as a ledger."""
    entries = (
        Entry(call.op, call.purpose, exactly(int(n)))
        for call, n in zip(calls, moved, strict=True) if call.purpose and n
    )  # fmt: skip
    return Ledger(tuple(entries), tokens)
