"""Graph → Program for the CPU: few phases, what follows a product fused behind it, weights packed by sixteen rows.

A layer of a Llama becomes five phases: q, k, v (norm of heads, RoPE and the cache write behind them); attention;
output, added to the residual; gate, up and their gating; down, added. What makes a product's input (norm, merging of
attention, quantization) every worker repeats for itself when the step has few tokens; else it is a phase of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from math import ceil, lcm

from memfirst.errors import UnsupportedError
from memfirst.graph import Graph, KVCache, Op
from memfirst.graph.ops.add import Add
from memfirst.graph.ops.attention import Attention
from memfirst.graph.ops.embed import Embed
from memfirst.graph.ops.glu import Glu
from memfirst.graph.ops.linear import Linear
from memfirst.graph.ops.norm import RMSNorm
from memfirst.graph.ops.rope import Rope
from memfirst.graph.ops.select import Select
from memfirst.graph.traffic import ACTIVATIONS, KV_READ, KV_WRITE
from memfirst.lower import cpu_refuse
from memfirst.lower.cpu_calls import CpuCalls, cpu_weight, family, whole_rows
from memfirst.lower.program import Call, Phase, Program, Ref, Task
from memfirst.lower.step_fields import SPLIT, in_group

INLINE_TOKENS = 2
"""Up to so many tokens each worker prepares inputs for itself: cheaper than a barrier."""

CAPACITIES = (1, 4, 8, 32, 256)
"""Step sizes that programs are built for, each when first needed."""

ROWS = 16
"""Chunks of rows are multiples of this: the widest register takes 16."""

MAX_GROUP = 32
"""Query heads over one head of keys: each has sums of its own, and 64 take 20 s to compile."""


@dataclass
class Chain:
    """A product and what follows it on the same rows: calls in order, and the operations that they do."""

    rows: int
    calls: list[Call] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)
    align: int = ROWS
    skip: tuple[str, ...] = ()

    def add(self, op: Op, call: Call, unit: int = 1) -> None:
        """`op` follows, on whole units (heads) of `unit` rows."""
        self.calls.append(call)
        self.ops.append(op)
        self.align = lcm(self.align, unit)


@dataclass(frozen=True)
class Input:
    """What products read: the calls that make it, the operations that these do, and the float form."""

    calls: tuple[Call, ...]
    ops: tuple[Op, ...]
    x: Ref
    shared: bool
    per: str


class CpuLowering:
    """Builds one Program; see `lower`."""

    def __init__(self, graph: Graph, capacity: int, context: int, workers: int) -> None:
        self.graph, self.capacity, self.context, self.workers = graph, capacity, context, workers
        self.inline = capacity <= INLINE_TOKENS
        self.make = CpuCalls(graph, capacity, ceil(context / SPLIT), self.inline)
        self.phases: list[Phase] = []
        self.done: set[str] = set()
        self.residual: set[str] = set()
        self.producers = {op.output: op for op in graph.ops}
        self.consumers: dict[str, list[Op]] = {}
        for op in graph.ops:
            for value in op.inputs:
                self.consumers.setdefault(value, []).append(op)

    def program(self) -> Program:
        """All operations, in order; those fused into earlier phases are skipped."""
        cpu_refuse.check(self.graph, self.context)
        for op in self.graph.ops:
            if op.name not in self.done:
                self.lower(op)
        weights = {name: cpu_weight(w) for name, w in self.graph.weights().items()}
        buffers = tuple(self.make.buffers.values())
        return Program("cpu", self.graph, self.capacity, tuple(self.phases), buffers, weights)

    def lower(self, op: Op) -> None:
        """Add the phases of `op` and of what is fused with it."""
        if isinstance(op, Embed):
            chunk = ceil(self.capacity / self.workers / 2)
            self.phases.append(Phase(op.name, (self.task([self.make.embed(op)], [op], 1, chunk, "tokens"),)))
            self.residual.add(op.output)
        elif isinstance(op, Linear):
            self.products(op.inputs[0])
        elif isinstance(op, Attention):
            self.attend(op)
        elif not isinstance(op, RMSNorm | Select):
            raise UnsupportedError(f"the CPU backend has no kernel for {type(op).__name__} ({op.name})")

    def task(
        self,
        calls: Iterable[Call],
        ops: Iterable[Op],
        units: int,
        chunk: int,
        per: str = "",
        skip: tuple[str, ...] = (),
    ) -> Task:
        """A task that moves what its operations move, except the purposes in `skip`."""
        calls, ops = tuple(calls), tuple(ops)
        reuse = max((int(tile) for call in calls for name, tile in call.statics if name == "TILE"), default=1)
        moves = [(op.name, read) for op in ops for read in _packed(op).reads() if read.purpose not in skip]
        name = next((op.name for op in ops if isinstance(op, Linear)), ops[0].name if ops else "")
        return Task(name, calls, units, chunk, tuple(r for _, r in moves), tuple(n for n, _ in moves), per, reuse)

    # --- products --------------------------------------------------------------------------------------

    def products(self, value: str) -> None:
        """All products of one input: its preparation, then a phase with a chain for each of them."""
        group = [op for op in self.consumers[value] if isinstance(op, Linear)]
        made = self.input(value, group)
        chains = [self.chain(op, made) for op in group if op.name not in self.done]
        total = sum(chain.rows for chain in chains)
        per = "any_logits" if made.per == "logits" else ""
        tasks = [self.task(c.calls, c.ops, c.rows, self.rows_a_chunk(c, total), per, c.skip) for c in chains]
        name = group[0].name
        if self.inline:
            before = self.task((), made.ops, 0, 1)
            first = replace(tasks[0], reads=before.reads + tasks[0].reads, owners=before.owners + tasks[0].owners)
            self.phases.append(Phase(name, (first, *tasks[1:]), made.calls, made.per))
            return
        chunk = ceil(self.capacity / self.workers / 4)
        preparation = self.task(made.calls, made.ops, 1, chunk, made.per)
        self.phases.append(Phase(f"{name}_input", (replace(preparation, name=f"{name}_input"),)))
        self.phases.append(Phase(name, tuple(tasks)))

    def input(self, value: str, group: list[Linear]) -> Input:
        """How `value` becomes what the products in `group` read."""
        source, width = self.producers[value], group[0].weight.columns
        calls: list[Call] = []
        ops: list[Op] = []
        shared, per = not self.inline, "tokens"
        if isinstance(source, RMSNorm):
            per = "logits" if isinstance(self.producers[source.inputs[0]], Select) else "tokens"
            call, x = self.make.norm(source, per)
            calls, ops = [call], [source]
        elif isinstance(source, Attention):
            call, x = self.make.merge(source)
            calls = [call]
        elif isinstance(source, Glu):
            x, shared = Ref("buffer", "h"), True
        else:
            raise UnsupportedError(f"{group[0].name} reads the output of {type(source).__name__}")
        families = {family(linear.weight) for linear in group}
        if families != {"float"}:
            block = 256 if "k256" in families else 32
            calls.append(self.make.quantize(source, x, width, shared, block))
        return Input(tuple(calls), tuple(ops), x, shared, per)

    def rows_a_chunk(self, chain: Chain, total: int) -> int:
        """Rows claimed at a time: about eight claims a worker in a phase; with many tokens 64, to stay in cache."""
        wanted = min(64, total) if self.capacity > 8 else ceil(total / self.workers / (8 if self.workers > 1 else 1))
        return ceil(wanted / chain.align) * chain.align

    def chain(self, op: Linear, made: Input) -> Chain:
        """The product `op` and everything that follows it row by row."""
        following = self.only_consumer(op.output)
        if isinstance(following, Glu):
            return self.gated(following, made)
        chain = Chain(whole_rows(op.weight), ops=[op])
        if isinstance(following, Add) and following.inputs[0] in self.residual:
            self.residual.add(following.output)
            chain.ops.append(following)
            chain.calls = self.make.product(op, made.x, made.shared, Ref("buffer", "x"), made.per, 1)
        else:
            y = self.make.buffer(_role(op), "f32", chain.rows)
            chain.calls = self.make.product(op, made.x, made.shared, y, made.per, 0)
            self.follow(chain, y, op.output)
        self.done |= {o.name for o in chain.ops if not isinstance(o, Attention)}
        return chain

    def follow(self, chain: Chain, y: Ref, value: str) -> None:
        """Adds norm of heads, RoPE and the cache write behind a product whose output is in `y`."""
        op = self.only_consumer(value)
        if isinstance(op, RMSNorm) and op.heads:
            chain.add(op, self.make.norm_heads(op, y, chain.rows), op.weight.columns)
            self.follow(chain, y, op.output)
        elif isinstance(op, Rope):
            chain.add(op, self.make.rope(op, y, chain.rows), op.head_dim)
            self.follow(chain, y, op.output)
        elif isinstance(op, Attention) and value == op.inputs[1]:
            chain.calls.append(self.make.write(op, y, keys=True))
            chain.align = lcm(chain.align, op.cache.k_dim)
        elif isinstance(op, Attention) and value == op.inputs[2]:
            chain.add(op, self.make.write(op, y, keys=False), op.cache.v_dim)
            chain.skip = (KV_READ, ACTIVATIONS)  # attention's own task moves those
        elif op is not None and not isinstance(op, Attention):
            raise UnsupportedError(f"the CPU backend cannot put {type(op).__name__} ({op.name}) behind a product")

    def gated(self, glu: Glu, made: Input) -> Chain:
        """gate and up on the same rows, then their gating."""
        pair = [self.producers[value] for value in glu.inputs]
        chain, outputs = Chain(glu.width), []
        for op in pair:
            if not isinstance(op, Linear):
                raise UnsupportedError(f"{glu.name} gates the output of {type(op).__name__}", "two products")
            outputs.append(self.make.buffer(_role(op), "f32", glu.width))
            chain.calls += self.make.product(op, made.x, made.shared, outputs[-1], made.per, 0)
            chain.ops.append(op)
        chain.add(glu, self.make.glu(glu, *outputs))
        self.done |= {op.name for op in chain.ops}
        return chain

    def only_consumer(self, value: str) -> Op | None:
        """The one operation that takes `value`; None for the logits."""
        found = self.consumers.get(value, [])
        if len(found) > 1:
            raise UnsupportedError(f"{value} feeds {len(found)} operations", "one, on the CPU backend")
        return found[0] if found else None

    # --- attention --------------------------------------------------------------------------------------

    def attend(self, op: Attention) -> None:
        """One unit for each item (a token, or a split of its context) and KV head."""
        _check_attention(op)
        q = self.producers[op.inputs[0]]
        while not isinstance(q, Linear):
            q = self.producers[q.inputs[0]]
        chunk = 1 if self.capacity <= 8 else 8
        call = self.make.attend(op, Ref("buffer", _role(q)))
        task = self.task(
            [call], [op], op.cache.heads, chunk, in_group("items", self.graph.group_of[op.cache.name]), skip=(KV_WRITE,)
        )
        self.phases.append(Phase(op.name, (task,)))


def _packed(op: Op) -> Op:
    """`op` with weights as the CPU keeps them: its reads are then what the kernels read."""
    return op.with_weights({w.name: cpu_weight(w) for w in op.weights})


def _role(op: Op) -> str:
    """The buffer of an operation's output, the same in every layer: "blk.3.attn_q" -> "attn_q"."""
    return op.name.split(".", 2)[-1]


def _check_attention(op: Attention) -> None:
    c: KVCache = op.cache
    if op.softcap or op.sinks is not None or c.k_dim != c.v_dim or c.k_dim % 32 or {c.k_codec, c.v_codec} != {"f16"}:
        raise UnsupportedError(
            f"{op.name} (dims {c.k_dim}/{c.v_dim}, cache {c.k_codec}/{c.v_codec}, softcap {op.softcap})",
            "equal dims that are multiples of 32, an f16 cache, no softcap or sinks, on the CPU backend",
        )
    if op.heads > MAX_GROUP * c.heads:
        raise UnsupportedError(
            f"{op.name} has {op.heads} query heads over {c.heads} of keys", f"at most {MAX_GROUP} over each"
        )


def lower(graph: Graph, capacity: int, context: int, workers: int) -> Program:
    """The CPU's program for steps of up to `capacity` tokens over up to `context` positions, by `workers` threads."""
    return CpuLowering(graph, capacity, context, workers).program()
