"""Measurements inside this process: rounds until enough of them are clean, and what a bar says of their medians."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks import noise
from benchmarks.process import BenchmarkError
from memfirst.errors import MemfirstError

Numbers = Mapping[str, float]
"""One round's figures by name."""

Note = Callable[[str], None]
"""Called with a line for each round."""


@dataclass(frozen=True)
class Goal:
    """Clean rounds (or pairs, per peer) wanted, and the rounds after which to give up."""

    pairs: int = 5
    max_rounds: int = 30


@dataclass(frozen=True)
class Kept:
    """Figures of the clean rounds, and how many rounds were thrown away."""

    rounds: tuple[Numbers, ...]
    discarded: int

    def median(self, name: str) -> float:
        """Over the clean rounds."""
        return statistics.median(r[name] for r in self.rounds)

    def record(self) -> dict[str, Any]:
        """Medians, then every clean round, as plain data."""
        medians = {name: self.median(name) for name in self.rounds[0]}
        rounds = [dict(r) for r in self.rounds]
        return {**medians, "clean_rounds": len(rounds), "discarded": self.discarded, "rounds": rounds}


def clean_rounds(work: Callable[[], Numbers], goal: Goal, note: Note) -> Kept:
    """Rounds of `work` (a second or more each: ticks are 10 ms) until `goal.pairs` are clean; else BenchmarkError."""
    kept: list[Numbers] = []
    for done in range(goal.max_rounds):
        if len(kept) == goal.pairs:
            return Kept(tuple(kept), done - len(kept))
        found, window = noise.watch(work)
        kept += [] if window.spoiled else [found]
        shown = ", ".join(f"{name} {value:.4g}" for name, value in found.items())
        spoiled = f" (spoiled: others {window.others_cores:.2f} cores, stolen {window.steal_s:.2f} s)"
        note(shown + (spoiled if window.spoiled else ""))
    if len(kept) < goal.pairs:
        do = "stop what else runs on this machine, or retry later"
        raise BenchmarkError(f"{len(kept)} clean rounds of {goal.max_rounds}", f"{goal.pairs}", do)
    return Kept(tuple(kept), goal.max_rounds - len(kept))


def add_options(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Threads, and how many rounds."""
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=Goal.pairs, help="clean rounds whose medians count")
    parser.add_argument("--max-rounds", type=int, default=Goal.max_rounds)
    return parser


def goal_of(chosen: argparse.Namespace) -> Goal:
    """What `add_options` was given."""
    return Goal(chosen.rounds, chosen.max_rounds)


def to_stderr(text: str) -> None:
    """Progress: standard output carries the JSON alone."""
    print(text, file=sys.stderr, flush=True)


def report(measure: Callable[[], Iterable[Mapping[str, Any]]]) -> int:
    """Print what was measured as JSON and a verdict a line; 0 where every bar is met, else 1."""
    try:
        found = [dict(result) for result in measure()]
    except (MemfirstError, OSError) as error:
        to_stderr(f"error: {error}")
        return 1
    print(json.dumps(found if len(found) != 1 else found[0], indent=1))
    for result in found:
        to_stderr(f"{'met' if result['ok'] else 'MISSED'}: {result['verdict']}")
    return 0 if all(result["ok"] for result in found) else 1
