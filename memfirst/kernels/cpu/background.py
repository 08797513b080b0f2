"""Compiling kernels while others do the work: one process that yields to all others, one kernel after another.

What it makes is kept in the cache at once, so a run that ends before it loses one kernel's work at most.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from memfirst.errors import BackendError
from memfirst.kernels.cpu.library import Library
from memfirst.kernels.cpu.sources import Key

THREAD = "memfirst-compiler"
"""As a debugger shows it."""


class Background:
    """The kernels that a library will be asked for, compiled before they are."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._todo: deque[Key] = deque()
        self._asked: set[Key] = set()
        self._failed: set[Key] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._child: Any = None
        self._closed = False
        self.made = 0
        """Kernels compiled so far: as long as it is the same, so are the answers of `ready`."""

    def ready(self, keys: Iterable[Key]) -> bool:
        """Whether all of them are in the cache; those that are not will be."""
        missing = [key for key in sorted(keys) if not self._library.has([key])]
        with self._lock:
            new = [key for key in missing if key not in self._asked]
            self._asked.update(new)
            self._todo.extend(new)
            if new and not self._closed and self._thread is None:
                self._thread = threading.Thread(target=self._work, name=THREAD, daemon=True)
                self._thread.start()
        return not missing

    def wait(self) -> None:
        """Until all that was asked for is there; BackendError for what could not be compiled."""
        while (thread := self._thread) is not None:
            thread.join()
        if self._failed:
            names = ", ".join(sorted(key[0] for key in self._failed))
            raise BackendError(f"compiling {names} failed", do="its reason is printed above")

    def close(self) -> None:
        """End the compiling process."""
        with self._lock:
            self._closed = True
            self._todo.clear()
            child = self._child
        if child is not None:
            with suppress(OSError):
                child.kill()
        if (thread := self._thread) is not None:
            thread.join(5.0)

    def _work(self) -> None:
        """Compile what there is to do; what fails, larger programs do without it, and who waits is told."""
        from memfirst.kernels.cpu import compiling, library

        key: Key | None = None
        try:
            with compiling.children(1, idle=True) as (child,):
                self._child = child
                while (key := self._next()) is not None:
                    blob = compiling.compiled(child, key)
                    compiling.keep(self._library.path(key), blob)
                    library.prune(self._library.folder, [library.title(key)])
                    self.made += 1
        except (BackendError, OSError):
            with self._lock:
                self._failed.update([] if self._closed else [key] if key else self._todo)
                self._todo.clear()
        finally:
            with self._lock:
                self._child = self._thread = None

    def _next(self) -> Key | None:
        """The next kernel; None where the thread is to end, which is decided with the lock."""
        with self._lock:
            if not self._todo or self._closed:
                self._thread = None
                return None
            return self._todo.popleft()
