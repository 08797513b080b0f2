"""All sections, in the article's order."""

from __future__ import annotations

from benchmarks.claims import (
    advice,
    arithmetic,
    cache,
    designs,
    examples,
    fetch,
    introduction,
    quantization,
    truths,
)
from benchmarks.claims.statement import Opinion, Statement
from benchmarks.process import BenchmarkError

SECTIONS = (introduction.SECTION, fetch.SECTION, arithmetic.SECTION, examples.SECTION, quantization.SECTION,
            cache.SECTION, designs.SECTION, truths.SECTION, advice.SECTION)  # fmt: skip


def find(number: int) -> Statement | Opinion:
    """The statement of that number; BenchmarkError where there is none."""
    for section in SECTIONS:
        for entry in section.entries:
            if entry.number == number:
                return entry
    last = SECTIONS[-1].entries[-1].number
    raise BenchmarkError(f"no statement {number}", f"1 to {last}")
