"""The `memfirst` command over an engine that says canned words: for tests of the command line alone.

Run as a script, it takes the command line's arguments. FAKE_SLEEP_S is the time that a token takes,
FAKE_ERROR makes the answer fail, FAKE_CTTY says that stdin is a terminal of its own.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import memfirst
from memfirst import hub
from memfirst.errors import CapacityError

WORDS = ["Memory", " is", " the", " limit", "."]


class FakeToken:
    """What the command line reads of a token."""

    def __init__(self, text: str) -> None:
        self.text = text


class FakeGeneration:
    """Five words, then a report that repeats what was asked."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self.asked, self.stop_reason = asked, "eos"

    def __iter__(self) -> Iterator[FakeToken]:
        if os.environ.get("FAKE_ERROR"):
            raise CapacityError("the context is full", "fewer tokens", "use --ctx")
        for word in WORDS[: self.asked["max_tokens"] or None]:
            time.sleep(float(os.environ.get("FAKE_SLEEP_S", "0")))
            yield FakeToken(word)

    def report(self) -> dict[str, Any]:
        return {"text": "".join(WORDS), **self.asked}

    def line(self) -> str:
        return "100 tok/s · 10.0 GB/s · KV 1.0 MB held"


class FakeModel:
    """Remembers how it was loaded."""

    has_chat_template = True
    notes = ()

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options

    def generate(self, prompt: Any, *, params: Any, max_tokens: int | None, stop: tuple[str, ...]) -> FakeGeneration:
        asked = {"prompt": prompt, "params": params, "max_tokens": max_tokens, "stop": list(stop)}
        return FakeGeneration(asked | {"options": self.options})

    def close(self) -> None:
        print("closed", file=sys.stderr)


def load(path: Path, **options: Any) -> FakeModel:
    """Stands for memfirst.load."""
    options.pop("progress")
    return FakeModel({"path": str(path), **options})


def install() -> None:
    """Put the fakes where the command line looks."""
    memfirst.load = load  # type: ignore[attr-defined]
    hub.resolve = lambda name, **_: Path(name)  # type: ignore[assignment]


def own_terminal() -> None:
    """Make stdin this session's terminal, so that Ctrl-C typed there is a signal here."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


if __name__ == "__main__":
    install()
    if os.environ.get("FAKE_CTTY"):
        own_terminal()
    from memfirst.cli import main

    main()
