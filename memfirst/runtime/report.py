"""What an answer cost, as one line and as JSON: speed beside its ceiling, bytes by purpose, memory held."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from memfirst.backends.base import Backend
from memfirst.graph import decode
from memfirst.graph.ops.sketched import sketched
from memfirst.graph.traffic import DRAFT, SHORT_NAMES, STREAMED
from memfirst.hardware.memory_modules import memory_peak
from memfirst.ledger import Distinct, Ledger, Memory
from memfirst.runtime.generation import Generation
from memfirst.runtime.request import Request

BEYOND = 1.05
"""Times the ceiling: noise. Where decoding seems to read faster still, the ceiling was not measured alone."""


def rate(count: float, seconds: float) -> float:
    """count / seconds; 0 where nothing was measured."""
    return count / seconds if seconds > 0 else 0.0


@dataclass(frozen=True)
class Drafts:
    """What drafted tokens made of an answer after its first token.

    steps    steps that it took; drafted, kept: tokens checked besides, and how many of them the answer has
    bytes    that kernels counted in all of its steps, by purpose; empty where steps were shared with others
    alone    streamed bytes of a step of one token, in the middle of the answer
    model_steps  of a draft model
    """

    steps: int
    drafted: int
    kept: int
    bytes: dict[str, int]
    alone: float
    model_steps: int = 0

    @property
    def tokens(self) -> int:
        """Tokens that the steps gave."""
        return self.steps + self.kept

    @property
    def matter(self) -> bool:
        """Whether they gave a tenth of the tokens."""
        return 10 * self.kept >= self.tokens

    @property
    def per_token(self) -> dict[str, float]:
        """Streamed bytes a token, by purpose."""
        return {p: n / self.tokens for p, n in self.bytes.items() if p in STREAMED}

    def __str__(self) -> str:
        """`57 steps for 120 tokens: 63 of 81 drafts kept, 1.9 times fewer bytes a token`."""
        said = f"{self.steps} steps for {self.tokens} tokens: {self.kept} of {self.drafted} drafts kept"
        each = sum(self.per_token.values())
        return f"{said}, {self.alone / each:.2f} times fewer bytes a token" if each else said


def drafts_of(request: Request, backend: Backend, context: int) -> Drafts | None:
    """Of an answer in a context of so many positions; None where no drafted token was checked."""
    timing, counted = request.timing, request.counted
    if not timing.drafted or counted is None or request.last_step is None:
        return None
    alone = not counted.shared and counted.steps == timing.decode_steps
    moved = replace(request.last_step.result, counts=(counted.before, counted.after))
    read = backend.by_purpose(moved) if alone else {}
    if timing.draft_bytes and alone:
        read[DRAFT] = timing.draft_bytes
    middle = min(context - 1, len(request.prompt) + timing.decoded // 2)
    one = backend.predicted(decode(middle)).streamed.mean
    return Drafts(
        timing.decode_steps, timing.drafted, timing.kept, read, one, timing.draft_steps
    )  # fmt: skip


@dataclass(frozen=True)
class SketchUse:
    """What the sketch of an output head spared an answer after its first token.

    steps    that went by it
    share    of the head's rows that these read in full, on average
    bytes    that kernels counted in a step, by purpose, on average over all; empty where steps were for others too
    """

    steps: int
    share: float
    bytes: dict[str, float]

    def __str__(self) -> str:
        """`1.2 % of the head's rows after its sketch`."""
        return f"{100 * self.share:.1f} % of the head's rows after its sketch"


def sketch_use(request: Request, backend: Backend) -> SketchUse | None:
    """Of an answer; None where no step went by a sketch."""
    timing, counted, head = request.timing, request.counted, sketched(backend.graph)
    if not timing.sketched or head is None or counted is None or request.last_step is None:
        return None
    read = dict[str, float]()
    if not counted.shared and counted.steps == timing.decode_steps:
        moved = backend.by_purpose(replace(request.last_step.result, counts=(counted.before, counted.after)))
        read = {purpose: n / counted.steps for purpose, n in moved.items() if purpose in STREAMED}
    return SketchUse(timing.sketched, timing.listed / timing.sketched / head.weight.groups, read)


@dataclass
class DiskUse:
    """What decoded steps read from disk.

    nbytes     a step, on average; bandwidth: measures that of the disk, bytes/s, called at most once
    resident   of the routed experts on disk that steps read, the share that was in memory; None for other models
    """

    nbytes: float
    bandwidth: Callable[[], float | None]
    resident: float | None = None

    @cached_property
    def ceiling(self) -> float | None:
        """Bytes/s that the disk delivers now."""
        return self.bandwidth()

    def line(self, steps_s: float) -> str:
        """`disk 412.0 MB a token (experts 61 % in memory): 1.4 GB/s, 92 % of 1.5 GB/s measured disk read bandwidth`"""
        kept = "" if self.resident is None else f" (experts {100 * self.resident:.0f} % in memory)"
        speed = steps_s * self.nbytes
        found = f"disk {_size(self.nbytes)} a token{kept}: {speed / 1e9:.1f} GB/s"
        if not self.ceiling:
            return found
        of = f"{self.ceiling / 1e9:.1f} GB/s measured disk read bandwidth"
        return f"{found}, {100 * speed / self.ceiling:.0f} % of {of}"

    def json(self, steps_s: float) -> dict[str, float | None]:
        """By name; bytes, bytes/s, shares."""
        ceiling = self.ceiling
        return {
            "bytes_per_step": self.nbytes, "GBps": steps_s * self.nbytes / 1e9, "experts_in_memory": self.resident,
            "read_bandwidth_GBps": ceiling / 1e9 if ceiling else None,
            "bandwidth_fraction": steps_s * self.nbytes / ceiling if ceiling else None,
        }  # fmt: skip


@dataclass
class Report:
    """An answer's figures.

    ledger       of its last decoded step, its share where that was for several, with the experts that were recorded;
                 None if there was none
    recorded     the same as its kernels counted it
    kv_position  bytes of one cached position, all layers
    bandwidth    measures bytes per second now; called at most once, when the answer is complete
    startup_s    seconds by stage
    first_token_s  from the start of the process
    """

    generation: Generation
    ledger: Ledger | None
    recorded: Ledger | None
    memory: Memory
    kv_position: int
    bandwidth: Callable[[], float | None] | None
    startup_s: dict[str, float] = field(default_factory=dict)
    first_token_s: float = 0.0
    more: dict[str, Any] = field(default_factory=dict)
    experts: Distinct | None = None
    """Routed experts that its last decoded step read, also for others."""
    drafts: Drafts | None = None
    """None where no drafted token was checked."""
    disk: DiskUse | None = None
    """What its decoded steps read from disk; None where all weights are in memory."""
    sketch: SketchUse | None = None
    """None where no step went by a sketch of the output head: then steps read different bytes."""
    _measured: float | None = None

    @property
    def decode_tok_s(self) -> float:
        """Tokens per second after the first: steps, sampling and text."""
        return rate(self.generation.timing.decoded, self.generation.timing.decode_s)

    @property
    def decode_rate(self) -> float:
        """Streamed bytes per second while decoding: of all steps where they were counted, else by the last step's."""
        timing = self.generation.timing
        if self.drafts is not None and self.drafts.bytes:
            return self.decode_tok_s * sum(self.drafts.per_token.values())
        if self.sketch is not None and self.sketch.bytes:
            return rate(timing.decode_steps, timing.decode_s) * sum(self.sketch.bytes.values())
        return rate(timing.decode_steps, timing.decode_s) * (self.ledger.streamed.mean if self.ledger else 0.0)

    def read_bandwidth(self) -> float | None:
        """The ceiling, measured once the answer is complete."""
        if self._measured is None and self.bandwidth and self.generation.stop_reason:
            self._measured = self.bandwidth()
        return self._measured

    def line(self) -> str:
        """`214 tok/s · 20.9 GB/s, 86 % of 24.3 GB/s measured read bandwidth · per token 97.6 MB: …`"""
        if self.ledger is None:
            t = self.generation.timing
            return f"prompt {t.prompt_tokens} tokens in {t.prefill_s:.2f} s · KV {_size(self.memory.kv_held)} held"
        parts = [f"{self.decode_tok_s:.0f} tok/s", self._speed(), self._bytes()]
        parts += [f"experts {self.experts}"] if self.experts else []
        parts += [str(self.sketch)] if self.sketch else []
        parts += [str(self.drafts)] if self.drafts and self.drafts.matter else []
        parts += [self.disk.line(self.decode_tok_s)] if self.disk else []
        return " · ".join([*parts, f"KV {_size(self.memory.kv_held)} held"])

    def _speed(self) -> str:
        ceiling, speed = self.read_bandwidth(), self.decode_rate
        if not ceiling:
            return f"{speed / 1e9:.1f} GB/s"
        of, peak = f"{ceiling / 1e9:.1f} GB/s measured read bandwidth", memory_peak()
        if speed > BEYOND * ceiling:
            return f"{speed / 1e9:.1f} GB/s, more than the {of}: other work was running"
        share = f"{100 * speed / ceiling:.0f} % of {of}"
        return f"{speed / 1e9:.1f} GB/s, {share}" + (f" (of {peak})" if peak else "")

    def token_bytes(self) -> dict[str, float]:
        """Streamed bytes a token by purpose: of all decoded steps where they were counted, else of the last."""
        if self.drafts is not None and self.drafts.bytes:
            return self.drafts.per_token
        if self.sketch is not None and self.sketch.bytes:
            return self.sketch.bytes
        if self.ledger is None:
            return {}
        sums = self.ledger.by_purpose()
        return {purpose: sums[purpose].mean / self.ledger.tokens for purpose in sums if purpose in STREAMED}

    def _bytes(self) -> str:
        read = self.token_bytes()
        shares = [f"{name} {read[p] / 1e6:.1f}" for p, name in SHORT_NAMES.items() if p in read]
        growth = f" ({_size(self.kv_position)} a token of context)" if self.kv_position else ""
        return f"per token {sum(read.values()) / 1e6:.1f} MB: {', '.join(shares)}{growth}"

    def json(self) -> dict[str, Any]:
        """All figures by name; bytes are integers, those of a token by purpose, rates per second."""
        g, t, ceiling = self.generation, self.generation.timing, self.read_bandwidth()
        return {
            **self.more, "text": g.text, "ids": g.ids, "stop_reason": g.stop_reason,
            "prompt_tokens": t.prompt_tokens, "reused_tokens": t.reused_tokens, "generated_tokens": t.tokens,
            "queued_s": t.queued_s, "prefill_s": t.prefill_s, "decode_s": t.decode_s,
            "prefill_tok_s": rate(t.prompt_tokens - t.reused_tokens, t.prefill_s),
            "decode_tok_s": self.decode_tok_s, "decode_GBps": self.decode_rate / 1e9,
            "python_share": 1 - rate(t.steps_s, t.decode_s) if t.decode_steps else None,
            "read_bandwidth_GBps": ceiling / 1e9 if ceiling else None,
            "decode_bandwidth_fraction": self.decode_rate / ceiling if ceiling else None,
            "predicted_bytes": _integers(self.ledger), "recorded_bytes": _integers(self.recorded),
            "distinct_experts": vars(self.experts) if self.experts else None,
            "disk": self.disk.json(self.decode_tok_s) if self.disk else None,
            "packed_weight_bytes": self.memory.weights, "kv_held_bytes": self.memory.kv_held,
            "kv_allocated_bytes": self.memory.kv_allocated, "first_token_s": self.first_token_s,
            "startup_s": self.startup_s, "decode_steps": t.decode_steps,
            "drafts": vars(self.drafts) if self.drafts else None,
            "head_sketch": {"steps": self.sketch.steps, "share": self.sketch.share} if self.sketch else None,
        }  # fmt: skip


def _integers(ledger: Ledger | None) -> dict[str, int]:
    return {} if ledger is None else {purpose: int(amount) for purpose, amount in ledger.by_purpose().items()}


def _size(n: float) -> str:
    """Bytes with a unit of 1000s: `23.0 kB`, `2.2 MB`, `1.4 GB`."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n >= scale:
            return f"{n / scale:.1f} {unit}"
    return f"{n:.0f} B"
