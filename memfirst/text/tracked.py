"""Text that knows which of its characters came with the messages, through everything that a template does to it.

A chat template's own `<|im_end|>` is a control token; the same characters in a message are text. `Tracked` is a
`str` (equal, hashed and searched like one) with one mark for each character, which slices, joins, replacements and
changes of case keep. What an operation builds without saying where its characters come from counts as the messages'
in whole: then a template's control token may become text, but text never becomes a control token.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from string import Formatter
from typing import Any, SupportsIndex

FROM_TEMPLATE, FROM_MESSAGES = b"\0", b"\1"


class Tracked(str):
    """A `str` with `marks`: 1 for each character of the messages, 0 for each of the template."""

    __slots__ = ("marks",)
    marks: bytes

    def __str__(self) -> str:
        return self  # `str(x)` must not lose the marks

    def __add__(self, other: str) -> str:
        return concat([self, other]) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: str) -> str:
        return concat([other, self]) if isinstance(other, str) else NotImplemented

    def __mul__(self, times: SupportsIndex) -> str:
        return tracked(str.__mul__(self, times), self.marks * times.__index__())

    __rmul__ = __mul__

    def __mod__(self, values: Any) -> str:
        return printf(self, values)

    def __rmod__(self, form: str) -> str:
        return printf(form, self)

    def __getitem__(self, at: SupportsIndex | slice) -> str:
        text = str.__getitem__(self, at)  # first: it is what refuses other things than numbers
        return tracked(text, self.marks[at] if isinstance(at, slice) else bytes([self.marks[at]]))

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))

    def strip(self, chars: str | None = None, /) -> str:
        """As of `str`."""
        return part(self, str.lstrip(self, chars)).rstrip(chars)

    def lstrip(self, chars: str | None = None, /) -> str:
        """As of `str`."""
        return self[len(self) - len(str.lstrip(self, chars)) :]

    def rstrip(self, chars: str | None = None, /) -> str:
        """As of `str`."""
        return self[: len(str.rstrip(self, chars))]

    def removeprefix(self, prefix: str, /) -> str:
        """As of `str`."""
        return self[len(prefix) :] if self.startswith(prefix) else self

    def removesuffix(self, suffix: str, /) -> str:
        """As of `str`."""
        return self[: len(self) - len(suffix)] if suffix and self.endswith(suffix) else self

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        """As of `str`."""
        return in_order(self, str.split(self, sep, maxsplit), sep)

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        """As of `str`."""
        return in_order(self, str.rsplit(self, sep, maxsplit), sep)

    def partition(self, sep: str, /) -> tuple[str, str, str]:
        """As of `str`."""
        before, found, after = in_order(self, list(str.partition(self, sep)), "")
        return before, found, after

    def rpartition(self, sep: str, /) -> tuple[str, str, str]:
        """As of `str`."""
        before, found, after = in_order(self, list(str.rpartition(self, sep)), "")
        return before, found, after

    def splitlines(self, keepends: bool = False) -> list[str]:
        """As of `str`."""
        lines = in_order(self, str.splitlines(self, True), "")
        bare = str.splitlines(self, keepends)
        return [line[: len(short)] for line, short in zip(lines, bare, strict=True)]

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> str:
        """As of `str`."""
        return replace(self, old, new, count.__index__())

    def join(self, parts: Iterable[str], /) -> str:
        """As of `str`."""
        return join(self, parts)


def tracked(text: str, marks: bytes) -> str:
    """Attach marks to a text; without a mark it is a plain `str`."""
    if 1 not in marks:
        return str.__str__(text)
    made = str.__new__(Tracked, text)
    made.marks = marks
    return made


def from_messages(text: str) -> str:
    """Mark all of a text."""
    return tracked(text, FROM_MESSAGES * len(text))


def marks_of(text: str) -> bytes:
    """Return one byte for each character."""
    return text.marks if isinstance(text, Tracked) else bytes(len(text))


def concat(parts: Iterable[str]) -> str:
    """Join parts, one after another."""
    parts = list(parts)
    text = "".join(parts)
    if not any(isinstance(one, Tracked) for one in parts):
        return text
    return tracked(text, b"".join(map(marks_of, parts)))


def join(glue: str, parts: Iterable[str]) -> str:
    """Return `glue.join(parts)`."""
    parts = list(parts)
    both = [text for one in parts for text in (glue, one)][1:]
    return concat(both)


def part(text: Tracked, end: str) -> str:
    """Return the last characters of the text, which are `end`."""
    return text[len(text) - len(end) :]


def in_order(text: Tracked, pieces: list[str], sep: str | None) -> list[str]:
    """Mark pieces of the text, found one after another; `sep` stands between them (None: white space)."""
    found, at = list[str](), 0
    for piece in pieces:
        at = text.find(piece, at) if sep is None else at
        found.append(text[at : at + len(piece)])
        at += len(piece) + len(sep or "")
    return found


def replace(text: str, old: str, new: str, count: int = -1) -> str:
    """Return `text.replace(old, new, count)`."""
    if not isinstance(text, Tracked) and not isinstance(new, Tracked):
        return text.replace(old, new, count)
    made = str.replace(text, old, new, count)
    if not old:  # stands between all characters
        return from_messages(made)
    marks, kept, at = marks_of(text), list[bytes](), 0
    for piece in str.split(text, old, count):
        kept.append(marks[at : at + len(piece)])
        at += len(piece) + len(old)
    return tracked(made, marks_of(new).join(kept))


def _change_of_case(name: str, by_character: bool) -> Callable[[Tracked], str]:
    """Make a method that changes case, which may make two characters of one (ß, İ), never one of two."""
    change: Callable[[str], str] = getattr(str, name)

    def changed(self: Tracked) -> str:
        text = change(self)
        if len(text) == len(self):
            return tracked(text, self.marks)
        if not by_character:  # what a character becomes depends on its neighbours
            return from_messages(text)
        marks = b"".join(self.marks[i : i + 1] * len(change(str.__getitem__(self, i))) for i in range(len(self)))
        return tracked(text, marks)

    changed.__name__ = name
    return changed


def _as_a_whole(name: str) -> Callable[..., str]:
    """Make a method whose result is not tracked character by character."""
    build: Callable[..., str] = getattr(str, name)

    def built(self: Tracked, *args: Any) -> str:
        return from_messages(build(self, *args))

    built.__name__ = name
    return built


for _name in ("upper", "lower", "swapcase", "casefold", "title", "capitalize"):
    setattr(Tracked, _name, _change_of_case(_name, _name not in ("title", "capitalize")))
for _name in ("center", "ljust", "rjust", "zfill", "expandtabs", "translate", "format", "format_map"):
    setattr(Tracked, _name, _as_a_whole(_name))


def printed(value: Any) -> str:
    """Return `str(value)`: what lists and objects print is the messages', what numbers print is nobody's."""
    if isinstance(value, str):
        return value
    text = str(value)
    return text if not text or value is None or isinstance(value, bool | int | float) else from_messages(text)


_DIRECTIVE = re.compile(r"%(?:\((?P<key>[^)]*)\))?(?P<how>[-#0 +]*\d*(?:\.\d+)?)[hlL]?(?P<type>[a-zA-Z%])")


def printf(form: str, values: Any) -> str:
    """Return `form % values`: the form keeps its marks, and so does what `%s` prints."""
    text = str.__mod__(form, values)
    if isinstance(form, Tracked) and isinstance(values, Tracked):
        return from_messages(text)
    rest = iter(values if isinstance(values, tuple) else (values,))
    parts, at = list[str](), 0
    for found in _DIRECTIVE.finditer(form):
        parts.append(form[at : found.start()])
        at = found.end()
        if found["type"] == "%":
            parts.append("%")
            continue
        value = values[found["key"]] if found["key"] is not None else next(rest)
        same = found["type"] == "s" and not found["how"]
        parts.append(printed(value) if same else _shown(f"%{found['how']}{found['type']}" % (value,), value))
    made = concat([*parts, form[at:]])
    return made if made == text else from_messages(text)


def _shown(text: str, value: Any) -> str:
    """Mark what a directive shows, unless it is a number in digits: `%c` of a number can be any character."""
    return text if isinstance(value, bool | int | float) and _NUMBER.fullmatch(text) else from_messages(text)


_NUMBER = re.compile(r"[\w\s.,+%-]*")
_CONVERSIONS: dict[str, Callable[[Any], str]] = {"s": printed, "r": repr, "a": ascii}


def formatted(form: str, value_of: Callable[[str], Any]) -> str:
    """Return `form.format(…)`, where `value_of` gives a field's value by its name ("" for the next one)."""
    parts = list[str]()
    for literal, name, spec, conversion in Formatter().parse(form):
        parts.append(literal)
        if name is not None:
            value = value_of(name)
            shown = _CONVERSIONS[conversion](value) if conversion else value
            same = not spec and conversion in (None, "s")
            parts.append(printed(shown) if same else _shown(format(shown, spec or ""), value))
    made = concat(parts)
    return from_messages(made) if isinstance(form, Tracked) else made
