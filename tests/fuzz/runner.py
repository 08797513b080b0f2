"""Running fuzzed files: each must open, and survive what is done with it, or raise a MemfirstError, soon and in bounds.

Cases run in forked children under an address-space limit. A child that dies, or that native code holds on to, names
its case and costs nothing else.
"""

from __future__ import annotations

import multiprocessing
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from memfirst.errors import MemfirstError
from memfirst.formats.checkpoint import Checkpoint
from memfirst.formats.open import open_checkpoint

LIMIT_S = 2.0
"""Of processor time, so that other work on the machine does not count."""
STUCK_S = 60.0
"""Without a new case: it waits for nothing, or native code does not return to Python, which would hear the alarm."""
MEMORY = 1 << 30
"""Bytes of address space that a child may take beyond what it started with."""

Survivor = Callable[[Checkpoint], None]
Write = Callable[[int, int, Path], Path]
"""(case, seed, folder) -> the file or folder that was written there."""


@dataclass
class Tally:
    """What became of the cases."""

    opened: int = 0
    refused: int = 0
    slowest_s: float = 0.0
    failures: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Take another tally into this one."""
        self.opened += other.opened
        self.refused += other.refused
        self.slowest_s = max(self.slowest_s, other.slowest_s)
        self.failures += other.failures

    def page(self, kind: str) -> str:
        """One line."""
        ended = f"{self.opened} opened, {self.refused} refused, {len(self.failures)} failed"
        return f"{kind}: {ended}, slowest {self.slowest_s:.3f} s"


class TooSlowError(Exception):
    """A case went over its time."""


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise TooSlowError in the main thread after that much processor time."""

    def ring(_signal: int, _frame: FrameType | None) -> None:
        raise TooSlowError

    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def try_case(path: Path, after: Survivor) -> bool:
    """Whether it opened (and survived `after`) or was refused; anything else is raised."""
    try:
        checkpoint = open_checkpoint(path)
    except MemfirstError:
        return False
    try:
        after(checkpoint)
    except MemfirstError:
        return False
    finally:
        checkpoint.close()
    return True


@dataclass(frozen=True)
class Run:
    """What cases share; `folder` is where their files go."""

    kind: str
    seed: int
    write: Write
    after: Survivor
    folder: str

    def named(self, index: int) -> str:
        """Enough to repeat a case."""
        return f"{self.kind} case {index} of seed {self.seed}"


def run_case(run: Run, index: int, tally: Tally) -> None:
    """One case, in a folder of its own; a failure is noted with its traceback."""
    folder = Path(tempfile.mkdtemp(dir=run.folder))
    try:
        path = run.write(index, run.seed, folder)
        start = time.process_time()
        with deadline(LIMIT_S):
            opened = try_case(path, run.after)
        tally.slowest_s = max(tally.slowest_s, time.process_time() - start)
        tally.opened, tally.refused = tally.opened + opened, tally.refused + (not opened)
    except Exception:
        tally.failures.append(f"{run.named(index)}:\n{traceback.format_exc()}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def child(run: Run, cases: range, pipe: Any, at: Any) -> None:
    """Run cases under the limit and send the tally; `at` holds the number of the case under way."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    tally = Tally()
    for index in cases:
        at.value = index
        run_case(run, index, tally)
    pipe.send(tally)


def run_cases(kind: str, cases: range, seed: int, write: Write, after: Survivor) -> Tally:
    """Run cases in children; one that dies costs its results but not the run, and its case is a failure."""
    tally, first = Tally(), cases.start
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        while first < cases.stop:
            block = range(first, min(first + 500, cases.stop))
            first = run_block(Run(kind, seed, write, after, folder), block, tally)
    return tally


def run_block(run: Run, block: range, tally: Tally) -> int:
    """Run cases in one child; returns the first that has not run."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    at = context.Value("q", block.start, lock=False)
    process = context.Process(target=child, args=(run, block, sender, at))
    process.start()
    sender.close()
    try:
        stuck = _wait(receiver, at)
        if stuck:
            process.kill()
        else:
            tally.add(receiver.recv())
            return block.stop
    except EOFError:
        pass
    finally:
        process.join()
    fate = "held its process for too long" if stuck else f"killed its process ({process.exitcode})"
    tally.failures.append(f"{run.named(at.value)} {fate}")
    return int(at.value) + 1


def _wait(receiver: Any, at: Any) -> bool:
    """Until the child is done or dead: False; True where it stays at one case for STUCK_S."""
    last, since = at.value, time.monotonic()
    while not receiver.poll(min(1.0, STUCK_S)):
        if at.value != last:
            last, since = at.value, time.monotonic()
        elif time.monotonic() - since > STUCK_S:
            return True
    return False


def report(kind: str, tally: Tally) -> int:
    """Print a tally, the first failures on stderr; how many there are."""
    print(tally.page(kind), flush=True)
    print("\n".join(tally.failures[:20]), file=sys.stderr)
    return len(tally.failures)
