"""Seconds of a step on a machine of the catalogue, as named terms, with an interval and the term that binds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from memfirst.graph import Step
from memfirst.lower.program import Program
from memfirst.machine import Machine

WEIGHTS, EXPERTS, KV, COMPUTE, OVERHEAD, LINK = "weights", "experts", "KV", "compute", "overhead", "link"
TERMS = (WEIGHTS, EXPERTS, KV, COMPUTE, OVERHEAD, LINK)
"""What may bind a step."""


@dataclass(frozen=True)
class Cost:
    """What a step asks of a machine, over all devices together. Build it with `cost`.

    streamed  bytes by purpose of the ledger, streamed purposes only, means
    flops     operations of the step; tokens: new tokens; sequences: how many share the step
    layers    of the model; codec: of the bulk of its weights, as in the file ("q4_k", "f16")
    width     of the hidden state, in numbers: what devices exchange for a token
    """

    streamed: Mapping[str, float]
    flops: float
    tokens: int
    layers: int
    codec: str
    sequences: int = 1
    width: int = 0


@dataclass(frozen=True)
class Deployment:
    """How the model is run.

    engine   "llama.cpp", "vllm", "exllama", "transformers", "gpt-fast" or "memfirst"
    devices  how many share the model; share: "pipeline" (layers one after another) or "tensor" (every layer cut)
    """

    engine: str = "llama.cpp"
    devices: int = 1
    share: str = "pipeline"


@dataclass(frozen=True)
class Term:
    """One part of the time."""

    name: str
    seconds: float


@dataclass(frozen=True)
class Prediction:
    """Seconds of a step with the 80 % interval [low, high]; None throughout where the machine's row lacks a rate.

    terms    add up to seconds
    binding  the largest of the terms, "" without a number
    tokens   new tokens of the step; notes: what a reader should know, for example what is missing
    mbu,mfu  share of the peak bandwidth and of the peak arithmetic that it reaches
    """

    seconds: float | None
    low: float | None
    high: float | None
    terms: tuple[Term, ...]
    binding: str
    tokens: int
    mbu: float | None = None
    mfu: float | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def tokens_per_second(self) -> float | None:
        """Of all sequences of the step together."""
        return None if self.seconds is None else self.tokens / self.seconds

    @property
    def slowest(self) -> float | None:
        """Tokens/s at the slow end of the interval."""
        return None if self.high is None else self.tokens / self.high

    @property
    def fastest(self) -> float | None:
        """Tokens/s at the fast end of the interval."""
        return None if self.low is None else self.tokens / self.low


def cost(program: Program, step: Step) -> Cost:
    """What `step` of a generic Program costs."""
    raise NotImplementedError


def decode(cost: Cost, machine: Machine, deployment: Deployment = Deployment()) -> Prediction:
    """Time of a step with one new token (or a few) a sequence."""
    raise NotImplementedError


def prefill(cost: Cost, machine: Machine, deployment: Deployment = Deployment()) -> Prediction:
    """Time of a step that reads a prompt: until the first token."""
    raise NotImplementedError
