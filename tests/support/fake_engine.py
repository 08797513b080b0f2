"""The `memfirst` command over an engine that says canned words: for tests of the command line alone.

Run as a script, it takes the command line's arguments. FAKE_SLEEP_S is the time that a token takes,
FAKE_ERROR makes the answer fail, FAKE_CONTEXT is the number of tokens that fit, FAKE_CTTY says that stdin is a
terminal of its own. FAKE_READY says on stderr when the command begins.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import memfirst
from memfirst import hub
from memfirst.errors import CapacityError
from memfirst.ledger import Memory

WORDS = "Memory| is| the| limit|."
FIRST_OF_ANSWER = 1000


def words() -> list[str]:
    """What every answer says: FAKE_TEXT, its words apart by |."""
    return os.environ.get("FAKE_TEXT", WORDS).split("|")


class FakeToken:
    """What the command line reads of a token."""

    def __init__(self, text: str) -> None:
        self.text = text


class FakeGeneration:
    """The words after those that the prompt has of the answer already, then a report that repeats what was asked."""

    def __init__(self, asked: dict[str, Any], prompt: list[int], context: int) -> None:
        self.asked, self.prompt, self.context = asked, prompt, context
        self.stop_reason, self.ids = "", list[int]()

    def __iter__(self) -> Iterator[FakeToken]:
        if os.environ.get("FAKE_ERROR"):
            time.sleep(float(os.environ.get("FAKE_SLEEP_S", "0")))
            raise CapacityError("the context is full", "fewer tokens", "use --ctx")
        had = sum(id >= FIRST_OF_ANSWER for id in self.prompt)
        for i, word in enumerate(words()[had : None if self.asked["max_tokens"] is None else self.asked["max_tokens"]]):
            if len(self.prompt) + len(self.ids) > self.context:
                self.stop_reason = "context"
                return
            time.sleep(float(os.environ.get("FAKE_SLEEP_S", "0")))
            self.ids.append(FIRST_OF_ANSWER + had + i)
            yield FakeToken(word)
        self.stop_reason = "eos"

    def report(self) -> dict[str, Any]:
        moved = {"weights": 66_493_440, "head": 30_083_328, "kv_read": 829_440, "kv_write": 23_040}
        return {"text": "".join(words()), "predicted_bytes": moved, "recorded_bytes": moved, **self.asked}

    def token_bytes(self) -> dict[str, float]:
        return {"weights": 66_493_440, "head": 30_083_328, "kv_read": 829_440}

    def line(self) -> str:
        return "100 tok/s · 10.0 GB/s · KV 1.0 MB held"


class FakeModel:
    """Remembers how it was loaded; a word of a prompt is a token. Its file is a small synthetic one."""

    has_chat_template = True
    notes = ()

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.context = int(os.environ.get("FAKE_CONTEXT", "8192"))

    @cached_property
    def checkpoint(self) -> Any:
        from memfirst.convert.synthetic import synthetic
        from memfirst.convert.synthetic_shapes import SyntheticShape

        made = synthetic(SyntheticShape("llama", 64, 1, 2, 1, 96, 300, head_dim=32), "q4_0")
        made.metadata = {**made.metadata, "general.name": "Tiny Tester", "general.license": "apache-2.0"}
        return made

    @cached_property
    def graph(self) -> Any:
        from memfirst.models import build

        return build(self.checkpoint)

    @property
    def tokenizer(self) -> Any:
        return SimpleNamespace(rules=SimpleNamespace(chat_template="{{ messages }}"))

    def memory(self, contexts: list[int]) -> Memory:
        return Memory(96_576_768, 0, 23_040 * sum(contexts), 1_000_000)

    def encode(self, prompt: Any) -> list[int]:
        if isinstance(prompt, list) and prompt and isinstance(prompt[0], int):
            return prompt
        text = prompt if isinstance(prompt, str) else " ".join(message["content"] for message in prompt)
        return [1] * len(text.split())

    def generate(self, prompt: Any, *, params: Any, max_tokens: int | None, stop: tuple[str, ...]) -> FakeGeneration:
        asked = {"prompt": prompt, "params": params, "max_tokens": max_tokens, "stop": list(stop)}
        ids = self.encode(prompt)
        if len(ids) >= self.context:
            raise CapacityError(f"the prompt has {len(ids)} tokens", f"fewer than the context of {self.context}")
        return FakeGeneration(asked | {"options": self.options}, ids, self.context)

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

    if os.environ.get("FAKE_READY"):
        print("ready", file=sys.stderr, flush=True)
    main()
