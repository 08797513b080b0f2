"""Several streams at a time, timed only while all of them are decoding."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from memfirst.measure.probe.limits import Limits
from memfirst.measure.probe.sample import Sample, sample
from memfirst.measure.probe.stream import Stream

_JOIN_S = 0.1


@dataclass(frozen=True)
class Row:
    """`streams` at a time: seconds per token of each, and the tokens per second of all of them together."""

    streams: int
    context: float
    seconds: float
    tok_s: float
    first_s: float


def together(ask: Callable[[], Stream], count: int, limits: Limits) -> list[Stream]:
    """`count` answers asked for at the same moment. The first error of any is raised, once all have ended."""
    found: list[Stream] = []
    errors: list[BaseException] = []
    gate = threading.Barrier(count)

    def work() -> None:
        try:
            gate.wait()
            found.append(ask())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    _join(threads, limits)
    if errors:
        raise errors[0]
    return found


def _join(threads: Sequence[threading.Thread], limits: Limits) -> None:
    """Wait for all; an interruption makes them leave their streams first (within POLL_S)."""
    try:
        for thread in threads:
            while thread.is_alive():
                thread.join(_JOIN_S)
    except BaseException:
        limits.stop.set()
        for thread in threads:
            thread.join(1.0)
        raise


def row(streams: Sequence[Stream], prompt_tokens: Sequence[int]) -> Row | None:
    """Their pace between the last stream's first token and the first stream's last; None if that is too short."""
    since = max(s.events[0].at for s in streams)
    until = min(s.events[-1].at for s in streams)
    pairs = zip(streams, prompt_tokens, strict=True)
    samples: list[Sample] = [found for s, n in pairs if (found := sample(s, n, since, until)) is not None]
    if len(samples) < len(streams):
        return None
    return Row(
        len(streams), median(s.context for s in samples), median(s.seconds for s in samples),
        sum(1 / s.seconds for s in samples), median(s.first_s for s in samples),
    )  # fmt: skip
