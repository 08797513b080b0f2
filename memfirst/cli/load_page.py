"""What `bench --serve` found, as a page: each level's speeds and times beside what was predicted of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from memfirst.cli.display import printable, table
from memfirst.cli.wrap import fold

if TYPE_CHECKING:
    from memfirst.measure.load.predicted import Miss
    from memfirst.measure.load.run import Found, Level
    from memfirst.predict.load import Figures, Simulated, Spread

WHOLE = 78
"""Characters of the table with all of its columns side by side."""

HEAD = ("", "tok/s", "each", "TTFT ms", "p90", "p99", "ITL ms", "p90", "p99", "e2e s", "p90", "p99")
"""Columns: tokens a second of all and of each client; times in the median and by percentiles."""

_WIDTHS = (10, 6, 5, 7, 6, 5, 6, 5, 5, 5, 4, 4)


def page(found: Found, predicted: Sequence[Simulated | None], misses: Sequence[Miss | None], within: int) -> str:
    """In lines of at most `within` characters; 0: any."""
    levels = list(zip(found.levels, predicted, misses, strict=True))
    lines = [*fold(_title(found), within), *fold(found.options.workload.said(), within), ""]
    rows = [row for level, simulated, _ in levels for row in _rows(level, simulated)]
    lines += _table([HEAD, *rows], within)
    lines.append("")
    for level, simulated, due in levels:
        lines += fold(f"{level.label}: {'; '.join(_told(level, simulated, due))}", within, "", "  ")
    for note in found.notes:
        lines += fold(f"note: {note}", within, "", "  ")
    if found.interrupted:
        lines += fold("interrupted: what had been answered by then", within)
    return printable("\n".join(lines))


def _title(found: Found) -> str:
    server = found.server
    kind = server.version if server.version.startswith("memfirst") else f"{server.kind} {server.version}".strip()
    kind = "an OpenAI-compatible server" if server.kind == "unknown" else kind
    limits = [
        f"{server.context:,} tokens of context" if server.context else "",
        f"{server.slots} at a time" if server.slots else "",
    ]
    return " · ".join(part for part in (found.address, kind, server.model, *limits) if part)


def _rows(level: Level, simulated: Simulated | None) -> Iterator[tuple[str, ...]]:
    """What was measured, then what was predicted."""
    if level.figures is None:
        yield level.label, "none", *[""] * (len(HEAD) - 2)
        return
    yield level.label, *_cells(level.figures)
    if simulated is not None:
        yield " predicted", *_cells(simulated.figures)


def _cells(found: Figures) -> tuple[str, ...]:
    return (
        _digits(found.tok_s), _digits(found.each),
        *_times(found.ttft, 1e3), *_times(found.itl, 1e3), *_times(found.e2e, 1),
    )  # fmt: skip


def _times(found: Spread, scale: float) -> tuple[str, str, str]:
    return _digits(scale * found.p50), _digits(scale * found.p90), _digits(scale * found.p99)


def _digits(value: float) -> str:
    """Three digits that count."""
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def _table(rows: Sequence[tuple[str, ...]], within: int) -> list[str]:
    """Side by side where there is room; below one another where there is not."""
    if within and within < WHOLE:
        return table(rows, range(1, len(HEAD)), within).split("\n")
    lines = []
    for row in rows:
        cells = [row[0].ljust(_WIDTHS[0]), *(c.rjust(w) for c, w in zip(row[1:], _WIDTHS[1:], strict=True))]
        lines.append(" ".join(cells).rstrip())
    return lines


def _told(level: Level, simulated: Simulated | None, due: Miss | None) -> Iterator[str]:
    """Below the table: answers, errors, the queue, what is good, where the time went."""
    found = level.figures
    yield f"{found.requests if found else 0} answers of {found.tokens if found else 0:,} tokens"
    if level.cached:
        asked = sum(ask.prompt for ask in level.asked)
        yield f"{100 * level.cached / asked:.0f} % of prompts came from the prefix cache"
    for what, times in level.errors.most_common():
        yield f"{times} failed: {what}"
    if level.unfinished:
        yield f"{level.unfinished} were not answered in time"
    if found and found.queue is not None:
        yield f"longest queue {found.queue}" + (f", predicted {simulated.figures.queue}" if simulated else "")
    elif simulated:
        yield f"longest queue predicted {simulated.figures.queue}"
    if found and found.good:
        of = f", predicted {100 * simulated.figures.good[1]:.0f} %" if simulated and simulated.figures.good else ""
        yield f"goodput {found.good[0]:.2f} req/s, {100 * found.good[1]:.0f} % within the SLO{of}"
    if due:
        yield _due(due)


def _due(due: Miss) -> str:
    took = f"took {due.busy:.2f} × the predicted time"
    if due.steps is None or due.each is None or due.around is None:
        return took
    return f"{took}: {due.steps:.2f} × the steps, {due.each:.2f} × each, {due.around:.2f} × what is around them"
