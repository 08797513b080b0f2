"""Many users of one server: their speed, how long they wait and how many fit, by simulating their requests."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from memfirst.graph import Sequence, Step
from memfirst.plan.options import Options
from memfirst.plan.place import Place
from memfirst.plan.priced import Priced
from memfirst.predict.load import Ask, Server, Simulated, simulate

GAP, PLACES = 2.0, 16
"""Of `memfirst serve`: a prompt makes a step at most so many times as long; requests of a step at most."""

BUDGETS = {"memfirst": 256, "vllm": 2048, "vllm-hybrid": 2048, "sglang": 8192, "tensorrt-llm": 8192}
"""New tokens of a step: memfirst's largest step, vLLM's max_num_batched_tokens for serving, SGLang's chunked prefill,
TensorRT-LLM's max_num_tokens; llama.cpp's micro-batch of others."""
BUDGET = 512

SHARING = ("memfirst", "vllm", "vllm-hybrid", "sglang", "tensorrt-llm")
"""Engines that compute a prefix once for all requests that begin with it."""

ANSWER, ROUNDS, ARRIVALS = 128, 4, 256
"""Tokens of an answer; answers to each user that are simulated, or arrivals at a rate."""

_GRID = (0, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
"""Tokens of prompts in a step that are priced; between them the time grows evenly."""


class UnknownSpeedError(ValueError):
    """The seconds of a step cannot be told; the message says why."""


@dataclass
class StepTimes:
    """Predicted seconds of the steps of one model on one machine, each kind priced once, as a context's share of a step
    grows evenly.

    longest  positions that a sequence reaches
    budget   new tokens of a step
    """

    priced: Priced
    place: Place
    options: Options
    longest: int
    budget: int
    _known: dict[tuple[int, int, bool], float] = field(default_factory=dict)

    def __call__(self, decoding: int, context: float, prompt: int, past: float) -> float:
        """As of `predict.load.StepSeconds`."""
        most = max(prompt, self.budget - decoding)
        high = min(most, next((n for n in _GRID if n >= prompt), most))
        low = high if high == prompt else max(n for n in _GRID if n < prompt)
        share = (prompt - low) / (high - low) if high > low else 1.0
        if not low and not decoding:  # nothing is no step
            low, share = high, 1.0
        rows = decoding + prompt
        filled = min(1.0, (decoding * context + prompt * past) / (rows * self.longest)) if rows else 0.0
        ends = [
            self._seconds(decoding, low, end) * (1 - share) + self._seconds(decoding, high, end) * share
            for end in (False, True)
        ]
        return ends[0] + (ends[1] - ends[0]) * filled

    def _seconds(self, decoding: int, prompt: int, end: bool) -> float:
        """At the beginning or at the end of a context."""
        key = decoding, prompt, end
        if key not in self._known:
            past = max(0, self.longest - 1) if end else 1  # 0 of one sequence would be a whole prompt
            rows = [Sequence(past) for _ in range(decoding)]
            if prompt:
                rows.append(Sequence(max(0, past - prompt) if end else past, prompt))
            found = self.place.time(self.priced, Step(tuple(rows)), self.options)
            if found.seconds is None:
                raise UnknownSpeedError("; ".join(found.notes) or f"{self.place.machine.name} has no rates")
            self._known[key] = found.seconds
        return self._known[key]


def server_of(engine: str, sequences: int, positions: int | None = None) -> Server:
    """How an engine's server schedules: `memfirst serve` takes 16 requests a step unless it is told otherwise."""
    sequences = min(sequences, PLACES) if engine == "memfirst" else sequences
    gap = GAP if engine == "memfirst" else None
    return Server(sequences, BUDGETS.get(engine, BUDGET), gap, positions, engine in SHARING)


@dataclass(frozen=True)
class Load:
    """What is predicted of the users of a plan.

    users     that ask again once they are answered; rate: requests a second that come instead, 0: none
    places    requests of a step at most
    fit       sequences of the plan's context that the memory has room for; None where that is not known
    together  of all users; arriving: of requests that come at `rate`, None without one
    """

    users: int
    places: int
    rate: float
    prompt: int
    answer: int
    fit: int | None
    together: Simulated
    arriving: Simulated | None

    def json(self) -> dict[str, Any]:
        """By name."""
        return {
            "users": self.users, "places": self.places, "prompt": self.prompt, "answer": self.answer,
            "users_that_fit": self.fit,
            "together": self.together.json(), "rate": self.rate or None,
            "arriving": self.arriving and self.arriving.json(),
        }  # fmt: skip


def predicted(
    steps: StepTimes, server: Server, users: int, rate: float, prompt: int, answer: int, fit: int | None
) -> Load:  # fmt: skip
    """`users` at a time, and requests that come at random at `rate`; UnknownSpeedError without rates."""
    together = simulate([Ask(prompt, answer)] * (users * ROUNDS), server, steps, users)
    arriving = simulate(arrivals([Ask(prompt, answer)] * ARRIVALS, rate), server, steps) if rate else None
    return Load(users, server.sequences, rate, prompt, answer, fit, together, arriving)


def arrivals(asks: list[Ask], rate: float, seed: int = 0) -> list[Ask]:
    """Requests with exponential pauses between them, `rate` a second in the mean; the same for the same seed."""
    from random import Random  # what most plans do without

    rng, at, found = Random(seed), 0.0, list[Ask]()
    for ask in asks:
        found.append(Ask(ask.prompt, ask.answer, ask.shared, at))
        at += rng.expovariate(rate)
    return found
