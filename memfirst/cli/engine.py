"""The engine as the commands see it: the few calls that `run` and `bench` make."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from memfirst.cli.display import progress
from memfirst.errors import MemfirstError

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Request:
    """What `run` was asked for, besides the text.

    params  a SamplingParams
    raw     the prompt is the text itself: no chat template
    """

    max_tokens: int | None
    stop: tuple[str, ...]
    params: Any
    raw: bool = False


def sampling(given: dict[str, float | int | None]) -> Any:
    """SamplingParams from the options that were given; ConfigError where one is out of range."""
    from memfirst.runtime.sampling import SamplingParams

    return SamplingParams(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]


@contextmanager
def loaded(
    model: str, *, threads: int | None, ctx: int | None, backend: str, offline: bool, quiet: bool
) -> Iterator[Any]:
    """A model ready to generate, closed at the end; loading is shown on a terminal."""
    import memfirst
    from memfirst import hub

    with progress(quiet) as report:
        path = hub.resolve(model, offline=offline, progress=report)
        engine: Any = memfirst
        found = engine.load(path, threads=threads, ctx=ctx, backend=backend, progress=report)
    try:
        yield found
    finally:
        found.close()


def generate(model: Any, prompt: str | Messages, request: Request) -> Any:
    """Start an answer: an iterable of tokens with `.text`, then `.report()` and `.line()`."""
    if request.raw and not isinstance(prompt, str):
        raise MemfirstError("--raw takes a prompt, not a conversation", do="drop --raw, or --system and the chat")
    return model.generate(prompt, params=request.params, max_tokens=request.max_tokens, stop=request.stop)


def say_if_full(generation: Any) -> None:
    """Tell why an answer ended without an end."""
    if generation.stop_reason == "context":
        print("memfirst: the context is full: the answer stops here; a larger --ctx has room", file=sys.stderr)


def messages(system: str | None, prompt: str) -> Messages:
    """A conversation's start."""
    start = [{"role": "system", "content": system}] if system else []
    return [*start, {"role": "user", "content": prompt}]
