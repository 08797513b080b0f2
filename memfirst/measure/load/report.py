"""A load's figures as an object for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from memfirst.measure.load.predicted import Miss, miss
from memfirst.measure.load.run import Found, Level
from memfirst.predict.load import Simulated


def report(found: Found, predicted: Sequence[Simulated | None], model: str) -> dict[str, Any]:
    """All figures by name: seconds, tokens per second; beside them what was predicted."""
    options = found.options
    return {
        "url": found.address, "server": asdict(found.server), "model": model or None,
        "workload": asdict(options.workload), "slo": options.slo and asdict(options.slo),
        "tokens_counted_by": found.counted, "notes": found.notes, "interrupted": found.interrupted,
        "levels": [_level(level, simulated) for level, simulated in zip(found.levels, predicted, strict=True)],
    }  # fmt: skip


def _level(level: Level, simulated: Simulated | None) -> dict[str, Any]:
    due: Miss | None = miss(level, simulated)
    return {
        "clients": level.clients or None, "rate": level.rate or None,
        "measured": level.figures and level.figures.json(), "cached_prompt_tokens": level.cached,
        "errors": dict(level.errors), "unfinished": level.unfinished, "interrupted": level.stopped,
        "engine": level.engine and asdict(level.engine),
        "predicted": simulated and simulated.json(),
        "miss": due and asdict(due),
    }  # fmt: skip
