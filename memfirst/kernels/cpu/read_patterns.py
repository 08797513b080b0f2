"""What the read loops of `probe` and who drives them share: the words of a team's record, and the patterns' names."""

from __future__ import annotations

ROUND, STOP, LEFT, NEXT, PATTERN, CLAIMS, SIZE, WORKERS, TOOK, SUMS = 0, 8, 16, 24, 32, 40, 48, 56, 64, 72
"""Words of the record. ROUND begins one when it is raised; LEFT workers have not ended it; NEXT: the first MiB that
nobody claimed; SIZE: MiB of the buffer; TOOK: cycles of the last round. From SUMS on a cache line for each worker."""

CHUNK = 2
"""MiB of a claim: one huge page."""

SHAPES = (
    "1 stream", "2 streams", "4 streams", "1 stream, prefetch 4 KiB ahead", "1 stream, prefetch 6 KiB ahead",
    "2 streams, prefetch 2 KiB ahead",
)  # fmt: skip
"""In the order of the kernel's branches."""

PATTERNS = tuple(
    (f"{name}, {regions}", shape, claims)
    for shape, name in enumerate(SHAPES)
    for claims, regions in enumerate(("own regions", "claimed chunks"))
)
"""(name, PATTERN, CLAIMS): each shape by workers that have a region each, and by workers that claim chunks."""


def words(workers: int) -> int:
    """Of the record."""
    return SUMS + 8 * workers
