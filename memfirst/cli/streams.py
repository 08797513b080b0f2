"""Standard output, error and input as a command may find them: closed, a terminal, full, unable to show a character."""

from __future__ import annotations

import os
import sys
from typing import Any, TextIO

from memfirst.errors import MemfirstError


class OutputLostError(MemfirstError):
    """Nothing can be written to stdout any more."""


def prepare() -> None:
    """From now on what a stream's encoding cannot show is replaced, whoever prints it."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Any = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")


def write(text: str, end: str = "\n", flush: bool = False) -> None:
    """A command's result, on stdout. Without a stdout it goes nowhere.

    Raises OutputLostError where there is no room for it, BrokenPipeError where nobody reads it.
    """
    if sys.stdout is None:
        return
    try:
        sys.stdout.write(text + end)
        if flush:
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _lost(error) from error


def flush() -> None:
    """Write what is buffered; raises as `write` does. The last thing that a command does."""
    write("", end="", flush=True)


def settle() -> None:
    """Write what is buffered if that can be done, else forget it: an error is reported already."""
    try:
        flush()
    except (MemfirstError, BrokenPipeError):
        drop(sys.stdout)


def columns(stream: TextIO | None) -> int:
    """Characters of a line of the terminal that shows `stream`; 0 where nothing limits it."""
    if stream is None or not is_terminal(stream):
        return 0
    try:
        return stated_columns() or os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        return 0


def stated_columns() -> int:
    """What COLUMNS says; 0 where it says nothing."""
    said = os.environ.get("COLUMNS", "")
    return int(said) if said.isdecimal() else 0


def note(text: str, end: str = "\n") -> None:
    """A line for the user, on stderr, in whole words on a terminal; nothing where there is none or no room on it."""
    if end == "\n" and len(text) > (most := columns(sys.stderr)) > 0:
        from memfirst.cli.wrap import fold

        text = "\n".join("\n".join(fold(line, most)) for line in text.split("\n"))
    try:
        if sys.stderr is not None:
            sys.stderr.write(text + end)
            sys.stderr.flush()
    except OSError:
        drop(sys.stderr)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person sees (or types) it."""
    return stream is not None and not stream.closed and stream.isatty()


def draws() -> bool:
    """Whether stdout is a terminal that understands escapes."""
    return is_terminal(sys.stdout) and os.environ.get("TERM", "dumb" if os.name == "posix" else "") not in ("", "dumb")


def dim(text: str) -> str:
    """`text` in faint letters, where stdout draws."""
    return f"\x1b[2m{text}\x1b[0m" if draws() else text


def can_show(text: str, stream: TextIO | None = None) -> bool:
    """Whether the encoding of `stream` (stdout) has every character."""
    try:
        text.encode(getattr(stream or sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def drop(stream: TextIO | None) -> None:
    """Point a stream at nothing, so that the interpreter's own last flush stays quiet too."""
    if stream is None:
        return
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, stream.fileno())
    except (OSError, ValueError):  # no file beneath: nothing to flush either
        pass
    finally:
        os.close(null)


def _lost(error: OSError) -> MemfirstError:
    drop(sys.stdout)
    return OutputLostError(f"cannot write to standard output: {error.strerror or error}")
