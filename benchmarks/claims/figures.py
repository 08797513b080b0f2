"""Figures that memfirst computes: parameters, bytes, operations and ceilings of catalogued models and machines."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from memfirst.convert.mixes import layer_of
from memfirst.graph import KVCache, Step, decode, prefill
from memfirst.graph.ops.attention import Attention
from memfirst.graph.ops.linear import Linear
from memfirst.graph.traffic import KV_READ, NOTHING, STATE_READ
from memfirst.hardware.machines import Machine, find_machine
from memfirst.plan import Options, Plan, Subject, make, place, subject
from memfirst.predict.fitted.pieces import matrix_rate

KIB = 1024
"""Tokens of a "1K" context."""


@cache
def model(name: str, mix: str = "f16") -> Subject:
    """A model of the catalogue in a mix of codecs."""
    return subject(name, mix)


def parameters(name: str) -> int:
    """Weights, a tied head counted once."""
    return model(name).parameters


def stored(name: str, mix: str = "f16") -> int:
    """Bytes of all tensors of the file in that mix."""
    return sum(weight.nbytes for weight in model(name, mix).graph.weights().values())


def bits(name: str, mix: str) -> float:
    """Stored bits a weight."""
    return 8 * stored(name, mix) / parameters(name)


def read(name: str, mix: str = "f16", context: int = 1, batch: int = 1, kv: str = "f16") -> float:
    """Bytes that a step streams which brings `batch` sequences to `context` tokens each."""
    return sum(a.mean for a in model(name, mix).priced(kv).amounts(decode(context - 1, batch)).values())


def kv(name: str, context: int, batch: int = 1, codec: str = "f16") -> int:
    """Bytes of keys and values that such a step reads."""
    return model(name).priced(codec).kv(decode(context - 1, batch))


def state(name: str) -> float:
    """Bytes of recurrent state that a step of one sequence reads."""
    return model(name).priced("f16").amounts(decode(0)).get(STATE_READ, NOTHING).mean


def weights(name: str, mix: str = "f16", batch: int = 1) -> float:
    """Bytes of weights that a step reads."""
    amounts = model(name, mix).priced("f16").amounts(decode(0, batch))
    return sum(a.mean for purpose, a in amounts.items() if purpose not in (KV_READ, STATE_READ))


def flops(name: str, step: Step | None = None) -> int:
    """Operations of a step, by default of one token at an empty context."""
    return model(name).priced("f16").flops(step or decode(0))


def overtakes(name: str, mix: str, batch: int = 1) -> float:
    """Tokens of context at which keys and values are as many bytes as the weights, for a model without windows."""
    return weights(name, mix, batch) / (batch * (kv(name, 2) - kv(name, 1)))


def without_windows(name: str, context: int) -> int:
    """Bytes of keys and values of a token if every layer attended all of the context."""
    return context * sum(c.position_bytes for c in model(name).graph.caches if isinstance(c, KVCache))


def trained(name: str) -> int:
    """Positions that the model was trained for."""
    return model(name).graph.context


def matrices(name: str) -> int:
    """Products of a token: matrices that it passes, the head included."""
    kinds = model(name).priced("f16").kinds
    return sum(kind.count for kind in kinds if isinstance(kind.op, Linear))


def layers(name: str) -> int:
    """Layers of the model."""
    return model(name).priced("f16").layers


def scores(name: str, queries: int, context: int) -> int:
    """Attention's scores in all layers, one for each head, query and position."""
    return sum(op.heads for op in model(name).graph.ops if isinstance(op, Attention)) * queries * context


def parts(name: str) -> tuple[int, int]:
    """Weights of all layers' attention projections, and of their feed-forward."""
    attention = feed_forward = 0
    for key, weight in model(name).graph.weights().items():
        if layer_of(key) < 0 or len(weight.shape) < 2:
            continue
        size = weight.matrices * weight.rows * weight.columns
        attention, feed_forward = (
            (attention + size, feed_forward) if ".attn_" in key else (attention, feed_forward + size)
        )
    return attention, feed_forward


def peak(machine: str) -> float:
    """Operations/s of its matrix units with 16-bit inputs, or of float32 where it has none."""
    return matrix_rate(find_machine(machine))


def bandwidth(machine: str) -> float:
    """Bytes/s of the data sheet."""
    return find_machine(machine).bandwidth or 0.0


@dataclass(frozen=True)
class Roof:
    """The least seconds that a step takes for its bytes and for its operations, at a machine's peaks."""

    memory: float
    compute: float

    @property
    def seconds(self) -> float:
        """Of the step: what takes longer."""
        return max(self.memory, self.compute)

    @property
    def ratio(self) -> float:
        """Time of the bytes over time of the operations: above 1, memory binds."""
        return self.memory / self.compute


def roof(name: str, mix: str, machine: str, step: Step) -> Roof:
    """Both times of a step."""
    priced = model(name, mix).priced("f16")
    nbytes = sum(a.mean for a in priced.amounts(step).values())
    return Roof(nbytes / bandwidth(machine), priced.flops(step) / peak(machine))


def ceiling(name: str, mix: str, machine: str, context: int = 1, batch: int = 1) -> float:
    """Tokens/s of all sequences at the machine's peaks: no engine can be faster."""
    return batch / roof(name, mix, machine, decode(context - 1, batch)).seconds


def mfu(name: str, rate: float, machine: str, prompt: int = 0) -> float:
    """Share of the peak arithmetic at `rate` tokens/s: of decoding, or of reading a prompt."""
    step = prefill(prompt) if prompt else decode(0)
    return flops(name, step) / step.tokens * rate / peak(machine)


def mbu(name: str, mix: str, rate: float, machine: str) -> float:
    """Share of the peak bandwidth at `rate` tokens/s of one sequence with a short context."""
    return rate * read(name, mix, context=256) / bandwidth(machine)


def knee(machine: Machine, bytes_per_weight: float = 2.0) -> float:
    """Tokens a step above which arithmetic takes longer than reading the weights once, 2 operations a weight."""
    return matrix_rate(machine) * bytes_per_weight / (2 * (machine.bandwidth or float("inf")))


def planned(name: str, mix: str, machine: str, context: int = 512, batch: int = 1) -> Plan:
    """What `memfirst plan` says of llama.cpp on that machine."""
    return make(model(name, mix), place(machine), Options(context=context, batch=batch))


def distinct(experts: int, picked: int, tokens: int) -> float:
    """Experts of a layer that `tokens` tokens are expected to touch under uniform routing."""
    return experts * (1 - (1 - picked / experts) ** tokens)


def routed(name: str) -> tuple[int, int]:
    """(experts, those that a token picks) of a layer."""
    return model(name).priced("f16").routed() or (1, 1)
