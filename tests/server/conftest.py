"""One server for the tests of a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.serving import Served


@pytest.fixture(scope="module")
def served(smollm2: Path) -> Iterator[Served]:
    """SmolLM2 with a small context."""
    with Served(smollm2, ["--ctx", "1024", "--threads", "2", "--max-sequences", "8"]) as made:
        yield made


@pytest.fixture
def http(served: Served) -> Iterator[httpx.Client]:
    """A client of it."""
    with httpx.Client(base_url=served.url, timeout=60) as client:
        yield client
