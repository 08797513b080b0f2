"""How state goes through a step: read once a sequence, taken through all its new tokens, written once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from memfirst.codecs.base import F32
from memfirst.errors import BackendError
from memfirst.graph import StateCache
from memfirst.graph.ops.positions import split
from memfirst.graph.runtime import Runtime, Values
from memfirst.graph.traffic import StateTraffic, Traffic

Advance = Callable[..., tuple[F32, F32]]
"""(state [elements], a sequence's rows of each input) -> (rows of the output, the state after them)."""


def advance_sequences(run: Runtime, cache: StateCache, width: int, inputs: Values, advance: Advance) -> F32:
    """[tokens, width] of all sequences, each from its own slot; BackendError for a tree of drafts.

    A state has one past, so that a token cannot have two children. Rolling back needs no undoing: a step
    that may be taken back writes another slot than it reads.
    """
    parts = [np.zeros((0, width), np.float32)]
    for sequence, rows in split(run.step, *inputs):
        if sequence.parents is not None and sequence.parents != tuple(range(-1, sequence.new - 1)):
            raise BackendError(f"a tree of drafts over the state {cache.name}", "each token after the one before")
        out, state = advance(run.read_state(cache, sequence), *rows)
        run.write_state(cache, sequence, state)
        parts.append(out)
    return np.concatenate(parts)


def state_traffic(cache: StateCache) -> tuple[Traffic, Traffic]:
    """What a step moves of a state: one read and one write a sequence, whatever its number of tokens."""
    return StateTraffic(cache), StateTraffic(cache, write=True)
