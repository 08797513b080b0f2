"""Prompts of about a given number of tokens that no prefix cache has seen."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

WORDS = (
    "time year people way day man thing woman life child world school state family student group country problem "
    "hand part place case week company system program question work government number night point home water room "
    "mother area money story fact month lot right study book eye job word business issue side kind head house "
    "service friend father power hour game line end member law car city name team minute idea body back face level"
)
"""75 words, each one token with its space in the vocabularies of 30 000 and more that models have."""

ASK = " Write on without end: the next words, then the next, never a last one."
"""Chat models stop early unless told not to."""


@dataclass
class Prompts:
    """Makes prompts, and learns from the server's counts how many tokens a word comes to.

    same  repeat the same words, so that a prefix cache may serve them
    """

    chat: bool = False
    same: bool = False
    seen: dict[int, int] = field(default_factory=dict)

    def make(self, words: int) -> str:
        """`words` words at random: two prompts share their first four once in 75⁴ = 32 million pairs."""
        chosen = random.Random(1) if self.same else random.SystemRandom()
        text = " ".join(chosen.choices(WORDS.split(), k=words))
        return f"{text}.{ASK}" if self.chat else text

    def learn(self, words: int, tokens: int) -> None:
        """A prompt of `words` words came to `tokens` tokens."""
        self.seen[words] = tokens

    def words(self, tokens: int) -> int:
        """Words for a prompt of about `tokens` tokens."""
        if not self.seen:
            return max(1, tokens)
        few, many = min(self.seen), max(self.seen)
        per_word = (self.seen[many] - self.seen[few]) / (many - few) if many > few else 1.0
        per_word = min(16.0, max(0.5, per_word))
        overhead = max(0.0, self.seen[few] - per_word * few)  # a template, a beginning-of-text token
        return max(4, round((tokens - overhead) / per_word))
