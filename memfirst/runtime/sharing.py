"""How many answers share a step, and how much KV cache they share."""

from __future__ import annotations

from typing import Literal, NamedTuple

from memfirst.backends.base import STATES_PER_SEQUENCE
from memfirst.errors import CapacityError, ConfigError
from memfirst.graph import Graph
from memfirst.hardware import host

SEQUENCES = 8
"""Sequences of one step at most: one tile of the matmul kernels, so a step for eight reads no weight twice. They share
the KV cache of one context, so several cost no more of it than one; who finds no room waits."""

MOST_SEQUENCES = 256
"""New tokens of a step at most, so sequences too."""

STATE_ROOM = 64_000_000
"""Bytes of recurrent state, two slots a sequence: models with much of it have fewer sequences."""

LEAST_BLOCKS = 4
"""Blocks of the smallest pool that is worth having: 256 positions."""


class Sharing(NamedTuple):
    """Sequences of one step at most, and what they share.

    blocks     of each cache group
    snapshots  slots of recurrent state besides the two of each sequence
    """

    sequences: int
    blocks: tuple[int, ...]
    snapshots: int

    def nbytes(self, graph: Graph) -> int:
        """Of blocks and snapshots."""
        blocks = sum(n * group.block_bytes for n, group in zip(self.blocks, graph.cache_groups, strict=True))
        return blocks + self.snapshots * state_bytes(graph)


def check_sequences(asked: int | None) -> int | None:
    """Sequences of one step; ConfigError for what is no such number."""
    if asked is not None and (isinstance(asked, bool) or not isinstance(asked, int) or not 0 < asked <= MOST_SEQUENCES):
        raise ConfigError(f"{asked!r} sequences", f"a whole number from 1 to {MOST_SEQUENCES}: a step's tokens at most")
    return asked


def sharing_of(graph: Graph, context: int, sequences: int, kv_memory: int | Literal["auto"] | None) -> Sharing:
    """What so many bytes of KV cache hold, snapshots of state among them; CapacityError where that is next to nothing.
    None: a context; "auto": a context for each sequence, within half of the memory that is free beside the weights."""
    one, state = context_bytes(graph, context), state_bytes(graph)
    if kv_memory is None:
        return Sharing(sequences, blocks_of(graph, context, one), 0)
    if kv_memory == "auto":
        beside = (host.available_memory() - sum(w.nbytes for w in graph.weights().values())) // 2
        room = max(one, min(sequences * one, beside))
        return Sharing(sequences, blocks_of(graph, context, room), _fits(2 * sequences, beside // 4, state))
    snapshots = _fits(4 * sequences, kv_memory // 4 if one else kv_memory, state)
    blocks = blocks_of(graph, context, kv_memory - snapshots * state)
    if blocks and min(blocks) < LEAST_BLOCKS and longest(graph, context, blocks) < context:
        least = context_bytes(graph, min(context, LEAST_BLOCKS * graph.cache_groups[0].cache.block))
        found, do = f"a KV cache of {kv_memory / 1e6:,.1f} MB", "give it more memory"
        raise CapacityError(found, f"{least / 1e6:,.1f} MB or more", do, "raise --kv-memory")
    return Sharing(sequences, blocks, snapshots)


def state_bytes(graph: Graph) -> int:
    """Bytes of one slot of recurrent state."""
    return sum(cache.state_bytes for cache in graph.states)


def _fits(most: int, nbytes: int, each: int) -> int:
    """Slots within so many bytes; none where there is no state."""
    return max(0, min(most, nbytes // each)) if each else 0


def context_bytes(graph: Graph, context: int) -> int:
    """Bytes of the blocks that one sequence of `context` positions needs."""
    return sum(g.cache.most_blocks(context, MOST_SEQUENCES) * g.block_bytes for g in graph.cache_groups)


def blocks_of(graph: Graph, context: int, nbytes: int) -> tuple[int, ...]:
    """Blocks of each cache group: contexts, whole or not; of less than one as many positions as fit."""
    groups, one = graph.cache_groups, context_bytes(graph, context)
    if not groups:
        return ()
    if nbytes >= one:
        return tuple(g.cache.most_blocks(context, MOST_SEQUENCES) * nbytes // one for g in groups)
    block = groups[0].cache.block
    fits = next((n for n in range(context // block, 0, -1) if context_bytes(graph, n * block) <= nbytes), 0)
    return tuple(g.cache.most_blocks(fits * block, MOST_SEQUENCES) for g in groups)


def longest(graph: Graph, context: int, blocks: tuple[int, ...]) -> int:
    """Positions of the longest sequence that so many blocks hold; `context` at most."""
    pairs = list(zip(graph.cache_groups, blocks, strict=True))
    if all(g.cache.most_blocks(context, MOST_SEQUENCES) <= n for g, n in pairs):
        return context
    block = graph.cache_groups[0].cache.block
    counts = range(context // block, -1, -1)
    return next(
        n * block for n in counts if all(g.cache.most_blocks(n * block, MOST_SEQUENCES) <= have for g, have in pairs)
    )


def sequences_of(graph: Graph) -> int:
    """Sequences of one step: as many as `STATE_ROOM` has slots of recurrent state for."""
    state = STATES_PER_SEQUENCE * sum(cache.state_bytes for cache in graph.states)
    return SEQUENCES if not state else max(1, min(SEQUENCES, STATE_ROOM // state))
