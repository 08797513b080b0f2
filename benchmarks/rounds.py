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

DO = "stop what else runs on this machine, retry later, or count every round with --unquiet"
"""What to do where too little was clean."""

Note = Callable[[str], None]
"""Called with a line for each round."""


@dataclass(frozen=True)
class Goal:
    """Clean rounds (or pairs, per peer) wanted, and the rounds after which to give up; unquiet: all count as clean."""

    pairs: int = 5
    max_rounds: int = 30
    unquiet: bool = False


@dataclass(frozen=True)
class Kept:
    """Figures of the rounds that count, how many were thrown away, and how many count although disturbed."""

    rounds: tuple[Numbers, ...]
    discarded: int
    disturbed: int = 0

    def median(self, name: str) -> float:
        """Over the rounds that count."""
        return statistics.median(r[name] for r in self.rounds)

    def record(self) -> dict[str, Any]:
        """Medians, then every round that counts, as plain data."""
        medians = {name: self.median(name) for name in self.rounds[0]}
        rounds = [dict(r) for r in self.rounds]
        counts = {"disturbed": self.disturbed, "discarded": self.discarded}
        return {**medians, "clean_rounds": len(rounds) - self.disturbed, **counts, "rounds": rounds}


def clean_rounds(work: Callable[[], Numbers], goal: Goal, note: Note) -> Kept:
    """Rounds of `work` (a second or more each: ticks are 10 ms) until `goal.pairs` are clean; else BenchmarkError."""
    kept: list[Numbers] = []
    disturbed = 0
    for done in range(goal.max_rounds):
        if len(kept) == goal.pairs:
            return Kept(tuple(kept), done - len(kept), disturbed)
        found, window = noise.watch(work)
        kept += [found] if goal.unquiet or not window.spoiled else []
        disturbed += window.spoiled and goal.unquiet
        shown = ", ".join(f"{name} {value:.4g}" for name, value in found.items())
        spoiled = f" (spoiled: others {window.others_cores:.2f} cores, stolen {window.steal_s:.2f} s)"
        note(shown + (spoiled if window.spoiled else ""))
    if len(kept) < goal.pairs:
        raise BenchmarkError(f"{len(kept)} clean rounds of {goal.max_rounds}", f"{goal.pairs}", DO)
    return Kept(tuple(kept), goal.max_rounds - len(kept), disturbed)


def add_options(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Threads, and how many rounds."""
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=Goal.pairs, help="clean rounds whose medians count")
    parser.add_argument("--max-rounds", type=int, default=Goal.max_rounds)
    return add_unquiet(parser)


def add_unquiet(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """For machines whose neighbours never rest."""
    parser.add_argument("--unquiet", action="store_true", help="count disturbed rounds too, and say how many")
    return parser


def goal_of(chosen: argparse.Namespace) -> Goal:
    """What `add_options` was given."""
    return Goal(chosen.rounds, chosen.max_rounds, chosen.unquiet)


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
        disturbed = result.get("disturbed") and f"; {result['disturbed']} of {len(result['rounds'])} rounds disturbed"
        to_stderr(f"{'met' if result['ok'] else 'MISSED'}: {result['verdict']}{disturbed or ''}")
    return 0 if all(result["ok"] for result in found) else 1
