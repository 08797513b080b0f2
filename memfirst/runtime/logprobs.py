"""Log-probabilities of a step's tokens: the model's own, before penalties, temperature and whatever cuts the choice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memfirst.errors import ConfigError
from memfirst.runtime.sampling import ranked, top_ids
from memfirst.text import Tokenizer

MOST = 20
"""Likeliest tokens that are given beside the chosen one, as by other servers."""


@dataclass(frozen=True, slots=True)
class Logprob:
    """A token that could have come, and the logarithm of its probability."""

    id: int
    text: str
    """U+FFFD where it is a part of a character: see `bytes`; a control token as the vocabulary spells it."""
    logprob: float
    bytes: bytes

    def __repr__(self) -> str:
        return f"Logprob({self.text!r}, {self.logprob:.4f})"


def check_logprobs(asked: int | None) -> int | None:
    """How many of the likeliest tokens are wanted; ConfigError for what is no such number."""
    if asked is None:
        return None
    if isinstance(asked, bool) or not isinstance(asked, int | np.integer) or not 0 <= asked <= MOST:
        raise ConfigError(f"logprobs is {asked!r}", f"a whole number from 0 (the chosen token's alone) to {MOST}")
    return int(asked)


def logprobs(logits: NDArray[np.float32], chosen: int, most: int, tokenizer: Tokenizer) -> tuple[Logprob, ...]:
    """The chosen token's of logits f32 [vocab], then those of the `most` likeliest, of equals the lower id first."""
    ids: Sequence[int] = ranked(logits, top_ids(logits, most))[:most].tolist() if most else []
    best = float(logits.max())
    total = best + math.log(float(np.exp(logits - np.float32(best)).sum(dtype=np.float64)))
    return tuple(_named(id, float(logits[id]) - total, tokenizer) for id in (chosen, *ids))


def _named(id: int, logprob: float, tokenizer: Tokenizer) -> Logprob:
    piece = tokenizer.piece(id, special=True)
    return Logprob(id, piece.decode("utf-8", "replace"), logprob, piece)
