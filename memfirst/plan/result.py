"""What a plan says, as plain data: bytes, memory, speeds, what binds; as an object for JSON, as a row for CSV."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from memfirst.graph import decode as decode_step
from memfirst.graph.ops.sketched import sketched
from memfirst.graph.traffic import KV_READ, NOTHING, Amount
from memfirst.plan.fit import MemoryPlan
from memfirst.plan.framework import Framework
from memfirst.plan.limits import Limits, limits
from memfirst.plan.options import Options
from memfirst.plan.place import Place
from memfirst.plan.subject import Subject
from memfirst.predict.fitted.predict import CEILING
from memfirst.predict.prediction import Prediction

if TYPE_CHECKING:
    from memfirst.plan.from_disk import FromDisk
    from memfirst.plan.load import Load
    from memfirst.plan.replicas import Replicas

MARGIN = 1 << 30
"""Bytes to spare below which a fit is tight: a desktop, a browser or a longer prompt takes as much."""

CAPACITY = "capacity"
"""What binds a model that does not fit."""


@dataclass(frozen=True)
class Distinct:
    """Routed experts of a layer that a step reads: `mean` expected under uniform routing, within its bounds."""

    experts: int
    picked: int
    mean: float
    low: int
    high: int


@dataclass(frozen=True)
class Sketch:
    """Of an output head: bytes that it takes in memory and those of the head; the share of the head's rows that a
    greedy answer is expected to read besides, as measured of this very head or the largest that was; and whether steps
    go by it, as those of one sequence without drafts do."""

    nbytes: int
    head: int
    share: float
    measured: bool
    used: bool


@dataclass(frozen=True, repr=False)
class Plan:
    """One model on one machine.

    context, prompt  tokens that each sequence reaches, and those before the first answer
    amounts   streamed bytes by purpose of a step that adds a token to each sequence, the last that fits the context
    memory    what must be held; available: bytes of each device that may be used, None where nobody has said
    decode    such a step, and `empty` the same at an empty context; None where the model does not fit
    prefill   of the prompt of one sequence
    growth    bytes of KV that the next token of context adds to a step
    overtakes tokens of context at which KV is as many bytes as all weights of a step; None: never
    """

    subject: Subject
    place: Place
    options: Options
    context: int
    prompt: int
    amounts: Mapping[str, Amount]
    memory: MemoryPlan
    available: int | None
    decode: Prediction | None
    empty: Prediction | None
    prefill: Prediction | None
    growth: int
    overtakes: int | None
    distinct: Distinct | None
    notes: tuple[str, ...] = ()
    exact: Callable[[int, int], int] | None = None
    """(tokens, sequences) -> bytes needed, of an engine whose needs the graph alone does not tell to the byte."""
    asked: int = 1
    """Sequences that were asked for; `options.batch` of them run at a time, where the engine lets the others wait."""
    disk: FromDisk | None = None
    """Where memory was limited and does not hold all weights."""
    replicas: Replicas | None = None
    """Of several servers."""
    split: Prediction | None = None
    """Of the same step by several processes."""

    @property
    def engine(self) -> str:
        """Whose memory and speed it is."""
        return self.place.engine(self.options)

    @property
    def framework(self) -> Framework:
        """All that is known of it."""
        return self.place.framework(self.options)

    @property
    def requested(self) -> Options:
        """What was asked for: with the sequences that wait."""
        return replace(self.options, batch=self.asked)

    @property
    def fits(self) -> bool | None:
        """None where the machine's memory is not known."""
        return None if self.available is None else self.memory.fits

    @property
    def tight(self) -> bool:
        """It fits, with less than MARGIN to spare on some device."""
        return bool(self.fits) and self.memory.spare < MARGIN

    @cached_property
    def limits(self) -> Limits | None:
        """The longest context and the most sequences that fit; None where the machine's memory is not known, and where
        a longer context only moves more of the weights to disk."""
        if self.disk:
            return None
        graph = self.place.priced(self.subject, self.options).graph
        return limits(graph, self.memory, self.context, self.options, self.exact)

    @cached_property
    def load(self) -> Load | None:
        """What the users of a server get; None where none were asked for, it does not fit, or no speed is known."""
        options = self.options
        if not options.users or self.decode is None or self.disk:
            return None
        from memfirst.plan.load import StepTimes, UnknownSpeedError, predicted, server_of  # few plans need it

        server = server_of(self.engine, options.batch)
        prompt = min(self.prompt, max(1, self.context - options.answer))
        longest = min(self.context, prompt + options.answer)
        steps = StepTimes(self.place.priced(self.subject, options), self.place, options, longest, server.budget)
        fit = None if self.limits is None else self.limits.sequences
        try:
            return predicted(steps, server, options.users, options.rate, prompt, options.answer, fit)
        except UnknownSpeedError:
            return None

    @property
    def sketch(self) -> Sketch | None:
        """Of the output head; None where it has none."""
        head = sketched(self.place.priced(self.subject, self.options).graph)
        if head is None:
            return None
        used = self.options.step(self.context).likeliest
        return Sketch(head.sketch.nbytes, head.weight.nbytes, head.tiles.expected, head.tiles.measured, used)

    @property
    def nbytes(self) -> float:
        """Read for a token of one sequence."""
        tokens = self.options.batch * (self.options.speculation.gained if self.options.speculation else 1.0)
        return self.decode.nbytes / self.decode.tokens if self.decode else self.step_bytes / tokens

    def __repr__(self) -> str:
        held = f"{self.memory.needs.total / 1e9:.1f} GB"
        speed = "does not fit" if self.fits is False else f"{self.rate:.0f} tok/s" if self.rate else "no speed"
        where = f"{self.place.machine.name}, {self.engine}"
        return f"<Plan {self.subject.name} in {self.subject.codec.upper()} on {where}: {held}, {speed}>"

    @property
    def step_bytes(self) -> float:
        """Read by a step of the model itself."""
        return sum(amount.mean for amount in self.amounts.values())

    @property
    def rate(self) -> float | None:
        """Tokens/s of all sequences together; None where it does not fit or a rate is unknown."""
        return self.decode.tokens_per_second if self.decode else None

    @property
    def each(self) -> float | None:
        """Tokens/s of one sequence."""
        return None if self.rate is None else self.rate / self.options.batch

    @property
    def most(self) -> float | None:
        """Tokens/s of all sequences that nothing exceeds; None where it does not fit or no bandwidth is known."""
        ceiling = self.decode.ceiling if self.decode else None
        return ceiling and CEILING * ceiling

    @property
    def binding(self) -> str:
        """The largest term of a decoded token's time; capacity where the model does not fit."""
        if self.fits is False:
            return CAPACITY
        return self.decode.binding if self.decode else ""

    def json(self) -> dict[str, Any]:
        """Everything by name; bytes, seconds, tokens/s. Without numbers where there are none."""
        needs = self.memory.needs
        return {
            "model": self.subject.name, "asked": self.subject.asked or self.subject.name,
            "path": self.subject.path, "architecture": self.subject.graph.architecture,
            "architecture_known": self.subject.spread == 1,
            "parameters": self.subject.parameters, "codec": self.subject.codec, "codec_assumed": self.subject.assumed,
            "machine": self.place.machine.name, "bandwidth": self.place.bandwidth(self.options),
            "bandwidth_source": self.place.source, "power_cap": self.place.throttle.power or None,
            "engine": self.engine, "kv": self.options.kv,
            "context": self.context, "batch": self.options.batch, "batch_asked": self.asked, "prompt": self.prompt,
            "devices": self.options.devices, "parallel": self.options.parallel,
            "bytes_per_token": self.nbytes, "step_bytes": {p: _amount(a) for p, a in self.amounts.items()},
            "kv_bytes_per_context_token": self.growth, "kv_overtakes_weights_at": self.overtakes,
            "distinct_experts": vars(self.distinct) if self.distinct else None,
            "memory": {
                "available": self.available, "capacity": self.place.machine.memory, "fits": self.fits,
                "tight": self.tight, "longest_context": self.limits and self.limits.context,
                "most_sequences": self.limits and self.limits.sequences, "spare": None if self.available is None else
                self.memory.spare, "total": needs.total, "weights": needs.weights, "weights_on_host": needs.host,
                "kv_read": needs.kv_read, "kv_held": needs.kv_held, "kv_allocated": needs.kv_allocated,
                "state": needs.state_read, "state_allocated": needs.state_allocated,
                "buffers": vars(needs.buffers), "overhead": vars(needs.overhead),
            },
            "head": self.options.head, "head_sketch": self.sketch and vars(self.sketch),
            "disk": self._disk(), "replicas": self.replicas and self.replicas.json(),
            "split": _speed(self.split),
            "decode": _speed(self.decode), "decode_at_empty_context": _speed(self.empty),
            "prefill": _speed(self.prefill), "load": self.load and self.load.json(),
            "binding": self.binding, "notes": list(self.notes),
        }  # fmt: skip

    def _disk(self) -> dict[str, Any] | None:
        """What lies on disk, and what the last step that fits the context reads there."""
        if self.disk is None:
            return None
        read = self.disk.reads(decode_step(self.context - 1, self.options.batch))
        return {
            "weights": self.disk.on_disk, "step_bytes": _amount(read), "experts_in_memory": self.disk.experts,
            "bandwidth": self.disk.bandwidth, "bandwidth_source": self.disk.source,
        }  # fmt: skip

    def row(self) -> dict[str, Any]:
        """The figures of a table's row."""
        decode, prefill = self.decode, self.prefill
        return {
            "model": self.subject.name, "codec": self.subject.codec, "machine": self.place.machine.name,
            "engine": self.engine, "kv": self.options.kv, "context": self.context, "batch": self.options.batch,
            "batch_asked": self.asked,
            "devices": self.options.devices, "fits": self.fits, "memory": self.memory.needs.total,
            "spare": None if self.available is None else self.memory.spare, "bytes_per_token": round(self.nbytes),
            "kv_share": self.kv_share, "tok_s": self.rate, "tok_s_low": decode and decode.slowest,
            "tok_s_high": decode and decode.fastest, "ceiling_tok_s": decode and decode.ceiling,
            "binding": self.binding, "mbu": decode and decode.mbu, "mfu": decode and decode.mfu,
            "first_token_s": prefill and prefill.seconds,
        }  # fmt: skip

    @property
    def kv_share(self) -> float:
        """Of a step's bytes."""
        return self.amounts.get(KV_READ, NOTHING).mean / self.step_bytes if self.step_bytes else 0.0


def _amount(amount: Amount) -> int | dict[str, float]:
    """Exact, or an expectation with its bounds."""
    return amount.low if amount.exact else {"mean": amount.mean, "low": amount.low, "high": amount.high}


def _speed(found: Prediction | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "tok_s": found.tokens_per_second, "tok_s_low": found.slowest, "tok_s_high": found.fastest,
        "ceiling_tok_s": found.ceiling,
        "seconds": found.seconds, "seconds_low": found.low, "seconds_high": found.high, "tokens": found.tokens,
        "bytes": found.nbytes, "terms": {t.name: t.seconds for t in found.terms}, "binding": found.binding,
        "mbu": found.mbu, "mfu": found.mfu, "notes": list(found.notes),
    }  # fmt: skip
