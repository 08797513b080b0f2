"""What every endpoint needs: the settings, the engine, the model's words."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from fastapi import Request

from memfirst.errors import BackendError, ModelNotFoundError
from memfirst.runtime.grammar import Grammar
from memfirst.server import access
from memfirst.server.compiler import Compiler
from memfirst.server.link import Answer, EngineLink
from memfirst.server.messages import Ask, End, Loaded, Piece
from memfirst.server.prompt import Prompts
from memfirst.server.settings import Settings

Choice = tuple[int, list[Piece], End | None]
"""Which choice, pieces that came, and its end with the last of them."""

NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
"""What may be said of a client's own words in a header."""


@dataclass
class Service:
    """One served model."""

    settings: Settings
    link: EngineLink
    prompts: Prompts
    started: int
    compiler: Compiler

    @property
    def loaded(self) -> Loaded:
        """What the engine said of the model; EngineDiedError before that."""
        if self.link.loaded is None:
            self.link.check_open()
            raise BackendError("the engine has not said what it loaded")
        return self.link.loaded

    @property
    def vocabulary(self) -> int:
        """How many token ids there are."""
        return self.prompts.tokenizer.vocab_size

    def check_model(self, asked: str | None) -> None:
        """ModelNotFoundError for another model than the one that is served."""
        if asked is not None and asked not in (self.settings.name, *self.settings.aliases):
            raise ModelNotFoundError(f"the model {asked[:100]!r}", f"{self.settings.name!r}, which is served here")

    async def grammar(self, found: Grammar | None, after: str = "") -> Grammar | None:
        """A grammar that can be followed, behind a text if one is given. ConfigError where that cannot be done: it is
        never left out."""
        if found is None:
            return None
        self.link.check_open()
        found = replace(found, after=after)
        await self.compiler.check(found)
        return found

    def ask(self, asks: Sequence[Callable[[int], Ask]]) -> list[Answer]:
        """Give the engine all choices of a request, or none of them."""
        self.link.check_open(len(asks), access.client.get())
        for ask in asks:
            self.link.check_price(ask(-1))
        made = [self.link.ask(ask) for ask in asks]
        if (asked := access.answers.get()) is not None:
            asked += made
        return made


async def merged(answers: Sequence[Answer]) -> AsyncIterator[Choice]:
    """The pieces of several answers as they come; left early, it cancels them all."""
    if len(answers) == 1:
        try:
            async with aclosing(aiter(answers[0])) as pieces:  # type: ignore[type-var]
                async for some in pieces:
                    yield 0, some, None
            yield 0, [], answers[0].end
        finally:
            answers[0].cancel()
        return
    came: asyncio.Queue[Choice | Exception] = asyncio.Queue()

    async def read(index: int, answer: Answer) -> None:
        try:
            async for some in answer:
                came.put_nowait((index, some, None))
            came.put_nowait((index, [], answer.end))
        except Exception as error:
            came.put_nowait(error)

    tasks = [asyncio.ensure_future(read(i, answer)) for i, answer in enumerate(answers)]
    try:
        left = len(answers)
        while left:
            one = await came.get()
            if isinstance(one, Exception):
                raise one
            left -= one[2] is not None
            yield one
    finally:
        for task in tasks:
            task.cancel()
        for answer in answers:
            answer.cancel()


def by_token(pieces: Sequence[Piece]) -> Sequence[Sequence[Piece]]:
    """Pieces that came together one by one, each of which is an event: who counts events counts tokens. None, once."""
    return [[piece] for piece in pieces] or [[]]


def service(request: Request) -> Service:
    """The service that a request is for."""
    found: Service = request.app.state.service
    return found


def ignored(names: Sequence[str]) -> dict[str, str]:
    """The header that names fields without effect."""
    safe = [name for name in names if NAME.fullmatch(name)][:32]
    return {"x-memfirst-ignored": ",".join(safe)[:1000]} if safe else {}


def fingerprint(service: Service) -> str:
    """OpenAI's system_fingerprint: same model, codec and version, same numbers."""
    from memfirst import __version__

    return f"memfirst-{__version__}-{service.settings.digest[:12]}" if service.settings.digest else ""
