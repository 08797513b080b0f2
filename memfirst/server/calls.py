"""Tool calls in a model's text: each family of models writes them in its own way.

What takes a text apart is a generator: it waits where it lacks text, and says what is certain so far, so an answer in
one piece and one that streams give the same. Text that begins like a call and is none is given as text.
"""

from __future__ import annotations

import json
import re
import secrets
import string
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

ALPHABET = string.ascii_letters + string.digits

Reading = Generator[None, None, Any]
"""A part of a reader: yields where it needs more text."""


@dataclass(frozen=True)
class CallDelta:
    """What a chunk adds to a call: id and name come first, once; the arguments are JSON, in parts.

    index  of the call in the answer
    """

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""

    def fields(self) -> dict[str, Any]:
        """As in OpenAI's `delta.tool_calls`."""
        function = {"arguments": self.arguments} | ({"name": self.name} if self.name else {})
        begun = {"id": self.id, "type": "function"} if self.id else {}
        return {"index": self.index, **begun, "function": function}


def arguments_of(text: str) -> dict[str, Any]:
    """Arguments as an object; those that were cut off are none."""
    try:
        made = json.loads(text)
    except ValueError:
        return {}
    return made if isinstance(made, dict) else {}


class Thought(str):
    """Text that is no part of the answer."""


Said = str | CallDelta
"""Text of the answer, of a thought, or a part of a call."""


class CallReader:
    """Takes the text of one answer apart.

    read   the family's generator
    short  ids of nine letters and digits, which Mistral's templates ask for
    most   calls that are given; others are left out
    """

    def __init__(self, read: Callable[[CallReader], Reading], short: bool = False, most: int = 128) -> None:
        self.text, self.ended = "", False
        self.calls = 0
        self._short, self._most = short, most
        self._said: list[Said] = []
        self._reading = read(self)
        next(self._reading, None)

    def push(self, text: str) -> list[Said]:
        """What is certain after more text."""
        self.text += text
        return self._go_on()

    def end(self) -> list[Said]:
        """The rest, at the end of the answer."""
        self.ended = True
        said = self._go_on()
        rest, self.text = self.text, ""
        return said + ([rest] if rest else [])

    def _go_on(self) -> list[Said]:
        next(self._reading, None)
        said, self._said = self._said, []
        return said

    # --- for the generators

    def say(self, text: str) -> None:
        """This is text."""
        if text:
            self._said.append(text)

    def begin(self, name: str, id: str = "") -> int:
        """A call to this function; its index, for `argue`."""
        index, self.calls = self.calls, self.calls + 1
        if index < self._most:
            self._said.append(CallDelta(index, id or new_call_id(self._short), name))
        return index

    def argue(self, index: int, arguments: str) -> None:
        """More of its arguments."""
        if arguments and index < self._most:
            self._said.append(CallDelta(index, arguments=arguments))

    def call(self, name: str, arguments: Any, id: str = "") -> None:
        """A whole call."""
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        self.argue(self.begin(name, id), text or "{}")

    def think(self, text: str) -> None:
        """This is a thought."""
        self.say(Thought(text))

    def peek(self) -> Reading:
        """The next character that is no white space; "" at the end."""
        while not (rest := self.text.lstrip()) and not self.ended:
            yield
        return rest[:1]

    def until(self, *marks: str, sink: Callable[[str], None] | None = None) -> Reading:
        """Say what comes before one of the marks, and take it; "" at the end."""
        sink = sink or self.say
        while True:
            at, mark = _first(self.text, marks)
            if mark:
                sink(self.text[:at])
                self.text = self.text[at + len(mark) :]
                return mark
            keep = 0 if self.ended else max(_overlap(self.text, mark) for mark in marks)
            sink(self.text[: len(self.text) - keep])
            self.text = self.text[len(self.text) - keep :]
            if self.ended:
                return ""
            yield

    def collect(self, *marks: str) -> Reading:
        """The text before one of the marks, which is taken, and the mark; all text and "" where none comes."""
        while True:
            at, mark = _first(self.text, marks)
            if mark or self.ended:
                found = self.text[:at] if mark else self.text
                self.text = self.text[at + len(mark) :] if mark else ""
                return found, mark
            yield

    def skip(self, pattern: str = r"\s*") -> Reading:
        """Take what matches here, once it is followed by something else."""
        while True:
            found = re.match(pattern, self.text)
            if found and (found.end() < len(self.text) or self.ended):
                self.text = self.text[found.end() :]
                return found
            if not found or self.ended:
                return None
            yield

    def starts(self, *marks: str) -> Reading:
        """Take the mark that the text begins with; "" where it begins with none."""
        while True:
            found = next((mark for mark in marks if self.text.startswith(mark)), "")
            if found:
                self.text = self.text[len(found) :]
            if found or self.ended or not any(mark.startswith(self.text) for mark in marks):
                return found
            yield

    def value(self, index: int) -> Reading:
        """A JSON object that is the arguments of a call, given as it comes; whether it was whole."""
        scan, done = Scanner(), False
        while not done:
            part, done = scan.part(self.text)
            self.argue(index, part)
            self.text = self.text[len(part) :]
            if not done:
                if self.ended:
                    return False
                yield
        return True


class Scanner:
    """Finds the end of a JSON object or list that comes in parts."""

    def __init__(self) -> None:
        self._depth, self._quoted, self._escaped = 0, False, False

    def part(self, text: str) -> tuple[str, bool]:
        """What of a text belongs to it, and whether it ends there."""
        for at, character in enumerate(text):
            if self._quoted:
                self._quoted = self._escaped or character != '"'
                self._escaped = character == "\\" and not self._escaped
            elif character == '"':
                self._quoted = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    return text[: at + 1], True
        return text, False


def new_call_id(short: bool = False) -> str:
    """A call's own name: "call_…"."""
    letters = "".join(secrets.choice(ALPHABET) for _ in range(9 if short else 24))
    return letters if short else f"call_{letters}"


HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)')
"""How a call begins whose arguments can be given as they come."""
MOST_HEAD = 400
"""Characters in which it begins; a call that is written otherwise is read once it is whole."""


def json_call(r: CallReader) -> Reading:
    """A call as a JSON object with "name" and "arguments" or "parameters"; whether there was one. What is no call stays
    where it is."""
    while not (head := HEAD.match(r.text)):
        scan, whole = Scanner().part(r.text)
        if whole or len(scan) > MOST_HEAD or r.ended:
            break
        yield
    if head and (name := _text(head[1])):
        index = r.begin(name)
        r.text = r.text[head.end() :]
        yield from r.value(index)
        yield from r.skip(r"\s*\}?")
        return True
    while not (found := Scanner().part(r.text))[1]:
        if r.ended:
            return False
        yield
    if not (call := call_of(found[0])):
        return False
    r.text = r.text[len(found[0]) :]
    r.call(*call)
    return True


def call_of(text: str) -> tuple[str, Any] | None:
    """Name and arguments of a call's JSON; None for what is none."""
    try:
        made = json.loads(text)
    except (ValueError, RecursionError):
        return None
    made = made.get("function", made) if isinstance(made, dict) and isinstance(made.get("function"), dict) else made
    name = made.get("name") if isinstance(made, dict) else None
    if not isinstance(name, str) or not name:
        return None
    arguments = made.get("arguments", made.get("parameters", {}))
    return name, arguments if isinstance(arguments, dict | str) else {}


def _text(quoted: str) -> str:
    try:
        return str(json.loads(quoted))
    except ValueError:
        return ""


def _first(text: str, marks: tuple[str, ...]) -> tuple[int, str]:
    """Where the first of the marks is, the longest of those there; "" for none."""
    found = [(text.find(mark), -len(mark), mark) for mark in marks if mark in text]
    return (min(found)[0], min(found)[2]) if found else (-1, "")


def _overlap(text: str, mark: str) -> int:
    """Characters at the end of a text that may begin a mark."""
    return next((n for n in range(min(len(mark) - 1, len(text)), 0, -1) if text.endswith(mark[:n])), 0)
