"""Nemotron-H, Nano 2 and Nemotron 3 (arXiv:2504.03624): each layer is a norm and one of a Mamba-2 mixer, attention
without positions, a feed-forward without a gate, or experts of such.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from functools import partial
from math import sqrt
from typing import Any

import numpy as np

from memfirst.errors import ConfigError, UnsupportedError
from memfirst.formats.architectures import NEMOTRON_LAYERS, nemotron_layers
from memfirst.graph import Graph
from memfirst.models import decoder, experts, mamba2, recurrent
from memfirst.models import reader as limits
from memfirst.models.base import Architecture, WeightProvider
from memfirst.models.builder import Builder, Heads
from memfirst.models.decoder import SQUARED_RELU
from memfirst.models.experts import SIGMOID, MoE
from memfirst.models.jamba import only_kv
from memfirst.models.reader import ConfigReader

MAMBA, ATTENTION, DENSE, ROUTED = NEMOTRON_LAYERS
HARMLESS_GGUF = frozenset(
    (
        *("rope.dimension_count", "rope.freq_base", "rope.scaling.finetuned", "tensor_data_layout"),
        *("attention.layer_norm_epsilon", "expert_shared_count"),
    )
)
HARMLESS_HF = frozenset(
    (
        *("rope_theta", "rope_parameters", "partial_rotary_factor", "num_query_groups", "attention_head_dim"),
        *("mamba_ssm_cache_dtype", "mamba_ssm_dtype", "moe_shared_expert_overlap", "mtp_layers_block_type"),
        *("mtp_hybrid_override_pattern", "num_nextn_predict_layers", "norm_eps", "rms_norm_eps", "expand"),
        *("n_shared_experts", "intermediate_size", "moe_intermediate_size", "num_hidden_layers"),
    )
)
"""Rotary numbers are written, and used by none of its layers; the rest says again what other keys say, or belongs to
layers that predict further tokens, which folders hold apart and no token reads."""


@dataclass(frozen=True)
class Config:
    """Hyperparameters, named as in config.json.

    kinds   each layer's, one of NEMOTRON_LAYERS
    moe     of layers of experts; their shared one is as wide as it says
    latent  width that the experts work on, between two projections; 0: the model's own
    """

    architecture: str
    hidden_size: int
    kinds: tuple[str, ...]
    mixer: mamba2.Mixer
    heads: Heads
    intermediate_size: int
    moe: MoE | None
    latent: int
    vocab_size: int
    max_position_embeddings: int
    layer_norm_epsilon: float
    tie_word_embeddings: bool

    def __post_init__(self) -> None:
        if ROUTED in self.kinds and self.moe is None:
            raise ConfigError("layers of experts, and no numbers of them", "both or neither")


def from_gguf(name: str, metadata: Mapping[str, Any], tensors: Container[str], allow_unknown: bool = False) -> Config:
    """Read `nemotron_h.*`: a layer with KV heads attends, one with a width is a feed-forward, others are mixers."""
    r = ConfigReader(metadata, f"{name}.")
    r.only("nextn_predict_layers", (0,))
    hidden, layers = r.integer("embedding_length", limits.MAX_WIDTH), r.integer("block_count", limits.MAX_LAYERS)
    kv = r.by_layer("attention.head_count_kv", layers, limits.MAX_HEADS, low=0)
    widths = r.by_layer("feed_forward_length", layers, limits.MAX_WIDTH, low=0)
    count = r.integer("attention.head_count", limits.MAX_HEADS)
    head_dim = r.integer("attention.key_length", limits.MAX_HEAD_DIM)
    r.only("attention.value_length", (head_dim,))
    moe = _experts_gguf(r)
    inner = ROUTED if moe else DENSE
    config = Config(
        architecture=name,
        hidden_size=hidden,
        kinds=tuple(ATTENTION if n else inner if width else MAMBA for n, width in zip(kv, widths, strict=True)),
        mixer=mamba2.read_mixer(r, hidden),
        heads=_heads(count, only_kv(kv) if any(kv) else count, head_dim),
        intermediate_size=0 if moe else max(widths),
        moe=moe,
        latent=r.integer("moe_latent_size", limits.MAX_WIDTH, default=0, low=0),
        vocab_size=decoder.vocab_size(r),
        max_position_embeddings=r.integer("context_length", limits.MAX_CONTEXT),
        layer_norm_epsilon=r.number("attention.layer_norm_rms_epsilon", high=1.0),
        tie_word_embeddings="output.weight" not in tensors,
    )
    r.check_unknown(HARMLESS_GGUF, allow_unknown)
    return config


def _heads(count: int, kv: int, head_dim: int) -> Heads:
    return Heads(count, kv, head_dim, rotation=None, scale=1 / sqrt(head_dim))


def _experts_gguf(r: ConfigReader) -> MoE | None:
    count = r.integer("expert_count", experts.MAX_EXPERTS, default=0, low=0)
    if not count:
        return None
    r.only("expert_gating_func", (2,))
    return MoE(
        count,
        r.integer("expert_used_count", experts.MAX_EXPERTS),
        r.integer("expert_feed_forward_length", limits.MAX_WIDTH),
        norm_topk_prob=r.flag("expert_weights_norm", True),
        routed_scaling_factor=r.single("expert_weights_scale", 1.0),
        shared=r.integer("expert_shared_feed_forward_length", limits.MAX_WIDTH),
        n_group=r.integer("expert_group_count", experts.MAX_EXPERTS, default=1),
        topk_group=r.integer("expert_group_used_count", experts.MAX_EXPERTS, default=1),
        **UNGATED,
    )


UNGATED: dict[str, Any] = {"scoring": SIGMOID, "correction": True, "activation": SQUARED_RELU, "gated": False}
"""What all of its experts are."""


def from_hf(config: Mapping[str, Any], allow_unknown: bool = False) -> Config:
    """Read a config.json of `nemotron_h`. What each layer is must be stated: transformers' defaults are no model's."""
    r = ConfigReader(config)
    _refuse_variants(r)
    kinds = nemotron_layers(config)
    for key in ("hybrid_override_pattern", "layers_block_type", "layer_types"):
        r.raw(key)
    hidden, count = r.integer("hidden_size", limits.MAX_WIDTH), r.integer("num_attention_heads", limits.MAX_HEADS)
    key = "attention_head_dim" if r.raw("head_dim") is None else "head_dim"
    kv = r.integer("num_key_value_heads", limits.MAX_HEADS, default=count)
    found = Config(
        architecture="nemotron_h_moe" if ROUTED in kinds else "nemotron_h",
        hidden_size=hidden,
        kinds=kinds,
        mixer=_mixer(r, hidden),
        heads=_heads(count, kv, r.integer(key, limits.MAX_HEAD_DIM)),
        intermediate_size=r.integer("intermediate_size", limits.MAX_WIDTH) if DENSE in kinds else 0,
        moe=_experts(r) if ROUTED in kinds else None,
        latent=r.integer("moe_latent_size", limits.MAX_WIDTH, default=0, low=0) if ROUTED in kinds else 0,
        vocab_size=r.integer("vocab_size", limits.MAX_VOCAB),
        max_position_embeddings=r.integer("max_position_embeddings", limits.MAX_CONTEXT, default=4096),
        layer_norm_epsilon=r.number("layer_norm_epsilon", 1e-5, high=1.0),
        tie_word_embeddings=r.flag("tie_word_embeddings"),
    )
    unread = frozenset() if ROUTED in kinds else frozenset(_EXPERT_KEYS)
    recurrent.check_unknown(r, allow_unknown, HARMLESS_HF | unread)
    return found


_EXPERT_KEYS = (
    *("n_routed_experts", "num_experts_per_tok", "moe_shared_expert_intermediate_size", "moe_latent_size"),
    *("routed_scaling_factor", "n_group", "topk_group", "norm_topk_prob"),
)
"""Written for models that have no layer of experts too."""


def _refuse_variants(r: ConfigReader) -> None:
    """Values that would mean another arithmetic."""
    for key in ("attention_bias", "mlp_bias", "use_bias", "mamba_proj_bias"):
        r.only(key, (False,))
    r.only("use_conv_bias", (True,))
    r.only("mamba_hidden_act", ("silu",))
    r.only("mlp_hidden_act", (SQUARED_RELU,))
    r.only("sliding_window", ())
    recurrent.check_time_step_limit(r)


def _mixer(r: ConfigReader, hidden: int) -> mamba2.Mixer:
    return mamba2.Mixer(
        hidden_size=hidden,
        num_heads=r.integer("mamba_num_heads", limits.MAX_WIDTH),
        head_dim=r.integer("mamba_head_dim", limits.MAX_HEAD_DIM),
        state_size=r.integer("ssm_state_size", recurrent.MAX_STATE),
        n_groups=r.integer("n_groups", limits.MAX_HEADS, default=8),
        conv_kernel=r.integer("conv_kernel", recurrent.MAX_KERNEL, default=4),
    )


def _experts(r: ConfigReader) -> MoE:
    for key in experts.TRAINED:
        r.raw(key)
    return MoE(
        r.integer("n_routed_experts", experts.MAX_EXPERTS),
        r.integer("num_experts_per_tok", experts.MAX_EXPERTS),
        r.integer("moe_intermediate_size", limits.MAX_WIDTH),
        norm_topk_prob=r.flag("norm_topk_prob", True),
        routed_scaling_factor=r.single("routed_scaling_factor", 1.0),
        shared=r.integer("moe_shared_expert_intermediate_size", limits.MAX_WIDTH),
        n_group=r.integer("n_group", experts.MAX_EXPERTS, default=1),
        topk_group=r.integer("topk_group", experts.MAX_EXPERTS, default=1),
        **UNGATED,
    )


def build(c: Config, w: WeightProvider) -> Graph:
    """The model's operations in order."""
    b = Builder(w, c.hidden_size, c.layer_norm_epsilon)
    x = b.embed(c.vocab_size)
    for i, kind in enumerate(c.kinds):
        normed = b.rms_norm(f"blk.{i}.attn_norm", x)
        x = b.residual(f"blk.{i}.residual", x, _mixed(b, f"blk.{i}", normed, kind, c))
    normed = b.rms_norm("output_norm", b.select(x), head=True)
    b.head(normed, c.vocab_size, c.tie_word_embeddings)
    return b.graph(c.architecture, c.vocab_size, c.max_position_embeddings)


def _mixed(b: Builder, at: str, x: str, kind: str, c: Config) -> str:
    if kind == MAMBA:
        return mamba2.mixer(b, f"{at}.ssm", x, c.mixer)
    if kind == ATTENTION:
        return b.attention(f"{at}.attn", x, c.heads)
    if kind == DENSE:
        return b.mlp(f"{at}.ffn", x, c.intermediate_size, SQUARED_RELU)
    return _routed(b, f"{at}.ffn", x, c)


def _routed(b: Builder, at: str, x: str, c: Config) -> str:
    """Experts, on a latent where there is one, beside the shared one."""
    if c.moe is None:
        raise ConfigError("a layer of experts", "numbers of experts")
    inner = b.linear(f"{at}_latent_down", x, c.latent) if c.latent else x
    routed = experts.routed(b, at, inner, c.moe, router_input=x)
    routed = b.linear(f"{at}_latent_up", routed, b.hidden_size) if c.latent else routed
    return b.residual(f"{at}_sum", routed, b.mlp(at, x, c.moe.shared, SQUARED_RELU, suffix="_shexp"))


def to_gguf(c: Config) -> recurrent.Written:
    """The keys that llama.cpp's converter writes."""
    width = c.moe.moe_intermediate_size if c.moe else c.intermediate_size
    keys: dict[str, Any] = {
        **mamba2.mixer_keys(c.mixer),
        **recurrent.attention_keys(c.heads, tuple(kind == ATTENTION for kind in c.kinds)),
        "vocab_size": c.vocab_size, "context_length": c.max_position_embeddings, "block_count": len(c.kinds),
        "feed_forward_length": np.array([width if kind in (DENSE, ROUTED) else 0 for kind in c.kinds], np.int32),
        "attention.key_length": c.heads.head_dim, "attention.value_length": c.heads.head_dim,
        "attention.layer_norm_rms_epsilon": c.layer_norm_epsilon,
        "attention.layer_norm_epsilon": c.layer_norm_epsilon, "rope.scaling.finetuned": False,
    }  # fmt: skip
    if c.moe is not None:
        if DENSE in c.kinds:
            raise UnsupportedError("layers of experts beside dense ones", "one kind, as a GGUF file has")
        keys |= {
            "expert_count": c.moe.num_experts, "expert_used_count": c.moe.num_experts_per_tok,
            "expert_feed_forward_length": width, "expert_shared_feed_forward_length": c.moe.shared,
            "expert_weights_norm": c.moe.norm_topk_prob, "expert_weights_scale": c.moe.routed_scaling_factor,
            "expert_group_count": c.moe.n_group, "expert_group_used_count": c.moe.topk_group, "expert_shared_count": 1,
        }  # fmt: skip
        keys |= {"moe_latent_size": c.latent} if c.latent else {}
    return keys, {}


def architecture(name: str) -> Architecture[Config]:
    """With experts or without."""
    return Architecture(name, partial(from_gguf, name), from_hf, build, to_gguf=to_gguf)


ARCHITECTURE = architecture("nemotron_h")
