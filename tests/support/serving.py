"""A server in a process of its own, for tests that talk to it."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

READY = re.compile(r"on (http://[^ ]+)/v1")


class Served:
    """`memfirst serve` on a free port; `url` is where."""

    def __init__(self, model: Path | None, options: Sequence[str] = (), port: int = 0) -> None:
        of_model = [] if model is None else [str(model), "--name", "tested"]  # None: a front door
        command = [sys.executable, "-m", "memfirst", "serve", *of_model, "--port", str(port), *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.lines: list[str] = []
        self.url = self._wait()
        threading.Thread(target=self._drain, daemon=True).start()

    def _wait(self) -> str:
        stderr = self.process.stderr
        assert stderr is not None
        for line in stderr:
            self.lines.append(line)
            if found := READY.search(line):
                return found[1]
        raise AssertionError(f"the server did not start: {''.join(self.lines)}")

    def _drain(self) -> None:
        stderr = self.process.stderr
        assert stderr is not None
        self.lines += iter(stderr)

    def __enter__(self) -> Served:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
