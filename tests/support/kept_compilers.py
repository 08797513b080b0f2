"""Compiling processes that tests share: each would import Numba anew, a second of which a small kernel takes a tenth.

`tests/conftest.py` puts `children` in place of `compiling.children` for the tests of a process; commands that tests
start, and tests that ask for `fresh_compilers`, start and end their own.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

from memfirst.kernels.cpu import compiling

FRESH = compiling.children
"""As the package starts and ends them."""

KEPT, LARGEST = 2, 512 << 20
"""Processes that are kept, and bytes from which on one is replaced: Numba forgets nothing that it compiled."""

_lock = threading.Lock()
_idle: list[Kept] = []


class Kept:
    """A process with what it was started under: environment, path and command."""

    def __init__(self) -> None:
        self.state = state()
        self._made = FRESH(1)
        self.child = self._made.__enter__()[0]

    def small(self) -> bool:
        """Whether it runs, and has room for more."""
        try:
            return self.child.poll() is None and bool(psutil.Process(self.child.pid).memory_info().rss < LARGEST)
        except psutil.Error:
            return False

    def end(self) -> None:
        """Kill it."""
        self._made.__exit__(None, None, None)


def state() -> tuple[object, ...]:
    """What a new process would get, and whose it would be: a fork has the pipes too."""
    ignored = ("PYTEST_CURRENT_TEST", "MEMFIRST_CACHE_DIR")  # the parent writes the files
    variables = tuple(sorted((name, value) for name, value in os.environ.items() if name not in ignored))
    return os.getpid(), variables, tuple(sys.path), tuple(compiling._CHILD)


@contextmanager
def children(count: int, idle: bool = False) -> Iterator[list[compiling.Child]]:
    """As `compiling.children`, of those that are kept; all that were lent end with an exception."""
    if idle:
        with FRESH(count, idle) as started:
            yield started
        return
    now = state()
    with _lock:
        lent = [kept for kept in _idle if kept.state == now and kept.child.poll() is None][:count]
        for kept in lent:
            _idle.remove(kept)
    finished = False
    try:
        lent += [Kept() for _ in range(count - len(lent))]
        yield [kept.child for kept in lent]
        finished = True
    finally:
        for kept in lent:
            give_back(kept, finished)


def give_back(kept: Kept, usable: bool) -> None:
    """Keep a process that has answered all that it was asked, where there is room."""
    usable = usable and kept.small()
    with _lock:
        old = [other for other in _idle if other.state != kept.state]
        for other in old:
            _idle.remove(other)
        if room := usable and len(_idle) < KEPT:
            _idle.append(kept)
    for other in old if room else [*old, kept]:
        other.end()


@contextmanager
def shared() -> Iterator[None]:
    """All that this process compiles, by processes that stay until the end."""
    compiling.children = children
    try:
        yield
    finally:
        compiling.children = FRESH
        end()


def end() -> None:
    """End all that are kept."""
    with _lock:
        ended, _idle[:] = list(_idle), []
    for kept in ended:
        with suppress(OSError):
            kept.end()
