"""One change to a plan: what it does to bytes, speed and memory, what it costs in answers, and a line to paste."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import Any

from memfirst.errors import UnsupportedError
from memfirst.hardware.machines import Machine
from memfirst.plan import Options, Place, Plan, Subject, make
from memfirst.plan.framework import BATCH, CONTEXT, DEVICES

EXACT, LOSSY = "exact", "lossy"
WINDOW, MODEL, MACHINE, SLOW = "window", "model", "machine", "slow memory"
_MINOR = re.compile(r"\.\d+$")
ELSEWHERE = (BATCH, CONTEXT, MODEL, MACHINE, DEVICES, SLOW)
"""Kinds that ask for another use, another model or another machine."""


@dataclass(frozen=True)
class Advice:
    """A change.

    kind     one of this module's; change: in words
    effect   on answers: "exact", "lossy", or exact on a condition that is said
    nbytes   read for a token then; rate: tokens/s of all sequences, None where unknown; memory: bytes held
    most     tokens/s that it cannot exceed, where no speed is predicted
    gain     of tokens/s of all sequences, 1.0 for none; where no speed is known, of bytes; None
             where the model did not fit before
    command  the plan with the change; flags: the engine's own way to make it, "" where it has none
    after    that plan; None where a part of the model lies in slower memory
    interval tokens/s between which 80 % of published speeds are, where `after` does not say
    """

    kind: str
    change: str
    effect: str
    nbytes: float
    rate: float | None
    memory: int
    command: str
    gain: float | None = None
    most: float | None = None
    flags: str = ""
    after: Plan | None = None
    interval: tuple[float, float] | None = None

    def json(self) -> dict[str, Any]:
        """All but the plan."""
        found = {name: value for name, value in vars(self).items() if name not in ("after", "nbytes", "rate", "most")}
        return found | {"bytes_per_token": self.nbytes, "tok_s": self.rate, "tok_s_at_most": self.most}


def attempt(model: Subject, where: Place, options: Options) -> Plan | None:
    """The plan; None where the engine, or the split over devices, cannot do it."""
    try:
        return make(model, where, options)
    except UnsupportedError:
        return None


def changed(kind: str, change: str, effect: str, before: Plan, after: Plan) -> Advice:
    """The advice to make `after` of `before`."""
    gain = _ratio(before.rate, after.rate)
    if gain is None and before.fits is not False:
        gain = _ratio(before.most, after.most) or before.nbytes / after.nbytes
    most = None if after.rate else after.most
    held, flags = after.memory.needs.total, "" if kind == MACHINE else after.framework.line(kind, after)
    return Advice(kind, change, effect, after.nbytes, after.rate, held, command(after), gain, most, flags, after)


def _ratio(before: float | None, after: float | None) -> float | None:
    return after / before if before and after else None


def family(name: str) -> str:
    """ "llama-3" of "llama-3.1:8b"."""
    return _MINOR.sub("", name.lower().partition(":")[0])


def command(plan: Plan) -> str:
    """The line that makes this plan."""
    options = plan.requested
    words = ["memfirst", "plan", _model(plan.subject), "--on", _machine(plan.place.machine), *_chosen(plan, options)]
    words += ["--allow-unknown"] * plan.subject.unknown
    if by := options.speculation:
        words += ["--speculate", ":".join([str(by.tokens), f"{by.acceptance:g}", *([by.draft] if by.draft else [])])]
    return shlex.join(words)


def _model(subject: Subject) -> str:
    """As the catalogue or the hub knows it, or the file's path."""
    return subject.typed if subject.path or "/" in subject.name else subject.name


def _machine(machine: Machine) -> str:
    """With its memory, where it is sold with more."""
    if machine.memory is None or machine.memory == max(machine.memory_options, default=machine.memory):
        return machine.name
    return f"{machine.name}:{machine.memory // 2**30}gb"


def host(options: Options) -> str:
    """What was said of a GPU's host, as it is typed: "64GB@90"."""
    size = f"{options.host_memory / 2**30:g}GB" if options.host_memory else ""
    return size + (f"@{options.host_bandwidth / 1e9:g}" if options.host_bandwidth else "")


def _chosen(plan: Plan, options: Options) -> list[str]:
    """What differs from the defaults."""
    plain = Options()
    codec = "" if plan.subject.assumed or plan.subject.graph is plan.subject.origin else plan.subject.codec
    pairs = [("codec", codec, ""), ("ctx", options.context, 0)]
    pairs += [
        (name, getattr(options, name), getattr(plain, name)) for name in ("kv", "batch", "prompt", "engine", "head")
    ]
    pairs += [(name, getattr(options, name), getattr(plain, name)) for name in ("devices", "threads")]
    pairs.append(("parallel", options.parallel if options.devices > 1 else "", plan.framework.parallel))
    limits = plan.place.throttle
    pairs += [("bandwidth", limits.bandwidth / 1e9, 0.0), ("power-cap", limits.power, 0.0)]
    pairs += [("host", host(options), ""), ("memory", options.memory, 0), ("disk", options.disk / 1e9, 0.0)]
    return [
        word
        for name, value, usual in pairs
        if value and value != usual
        for word in (f"--{name}", f"{value:g}" if isinstance(value, float) else str(value))
    ]
