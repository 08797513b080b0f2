"""An answer as its reader sees it: iterate it for tokens, or take its text; then ask what it cost."""

from __future__ import annotations

import time
import weakref
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from memfirst.runtime.engine import Engine
from memfirst.runtime.request import LENGTH, Request, Timing, Token

if TYPE_CHECKING:
    from memfirst.runtime.report import Report

SHOWN = 40
"""Characters of an answer in its `repr`."""


@dataclass
class Answer:
    """What the reader has been given: a request can be some tokens ahead of it."""

    text: str = ""
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    stop_reason: str = ""
    first_token_at: float = 0.0
    begun: bool = False


class Start:
    """Submits requests when the first of them is read: those of a list of prompts together, to share their steps."""

    def __init__(self, engine: Engine, requests: Sequence[Request]) -> None:
        self._engine = engine
        self._requests = [weakref.ref(request) for request in requests]  # one that nobody holds is not read

    def __call__(self) -> None:
        """Submit all that are still wanted; a second call does nothing."""
        waiting, self._requests = self._requests, []
        for reference in waiting:
            request = reference()
            if request is not None and not request.done:
                self._engine.submit(request)


class Generation:
    """An answer. Iterate it (`for` or `async for`) for its tokens as they come, or take `str(generation)`: the whole.

    Nothing is computed before it is asked for. While somebody iterates, `text`, `ids` and `stop_reason` say what came
    so far; unless somebody does, they compute the answer. Dropped or closed midway, it is cancelled.
    """

    def __init__(
        self, engine: Engine, request: Request, describe: Callable[[Generation], Report], start: Start | None = None
    ) -> None:
        self.request, self._describe, self._engine = request, describe, engine
        self._answer = Answer()
        self._final: Report | None = None
        # The iterator knows nothing of this object: without a cycle, dropping the answer cancels it at once.
        self._tokens = _drained(engine, request, self._answer, start or Start(engine, [request]))

    def __iter__(self) -> Iterator[Token]:
        return self._tokens

    async def __aiter__(self) -> AsyncIterator[Token]:
        """The tokens; meanwhile the event loop goes on: each is waited for in a thread."""
        import asyncio  # who gets here has it; a start without it is 8 ms shorter

        try:
            while (token := await asyncio.to_thread(next, self._tokens, None)) is not None:
                yield token
        finally:
            self._engine.cancel(self.request)

    def __str__(self) -> str:
        """The whole text; what is missing of it is computed."""
        for _ in self:
            pass
        return self._answer.text

    def __repr__(self) -> str:
        answer = self._answer
        shown = answer.text if len(answer.text) <= SHOWN else answer.text[:SHOWN] + "…"
        said = f"{shown!r}, {len(answer.ids)} tokens, {answer.stop_reason or 'not complete'}" if answer.begun else ""
        return f"<Generation: {said or 'not begun; iterate it, or take str() of it'}>"

    def _repr_html_(self) -> str:
        """The whole answer for a notebook, with what it cost."""
        import html

        text, report = html.escape(str(self)), self._report()
        ledger = report.ledger._repr_html_() if report.ledger else ""
        return f'<pre style="white-space:pre-wrap">{text}</pre><p>{html.escape(report.line())}</p>{ledger}'

    @property
    def text(self) -> str:
        """What was generated so far; of an answer that nobody has begun to read, the whole."""
        return self._begun().text

    @property
    def ids(self) -> list[int]:
        """Tokens generated so far; the one that ends an answer is not among them."""
        return self._begun().ids

    @property
    def logprobs(self) -> list[float]:
        """Log-probabilities of `ids`, where they were asked for with `logprobs=`."""
        return self._begun().logprobs

    @property
    def stop_reason(self) -> str:
        """Why it ended: "eos", "length", "stop" or "context"; "" while it goes on."""
        return self._begun().stop_reason

    @property
    def first_token_at(self) -> float:
        """When the first token came, as `time.time()`."""
        return self._answer.first_token_at

    @property
    def timing(self) -> Timing:
        """Seconds and tokens, so far."""
        return self.request.timing

    def close(self) -> None:
        """End it here; what it computed is kept for the next prompt."""
        self._answer.begun = True
        self._tokens.close()
        self._engine.cancel(self.request)

    def report(self) -> dict[str, Any]:
        """Everything that is known of the answer, for JSON."""
        return self._report().json()

    def line(self) -> str:
        """The answer's cost in one line; its ceiling is measured once the answer is complete."""
        return self._report().line()

    def token_bytes(self) -> dict[str, float]:
        """Bytes that had to come from memory for a token, by purpose; empty before a token was decoded."""
        return self._report().token_bytes()

    def _begun(self) -> Answer:
        """The answer so far, computed where nobody has begun to read it."""
        if not self._answer.begun:
            str(self)
        return self._answer

    def _report(self) -> Report:
        """Once the answer is complete, always the same: its ceiling is measured once."""
        if not self.stop_reason:
            return self._describe(self)
        if self._final is None:
            self._final = self._describe(self)
        return self._final


def _drained(engine: Engine, request: Request, answer: Answer, start: Start) -> Generator[Token, None, None]:
    """Submit a request and give its tokens."""
    answer.begun = True
    if request.max_tokens == 0:
        answer.stop_reason = LENGTH
        return
    try:
        start()
        while (token := engine.next(request)) is not None:
            if not answer.first_token_at:
                answer.first_token_at = time.time()
            answer.text += token.text
            if token.id not in request.stop_ids:
                answer.ids.append(token.id)
                answer.logprobs += [] if token.logprob is None else [token.logprob]
            if request.done and not request.events:
                answer.stop_reason = request.stop_reason
            yield token
        answer.stop_reason = request.stop_reason
    finally:
        engine.cancel(request)
