"""Gemma 4 is Gemma 3 whose layers without a window have wider heads, and in the larger sizes no projection for values.

    values    each head of v is normalized without a weight; where `attention_k_eq_v`, v is k's projection
    sharing   the last `num_kv_shared_layers` attend what the last layer of their kind before them keeps (E2B, E4B)
    layers    a layer's input of its own: a second embedding and a projection of the first, added (E2B, E4B)
    experts   routed ones beside the dense feed-forward, each half with norms of its own (26B-A4B)

A layer's output is multiplied by a stored number. Norms multiply by their weight, without the 1 that Gemma 3 adds.
Of a model with vision and audio towers only the text model is built and priced.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import sqrt

from memfirst.errors import ConfigError
from memfirst.graph import Graph
from memfirst.models import decoder, experts, gemma2, rope, windows
from memfirst.models import reader as limits
from memfirst.models.base import WeightProvider
from memfirst.models.builder import HEAD, Builder
from memfirst.models.decoder import Family
from memfirst.models.experts import MoE
from memfirst.models.reader import ConfigReader, Keys
from memfirst.models.rope import Defaults
from memfirst.models.windows import Windows

PERIOD = 6
LOCAL_THETA = 1e4
INPUTS = "per_layer_inputs"
KEYS: Keys = {key: gguf for key, gguf in decoder.KEYS.items() if key != "head_dim"} | {
    "global_head_dim": "attention.key_length",
    "head_dim": "attention.key_length_swa",
    "num_kv_shared_layers": "attention.shared_kv_layers",
    "hidden_size_per_layer_input": "embedding_length_per_layer_input",
    "moe_intermediate_size": "expert_feed_forward_length",
    "num_experts": "expert_count",
    "top_k_experts": "expert_used_count",
    "final_logit_softcapping": "final_logit_softcapping",
}
"""The first of the heads' sizes is that of layers without a window."""


def _windows(r: ConfigReader, layers: int) -> Windows:
    """All but every sixth layer, or as the file lists; the last never has one."""
    found = windows.by_period(PERIOD)(r, layers)
    return (*found[:-1], None) if found and r.raw("layer_types") is None and not r.gguf else found


FAMILY = Family(
    "gemma4", _windows, Defaults(theta=1e6), activation="gelu", tied=True, head_dim="global_head_dim",
    biases=("attention_bias", "attention_bias", False),
)  # fmt: skip


@dataclass(frozen=True)
class Config(decoder.Config):
    """Besides what dense decoders have."""

    hidden_size_per_layer_input: int = 0
    """Values of each layer's own input; 0: it has none."""


def read(r: ConfigReader) -> Config:
    """Heads by kind of layer, who shares keys and values, a layer's own input, experts."""
    r.only("use_bidirectional_attention", ("vision",))  # text attends what came before it
    if not r.gguf:
        r.require("rope_parameters")
        r = _by_kind(r)
    c = decoder.read(r, FAMILY)
    c = replace(c, softcap=gemma2.softcap(r, "final_logit_softcapping"), embedding_multiplier=sqrt(c.hidden_size))
    shared = r.integer("num_kv_shared_layers", limits.MAX_LAYERS, default=0, low=0)
    c = _heads(r, c, shared)
    width = r.integer("hidden_size_per_layer_input", limits.MAX_WIDTH, default=0, low=0)
    if width:
        r.only("vocab_size_per_layer_input", (c.vocab_size,))
    r.raw("vocab_size_per_layer_input")
    if not r.gguf and r.flag("use_double_wide_mlp"):
        first = c.layers - shared
        c = replace(c, intermediate_size=tuple(n * (1 + (i >= first)) for i, n in enumerate(c.intermediate_size)))
    return Config(**{**vars(c), "moe": _experts(r), "hidden_size_per_layer_input": width})


def _by_kind(r: ConfigReader) -> ConfigReader:
    """The sizes of heads without a window, which transformers 5 saves layer by layer in `per_layer_config`."""
    found = r.raw("per_layer_config")
    if found is None:
        return r
    if not isinstance(found, Mapping) or not all(isinstance(v, Mapping) for v in found.values()):
        raise ConfigError(f"per_layer_config is {str(found)[:60]!r}", "an object for each layer without a window")
    each = [dict(v) for v in found.values()]
    kinds = r.raw("layer_types")
    whole = [i for i, kind in enumerate(kinds) if kind == rope.FULL] if isinstance(kinds, list) else []
    if not each or any(v != each[0] for v in each) or sorted(map(str, found)) != sorted(map(str, whole)):
        raise ConfigError(f"per_layer_config is {str(found)[:60]!r}", "the same for all layers of full_attention")
    own = ConfigReader(each[0])
    given = {"global_head_dim": own.raw("head_dim"), "num_global_key_value_heads": own.raw("num_key_value_heads")}
    own.check_unknown((), allow_unknown=False)
    return r.given(given)


def _heads(r: ConfigReader, c: decoder.Config, shared: int) -> decoder.Config:
    """Each layer's heads: their size, those of k and v, what is shared, and how they are rotated."""
    local_dim = r.integer("head_dim", limits.MAX_HEAD_DIM)
    whole = c.heads[0].rotation
    local = replace(rope.in_windows(r, whole, LOCAL_THETA), dims=local_dim, turning=0) if whole else None
    if r.gguf:
        r.plain.only("attention.value_length_swa", (local_dim,))
        r.plain.only("rope.dimension_count_swa", (local_dim,))
        equal = {i for i in range(c.layers) if f"blk.{i}.attn_v.weight" not in r.tensors}
    else:
        equal = {i for i in range(c.layers) if not c.heads[i].window} if r.flag("attention_k_eq_v") else set[int]()
    stated = r.raw("num_global_key_value_heads") is not None and bool(equal)
    few = r.integer("num_global_key_value_heads", limits.MAX_HEADS) if stated else 0
    by_kind = (
        replace(h, head_dim=local_dim, rotation=local) if h.window else replace(h, kv_heads=few or h.kv_heads)
        for h in c.heads
    )
    heads = tuple(
        replace(h, qk_norm=HEAD, v_norm=True, scale=1.0, k_is_v=i in equal, shares=_shared(c, i, shared))
        for i, h in enumerate(by_kind)
    )
    return replace(c, heads=heads)


def _shared(c: decoder.Config, layer: int, shared: int) -> int | None:
    """The layer whose keys and values that layer attends: the last before those that share, of its own kind."""
    first = c.layers - shared
    if layer < first:
        return None
    alike = [i for i in range(first) if bool(c.heads[i].window) == bool(c.heads[layer].window)]
    if not alike:
        raise ConfigError(f"{shared} of {c.layers} layers share keys and values", "a layer of each kind before them")
    return alike[-1]


def _experts(r: ConfigReader) -> MoE | None:
    """Of config.json where `enable_moe_block` says so; of GGUF where there are any."""
    there = bool(r.raw("num_experts")) if r.gguf else r.flag("enable_moe_block")
    if not there:
        for key in ("num_experts", "top_k_experts", "moe_intermediate_size"):
            r.raw(key)
        return None
    return MoE(
        r.integer("num_experts", experts.MAX_EXPERTS),
        r.integer("top_k_experts", experts.MAX_EXPERTS),
        r.integer("moe_intermediate_size", limits.MAX_WIDTH),
        activation="gelu",
        expert_scale=True,
    )


def layer(b: Builder, i: int, x: str, c: Config) -> str:
    """Gemma 2's, with experts beside the feed-forward, the layer's own input, and the output's factor."""
    at, h, width = f"blk.{i}", c.heads[i], c.hidden_size_per_layer_input
    if width and i == 0:
        inputs_of_layers(b, x, c)
    y = b.attention(f"{at}.attn", b.rms_norm(f"{at}.attn_norm", x), h)
    if h.shares is not None:  # published files have what the shared layers were trained with
        for part in ("attn_k.", "attn_v.", "attn_k_norm."):
            b.w.leave(f"{at}.{part}")
    x = b.residual(f"{at}.attn_residual", x, b.rms_norm(f"{at}.post_attention_norm", y))
    y = b.geglu(f"{at}.ffn", b.rms_norm(f"{at}.ffn_norm", x), c.intermediate_size[i])
    if c.moe is not None:
        y = _beside(b, at, x, y, c.moe)
    x = b.residual(f"{at}.ffn_residual", x, b.rms_norm(f"{at}.post_ffw_norm", y))
    if width:
        own = b.slice(f"{at}.inp", INPUTS, i * width, width)
        y = b.glu(f"{at}.inp_glu", b.linear(f"{at}.inp_gate", x, width), own, "gelu")
        y = b.rms_norm(f"{at}.post_norm", b.linear(f"{at}.proj", y, c.hidden_size))
        x = b.residual(f"{at}.inp_residual", x, y)
    factor = f"{at}.layer_output_scale"
    return b.scale(factor, x, b.w.values(f"{factor}.weight", 1)[0]) if b.w.has(f"{factor}.weight") else x


def _beside(b: Builder, at: str, x: str, dense: str, moe: MoE) -> str:
    """The feed-forward and routed experts, each normalized, added; the router reads a norm of its own."""
    y = b.rms_norm(f"{at}.post_ffw_norm_1", dense)
    router = b.rms_norm(f"{at}.ffn_gate_inp_norm", x, weight=f"{at}.ffn_gate_inp.scale")
    router = b.scale(f"{at}.ffn_gate_inp_scaled", router, 1 / sqrt(b.hidden_size))
    routed = experts.routed(b, f"{at}.ffn", b.rms_norm(f"{at}.pre_ffw_norm_2", x), moe, router)
    return b.residual(f"{at}.ffn_sum", y, b.rms_norm(f"{at}.post_ffw_norm_2", routed))


def inputs_of_layers(b: Builder, x: str, c: Config) -> None:
    """INPUTS [n, layers · width]: each layer's own input, from the token's second embedding and from its first."""
    width = c.hidden_size_per_layer_input
    total = c.layers * width
    second = b.embed(c.vocab_size, sqrt(width), "per_layer_token_embd", total)
    y = b.linear("per_layer_model_proj", x, total, scale=1 / sqrt(c.hidden_size))
    y = b.residual("per_layer_sum", b.head_norm("per_layer_proj_norm", y, c.layers), second)
    b.scale(INPUTS, y, sqrt(0.5))


def build(c: Config, w: WeightProvider) -> Graph:
    """The model's operations in order."""
    return decoder.build(c, w, layer)


ARCHITECTURE = decoder.architecture("gemma4", read, build, KEYS)
