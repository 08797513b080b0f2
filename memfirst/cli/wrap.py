"""Text that comes in pieces, broken between words at a terminal's width."""

from __future__ import annotations

import re
import shutil

FENCE, MOST_FENCE = "```", 80
REPLACEMENT = "\ufffd"
TAB = 4
_UNIT = re.compile(r"(?<=\d) (?=(?:[kMGT]?B|[GT]B/s|tok/s|%|M)(?!\w))")
"""Between a number and its unit: not a place to break a line."""


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

    def feed(self, text: str) -> str:
        """The text, with line breaks and what erases the beginning of a word that moves to the next line."""
        most = columns()
        return "".join([self._put(character, most) for character in text])

    def _put(self, character: str, most: int) -> str:
        if character == "\n":
            return self._new_line()
        if character == "\t":
            return "".join([self._put(" ", most) for _ in range(TAB - self._column % TAB)])
        if character == "\r":
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
    """A whole text in lines of whole words, those after the first indented."""
    import textwrap

    lines = textwrap.TextWrapper(columns(), subsequent_indent=indent, break_on_hyphens=False)
    held = _UNIT.sub("\N{NO-BREAK SPACE}", text)
    return "\n".join(lines.fill(line) for line in held.split("\n")).replace("\N{NO-BREAK SPACE}", " ")
