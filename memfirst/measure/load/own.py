"""A server of our own for a load: `memfirst serve` in a process of its own, ended with the load."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from memfirst.errors import BackendError, MemfirstError
from memfirst.progress import Progress

READY = re.compile(r" on (http://[^ ]+)/v1")
END_S = 15.0


@contextmanager
def own_server(model: str, options: Sequence[str], progress: Progress) -> Iterator[str]:
    """Where `memfirst serve MODEL` listens, on a free port of loopback; BackendError with its last words where it ends
    before that."""
    words = [sys.executable, "-m", "memfirst", "serve", model, "--port", "0", "--no-page", *options]
    progress.note(f"starting memfirst serve {model}")
    server = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        encoding="utf-8", errors="replace", start_new_session=True,  # Ctrl-C is the load's: the server ends after it
    )  # fmt: skip
    try:
        yield _ready(server)
    finally:
        server.terminate()
        try:
            server.wait(END_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _ready(server: subprocess.Popen[str]) -> str:
    """Its address, once it says so; what it says later is thrown away."""
    said = deque[str](maxlen=4)
    stderr = server.stderr
    if stderr is None:
        raise MemfirstError("a server without a standard error")
    for line in stderr:
        said.append(line.strip().removeprefix("memfirst: "))
        if found := READY.search(line):
            threading.Thread(target=deque, args=(stderr, 0), daemon=True).start()
            return found[1]
    raise BackendError(f"memfirst serve ended (exit code {server.wait()}): {' '.join(said)}")
