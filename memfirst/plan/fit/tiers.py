"""Weights that do not fit: layers or experts in slower memory or on disk, and what each step reads there."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from memfirst.convert.mixes import layer_of
from memfirst.errors import ConfigError, UnsupportedError
from memfirst.graph import Graph, Op, Step, Weight
from memfirst.graph.traffic import (
    NOTHING,
    STREAMED,
    Amount,
    ExpertTraffic,
    KVTraffic,
    RowTraffic,
    StateTraffic,
    Traffic,
    WeightTraffic,
)
from memfirst.plan.fit.allocators import Allocator, Memfirst
from memfirst.plan.fit.needs import Needs, needs
from memfirst.plan.fit.spread import cache_bytes, layer_count
from memfirst.transform.recode import with_kv

TIERS, MOVABLE = ("slow", "disk"), ("layers", "experts")


@dataclass(frozen=True)
class Placement:
    """A graph whose first `layers` layers have their weights (or their experts only) in another tier.

    graph   with each weight's tier; caches: names of the KV and state caches that lie in the other tier too
    fast    what the fast memory holds; moved: bytes of weights and caches that lie elsewhere
    """

    graph: Graph
    tier: str
    what: str
    layers: int
    caches: frozenset[str]
    fast: Needs
    moved: int
    spare: int

    @property
    def fits(self) -> bool:
        """Whether the rest fits in the fast memory."""
        return self.spare >= 0

    def reads(self, step: Step) -> dict[str, Amount]:
        """Streamed bytes of a step, by the tier that they come from."""
        found = {"fast": NOTHING, self.tier: NOTHING}
        for op in self.graph.ops:
            for read in op.traffic():
                if read.purpose in STREAMED:
                    tier = self._tier(read)
                    found[tier] += read.amount(step)
        return found

    def bound(self, step: Step, bandwidth: float) -> float:
        """Steps a second that the other tier allows, at `bandwidth` bytes a second; inf where nothing lies there."""
        moved = self.reads(step)[self.tier].mean
        return bandwidth / moved if moved else float("inf")

    def evicted(self, step: Step) -> Amount:
        """What a step reads from disk where nothing is pinned: all its weights.

        A page cache that drops what was read longest ago, read in the same order each step, never holds what
        comes next.
        """
        weights = (r for op in self.graph.ops for r in op.traffic() if isinstance(r, WeightTraffic | ExpertTraffic))
        return sum((r.amount(step) for r in weights), NOTHING) if self.layers else NOTHING

    def _tier(self, read: Traffic) -> str:
        if isinstance(read, WeightTraffic | RowTraffic | ExpertTraffic):
            return read.weight.tier
        if isinstance(read, KVTraffic | StateTraffic) and read.cache.name in self.caches:
            return self.tier
        return "fast"


def place(
    graph: Graph,
    memory: int,
    contexts: Sequence[int],
    *,
    allocator: Allocator | None = None,
    kv: tuple[str, str] = ("f16", "f16"),
    what: str = "layers",
    tier: str = "slow",
) -> Placement:
    """Move as few layers (or experts of layers) as must be, the first ones, until the rest fits in `memory` bytes.

    A layer in slow memory has its cache there and is computed there; what is on disk is read each step, its
    cache stays. Where moving all is not enough, the placement has `fits` False.

    Raises ConfigError for another tier or part, UnsupportedError for the experts of a dense model.
    """
    if what not in MOVABLE or tier not in TIERS:
        raise ConfigError(f"{what} in {tier!r}", f"{' or '.join(MOVABLE)} in {' or '.join(TIERS)}")
    allocator, graph = allocator or Memfirst(), with_kv(graph, *kv)
    sizes = _movable(graph, what, tier, contexts, allocator)
    missing = needs(graph, contexts, allocator).total - int(memory * allocator.share)
    sums = [0, *accumulate(sizes)]
    layers = next((m for m, moved in enumerate(sums) if moved >= missing), len(sizes))
    return _placed(graph, layers, what, tier, memory, contexts, allocator, sums[layers])


def _movable(graph: Graph, what: str, tier: str, contexts: Sequence[int], allocator: Allocator) -> list[int]:
    """Bytes that moving each layer frees."""
    weights = [0] * layer_count(graph)
    for op in graph.ops:
        for weight in _moving(op, what):
            weights[layer_of(op.name)] += weight.nbytes
    if what == "experts" and not any(weights):
        raise UnsupportedError("experts in another tier", "a model with routed experts", "move layers")
    if not _with_caches(what, tier):
        return weights
    return [w + c for w, c in zip(weights, cache_bytes(graph, contexts, allocator), strict=True)]


def _moving(op: Op, what: str) -> tuple[Weight, ...]:
    """The weights of an operation that may move: none outside of layers."""
    if layer_of(op.name) < 0:
        return ()
    if what == "layers":
        return op.weights
    return tuple(r.weight for r in op.traffic() if isinstance(r, ExpertTraffic))


def _placed(
    graph: Graph,
    layers: int,
    what: str,
    tier: str,
    memory: int,
    contexts: Sequence[int],
    allocator: Allocator,
    moved: int,
) -> Placement:
    slow = range(layers)
    ops = tuple(_moved(op, what, tier) if layer_of(op.name) in slow else op for op in graph.ops)
    away = (
        frozenset(c.name for c in graph.caches if layer_of(c.name) in slow) if _with_caches(what, tier) else frozenset()
    )
    placed = replace(graph, ops=ops)
    fast = needs(_holding(placed, away), contexts, allocator)
    spare = int(memory * allocator.share) - fast.total
    return Placement(placed, tier, what, layers, away, fast, moved, spare)


def _with_caches(what: str, tier: str) -> bool:
    return what == "layers" and tier == "slow"


def _moved(op: Op, what: str, tier: str) -> Op:
    return op.with_weights({w.name: replace(w, tier=tier) for w in _moving(op, what)})


def _holding(graph: Graph, away: Collection[str]) -> Graph:
    """The graph with the caches that stay."""
    return replace(graph, caches=tuple(c for c in graph.caches if c.name not in away))
