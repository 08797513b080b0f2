"""What the clients of a server get: the figures of a load, and what is predicted of one.

A load is simulated step by step, as continuous batching with chunked prefill schedules it, each step taking the
time that is predicted for it. What comes out are the figures that a benchmark measures from outside.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import count
from typing import Any, Protocol

from memfirst.predict.tiles import TILE, allowed, beside

PAGE = 64
"""Tokens of prompts that are shared from the moment on that they are computed."""


# --- figures, measured or predicted


@dataclass(frozen=True)
class Answered:
    """One answer as its client saw it, in seconds on the load's clock.

    at      when it was asked for; first, end: when its first and its last token were there
    gaps    between pieces of it that came; tokens: how many it has
    """

    at: float
    first: float
    end: float
    gaps: tuple[float, ...]
    tokens: int

    @property
    def per_token(self) -> float:
        """Mean seconds of a token after the first (vLLM's TPOT); 0 of an answer of one."""
        return (self.end - self.first) / (self.tokens - 1) if self.tokens > 1 else 0.0


@dataclass(frozen=True)
class Slo:
    """Seconds that an answer may take to count as good: to its first token, between tokens (99 of 100), by token in the
    mean, in all. None: any."""

    ttft: float | None = None
    itl: float | None = None
    tpot: float | None = None
    e2e: float | None = None

    def met(self, one: Answered) -> bool:
        """Whether an answer was within all of them."""
        took = (one.first - one.at, percentile(one.gaps, 99), one.per_token, one.end - one.at)
        allowed = (self.ttft, self.itl, self.tpot, self.e2e)
        return all(most is None or seconds <= most for seconds, most in zip(took, allowed, strict=True))


@dataclass(frozen=True)
class Spread:
    """Percentiles of seconds."""

    p50: float
    p90: float
    p99: float
    mean: float


@dataclass(frozen=True)
class Figures:
    """What the clients of a load got together.

    tok_s    generated tokens per second, from the first request to the last answer's end; each: those of one client
             while it is answered, in the median
    queue    requests that waited for a place at the same time, at most; None where nobody says
    good     answers per second within the SLO, and their share; None without one
    busy     seconds in which some request was not answered yet
    """

    requests: int
    tokens: int
    seconds: float
    tok_s: float
    each: float
    ttft: Spread
    itl: Spread
    e2e: Spread
    queue: int | None
    good: tuple[float, float] | None
    busy: float

    def json(self) -> dict[str, Any]:
        """By name; seconds, tokens per second."""
        found = asdict(self) | {"requests_per_second": self.requests / self.seconds if self.seconds else 0.0}
        found["longest_queue"] = found.pop("queue")
        good = found.pop("good")
        return found | {"goodput": good and {"requests_per_second": good[0], "share": good[1]}}


def figures(answered: Sequence[Answered], queue: int | None, slo: Slo | None) -> Figures | None:
    """Of all answers; None of none."""
    if not answered:
        return None
    seconds = max(a.end for a in answered) - min(a.at for a in answered)
    tokens, met = sum(a.tokens for a in answered), [a for a in answered if slo is not None and slo.met(a)]
    rates = [1 / a.per_token for a in answered if a.per_token > 0]
    return Figures(
        len(answered), tokens, seconds, tokens / seconds if seconds else 0.0, percentile(rates, 50),
        spread([a.first - a.at for a in answered]), spread([gap for a in answered for gap in a.gaps]),
        spread([a.end - a.at for a in answered]), queue,
        None if slo is None else (len(met) / seconds if seconds else 0.0, len(met) / len(answered)), _union(answered),
    )  # fmt: skip


def spread(values: Sequence[float]) -> Spread:
    """Percentiles; zeros of nothing."""
    mean = sum(values) / len(values) if values else 0.0
    return Spread(percentile(values, 50), percentile(values, 90), percentile(values, 99), mean)


def percentile(values: Sequence[float], percent: float) -> float:
    """Between the two nearest values in proportion, as NumPy's default; 0 of nothing."""
    if not values:
        return 0.0
    ordered = sorted(values)
    at = (len(ordered) - 1) * percent / 100
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


def _union(answered: Sequence[Answered]) -> float:
    """Seconds in which some answer was under way."""
    total, until = 0.0, float("-inf")
    for one in sorted(answered, key=lambda a: a.at):
        total += max(0.0, one.end - max(one.at, until))
        until = max(until, one.end)
    return total


# --- prediction


@dataclass(frozen=True)
class Ask:
    """A request of a load.

    at      seconds after the load's beginning, where requests do not wait for answers
    shared  tokens that all prompts begin with
    """

    prompt: int
    answer: int
    shared: int = 0
    at: float = 0.0


@dataclass(frozen=True)
class Server:
    """How requests share steps.

    sequences  requests of a step; budget: new tokens of a step
    gap        how many times as long a prompt may make a step that also decodes; None: it may fill the budget
    positions  of KV cache that they share; None: as many as they need
    shares     a prefix that prompts share is computed once
    """

    sequences: int
    budget: int
    gap: float | None = None
    positions: int | None = None
    shares: bool = True


class StepSeconds(Protocol):
    """Predicted seconds of a step."""

    def __call__(self, decoding: int, context: float, prompt: int, past: float) -> float:
        """`decoding` sequences at `context` positions in the mean, beside `prompt` tokens of prompts after `past`."""


@dataclass(frozen=True)
class Simulated:
    """A load as predicted: its figures, the steps that it takes and their seconds."""

    figures: Figures
    steps: int
    step_seconds: float

    def json(self) -> dict[str, Any]:
        """By name."""
        return self.figures.json() | {"steps": self.steps, "step_seconds": self.step_seconds}


@dataclass(eq=False)
class _Running:
    """A request on its way."""

    ask: Ask
    number: int
    at: float
    past: int = 0
    first: float | None = None
    last: float = 0.0
    made: int = 0
    gaps: list[float] = field(default_factory=list)

    @property
    def left(self) -> int:
        """Tokens of its prompt that are to be computed yet."""
        return max(0, self.ask.prompt - self.past)

    def token(self, now: float) -> bool:
        """One more token is there; whether it was the last."""
        if self.first is None:
            self.first = now
        else:
            self.gaps.append(now - self.last)
            self.past += 1
        self.last, self.made = now, self.made + 1
        return self.made >= self.ask.answer

    def answered(self) -> Answered:
        """As its client saw it."""
        return Answered(self.at, self.first or self.last, self.last, tuple(self.gaps), self.made)


def simulate(
    asks: Sequence[Ask], server: Server, step: StepSeconds, clients: int | None = None, slo: Slo | None = None
) -> Simulated:
    """The load `asks`: of `clients` of which each asks again once it is answered; None: at their own times."""
    return _Simulation(asks, server, step, clients).run(slo)


class _Simulation:
    """One load, step by step."""

    def __init__(self, asks: Sequence[Ask], server: Server, step: StepSeconds, clients: int | None) -> None:
        self.server, self.step, self.clients = server, step, clients
        self.coming = deque(asks if clients else sorted(asks, key=lambda ask: ask.at))
        self.waiting: deque[_Running] = deque()
        self.running: list[_Running] = []
        self.done: list[Answered] = []
        self.numbers = count()
        self.now, self.queue, self.steps, self.seconds = 0.0, 0, 0, 0.0
        self.computed = 0
        """Tokens of the shared beginning that are in the cache."""

    def run(self, slo: Slo | None) -> Simulated:
        """All of it."""
        for _ in range(self.clients or 0):
            self.ask(0.0)
        while self.coming or self.waiting or self.running:
            self.arrive()
            self.admit()
            if not self.running:
                self.now = max(self.now, self.coming[0].at)
                continue
            self.one_step()
        found = figures(self.done, self.queue, slo)
        if found is None:
            raise ValueError("a load of no requests")
        return Simulated(found, self.steps, self.seconds)

    def ask(self, at: float) -> None:
        """The next request arrives."""
        if self.coming:
            self.waiting.append(_Running(self.coming.popleft(), next(self.numbers), at))

    def arrive(self) -> None:
        """Those whose time has come."""
        while self.clients is None and self.coming and self.coming[0].at <= self.now:
            self.ask(self.coming[0].at)

    def admit(self) -> None:
        """In order of arrival, where there is a place and room for the prompt; what is shared is held once."""
        while self.waiting and len(self.running) < self.server.sequences and (not self.running or self.fits()):
            insort(self.running, self.waiting.popleft(), key=lambda r: r.number)
        self.queue = max(self.queue, len(self.waiting))

    def fits(self) -> bool:
        """Whether there is KV cache for the next request beside those that run: for its prompt, and for what they will
        have written in the middle of their answers."""
        if self.server.positions is None:
            return True
        shared = self.waiting[0].ask.shared if self.server.shares else 0
        asked = [r.ask for r in (*self.running, self.waiting[0])]
        return shared + sum(a.prompt - shared + a.answer // 2 for a in asked) <= self.server.positions

    def deep(self, decoding: int, context: float) -> float:
        """Seconds that a token of the first prompt takes more than one at a prompt's beginning."""
        past = next((r.past for r in self.running if r.first is None), 0)
        more = self.step(decoding, context, TILE, past) - self.step(decoding, context, TILE, 0)
        return max(0.0, more / TILE)

    def beside(self, decoding: int, most: int, gap: float, context: float) -> int:
        """Tokens of prompts beside so many that are being answered."""

        def rows(n: int) -> float:
            return self.rows(n, decoding, context)

        each = self.deep(decoding, context)
        return beside(lambda n: rows(decoding + n) + n * each, decoding, most, allowed(rows, decoding, gap))

    def one_step(self) -> None:
        """Decoding rows first, then prompts in order of arrival."""
        decoding = [r for r in self.running if r.first is not None]
        budget = self.server.budget - len(decoding)
        context = sum(r.past for r in decoding) / len(decoding) if decoding else 0.0
        if decoding and self.server.gap is not None:
            budget = self.beside(len(decoding), budget, self.server.gap, context)
        chunks = self.chunks(budget)
        new = sum(chunks.values())
        past = sum(r.past for r in chunks) / len(chunks) if chunks else 0.0
        took = self.step(len(decoding), context, new, past)
        self.now, self.steps, self.seconds = self.now + took, self.steps + 1, self.seconds + took
        for r, tokens in chunks.items():
            r.past += tokens
            self.computed = max(self.computed, min(r.past, r.ask.shared))
        ended = [r for r in decoding if r.token(self.now)]
        ended += [r for r in chunks if not r.left and r.token(self.now)]
        for r in ended:
            self.running.remove(r)
            self.done.append(r.answered())
            if self.clients is not None:
                self.ask(self.now)

    def rows(self, rows: int, decoding: int, context: float) -> float:
        """Seconds of a step of so many rows, of which `decoding` are no prompt's."""
        return self.step(decoding, context, max(0, rows - decoding), 0.0)

    def chunks(self, budget: int) -> dict[_Running, int]:
        """Tokens of prompts in this step; who shares its beginning with an older request waits for that."""
        found: dict[_Running, int] = {}
        leader = False
        for r in self.running:
            if r.first is not None or not budget:
                continue
            if self.server.shares and r.past < r.ask.shared:
                r.past = max(r.past, min(self.computed, r.ask.shared, r.ask.prompt - 1) // PAGE * PAGE)
                if self.computed >= r.ask.shared:
                    r.past = max(r.past, min(r.ask.shared, r.ask.prompt - 1))
                elif leader:
                    continue
                leader = leader or r.past < r.ask.shared
            found[r] = min(r.left, budget)
            budget -= found[r]
        return found
