"""Where a step's bytes go, by purpose and by operation: priced from a Graph or a Program, or recorded by a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from memfirst.graph import Graph, Step
from memfirst.graph.traffic import NOTHING, STREAMED, Amount
from memfirst.lower.program import Program


@dataclass(frozen=True)
class Entry:
    """Bytes of one purpose moved by one operation in a step."""

    op: str
    purpose: str
    amount: Amount


@dataclass(frozen=True)
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

    @property
    def streamed(self) -> Amount:
        """Bytes that must come from memory in this step: divided by bandwidth they give its ceiling."""
        return sum((e.amount for e in self.entries if e.purpose in STREAMED), NOTHING)

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


@dataclass(frozen=True)
class Memory:
    """What must be held to run, in bytes."""

    weights: int
    kv_held: int
    kv_allocated: int
    buffers: int

    @property
    def total(self) -> int:
        """Everything, with the cache as allocated."""
        return self.weights + self.kv_allocated + self.buffers


def memory(model: Graph | Program, contexts: Iterable[int], workers: int = 1) -> Memory:
    """Memory for sequences that hold `contexts` tokens each; a graph has no buffers."""
    lengths = tuple(contexts)
    graph, weights, buffers = (
        (model.graph, model.weights, model.buffer_bytes(workers))
        if isinstance(model, Program)
        else (model, model.weights(), 0)
    )
    caches = graph.caches
    return Memory(
        weights=sum(w.nbytes for w in weights.values()),
        kv_held=sum(c.held_bytes(n) for c in caches for n in lengths),
        kv_allocated=sum(c.allocated_bytes(n) for c in caches for n in lengths),
        buffers=buffers,
    )


def table(ledger: Ledger) -> Mapping[str, int]:
    """Bytes by purpose as integers, for JSON."""
    return {purpose: int(amount) for purpose, amount in ledger.by_purpose().items()}
