"""What is typed while an answer is printed: not echoed into it, kept for the next prompt."""

from __future__ import annotations

import os
import select
import sys
import threading
from types import TracebackType
from typing import Any

from memfirst.cli.streams import is_terminal

CHUNK = 4096
BRACKETED_PASTE = "\x1b[?2004"
"""With h or l after it: pasted text comes marked as such, or as if typed."""


class Keyboard:
    """Takes the keyboard from a terminal while it is entered. Where there is no terminal to take, it does nothing.

    Ctrl-C stays a signal. The kernel keeps only 4096 bytes that nobody reads, less than people paste: a thread reads
    them.
    """

    def __init__(self, wanted: bool) -> None:
        self.typed = b""
        self._wanted = wanted and os.name == "posix" and is_terminal(sys.stdin)
        self._before: list[Any] = []
        self._end = -1
        self._reader: threading.Thread | None = None

    def __enter__(self) -> Keyboard:
        if self._wanted:
            self._take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._reader is None:
            return
        os.close(self._end)  # wakes it
        self._reader.join()
        self._reader = None
        import termios

        termios.tcsetattr(sys.stdin.fileno(), termios.TCSANOW, self._before)

    def _take(self) -> None:
        import termios

        stdin = sys.stdin.fileno()
        self._before = termios.tcgetattr(stdin)
        mode = termios.tcgetattr(stdin)
        mode[0] &= ~termios.ICRNL  # Enter comes as it does at the prompt
        mode[3] &= ~(termios.ECHO | termios.ICANON)
        mode[3] |= termios.NOFLSH  # Ctrl-C stops the answer, and leaves what was typed
        termios.tcsetattr(stdin, termios.TCSANOW, mode)
        woken, self._end = os.pipe()
        self._reader = threading.Thread(target=self._read, args=(stdin, woken), daemon=True)
        self._reader.start()

    def _read(self, stdin: int, woken: int) -> None:
        try:
            while woken not in select.select([stdin, woken], [], [])[0]:
                chunk = os.read(stdin, CHUNK)
                if not chunk:
                    return
                self.typed += chunk
        except OSError:  # the terminal is gone
            return
        finally:
            os.close(woken)
