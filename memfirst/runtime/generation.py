"""An answer as its reader sees it: iterate it for tokens, then ask what it cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from memfirst.runtime.engine import Engine
from memfirst.runtime.request import LENGTH, Request, Timing, Token

if TYPE_CHECKING:
    from memfirst.runtime.report import Report


@dataclass
class Answer:
    """What the reader has been given: a request can be some tokens ahead of it."""

    text: str = ""
    ids: list[int] = field(default_factory=list)
    stop_reason: str = ""
    first_token_at: float = 0.0


class Generation:
    """An answer: iterate it for tokens; then `text`, `stop_reason`, `timing`, `report()`, `line()`.

    Nothing is computed before the first token is asked for. Dropped or closed midway, it is cancelled.
    """

    def __init__(self, engine: Engine, request: Request, describe: Callable[[Generation], Report]) -> None:
        self.request, self._describe = request, describe
        self._answer = Answer()
        self._final: Report | None = None
        # The iterator knows nothing of this object: without a cycle, dropping the answer cancels it at once.
        self._tokens = _drained(engine, request, self._answer)

    def __iter__(self) -> Iterator[Token]:
        return self._tokens

    @property
    def text(self) -> str:
        """What was generated so far."""
        return self._answer.text

    @property
    def ids(self) -> list[int]:
        """Tokens generated so far; the one that ends an answer is not among them."""
        return self._answer.ids

    @property
    def stop_reason(self) -> str:
        """Why it ended: "eos", "length", "stop" or "context"; "" while it goes on."""
        return self._answer.stop_reason

    @property
    def first_token_at(self) -> float:
        """When the first token came, as `time.time()`."""
        return self._answer.first_token_at

    @property
    def timing(self) -> Timing:
        """Seconds and tokens."""
        return self.request.timing

    def close(self) -> None:
        """End it here; what it computed is kept for the next prompt."""
        self._tokens.close()

    def report(self) -> dict[str, Any]:
        """Everything that is known of the answer, for JSON."""
        return self._report().json()

    def line(self) -> str:
        """The answer's cost in one line; its ceiling is measured once the answer is complete."""
        return self._report().line()

    def _report(self) -> Report:
        """Once the answer is complete, always the same: its ceiling is measured once."""
        if not self.stop_reason:
            return self._describe(self)
        if self._final is None:
            self._final = self._describe(self)
        return self._final


def _drained(engine: Engine, request: Request, answer: Answer) -> Generator[Token, None, None]:
    """Submit a request and give its tokens."""
    if request.max_tokens == 0:
        answer.stop_reason = LENGTH
        return
    try:
        engine.submit(request)
        while (token := engine.next(request)) is not None:
            if not answer.first_token_at:
                answer.first_token_at = time.time()
            answer.text += token.text
            if token.id not in request.stop_ids:
                answer.ids.append(token.id)
            if request.done and not request.events:
                answer.stop_reason = request.stop_reason
            yield token
        answer.stop_reason = request.stop_reason
    finally:
        engine.cancel(request)
