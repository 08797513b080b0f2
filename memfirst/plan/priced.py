"""A graph as few distinct operations, each with how many times it occurs: to price many steps of it quickly.

The 80 layers of a model differ in their names only, so a step is priced by some 30 operations instead of 1300. The
formulas are the operations' own (`traffic`, `flops`): what is said here is what `memfirst.ledger` says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from operator import attrgetter

from memfirst.convert.mixes import layer_of
from memfirst.errors import UnsupportedError
from memfirst.graph import Graph, KVCache, Op, StateCache, Step, Weight
from memfirst.graph.traffic import EXPERTS, KV_READ, NOTHING, STREAMED, Amount, ExpertTraffic, Traffic
from memfirst.predict.fitted import Cost
from memfirst.predict.fitted.cost import attending, group, recurs, sketched_weights

_NAMES = frozenset({"name", "inputs", "output"})


@dataclass(frozen=True)
class Kind:
    """Operations that differ in names only: one of them, its streamed reads, and how many there are."""

    op: Op
    reads: tuple[Traffic, ...]
    count: int


@dataclass(frozen=True)
class Priced:
    """A graph to be priced at many steps."""

    graph: Graph

    @cached_property
    def kinds(self) -> tuple[Kind, ...]:
        """Every operation, those alike together."""
        first: dict[Hashable, Op] = {}
        counts: Counter[Hashable] = Counter()
        for op in self.graph.ops:
            key = _signature(op)
            first.setdefault(key, op)
            counts[key] += 1
        return tuple(Kind(op, _streamed(op), counts[key]) for key, op in first.items())

    @cached_property
    def layers(self) -> int:
        """Layers of the model."""
        return 1 + max((layer_of(op.name) for op in self.graph.ops), default=-1)

    @cached_property
    def group(self) -> float:
        """Query heads that share a key and value head."""
        return group(kind.op for kind in self.kinds)

    @cached_property
    def refused(self) -> str:
        """Why memfirst does not run it; "" where it does."""
        from memfirst.lower.cpu import lower

        try:
            lower(self.graph, 1, 64, 1)
        except UnsupportedError as error:
            return str(error)
        return ""

    @cached_property
    def codec(self) -> str:
        """The codec that most bytes of the weights are in."""
        found: Counter[str] = Counter()
        for kind in self.kinds:
            for weight in kind.op.weights:
                if not weight.alias:
                    found[weight.codec] += kind.count * weight.nbytes
        return found.most_common(1)[0][0] if found else "f16"

    def amounts(self, step: Step) -> dict[str, Amount]:
        """Streamed bytes of the step by purpose, as the ledger's."""
        found: dict[str, Amount] = {}
        for kind in self.kinds:
            for read in kind.reads:
                amount = _times(read.amount(step), kind.count)
                if amount.high:
                    found[read.purpose] = found.get(read.purpose, NOTHING) + amount
        return found

    def flops(self, step: Step) -> int:
        """Operations of the step, a multiply-add counting 2."""
        return sum(kind.count * kind.op.flops(step) for kind in self.kinds)

    def cost(self, step: Step) -> Cost:
        """What the step asks of a machine, as `memfirst.predict.fitted.cost` says of a whole program."""
        amounts = self.amounts(step)
        least = amounts[EXPERTS].low if EXPERTS in amounts else 0.0
        return Cost(
            {purpose: amount.mean for purpose, amount in amounts.items()}, self.flops(step), step.tokens, self.layers,
            self.codec, len(step.sequences), self.graph.hidden_size, least, group=self.group,
            attention=self._attention(step), recurrent=self._recurrent,
            sketched=sketched_weights(self.graph, step),
        )  # fmt: skip

    def _attention(self, step: Step) -> float:
        return float(sum(kind.count * attending(kind.op, step) for kind in self.kinds))

    @cached_property
    def _recurrent(self) -> int:
        return sum(kind.count for kind in self.kinds if recurs(kind.op))

    def kv(self, step: Step) -> int:
        """Bytes of keys and values that the step reads."""
        return sum(count * read.amount(step).low for read, count in self._kv_reads)

    @cached_property
    def _kv_reads(self) -> tuple[tuple[Traffic, int], ...]:
        return tuple((read, k.count) for k in self.kinds for read in k.reads if read.purpose == KV_READ)

    def routed(self) -> tuple[int, int] | None:
        """(experts, those that a token picks) of the layers that route; None for a dense model."""
        reads = (read for kind in self.kinds for read in kind.reads if isinstance(read, ExpertTraffic))
        first = next(reads, None)
        return (first.weight.shape[0], first.k) if first else None


def _streamed(op: Op) -> tuple[Traffic, ...]:
    return tuple(read for read in op.traffic() if read.purpose in STREAMED)


def _times(amount: Amount, count: int) -> Amount:
    return Amount(amount.mean * count, amount.low * count, amount.high * count)


def _signature(op: Op) -> Hashable:
    """All that an operation is, but for names."""
    values = [value for name, value in vars(op).items() if name not in _NAMES]
    return (type(op), *[value if type(value) in _PLAIN else _nameless(value) for value in values])


_PLAIN = frozenset({int, float, str, bool, type(None)})
_WEIGHT = attrgetter("shape", "codec", "pack", "padding", "tier", "aside")
_CACHES = {kind: attrgetter(*(f.name for f in fields(kind) if f.name != "name")) for kind in (KVCache, StateCache)}


def _nameless(value: object) -> Hashable:
    kind = type(value)
    if type(value) is Weight:
        return (_WEIGHT(value), bool(value.alias))
    if kind in _CACHES:
        return (kind, _CACHES[kind](value))
    if kind is tuple:
        return tuple([each if type(each) in _PLAIN else _nameless(each) for each in value])  # type: ignore[attr-defined]
    return repr(value) if isinstance(value, Mapping) else value
