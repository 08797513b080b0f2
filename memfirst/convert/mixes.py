"""Which codec each tensor gets in a named mix ("q4_k_m"), as llama.cpp's quantizer decides it.

"Q4_K_M" is not 4 bits: the head, and the V and down projections of some layers, take more. The rules
follow llama_tensor_get_type in llama.cpp's src/llama-quant.cpp (IQ1 to IQ3 with an importance matrix, without which
it refuses most of them, the others without), and what is never quantized follows its converter: a tensor has a role
by its name, a mix has rules by role, and the first rule that holds names the codec.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

from memfirst.codecs import BLOCK_TYPES
from memfirst.errors import UnsupportedError
from memfirst.graph import Graph
from memfirst.graph.ops.attention import Attention
from memfirst.graph.ops.experts import Experts
from memfirst.graph.ops.latent import LatentAttention
from memfirst.graph.ops.opaque import Opaque
from memfirst.graph.traffic import ExpertTraffic


@dataclass(frozen=True)
class Model:
    """What the rules ask about the model.

    kv_heads          0 where the first layer has no attention
    experts           routed experts a layer, 0 for a dense model
    attention_layers  those that have a V projection; empty: all
    downs             names of all down projections in order, where a layer has more than one
    """

    architecture: str
    layers: int
    heads: int
    kv_heads: int
    tied: bool
    experts: int = 0
    attention_layers: tuple[int, ...] = ()
    downs: tuple[str, ...] = ()

    @property
    def group(self) -> int:
        """Query heads that share a KV head."""
        return self.heads // self.kv_heads if self.kv_heads else 0

    def place(self, layer: int, attention: bool) -> tuple[int, int]:
        """(index, count) of the layer, among those with attention only where asked so."""
        if attention and self.attention_layers:
            return self.attention_layers.index(layer), len(self.attention_layers)
        return layer, self.layers


def described(graph: Graph) -> Model:
    """What the codec rules ask about a model, read from its graph."""
    weights = graph.weights()
    layers = 1 + max((layer_of(name) for name in weights), default=-1)
    attention: list[Attention | LatentAttention] = [*graph.of(Attention), *graph.of(LatentAttention)]
    first = next((op for op in attention if layer_of(op.name) == 0), None)
    reads = (read for op in (*graph.of(Experts), *graph.of(Opaque)) for read in op.traffic())
    downs = tuple(n for n in weights if "ffn_down" in n and n.endswith(".weight"))
    return Model(
        graph.architecture,
        layers,
        heads=first.heads if first else 0,
        kv_heads=first.cache.heads if first else 0,
        tied="output.weight" not in weights,
        experts=max((r.weight.shape[0] for r in reads if isinstance(r, ExpertTraffic)), default=0),
        attention_layers=tuple(i for i in range(layers) if _has_v(i, weights)),
        downs=downs if len(downs) > layers else (),
    )


def _has_v(layer: int, weights: Container[str]) -> bool:
    return any(f"blk.{layer}.{role}.weight" in weights for role in ("attn_v", "attn_qkv", "attn_kv_b"))


@lru_cache(1 << 14)
def layer_of(name: str) -> int:
    """7 for "blk.7.attn_q.weight", −1 for what is in no layer."""
    parts = name.split(".")
    return int(parts[1]) if parts[0] == "blk" else -1


Where = Callable[[int, int], bool]
"""(layer, number of layers) -> whether a rule holds there."""


def everywhere(layer: int, layers: int) -> bool:
    """All layers."""
    return True


def more_bits(layer: int, layers: int) -> bool:
    """The first and last eighth of the layers, and every third between."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def first_eighth(layer: int, layers: int) -> bool:
    """The first eighth of the layers, rounded down."""
    return layer < layers // 8


def first_sixteenth(layer: int, layers: int) -> bool:
    """The first sixteenth of the layers, rounded down."""
    return layer < layers // 16


def middle(layer: int, layers: int) -> bool:
    """All but the first and the last eighth of the layers."""
    return layers // 8 <= layer < 7 * layers // 8


def first_two(layer: int, layers: int) -> bool:
    """Layers 0 and 1."""
    return layer < 2


def first_four(layer: int, layers: int) -> bool:
    """Layers 0 to 3."""
    return layer < 4


@dataclass(frozen=True)
class Rule:
    """Another codec than the mix's own.

    grouped  only where at least 4 query heads share a KV head: V is then small and matters more
    routed   where grouped: of at least 4 experts too
    experts  only in models of exactly 8, as Mixtral has
    """

    codec: str
    where: Where = everywhere
    grouped: bool = False
    experts: bool = False
    routed: bool = False

    def holds(self, place: tuple[int, int], model: Model) -> bool:
        """Whether it decides the codec of a tensor at that (index, count)."""
        small = model.group >= 4 or (self.routed and model.experts >= 4)
        if (self.grouped and not small) or (self.experts and model.experts != 8):
            return False
        return self.where(*place)


@dataclass(frozen=True)
class Mix:
    """How a quantizer chooses.

    codec      of a matrix without a rule; file_type: `general.file_type`, -1 where files name another mix
    rules      role -> the first that holds
    head       of the output matrix, and of the embedding where there is no other; table: of the embedding beside one
    tiny       of 1 or 2 bits, whose keys and values follow `rules` alone
    dynamic    its makers choose tensor by tensor from what a model loses, so sizes are near, not exact
    """

    codec: str
    file_type: int
    rules: Mapping[str, tuple[Rule, ...]] = field(default_factory=dict)
    head: str = "q6_k"
    table: str = ""
    tiny: bool = False
    dynamic: bool = False

    @property
    def plain(self) -> bool:
        """A mix that does not quantize: every matrix, head included, has its codec."""
        return BLOCK_TYPES[self.codec].block == 1


OUTPUT_OF_8 = Rule("q5_k", experts=True)
_MORE = (Rule("q6_k", more_bits),)
_SMALL_V, _FIRST_DOWN = (Rule("q5_k", grouped=True),), (Rule("q5_k", first_eighth),)

MIXES: Mapping[str, Mix] = {
    "f32": Mix("f32", 0),
    "f16": Mix("f16", 1),
    "bf16": Mix("bf16", 32),
    "q4_0": Mix("q4_0", 2),
    "q4_1": Mix("q4_1", 3),
    "q5_0": Mix("q5_0", 8),
    "q5_1": Mix("q5_1", 9),
    "q8_0": Mix("q8_0", 7),
    "q4_k_s": Mix("q4_k", 14, {"attn_v": (Rule("q5_k", first_four),), "ffn_down": _FIRST_DOWN,
                               "attn_output": (OUTPUT_OF_8,)}),
    "q4_k_m": Mix("q4_k", 15, {"attn_v": _MORE, "ffn_down": _MORE, "attn_output": (OUTPUT_OF_8,)}),
    "q5_k_s": Mix("q5_k", 16),
    "q5_k_m": Mix("q5_k", 17, {"attn_v": _MORE, "ffn_down": _MORE}),
    "q6_k": Mix("q6_k", 18),
    "iq4_nl": Mix("iq4_nl", 25, {"attn_v": _SMALL_V, "ffn_down": _FIRST_DOWN, "attn_output": (OUTPUT_OF_8,)}),
    "mxfp4": Mix("mxfp4", 38),
    "iq4_xs": Mix("iq4_xs", 30, {"attn_v": _SMALL_V, "ffn_down": _FIRST_DOWN, "attn_output": (OUTPUT_OF_8,)}),
    "q3_k_s": Mix("q3_k", 11, {"attn_output": (OUTPUT_OF_8,)}),
    "q3_k_m": Mix("q3_k", 12, {"attn_v": (Rule("q5_k", first_two), Rule("q4_k")),
                               "ffn_down": (Rule("q5_k", first_sixteenth), Rule("q4_k")),
                               "attn_output": (OUTPUT_OF_8, Rule("q4_k"))}),
    "q3_k_l": Mix("q3_k", 13, {"attn_v": (Rule("q5_k"),), "ffn_down": (Rule("q5_k"),),
                               "attn_output": (Rule("q3_k", experts=True), Rule("q5_k"))}),
    "q2_k": Mix("q2_k", 10, {"attn_v": (Rule("q4_k", grouped=True), Rule("q3_k")), "ffn_down": (Rule("q3_k"),),
                             "attn_output": (OUTPUT_OF_8, Rule("q3_k"))}),
}  # fmt: skip
"""Those that memfirst writes and runs."""


def _tiny(codec: str, file_type: int, more: str, output: str, table: str) -> Mix:
    """IQ1 and IQ2. more: of V where few query heads share it, and of the first down projections."""
    rules = {
        "attn_v": (Rule("q4_k", grouped=True, routed=True), Rule(more)), "attn_k": (Rule("q4_k", experts=True),),
        "ffn_down": (Rule(more, first_eighth),), "attn_output": (OUTPUT_OF_8, Rule(output)),
    }  # fmt: skip
    return Mix(codec, file_type, rules, "q5_k", table, tiny=True)


_THIRD = (Rule("iq3_xxs", middle),)

_BY_RULE: Mapping[str, Mix] = {
    **MIXES,
    "q2_k_s": Mix("q2_k", 21, {"attn_v": (Rule("q4_k", grouped=True),), "ffn_down": (Rule("q4_k", first_eighth),)}),
    "iq3_m": Mix("iq3_s", 27, {"attn_v": (Rule("q4_k"),), "attn_output": (OUTPUT_OF_8, Rule("q4_k")),
                               "ffn_down": (Rule("q4_k", more_bits, experts=True), Rule("q4_k", first_eighth))}),
    "iq3_s": Mix("iq3_s", 26, {"attn_v": (Rule("q4_k", grouped=True),), "attn_output": (OUTPUT_OF_8,)}),
    "iq3_xs": Mix("iq3_s", 22, {"attn_v": (Rule("q4_k", grouped=True),), "attn_output": (OUTPUT_OF_8,),
                                "attn_q": (Rule("iq3_xxs"),), "attn_k": (Rule("iq3_xxs"),),
                                "ffn_gate": _THIRD, "ffn_up": _THIRD}),
    "iq3_xxs": Mix("iq3_xxs", 23, {"attn_v": (Rule("q4_k", grouped=True),),
                                   "attn_output": (OUTPUT_OF_8, Rule("iq3_s")),
                                   "attn_q": (Rule("iq2_s"),), "attn_k": (Rule("iq2_s"),)}, "q5_k", "iq3_s"),
    "iq2_m": _tiny("iq2_s", 29, "iq3_s", "iq3_s", "iq3_s"),
    "iq2_s": _tiny("iq2_xs", 28, "iq3_s", "iq3_s", "iq3_s"),
    "iq2_xs": _tiny("iq2_xs", 20, "q2_k", "iq2_xs", "q2_k"),
    "iq2_xxs": _tiny("iq2_xxs", 19, "q2_k", "iq2_xxs", "q2_k"),
    "iq1_m": _tiny("iq1_m", 31, "q2_k", "iq2_xxs", "q2_k"),
    "iq1_s": _tiny("iq1_s", 24, "q2_k", "iq2_xxs", "q2_k"),
    "tq2_0": Mix("tq2_0", 37, table="q4_k"),
    "tq1_0": Mix("tq1_0", 36, table="q4_k"),
}  # fmt: skip

DYNAMIC: Mapping[str, str] = {
    "q8_k_xl": "q8_0", "q6_k_xl": "q6_k", "q5_k_xl": "q5_k_m", "q4_k_xl": "q4_k_m", "q3_k_xl": "q3_k_m",
    "q2_k_xl": "q2_k", "iq3_xxs": "iq3_xxs", "iq2_m": "iq2_m", "iq2_xxs": "iq2_xxs", "iq1_m": "iq1_m", "iq1_s": "iq1_s",
    "tq1_0": "iq1_s",
}  # fmt: skip
"""Unsloth's dynamic mixes ("UD-Q4_K_XL"), and the mix by rule that has about their size."""

PRICED: Mapping[str, Mix] = {
    **_BY_RULE,
    **{f"ud-{name}": replace(_BY_RULE[like], file_type=-1, dynamic=True) for name, like in DYNAMIC.items()},
}
"""Also those that memfirst only prices."""

FALLBACKS: Mapping[str, str] = {
    "q2_k": "q4_0", "q3_k": "q4_0", "q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0", "iq4_xs": "iq4_nl",
    "tq1_0": "q4_0", "tq2_0": "q4_0", **dict.fromkeys(
        ("iq3_s", "iq3_xxs", "iq2_s", "iq2_xs", "iq2_xxs", "iq1_m", "iq1_s"), "iq4_nl"
    ),
}  # fmt: skip
"""For rows that are no multiple of 256: the codec of 32-weight blocks that takes the K-quant's place."""

FLOATS: Mapping[str, str] = dict.fromkeys(
    ("ffn_gate_inp", "ffn_gate_inp_shexp", "ssm_conv1d", "time_mix_first", "time_mix_w1", "time_mix_w2",
     "time_mix_decay_w1", "time_mix_decay_w2", "time_mix_lerp_fused"), "f32"
) | dict.fromkeys((f"time_mix_{part}{n}" for part in "avg" for n in (1, 2)), "f16")  # fmt: skip
"""Roles of matrices that are never quantized: routers, convolutions, RWKV's small projections."""


def mix(name: str) -> Mix:
    """The mix of that name, upper or lower case; UnsupportedError, listing those that memfirst writes."""
    return _named(name, MIXES)


def priced_mix(name: str) -> Mix:
    """The same, among all whose sizes are known."""
    return _named(name, PRICED)


def _named(name: str, mixes: Mapping[str, Mix]) -> Mix:
    found = mixes.get(name.lower())
    if found is None:
        raise UnsupportedError(f"no codec mix is called {name!r}", f"one of {', '.join(mixes)}")
    return found


def tensor_codec(name: str, shape: tuple[int, ...], chosen: Mix, model: Model) -> str:
    """The codec of one tensor; vectors, norms and biases stay f32."""
    if len(shape) < 2 or name.endswith("_norm.weight") or not name.endswith(".weight"):
        return "f32"
    role = name.split(".")[-2]
    if role in FLOATS:
        return chosen.codec if chosen.plain and FLOATS[role] != "f32" else FLOATS[role]
    if chosen.plain:
        return chosen.codec
    columns = shape[-1]
    if role == "output" or (role == "token_embd" and model.tied):
        return fit(_head_codec(chosen, columns), columns)
    if role == "token_embd" and chosen.table:
        return fit(chosen.table, columns)
    return fit(_layer_codec(name, role, shape, chosen, model), columns)


def _head_codec(chosen: Mix, columns: int) -> str:
    """The head takes Q6_K in most mixes: Q8_0 instead where it is the mix or where rows do not fit it."""
    if columns % BLOCK_TYPES[chosen.codec].block or chosen.codec in ("q8_0", "mxfp4"):
        return "q8_0"
    return chosen.head


def _layer_codec(name: str, role: str, shape: tuple[int, ...], chosen: Mix, model: Model) -> str:
    if chosen.codec == "mxfp4":  # experts only
        return "mxfp4" if len(shape) > 2 else "q8_0"
    role = _role(role)
    found = chosen.codec
    if role in chosen.rules:
        place = model.place(int(name.split(".")[1]), role == "attn_v")
        if chosen.tiny and role == "ffn_down" and name in model.downs:
            place = model.downs.index(name), model.layers  # these mixes count tensors, not layers
        found = next((r.codec for r in chosen.rules[role] if r.holds(place, model)), found)
    if chosen.tiny:
        return found
    if role in ("attn_v", "attn_k") and model.experts == 8:
        return "q8_0"
    if role == "attn_v" and found in ("q3_k", "q4_k") and is_70b(model):
        return "q5_k"
    return found


def _role(role: str) -> str:
    """As the rules know it: experts' and shared experts' projections are ffn_down, fused ones are attn_v."""
    for part in ("ffn_up", "ffn_gate", "ffn_down"):
        if part in role:
            return part
    return "attn_v" if role in ("attn_qkv", "attn_kv_b") else role


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
