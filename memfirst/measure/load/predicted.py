"""What is predicted of each level of a load, and what a miss is due to: more steps, longer ones, or the time around."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from memfirst.measure.load.run import Found, Level
from memfirst.measure.probe.server import LLAMA, VLLM, Server
from memfirst.plan import Options, Subject, place
from memfirst.plan.load import StepTimes, UnknownSpeedError, server_of
from memfirst.plan.place import Place
from memfirst.predict.load import Ask, Simulated, simulate
from memfirst.predict.load import Server as Sharing

ENGINES = {LLAMA: "llama.cpp", VLLM: "vllm"}
"""Whose speeds are predicted of a kind of server; ours says in its version that it is memfirst."""


@dataclass(frozen=True)
class Miss:
    """A level's busy time as a multiple of what was predicted, and as the product of its causes.

    steps   engine steps ÷ predicted ones; each: seconds of a step ÷ predicted ones; around: busy time ÷ that of steps
    around  is HTTP, the client, and the time between steps. All three are None where the server does not say
    """

    busy: float
    steps: float | None = None
    each: float | None = None
    around: float | None = None


@dataclass(frozen=True)
class Predictor:
    """Simulates a server's requests with the predicted steps of its engine."""

    subject: Subject
    place: Place
    options: Options
    sharing: Sharing

    def level(self, level: Level, found: Found) -> Simulated | None:
        """The level as it was asked; None of one without answers."""
        if not level.asked:
            return None
        first = level.asked[0].at
        asks = [replace(ask, at=ask.at - first) for ask in level.asked]
        steps = StepTimes(self.subject.priced(self.options.kv), self.place, self.options, _longest(asks),
                          self.sharing.budget)  # fmt: skip
        return simulate(asks, self.sharing, steps, level.clients or None, found.options.slo)


def predictor(subject: Subject, found: Found, on: str, kv: str) -> Predictor:
    """Of the model that a server serves, on the machine `on` ("": this one)."""
    engine, snapshot = engine_of(found.server), found.snapshot or {}
    threads = snapshot.get("threads")
    options = Options(kv=kv, engine=engine, threads=threads if isinstance(threads, int) else 0)
    slots = found.server.slots or 256  # vLLM's default max_num_seqs
    sharing = replace(server_of(engine, slots, _positions(snapshot)), sequences=slots)  # as it was started
    return Predictor(subject, place(on or "here"), options, sharing)


def engine_of(server: Server) -> str:
    """Whose speeds are to be predicted."""
    if server.version.startswith("memfirst"):
        return "memfirst"
    return ENGINES.get(server.kind, "llama.cpp")


def predictions(found: Found, by: Predictor) -> list[Simulated | None]:
    """Of every level; a note where there are none, and why."""
    if by.place.here and not by.place.rates:
        found.notes.append("this machine is not measured, so predictions rest on assumed rates: run memfirst machine")
    try:
        return [by.level(level, found) for level in found.levels]
    except UnknownSpeedError as error:
        found.notes.append(f"nothing is predicted: {error}")
        return [None] * len(found.levels)


def miss(level: Level, simulated: Simulated | None) -> Miss | None:
    """busy = steps · seconds of one · what is around them, each by what was predicted of it."""
    if simulated is None or level.figures is None or not simulated.figures.busy:
        return None
    busy, engine = level.figures.busy / simulated.figures.busy, level.engine
    whole = not (level.unfinished or level.errors or level.stopped)
    if engine is None or not engine.steps or not engine.seconds or not whole:
        return Miss(busy)
    around = (level.figures.busy / engine.seconds) / (simulated.figures.busy / simulated.step_seconds)
    each = (engine.seconds / engine.steps) / (simulated.step_seconds / simulated.steps)
    return Miss(busy, engine.steps / simulated.steps, each, around)


def _positions(snapshot: Mapping[str, Any]) -> int | None:
    """Positions of KV cache that requests share; None where the server does not say."""
    memory, whole, context = snapshot.get("memory"), snapshot.get("context_bytes"), snapshot.get("context")
    if not isinstance(memory, dict) or not whole or not context:
        return None
    return int(sum(memory.get(name, 0) for name in ("kv_requests", "kv_kept", "kv_free")) * context // whole)


def _longest(asks: list[Ask]) -> int:
    """Positions of the longest request."""
    return max(ask.prompt + ask.answer for ask in asks)
