"""Where a step's bytes go, by purpose and by operation: priced from a Graph or a Program, or recorded by a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from memfirst.graph import DISK, Graph, Step
from memfirst.graph.traffic import (
    DRAFT,
    EMBEDDING,
    EXPERTS,
    FROM_DISK,
    HEAD,
    KV_READ,
    NOTHING,
    STATE_READ,
    STATE_WRITE,
    STREAMED,
    WEIGHTS,
    Amount,
    ExpertTraffic,
    KVTraffic,
)

if TYPE_CHECKING:
    from memfirst.lower.program import Program

_COLOURS = {WEIGHTS: "#4e79a7", HEAD: "#f28e2b", EXPERTS: "#59a14f", KV_READ: "#e15759", STATE_READ: "#b07aa1",
            EMBEDDING: "#9c755f", DRAFT: "#edc948"}  # fmt: skip
_BAR = "display:flex;height:1em;width:100%;max-width:40em"
_SEGMENT = '<div title="{0} {1:.1f} %" style="width:{1:.2f}%;background:{2}"></div>'
_ROW = (
    '<tr><td><span style="display:inline-block;width:.8em;height:.8em;background:{}"></span> {}</td>'
    '<td style="text-align:right">{:,} B</td><td style="text-align:right">{}</td></tr>'
)


@dataclass(frozen=True)
class Entry:
    """Bytes of one purpose moved by one operation in a step."""

    op: str
    purpose: str
    amount: Amount


@dataclass(frozen=True, repr=False)
class Ledger:
    """All entries of a step of `tokens` new tokens."""

    entries: tuple[Entry, ...]
    tokens: int

    def by_purpose(self) -> dict[str, Amount]:
        """Bytes of the step for each purpose, in order of appearance."""
        return _sum((e.purpose, e.amount) for e in self.entries)

    def by_op(self) -> dict[str, Amount]:
        """Bytes of the step for each operation, streamed purposes only."""
        return _sum((e.op, e.amount) for e in self.entries if e.purpose in STREAMED)

    def __repr__(self) -> str:
        sums = ", ".join(f"{purpose} {int(amount)}" for purpose, amount in self.by_purpose().items())
        return f"Ledger({self.tokens} tokens: {sums or 'nothing'})"

    def _repr_html_(self) -> str:
        """For a notebook: what must come from memory as a bar and a table, what else moves below."""
        sums = {purpose: amount for purpose, amount in self.by_purpose().items() if amount.high}
        read = {p: sums[p] for p in STREAMED if p in sums}
        total = sum(amount.mean for amount in read.values())
        shares = {p: 100 * amount.mean / total for p, amount in read.items()}
        bar = "".join(_SEGMENT.format(p, shares[p], _COLOURS[p]) for p in shares)
        rows = [_ROW.format(_COLOURS[p], p, int(a), f"{shares[p]:.1f} %") for p, a in read.items()]
        rows += [_ROW.format("none", p, int(a), "not counted") for p, a in sums.items() if p not in read]
        head = f"<b>{total / 1e6:,.1f} MB</b> read for {self.tokens} token{'s' * (self.tokens != 1)}"
        return f'<div>{head}</div><div style="{_BAR}">{bar}</div><table>{"".join(rows)}</table>'

    @property
    def streamed(self) -> Amount:
        """Bytes that must come from memory in this step: divided by bandwidth they give its ceiling."""
        return sum((e.amount for e in self.entries if e.purpose in STREAMED), NOTHING)

    @property
    def from_disk(self) -> Amount:
        """Bytes that come from disk in this step: they have a ceiling of their own."""
        return sum((e.amount for e in self.entries if e.purpose == FROM_DISK), NOTHING)

    @property
    def bytes_per_token(self) -> float:
        """Streamed bytes for each new token."""
        return self.streamed.mean / max(1, self.tokens)


def _sum(items: Iterable[tuple[str, Amount]]) -> dict[str, Amount]:
    out: dict[str, Amount] = {}
    for key, amount in items:
        out[key] = out.get(key, NOTHING) + amount
    return out


def price(model: Graph | Program, step: Step) -> Ledger:
    """What a step moves: of a program by its tasks, with weights as packed; of a graph by its operations, as stored."""
    entries = (Entry(op, read.purpose, read.amount(step)) for op, read in model.moves)
    return Ledger(tuple(e for e in entries if e.amount.high), step.tokens)


def share(graph: Graph, ledger: Ledger, step: Step, index: int) -> Ledger:
    """One sequence's part of a step's ledger: what is read for all, by new tokens (the head by rows of logits); its own
    KV cache and state. Integers; what does not divide is the first one's, so the parts sum to the whole."""
    sequences = step.sequences
    if len(sequences) == 1:
        return ledger
    caches = {op.name: read.cache for op in graph.ops for read in op.traffic() if isinstance(read, KVTraffic)}
    tokens = [s.new for s in sequences]
    other = {
        HEAD: [len(s.logit_rows) for s in sequences],
        **dict.fromkeys((STATE_READ, STATE_WRITE), [1] * len(tokens)),
    }

    def weights(entry: Entry) -> list[int]:
        if entry.purpose == KV_READ:
            return [caches[entry.op].attended(s) for s in sequences]
        return other.get(entry.purpose, tokens)

    parts = (Entry(e.op, e.purpose, _part(e.amount, weights(e), index)) for e in ledger.entries)
    return Ledger(tuple(e for e in parts if e.amount.high), sequences[index].new)


def with_drafts(ledger: Ledger, drafts: Iterable[Ledger]) -> Ledger:
    """The ledger of a step and of the draft model's steps before it; what these streamed has one purpose, `DRAFT`."""
    sums: dict[tuple[str, str], Amount] = {}
    for entry in (entry for draft in drafts for entry in draft.entries):
        key = f"draft.{entry.op}", DRAFT if entry.purpose in STREAMED else entry.purpose
        sums[key] = sums.get(key, NOTHING) + entry.amount
    more = tuple(Entry(op, purpose, amount) for (op, purpose), amount in sums.items())
    return replace(ledger, entries=ledger.entries + more) if more else ledger


def _part(amount: Amount, weights: list[int], index: int) -> Amount:
    """Part `index` of an amount that is divided by weights."""
    total = sum(weights)
    first = next(i for i, weight in enumerate(weights) if weight)

    def whole(n: int) -> int:
        rest = n - sum(n * weight // total for weight in weights) if index == first else 0
        return n * weights[index] // total + rest

    low, high = whole(amount.low), whole(amount.high)
    return Amount(low if amount.exact else amount.mean * weights[index] / total, low, high)


@dataclass(frozen=True)
class Distinct:
    """Routed experts that a step reads, of a layer on average: of how many, expected, and recorded.

    Expected is what even routing gives, see `ExpertTraffic`.
    """

    layers: int
    experts: float
    expected: float
    recorded: float

    def __str__(self) -> str:
        """`51.3 of 128 a layer (51.6 expected)`."""
        found = f"{_short(self.recorded)} of {_short(self.experts)} a layer"
        return found if self.recorded == self.expected else f"{found} ({_short(self.expected)} expected)"


def _short(number: float) -> str:
    return f"{number:.0f}" if number == round(number) else f"{number:.1f}"


def distinct_experts(graph: Graph, step: Step) -> Distinct | None:
    """Those of a step with its recorded routing; None for a model without experts."""
    found = {op: read for op, read in graph.moves if isinstance(read, ExpertTraffic)}  # one for each layer that routes
    if not found:
        return None
    layers, before = len(found), replace(step, routing={})
    experts, expected, recorded = (
        sum(numbers) / layers
        for numbers in zip(
            *((r.weight.shape[0], r.distinct(before).mean, r.distinct(step).mean) for r in found.values()), strict=True
        )
    )
    return Distinct(layers, experts, expected, recorded)


@dataclass(frozen=True)
class Memory:
    """What must be held to run, in bytes."""

    weights: int
    kv_held: int
    kv_allocated: int
    buffers: int
    process: int = 0
    """What the process takes besides: interpreter, libraries, tokenizer, compiled kernels."""
    streaming: int = 0
    """What weights on disk pass through."""

    @property
    def total(self) -> int:
        """Everything, with the cache as allocated."""
        return self.weights + self.streaming + self.kv_allocated + self.buffers + self.process


def memory(model: Graph | Program, contexts: Iterable[int], workers: int = 1) -> Memory:
    """Memory for sequences that hold `contexts` tokens each; a graph has no buffers. Weights on disk take none, but
    what they pass through."""
    lengths = tuple(contexts)
    graph, weights, buffers, streaming = (
        (model, model.weights(), 0, 0)
        if isinstance(model, Graph)
        else (model.graph, model.weights, model.buffer_bytes(workers), model.streaming.nbytes)
    )
    caches = graph.caches
    return Memory(
        weights=sum(w.nbytes for w in weights.values() if w.tier != DISK),
        kv_held=sum(c.held_bytes(n) for c in caches for n in lengths),
        kv_allocated=sum(c.allocated_bytes(n) for c in caches for n in lengths),
        buffers=buffers,
        streaming=streaming,
    )


def required(program: Program, contexts: Iterable[int], workers: int, largest: int) -> Memory:
    """What a machine must have free to run `program`: planner and engine both ask here, and accept as one.

    Sequences reach `contexts` tokens each, in steps of up to `largest` tokens; these have buffers of their own, as
    large as this program's would be (within 1 %), but for logits: of rows that nobody asks for, no page is touched.
    """
    lengths, graph = tuple(contexts), program.graph
    held = memory(program, lengths, workers)
    blocks = sum(g.cache.most_blocks(n, largest) * g.block_bytes for g in graph.cache_groups for n in lengths)
    states = sum(c.allocated_bytes(n) for c in graph.states for n in lengths)
    prompts = sum(
        b.nbytes(largest, 1) if b.name != program.output.buffer else 2 * b.nbytes(len(lengths), 1)
        for b in program.buffers
    )
    process = process_bytes(graph.vocab_size)
    return Memory(held.weights, held.kv_held, blocks + states, held.buffers + prompts, process, held.streaming)


def process_bytes(vocab: int) -> int:
    """A process's peak resident memory less all that `required` counts: 136 MB measured for a vocabulary of 49,152
    tokens, 198 to 209 MB for 262,144 (Linux x86-64)."""
    return 120_000_000 + 340 * vocab


def table(ledger: Ledger) -> Mapping[str, int]:
    """Bytes by purpose as integers, for JSON."""
    return {purpose: int(amount) for purpose, amount in ledger.by_purpose().items()}
