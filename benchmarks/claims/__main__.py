"""`python -m benchmarks.claims`: the page; `--claim N`: one statement; `--measure`: time this machine and keep it."""

from __future__ import annotations

import argparse
import sys

from benchmarks import rounds
from benchmarks.claims import measured, page
from benchmarks.claims.sections import find
from benchmarks.claims.statement import Opinion
from memfirst.errors import MemfirstError


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.claims", description=__doc__)
    made.add_argument("--claim", type=int, metavar="N", help="print one statement with its test")
    made.add_argument("--measure", action="store_true", help="time this machine, which must do nothing else")
    made.add_argument("--describe", default="an unnamed machine", help="with --measure: the machine, without its name")
    return rounds.add_options(made)


def one(number: int) -> str:
    """A statement and its outcome."""
    entry = find(number)
    if isinstance(entry, Opinion):
        return f"{number}  “{entry.quote}”: not testable, {entry.why}"
    return page.alone(entry.outcome())


def measure(chosen: argparse.Namespace) -> str:
    """Measure, keep, and say what the page will say."""
    from benchmarks.claims import measure as clock  # imports kernels

    found = clock.measure(chosen.threads, rounds.goal_of(chosen), rounds.to_stderr, chosen.describe)
    clock.keep(found)
    return measured.page(found)


def main(arguments: list[str] | None = None) -> int:
    """Print the page, one statement, or what was measured; exit code 1 with one line on stderr where that fails."""
    chosen = parser().parse_args(arguments)
    try:
        if chosen.measure:
            print(measure(chosen))
        elif chosen.claim is not None:
            print(one(chosen.claim))
        else:
            sys.stdout.write(page.render())
    except (MemfirstError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
