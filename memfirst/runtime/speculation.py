"""Drafted tokens in the engine's steps: the same tokens from fewer of them.

A step computes the logits of drafted tokens beside the one that is certain. They are sampled row after row, as they
would have been step after step, up to the first that differs from its draft: a row's logits do not depend on the batch,
and a sampler takes one number a token, so the answer is the same to the bit (Leviathan et al., arXiv 2211.17192, for a
draft without a distribution of its own). What was computed for wrong drafts is left behind, and written over later.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from memfirst.backends.base import Backend
from memfirst.errors import ConfigError
from memfirst.speculate.account import MODEL, MODEL_GRANT, WORTH, Account, Costs, Offer, sizes, worth
from memfirst.speculate.drafter import Drafter

if TYPE_CHECKING:
    from memfirst.runtime.draft import DraftModel
    from memfirst.runtime.request import Request
    from memfirst.runtime.scheduler import Work

AUTO, OFF = "auto", "off"

_NOTHING: tuple[Offer, list[int]] = Offer(Account(), 0, 0), []

MOST_ROWS = 8
"""Rows of a step with drafts: one tile of the matmul kernels, so no weight is read twice."""


class Speculation:
    """Which sequences of a step get how many drafted tokens, by what they cost and how often they are right."""

    def __init__(self, backend: Backend) -> None:
        self.possible = backend.rows_are_exact and not backend.graph.states
        """Whether drafts cannot change an answer: recurrent state cannot be cut where a draft was wrong."""
        self.costs = Costs()
        self.model: DraftModel | None = None
        """What proposes tokens where the text suggests none that are worth as much."""
        self._rows, self._drafted = 0, 0

    def extend(self, work: Sequence[Work]) -> None:
        """Append drafts to the work of a step that only decodes, as far as blocks are free."""
        self._rows, self._drafted = sum(w.new for w in work), 0
        if not all(w.request.generated and w.last for w in work):
            self._rows = 0  # a prompt's: its rows cost something else
            self._follow(work)
        if not self.possible or not 0 < self._rows < MOST_ROWS:
            return
        offers, drafts = [], []
        for w in work:
            offer, tokens = self._offer(w)
            offers.append(offer)
            drafts.append(tokens)
        offers = offers if self.model is None else self._with_model(work, offers, self.model)
        if not any(offer.match for offer in offers):
            return
        counts = sizes(offers, self._rows, MOST_ROWS, self.costs)
        wanted = [(w, n) for w, offer, n in zip(work, offers, counts, strict=True) if n and offer.match == MODEL]
        proposed = self._proposed(wanted)
        for w, offer, tokens, n in zip(work, offers, drafts, counts, strict=True):
            w.match, w.each = offer.match, offer.each
            w.draft = proposed.get(w.request.number, []) if offer.match == MODEL else tokens[: _room(w, n)]
            self._drafted += len(w.draft)

    def _follow(self, work: Sequence[Work]) -> None:
        """The draft model computes prompts with the model, so that it may propose from the first token on."""
        model = self.model
        if model is None:
            return
        for w in work:
            begins = not w.request.generated and self._may(w.request)
            if begins and model.takes(w.request, self._pays(model)):
                model.follow(w.request, w.past + w.new)

    def _with_model(self, work: Sequence[Work], offers: Sequence[Offer], model: DraftModel) -> list[Offer]:
        """The offers of the text, or of the draft model where that gives more tokens a time."""
        found, ready = list(offers), []
        for i, w in enumerate(work):
            if len(work) <= len(model.slots) and self._may(w.request):
                ready += [(i, most)] if (most := min(self._most(w.request), model.room(w.request))) else []
        each = model.each(self.costs) / max(1, len(ready))  # its steps are for all of them
        for i, most in ready:
            offer = Offer(offers[i].account, MODEL, most, each)
            if worth(offer, self._rows, MOST_ROWS, self.costs) > worth(offers[i], self._rows, MOST_ROWS, self.costs):
                found[i] = offer
        return found

    def _proposed(self, wanted: Sequence[tuple[Work, int]]) -> dict[int, list[int]]:
        """The draft model's tokens, by the request's number."""
        asked = [(w.request, room) for w, n in wanted if (room := _room(w, n))]
        if self.model is None or not asked:
            return {}
        tokens = self.model.propose(asked)
        return {request.number: found for (request, _), found in zip(asked, tokens, strict=True)}

    def _pays(self, model: DraftModel) -> bool:
        """Whether its proposals were worth their time in other answers."""
        offer = Offer(Account(model=model.share), MODEL, MOST_ROWS - 1, model.each(self.costs))
        return worth(offer, 1, MOST_ROWS, self.costs) > WORTH

    def learn(self, work: Sequence[Work], seconds: float) -> None:
        """The step is done, in so many seconds of the backend: what its drafts were worth, and what rows cost."""
        if not 0 < self._rows <= MOST_ROWS:
            return
        each = self.costs.of(self._rows) / self._rows
        row = (self.costs.of(self._rows + self._drafted) - self.costs.of(self._rows)) / max(1, self._drafted)
        for w in work:
            if w.request.drafter is not None:
                account, n = w.request.drafter.account, len(w.draft)
                account.learn(w.match, n, w.kept, each, n * (row + w.each))
                if w.match == MODEL and self.model is not None:
                    self.model.learn(n, w.kept)
        self.costs.learn(self._rows + self._drafted, self._drafted, seconds)

    def _offer(self, w: Work) -> tuple[Offer, list[int]]:
        request = w.request
        if not self._may(request):
            return _NOTHING
        if request.drafter is None:
            account = Account() if self.model is None else Account(grant=MODEL_GRANT, model=self.model.share)
            request.drafter = Drafter(request.prompt, request.prediction, account)
        return request.drafter.offer(request.ids, self._most(request))

    def _may(self, request: Request) -> bool:
        """Whether drafts are wanted; a grammar joins tokens to steps itself."""
        return self.possible and request.speculate and request.constrain is None

    def _most(self, request: Request) -> int:
        """Drafted tokens that the answer has room for."""
        most = min(MOST_ROWS - 1, request.limit - len(request.ids))
        if request.max_tokens is not None:  # the last token needs no row of its own
            most = min(most, request.max_tokens - request.generated - 1)
        return max(0, most)


def check_speculate(asked: str) -> str:
    """AUTO or OFF; ConfigError for anything else."""
    if asked not in (AUTO, OFF):
        raise ConfigError(f"speculate is {asked!r}", f'"{AUTO}" or "{OFF}"')
    return asked


def _room(w: Work, wanted: int) -> int:
    """How many drafted tokens have a place: nobody loses a block for a guess."""
    sequence = w.request.sequence
    if sequence is None or not wanted:
        return 0
    end = w.past + w.new
    if end + wanted > sequence.blocks.room and sequence.blocks.missing(end + wanted) is None:
        sequence.blocks.reserve(end + wanted)
    return max(0, min(wanted, sequence.blocks.room - end))


def forget(requests: Iterable[Request]) -> None:
    """After an interruption that may have torn a draft's text: it is made again from the tokens that there are."""
    for request in requests:
        request.drafter = None
