"""One answer's drafts: the text so far, what may come next, and the account of what that was worth."""

from __future__ import annotations

from collections.abc import Sequence

from memfirst.speculate.account import Account, Offer
from memfirst.speculate.suffix import SuffixAutomaton

OPENING = 8
"""Tokens of the prompt's end that are put before a predicted answer, so that it is drafted from its beginning on."""

STRIDE = 2048
"""Tokens that are taken in at a time, in 5 ms: a long prompt holds up no step, it is drafted from a few steps later."""


class Drafter:
    """Drafts for one answer.

    prompt      tokens that it begins behind
    prediction  tokens of what the answer may be like, from whoever asks: drafted from as from the prompt
    account     what drafts win and lose; default one that knows of no draft model
    """

    def __init__(
        self, prompt: Sequence[int], prediction: Sequence[int] = (), account: Account | None = None
    ) -> None:  # fmt: skip
        self.account = account or Account()
        self._text = SuffixAutomaton()
        self._before = [*prompt[-OPENING:], *prediction] if prediction else []
        self._taken = 0

    def offer(self, ids: Sequence[int], most: int) -> tuple[Offer, list[int]]:
        """Up to `most` tokens that may follow `ids`, the prompt and the answer so far."""
        if self._before:
            self._text.extend(self._before[:STRIDE])
            del self._before[:STRIDE]
        if not self._before:
            part = ids[self._taken : self._taken + STRIDE]
            self._text.extend(part)
            self._taken += len(part)
        if self._taken < len(ids):
            return Offer(self.account, 0, 0), []
        tokens = self._text.draft(most)
        return Offer(self.account, self._text.match, len(tokens)), tokens
