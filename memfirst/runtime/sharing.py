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


class Sharing(NamedTuple):
    """Sequences of one step at most, and the whole contexts of KV cache that they share."""

    sequences: int
    contexts: int


def check_sequences(asked: int | None) -> int | None:
    """Sequences of one step; ConfigError for what is no such number."""
    if asked is not None and (isinstance(asked, bool) or not isinstance(asked, int) or not 0 < asked <= MOST_SEQUENCES):
        raise ConfigError(f"{asked!r} sequences", f"a whole number from 1 to {MOST_SEQUENCES}: a step's tokens at most")
    return asked


def contexts_of(graph: Graph, context: int, sequences: int, kv_memory: int | Literal["auto"] | None) -> int:
    """Whole contexts of KV cache for so many bytes; CapacityError where they hold none."""
    one = sum(g.cache.most_blocks(context, MOST_SEQUENCES) * g.block_bytes for g in graph.cache_groups)
    if kv_memory is None or not one:
        return 1
    if kv_memory == "auto":
        beside = host.available_memory() - sum(w.nbytes for w in graph.weights().values())
        return max(1, min(sequences, beside // 2 // one))
    if kv_memory < one:
        found, do = f"a KV cache of {kv_memory / 1e6:,.1f} MB", "give it more memory, or load a smaller ctx"
        raise CapacityError(
            found, f"{one / 1e6:,.1f} MB or more for a context of {context}", do, "raise --kv-memory, or lower --ctx"
        )
    return kv_memory // one


def sequences_of(graph: Graph) -> int:
    """Sequences of one step: as many as `STATE_ROOM` has slots of recurrent state for."""
    state = STATES_PER_SEQUENCE * sum(cache.state_bytes for cache in graph.states)
    return SEQUENCES if not state else max(1, min(SEQUENCES, STATE_ROOM // state))
