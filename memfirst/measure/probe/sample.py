"""From the arrival of tokens to seconds per token: robust to hiccups, to bunched packets, to uneven chunks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from memfirst.measure.probe.stream import Event, Stream

SKIPPED = 4
"""First tokens that are not timed: they share their step with the prompt, or come out of a buffer together."""

BLOCK = 4
"""Tokens timed together, so that the jitter of a packet's arrival weighs a quarter."""

BUNCHED = 0.2
"""Of the mean gap: tokens closer than that came together (a packet, a speculative step) and are one arrival."""

TRIMMED = 0.2
"""Of the blocks, at each end: a hiccup of this process or of the server falls out."""

FEWEST = 3 * BLOCK
"""Timed tokens without which there is no figure."""

LEAST = SKIPPED + 2 * FEWEST
"""Tokens to ask for at least: blocks end on whole bunches, so not every token after the first is timed."""


CLOCK = time.get_clock_info("monotonic").resolution
"""Seconds that the clock can tell apart."""


@dataclass(frozen=True)
class Sample:
    """One stream's pace.

    context       tokens before the one in the middle of those timed
    seconds       per token; tokens: how many were timed
    first_s       from the request to the first token
    server_s      seconds per token by the server's own clock, where it says
    """

    context: float
    seconds: float
    tokens: float
    first_s: float
    prompt_tokens: int
    cached: int
    server_s: float | None


def sample(stream: Stream, prompt_tokens: int, since: float = 0.0, until: float = float("inf")) -> Sample | None:
    """The pace of a stream between two times; None with fewer than FEWEST tokens there."""
    events = [e for e in stream.events if e.tokens > SKIPPED and since <= e.at <= until]
    blocks = _blocks(_merged(events))
    if not blocks or sum(n for n, _ in blocks) < FEWEST:
        return None
    middle = (events[0].tokens + events[-1].tokens) / 2
    return Sample(
        prompt_tokens + middle, pace(blocks), events[-1].tokens - events[0].tokens, stream.first_s,
        prompt_tokens, stream.cached, stream.server_s,
    )  # fmt: skip


def pooled(streams: Sequence[Stream], prompt_tokens: Sequence[int]) -> Sample | None:
    """The pace of short answers to prompts of one length: of each, from its first token to its last, is one block.

    None with fewer than FEWEST timed tokens in all.
    """
    timed = [(s.events[0], s.events[-1]) for s in streams if s.events[-1].tokens > s.events[0].tokens]
    blocks = [(last.tokens - first.tokens, last.at - first.at) for first, last in timed]
    tokens = sum(n for n, _ in blocks)
    if tokens < FEWEST:
        return None
    middle = median((first.tokens + last.tokens) / 2 for first, last in timed)
    prompt = round(median(prompt_tokens))
    first_s, cached = median(s.first_s for s in streams), max(s.cached for s in streams)
    return Sample(prompt + middle, pace(blocks), tokens, first_s, prompt, cached, None)


def _merged(events: list[Event]) -> list[Event]:
    """One event for each bunch: its last."""
    if len(events) < 2:
        return events
    gaps = [b.at - a.at for a, b in pairwise(events)]
    usual = sorted(gaps)[: len(gaps) - len(gaps) // 10]  # one hiccup of seconds must not make all others a bunch
    least = BUNCHED * sum(usual) / len(usual)
    return [e for e, gap in zip(events, gaps, strict=False) if gap >= least] + events[-1:]


def _blocks(events: list[Event]) -> list[tuple[float, float]]:
    """(tokens, seconds) of successive spans of at least BLOCK tokens."""
    found = []
    start = events[0] if events else None
    for event in events:
        if start is not None and event.tokens - start.tokens >= BLOCK - 1e-9:
            found.append((event.tokens - start.tokens, event.at - start.at))
            start = event
    return found


def pace(blocks: list[tuple[float, float]]) -> float:
    """Seconds per token: the mean over the blocks without the fastest and the slowest; what arrived at once, because
    this machine was busy, took no less than the clock can tell."""
    ordered = sorted(blocks, key=lambda b: b[1] / b[0])
    cut = int(TRIMMED * len(ordered))
    kept = ordered[cut : len(ordered) - cut]
    return max(sum(s for _, s in kept), CLOCK) / sum(n for n, _ in kept)
