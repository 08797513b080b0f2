"""What models are made of: tensors by GGUF name, the positions that a layer keeps, the state that it carries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Config = Mapping[str, Any]

ALWAYS, LOGITS, ROWS, ROUTED = "weights", "head", "embedding", "experts"
"""When a tensor is read: in any step, for logits only, a row for each token, where a token is routed to it."""


@dataclass(frozen=True)
class Tensor:
    """One use of a stored tensor.

    kind    its GGUF name without the layer's prefix
    layer   -1 outside the layers
    shape   last axis contiguous
    active  of a ROUTED tensor [experts, ...]: experts that one token picks
    stored  False for a second use of a table that is stored once (a tied head)
    """

    kind: str
    layer: int
    shape: tuple[int, ...]
    use: str = ALWAYS
    active: int = 0
    stored: bool = True


@dataclass(frozen=True)
class Keys:
    """What one attention layer reads of a position: `heads` keys and as many values; at most `window` positions.

    chunked  those from the last whole multiple of `window` on
    own  False where it reads what another layer keeps
    """

    heads: int
    k_dim: int
    v_dim: int
    window: int | None = None
    chunked: bool = False
    own: bool = True


@dataclass(frozen=True)
class Model:
    """Tensors, and by layer: Keys where it attends, values of recurrent state where it has one."""

    tensors: tuple[Tensor, ...]
    keys: Mapping[int, Keys]
    states: Mapping[int, int]


def in_layer(layer: int, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Tensor]:
    """Tensors that every step reads."""
    for name, shape in shapes.items():
        yield Tensor(name if "." in name else name + ".weight", layer, shape)


def outside(config: Config, tied: bool, biased_norms: bool = False) -> Iterator[Tensor]:
    """Embedding, last norm and head. The norm before the head is needed for the rows of the head alone."""
    vocab, d = config["vocab_size"], config["hidden_size"]
    yield Tensor("token_embd.weight", -1, (vocab, d), ROWS)
    yield Tensor("output_norm.weight", -1, (d,), LOGITS)
    if biased_norms:
        yield Tensor("output_norm.bias", -1, (d,), LOGITS)
    yield Tensor("token_embd.weight" if tied else "output.weight", -1, (vocab, d), LOGITS, stored=not tied)


def swiglu(layer: int, d: int, ffn: int, suffix: str = "") -> Iterator[Tensor]:
    """down(silu(gate(x)) * up(x)): three matrices."""
    shapes = {f"ffn_gate{suffix}": (ffn, d), f"ffn_up{suffix}": (ffn, d), f"ffn_down{suffix}": (d, ffn)}
    return in_layer(layer, shapes)


def routed(layer: int, d: int, ffn: int, experts: int, active: int, biased: bool = False) -> Iterator[Tensor]:
    """A router that every token passes, and as many SwiGLUs as experts, of which a token picks `active`."""
    yield Tensor("ffn_gate_inp.weight", layer, (experts, d))
    for name, rows, columns in (("gate", ffn, d), ("up", ffn, d), ("down", d, ffn)):
        yield Tensor(f"ffn_{name}_exps.weight", layer, (experts, rows, columns), ROUTED, active)
        if biased:
            yield Tensor(f"ffn_{name}_exps.bias", layer, (experts, rows), ROUTED, active)


def model(tensors: Iterable[Tensor], keys: Iterable[Keys | None] = (), states: Iterable[int | None] = ()) -> Model:
    """All of it; keys and states layer by layer, None where a layer has none."""
    kept = {i: k for i, k in enumerate(keys) if k is not None}
    return Model(tuple(tensors), kept, {i: s for i, s in enumerate(states) if s is not None})
