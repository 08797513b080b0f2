"""A process on a pseudo-terminal, and what a person sees there: keys in, a screen out."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

FAKE = [sys.executable, "-m", "tests.support.fake_engine"]
PATIENCE_S = 20.0
QUIET_S = 0.1
"""Nothing more is drawn when so long nothing came."""


class Terminal:
    """A command on a terminal of `columns` × `rows`; the program is the fake engine's unless one is given."""

    def __init__(
        self, *args: str, columns: int = 80, rows: int = 24, program: Sequence[str] = FAKE, stdout: int = -1, **env: str
    ) -> None:
        pty = pytest.importorskip("pty")
        pyte = pytest.importorskip("pyte")
        self.main, side = pty.openpty()
        pytest.importorskip("termios").tcsetwinsize(side, (rows, columns))
        environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
        environment |= {"TERM": "xterm", "FAKE_CTTY": "1", "XDG_STATE_HOME": os.devnull} | env
        self.process = subprocess.Popen(
            [*program, *args], stdin=side, stdout=side if stdout < 0 else stdout, stderr=side, env=environment,
            start_new_session=True,
        )  # fmt: skip
        os.close(side)
        self.seen = ""
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)

    def type(self, keys: str) -> None:
        """Press keys; "\\r" is Enter, "\\x03" Ctrl-C."""
        data = keys.encode()
        while data:
            data = data[os.write(self.main, data[:1024]) :]

    def paste(self, text: str) -> None:
        """As a terminal does where it was asked for bracketed paste."""
        self.type(f"\x1b[200~{text}\x1b[201~")

    def wait_for(self, text: str) -> str:
        """What was written since the last wait, up to and with `text`."""
        end = time.monotonic() + PATIENCE_S
        while text not in self.seen:
            assert self._take(end - time.monotonic()), f"no {text!r} in {self.seen!r}"
        before, _, self.seen = self.seen.partition(text)
        return before + text

    def screen(self) -> str:
        """What stands on the screen once nothing more comes; an empty screen is an empty text."""
        while self._take(QUIET_S):
            pass
        return "\n".join(line.rstrip() for line in self._screen.display).rstrip()

    def ask(self, message: str, until: str = "") -> str:
        """Send a message, wait for its answer (or for `until`) and the next prompt; the screen then."""
        self.screen()
        self.seen = ""
        self.type(f"{message}\r")
        self.wait_for(until or "a message, or /?")
        return self.screen()

    def end(self) -> int:
        """The exit code, once it ends by itself."""
        try:
            while self._take(PATIENCE_S):
                pass
            return self.process.wait(timeout=PATIENCE_S)
        finally:
            self.kill()

    def kill(self) -> None:
        """End it now."""
        self.process.kill()
        self.process.wait()
        if self.main >= 0:
            os.close(self.main)
        self.main = -1

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    def _take(self, seconds: float) -> bool:
        """Read what comes within that time; False where nothing did, or the process ended."""
        if self.main < 0 or not select.select([self.main], [], [], max(0.0, seconds))[0]:
            return False
        try:
            data = os.read(self.main, 1 << 16)
        except OSError:  # Linux says so when the other side is closed
            return False
        self.seen += data.decode("utf-8", "replace")
        self._stream.feed(data)
        return bool(data)


def check_screen(shown: str, path: Path) -> None:
    """Compare a screen with the one that is kept (and was looked at); UPDATE_SCREENS=1 keeps what is shown."""
    if os.environ.get("UPDATE_SCREENS"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(shown + "\n", encoding="utf-8")
    assert shown + "\n" == path.read_text(encoding="utf-8"), f"{path.name}: UPDATE_SCREENS=1 keeps this:\n{shown}"
