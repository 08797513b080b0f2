"""Which codec each tensor gets in a named mix ("q4_k_m"), as llama.cpp's quantizer decides it.

"Q4_K_M" is not 4 bits: the head, and the V and down projections of some layers, take more. The rules
follow llama_tensor_get_type in llama.cpp's src/llama-quant.cpp (dense models, one V projection a layer,
without an importance matrix): a tensor has a role by its name, a mix has rules by role, and a rule names
the layers that take another codec.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from memfirst.codecs import BLOCK_TYPES
from memfirst.errors import UnsupportedError


@dataclass(frozen=True)
class Model:
    """What the rules ask about the model."""

    architecture: str
    layers: int
    heads: int
    kv_heads: int
    tied: bool

    @property
    def group(self) -> int:
        """Query heads that share a KV head."""
        return self.heads // self.kv_heads


Layers = Callable[[int, Model], bool]
"""(layer, model) -> whether the rule holds there."""


def more_bits(layer: int, model: Model) -> bool:
    """The first and last eighth of the layers, and every third between."""
    n = model.layers
    return layer < n // 8 or layer >= 7 * n // 8 or (layer - n // 8) % 3 == 2


def first_eighth(layer: int, model: Model) -> bool:
    """The first eighth of the layers, rounded down."""
    return layer < model.layers // 8


def first_four(layer: int, model: Model) -> bool:
    """Layers 0 to 3."""
    return layer < 4


def wide_groups(layer: int, model: Model) -> bool:
    """Any layer, where at least 4 query heads share a KV head: V is then small and matters more."""
    return model.group >= 4


@dataclass(frozen=True)
class Mix:
    """codec: of a matrix without a rule; file_type: `general.file_type`; rules: role -> (layers, codec)."""

    codec: str
    file_type: int
    rules: Mapping[str, tuple[Layers, str]] = field(default_factory=dict)

    @property
    def plain(self) -> bool:
        """A mix that does not quantize: every matrix, head included, has its codec."""
        return BLOCK_TYPES[self.codec].block == 1


MIXES: Mapping[str, Mix] = {
    "f32": Mix("f32", 0),
    "f16": Mix("f16", 1),
    "bf16": Mix("bf16", 32),
    "q4_0": Mix("q4_0", 2),
    "q4_1": Mix("q4_1", 3),
    "q5_0": Mix("q5_0", 8),
    "q5_1": Mix("q5_1", 9),
    "q8_0": Mix("q8_0", 7),
    "q4_k_s": Mix("q4_k", 14, {"attn_v": (first_four, "q5_k"), "ffn_down": (first_eighth, "q5_k")}),
    "q4_k_m": Mix("q4_k", 15, {"attn_v": (more_bits, "q6_k"), "ffn_down": (more_bits, "q6_k")}),
    "q5_k_s": Mix("q5_k", 16),
    "q5_k_m": Mix("q5_k", 17, {"attn_v": (more_bits, "q6_k"), "ffn_down": (more_bits, "q6_k")}),
    "q6_k": Mix("q6_k", 18),
    "iq4_nl": Mix("iq4_nl", 25, {"attn_v": (wide_groups, "q5_k"), "ffn_down": (first_eighth, "q5_k")}),
}

FALLBACKS: Mapping[str, str] = {"q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0"}
"""For rows that are no multiple of 256: the codec of 32-weight blocks that takes the K-quant's place."""


def mix(name: str) -> Mix:
    """The mix of that name, upper or lower case; UnsupportedError, listing those there are."""
    found = MIXES.get(name.lower())
    if found is None:
        raise UnsupportedError(f"no codec mix is called {name!r}", f"one of {', '.join(MIXES)}")
    return found


def tensor_codec(name: str, shape: tuple[int, ...], chosen: Mix, model: Model) -> str:
    """The codec of one tensor; vectors and norms stay f32."""
    if len(shape) < 2 or name.endswith("_norm.weight") or not name.endswith("weight"):
        return "f32"
    if chosen.plain:
        return chosen.codec
    role = name.split(".")[-2]
    columns = shape[-1]
    if role == "output" or (role == "token_embd" and model.tied):
        return fit(_head_codec(chosen.codec, columns), columns)
    return fit(_layer_codec(name, role, chosen, model), columns)


def _head_codec(codec: str, columns: int) -> str:
    """The head takes Q6_K, whatever the mix: Q8_0 instead where it is the mix or where rows do not fit it."""
    if columns % BLOCK_TYPES[codec].block or codec == "q8_0":
        return "q8_0"
    return "q6_k"


def _layer_codec(name: str, role: str, chosen: Mix, model: Model) -> str:
    codec = chosen.codec
    if role in chosen.rules:
        holds, other = chosen.rules[role]
        codec = other if holds(int(name.split(".")[1]), model) else codec
    if role == "attn_v" and codec == "q4_k" and is_70b(model):
        return "q5_k"
    return codec


def is_70b(model: Model) -> bool:
    """80 layers; in Llama's family with grouped heads: V is a small share of such a model, and gets Q5_K."""
    grouped = model.architecture != "llama" or model.heads != model.kv_heads
    return model.layers == 80 and grouped and model.architecture in ("llama", "qwen2")


def fit(codec: str, columns: int) -> str:
    """The codec, or what replaces it where it does not divide the rows: see FALLBACKS, else f16."""
    if columns % BLOCK_TYPES[codec].block == 0:
        return codec
    codec = FALLBACKS.get(codec, codec)
    return codec if columns % BLOCK_TYPES[codec].block == 0 else "f16"
