"""Text that comes in pieces, broken between words at a terminal's width."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence

FENCE, MOST_FENCE = "```", 80
REPLACEMENT = "\ufffd"
TAB = 4
NBSP = "\N{NO-BREAK SPACE}"
_HELD = re.compile(
    r"(?<=\d) (?=(?:[kMGT]i?B|[GT]B/s|tok/s|tokens?|threads?|streams?|sequences?|ms|µs|s|%|M|×)(?!\w))"
    r"|(?<=MBU|MFU) (?=\d)|(?<=80.%:) |(?<=×) (?=\S)| (?=· )"
)
"""Spaces that break no line: between a number and its unit or what it is of, and before a dot between two facts."""


_JOINED = "\N{WORD JOINER}"
"""Begins what is a part of the word before it."""

_LONG = re.compile(r"[^ ]{8,}")


def columns() -> int:
    """Columns to write in: the terminal's less one, as a cursor behind the last one is nowhere well defined."""
    return max(8, shutil.get_terminal_size().columns - 1)


def width(character: str) -> int:
    """Columns that a character takes: 0 of one that joins the one before, -1 of a control character."""
    if character.isascii():
        return 1 if character.isprintable() else -1
    from wcwidth import wcwidth  # 5 ms, for other scripts only

    return wcwidth(character)


class Wrapper:
    """What to write so that the text stands in whole words.

    A word is shown as it comes; where it passes the edge it is erased and begins the next line. Wide characters
    (CJK) break anywhere, words longer than a line at its edge, and lines between ``` fences not at all: they are code,
    to be copied. Control characters are replaced: a model must not steer the terminal.
    """

    def __init__(self) -> None:
        self._column = 0
        self._word, self._word_columns = "", 0
        self._line = ""
        """Its first characters: is it a fence?"""
        self._code = False
        self._begun = True

    def feed(self, text: str) -> str:
        """The text, with line breaks and what erases the beginning of a word that moves to the next line."""
        most = columns()
        return "".join([self._put(character, most) for character in text])

    def _put(self, character: str, most: int) -> str:
        begun, self._begun = self._begun, True
        if character == "\n":
            return self._new_line()
        if character == "\t":
            return "".join([self._put(" ", most) for _ in range(TAB - self._column % TAB)])
        if character == "\r" or (character == " " and not begun):
            return ""
        taken = width(character)
        if taken < 0:
            character, taken = REPLACEMENT, 1
        if len(self._line) < MOST_FENCE:
            self._line += character
        if self._code:
            return character
        if character == " ":
            return self._space(most)
        return self._wide(character, most) if taken > 1 else self._letter(character, taken, most)

    def _new_line(self) -> str:
        line = self._line.strip()
        if line.startswith(FENCE) and "`" not in line.lstrip("`"):
            self._code = not self._code
        self.begin_line()
        return "\n"

    def begin_line(self) -> None:
        """The cursor stands at the beginning of a line."""
        self._column, self._word, self._word_columns, self._line = 0, "", 0, ""

    def go_on(self) -> None:
        """The cursor stands at the beginning of a line, in the middle of the text: a space that comes is not shown."""
        self.begin_line()
        self._begun = False

    def _space(self, most: int) -> str:
        self._word, self._word_columns = "", 0
        if self._column >= most:  # swallowed: the next word begins a line
            return ""
        self._column += 1
        return " "

    def _wide(self, character: str, most: int) -> str:
        self._word, self._word_columns = "", 0
        broken = self._column + 2 > most
        self._column = 2 if broken else self._column + 2
        return f"\n{character}" if broken else character

    def _letter(self, character: str, taken: int, most: int) -> str:
        """A character of a word; one of no width stays with the one before."""
        before, moved = self._word, self._word_columns
        self._word, self._word_columns = before + character, moved + taken
        if self._column + taken <= most:
            self._column += taken
            return character
        if moved >= self._column:  # the word began this line: there is no better place
            self._word, self._word_columns, self._column = character, taken, taken
            return f"\n{character}"
        self._column = moved + taken
        erase = f"\x1b[{moved}D\x1b[K" if moved else ""
        return f"{erase}\n{before}{character}"


def wrapped(text: str, indent: str = "") -> str:
    """A whole text in lines of whole words, those after the first of each line indented; for a chat, whose lines end
    before the last column: longer words are cut."""
    return "\n".join("\n".join(fold(line, columns(), rest=indent, cut=True)) for line in text.split("\n"))


def fold(text: str, most: int, first: str = "", rest: str = "  ", cut: bool = False) -> list[str]:
    """Lines of at most `most` characters (0: one line), the first begun with `first` and the others with `rest`.

    A number and its unit stay together. A longer word (a path in a command) is left to the terminal, so that it can be
    copied whole, unless it is to be cut: behind a slash, else behind a mark between its parts, else anywhere.
    """
    held = _HELD.sub(NBSP, text)
    if not most or len(first) + len(text) <= most:
        lines = [f"{first}{held}"]
    else:
        import textwrap

        if cut:
            room = max(4, most - max(len(first), len(rest)))
            held = _LONG.sub(lambda word: f" {_JOINED}".join(_parts(word.group(), room)), held)
        lines = textwrap.wrap(
            held, most, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False, break_long_words=cut
        )
    return [_bare(line, rest) for line in lines]


def packed(parts: Sequence[str], most: int, first: str = "", rest: str = "") -> list[str]:
    """Facts joined by dots, in lines that end between two of them, without a dot at the end; a longer one is folded."""
    lines: list[str] = []
    for part in (part for part in parts if part):
        if lines and (not most or len(lines[-1]) + 3 + len(part) <= most):
            lines[-1] += f" · {part}"
        else:
            lines += fold(part, most, rest if lines else first, rest)
    return lines


def _bare(line: str, rest: str) -> str:
    """A line without the marks that its making needs."""
    begun = line.replace(f"{rest}{_JOINED}", rest, 1) if line.startswith(f"{rest}{_JOINED}") else line
    return begun.replace(f" {_JOINED}", "").replace(NBSP, " ").rstrip(" ")


def _parts(word: str, room: int) -> list[str]:
    """The word whole, or in parts of at most `room` characters that end where its own parts do, as few as possible."""
    if len(word) <= room:
        return [word]
    room -= len(_JOINED)
    parts = [""]
    for piece in _pieces(word, room):
        if len(parts[-1]) + len(piece) <= room or not parts[-1]:
            parts[-1] += piece
        else:
            parts.append(piece)
    return parts


def _pieces(word: str, room: int) -> list[str]:
    """What stands together; of what is too long folders and a name, of these the parts between marks, else any."""
    pieces = [word]
    for marks in (NBSP, "/\\\\", "_.:,-"):
        ending = re.compile(f"[^{marks}]*[{marks}]+|[^{marks}]+")
        pieces = [p for piece in pieces for p in ([piece] if len(piece) <= room else ending.findall(piece))]
    return [piece[i : i + room] for piece in pieces for i in range(0, len(piece), room)]


def fold_page(text: str, most: int) -> str:
    """Each line of a page folded, what goes on indented by two more than the line."""
    lines = []
    for line in text.split("\n"):
        indent = line[: len(line) - len(line.lstrip(" "))]
        lines += fold(line.lstrip(" "), most, indent, f"{indent}  ") if line else [""]
    return "\n".join(lines)
