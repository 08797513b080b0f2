"""Granite-4.0-H is Mamba-2 with attention in a few layers, a feed-forward in each, and four multipliers."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from memfirst.errors import ConfigError, UnsupportedError
from memfirst.graph import Graph
from memfirst.models import decoder, experts, mamba2, recurrent
from memfirst.models import reader as limits
from memfirst.models.base import Architecture, WeightProvider
from memfirst.models.builder import Builder, Heads
from memfirst.models.experts import MoE
from memfirst.models.jamba import only_kv
from memfirst.models.reader import ConfigReader

HARMLESS_GGUF = frozenset(
    (
        *("rope.dimension_count", "rope.freq_base", "tensor_data_layout"),
        *("attention.key_length", "attention.value_length"),
    )
)
HARMLESS_HF = frozenset(("rope_theta", "rope_scaling", "rope_parameters", "normalization_function"))
"""Rotary numbers are written, and used by none of its layers."""


@dataclass(frozen=True)
class Config:
    """Hyperparameters, named as in config.json.

    attention                 for each layer whether it attends (else it is a state-space layer)
    routing                   of the routed experts, whose width is intermediate_size; None: there are none
    shared_intermediate_size  width of what every token passes: the shared expert, or the dense feed-forward
    logits_scaling            the logits are divided by it
    """

    hidden_size: int
    mixer: mamba2.Mixer
    heads: Heads
    moe: MoE | None
    shared_intermediate_size: int
    attention: tuple[bool, ...]
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    tie_word_embeddings: bool
    embedding_multiplier: float = 1.0
    residual_multiplier: float = 1.0
    logits_scaling: float = 1.0

    def __post_init__(self) -> None:
        if self.moe is None and not self.shared_intermediate_size:
            raise ConfigError("neither experts nor a shared feed-forward", "one of them")


def from_gguf(metadata: Mapping[str, Any], tensors: Container[str], allow_unknown: bool = False) -> Config:
    """Read `granitehybrid.*`: a layer without KV heads is a state-space layer."""
    r = ConfigReader(metadata, "granitehybrid.")
    if r.flag("rope.scaling.finetuned", True):
        raise UnsupportedError("granitehybrid with rotary positions (Bamba)", "Granite-4.0-H, which has none")
    hidden, layers = r.integer("embedding_length", limits.MAX_WIDTH), r.integer("block_count", limits.MAX_LAYERS)
    kv = r.by_layer("attention.head_count_kv", layers, limits.MAX_HEADS, low=0)
    heads = r.integer("attention.head_count", limits.MAX_HEADS)
    width = r.integer("feed_forward_length", limits.MAX_WIDTH)
    moe = _moe(r, "expert_count", "expert_used_count", width)
    shared = r.integer("expert_shared_feed_forward_length", limits.MAX_WIDTH, default=0, low=0)
    config = Config(
        hidden_size=hidden,
        mixer=mamba2.read_mixer(r, hidden),
        heads=recurrent.heads(hidden, heads, only_kv(kv), r.number("attention.scale", (heads / hidden) ** 0.5)),
        moe=moe,
        shared_intermediate_size=shared if moe else width,
        attention=tuple(n > 0 for n in kv),
        vocab_size=decoder.vocab_size(r),
        max_position_embeddings=r.integer("context_length", limits.MAX_CONTEXT),
        rms_norm_eps=r.number("attention.layer_norm_rms_epsilon", high=1.0),
        tie_word_embeddings="output.weight" not in tensors,
        embedding_multiplier=r.number("embedding_scale", 1.0),
        residual_multiplier=r.number("residual_scale", 1.0),
        logits_scaling=r.number("logit_scale", 1.0),
    )
    r.check_unknown(HARMLESS_GGUF, allow_unknown)
    return config


def _moe(r: ConfigReader, count: str, used: str, width: int) -> MoE | None:
    n, k = (r.integer(key, experts.MAX_EXPERTS, default=0, low=0) for key in (count, used))
    return MoE(n, k, width) if n else None


def from_hf(config: Mapping[str, Any], allow_unknown: bool = False) -> Config:
    """Read a config.json of `granitemoehybrid`. Which layers attend must be stated: transformers' defaults are no
    model's."""
    r = ConfigReader(config)
    _refuse_variants(r)
    hidden, layers = r.integer("hidden_size", limits.MAX_WIDTH), r.integer("num_hidden_layers", limits.MAX_LAYERS)
    heads, eps = r.integer("num_attention_heads", limits.MAX_HEADS), r.number("rms_norm_eps", 1e-6, high=1.0)
    width = r.integer("intermediate_size", limits.MAX_WIDTH, low=0)
    found = Config(
        hidden_size=hidden,
        mixer=_mixer(r, hidden),
        heads=recurrent.heads(
            hidden, heads, r.integer("num_key_value_heads", limits.MAX_HEADS, default=heads),
            scale=r.number("attention_multiplier", 1.0),
        ),
        moe=_moe(r, "num_local_experts", "num_experts_per_tok", width),
        shared_intermediate_size=r.integer("shared_intermediate_size", limits.MAX_WIDTH, default=1024, low=0),
        attention=_attention(r, layers),
        vocab_size=r.integer("vocab_size", limits.MAX_VOCAB),
        max_position_embeddings=r.integer("max_position_embeddings", limits.MAX_CONTEXT, default=2048),
        rms_norm_eps=eps,
        tie_word_embeddings=r.flag("tie_word_embeddings"),
        embedding_multiplier=r.number("embedding_multiplier", 1.0),
        residual_multiplier=r.number("residual_multiplier", 1.0),
        logits_scaling=r.number("logits_scaling", 1.0),
    )  # fmt: skip
    recurrent.check_unknown(r, allow_unknown, HARMLESS_HF)
    return found


def _refuse_variants(r: ConfigReader) -> None:
    """Values that would mean another arithmetic."""
    r.only("hidden_act", ("silu",))
    r.only("attention_bias", (False,))
    r.only("mamba_conv_bias", (True,))
    r.only("mamba_proj_bias", (False,))
    r.only("position_embedding_type", ("nope",))
    r.only("normalization_function", ("rmsnorm",))
    r.only("init_method", ("mup",))
    recurrent.check_time_step_limit(r)


def _mixer(r: ConfigReader, hidden: int) -> mamba2.Mixer:
    inner, heads = hidden * r.integer("mamba_expand", 64, default=2), r.integer("mamba_n_heads", limits.MAX_WIDTH)
    auto = inner // heads if r.raw("mamba_d_head", "auto") == "auto" else None
    size = auto or r.integer("mamba_d_head", limits.MAX_HEAD_DIM)
    if size * heads != inner:
        raise ConfigError(f"{heads} heads of {size}", f"{inner} channels, as mamba_expand says")
    return mamba2.Mixer(
        hidden_size=hidden,
        num_heads=heads,
        head_dim=size,
        state_size=r.integer("mamba_d_state", recurrent.MAX_STATE),
        n_groups=r.integer("mamba_n_groups", limits.MAX_HEADS, default=1),
        conv_kernel=r.integer("mamba_d_conv", recurrent.MAX_KERNEL, default=4),
    )


def _attention(r: ConfigReader, layers: int) -> tuple[bool, ...]:
    kinds = r.raw("layer_types", r.raw("layers_block_type"))
    named = {"mamba": False, "linear_attention": False, "attention": True, "full_attention": True}
    if not isinstance(kinds, list) or len(kinds) != layers or any(k not in named for k in map(str, kinds)):
        raise ConfigError(f"layer_types is {str(kinds)[:60]}", f'{layers} times "mamba" or "attention"')
    found = tuple(named[kind] for kind in kinds)
    if not any(found) or all(found):
        raise UnsupportedError(
            f"{sum(found)} of {layers} layers attend", "a hybrid of attention and state-space layers"
        )
    return found


def build(c: Config, w: WeightProvider) -> Graph:
    """The model's operations in order."""
    b = Builder(w, c.hidden_size, c.rms_norm_eps)
    x = b.embed(c.vocab_size, c.embedding_multiplier)
    for i, attends in enumerate(c.attention):
        normed = b.rms_norm(f"blk.{i}.attn_norm", x)
        mixed = (
            b.attention(f"blk.{i}.attn", normed, c.heads)
            if attends
            else mamba2.mixer(b, f"blk.{i}.ssm", normed, c.mixer)
        )
        x = b.residual(f"blk.{i}.attn_residual", x, mixed, c.residual_multiplier)
        normed, at = b.rms_norm(f"blk.{i}.ffn_norm", x), f"blk.{i}.ffn"
        x = b.residual(f"{at}_residual", x, _feed_forward(b, at, normed, c), c.residual_multiplier)
    normed = b.rms_norm("output_norm", b.select(x), head=True)
    b.head(normed, c.vocab_size, c.tie_word_embeddings, 1 / c.logits_scaling)
    return b.graph("granitehybrid", c.vocab_size, c.max_position_embeddings)


def _feed_forward(b: Builder, at: str, x: str, c: Config) -> str:
    """Dense, or routed experts beside a shared one."""
    if c.moe is None:
        return b.swiglu(at, x, c.shared_intermediate_size)
    routed = experts.routed(b, at, x, c.moe)
    if not c.shared_intermediate_size:
        return routed
    shared = b.swiglu(at, x, c.shared_intermediate_size, suffix="_shexp")
    return b.residual(f"{at}_sum", routed, shared)


def to_gguf(c: Config) -> recurrent.Written:
    """The keys that llama.cpp's converter writes."""
    keys: dict[str, Any] = {
        **mamba2.mixer_keys(c.mixer), **recurrent.attention_keys(c.heads, c.attention),
        "vocab_size": c.vocab_size, "context_length": c.max_position_embeddings, "block_count": len(c.attention),
        "feed_forward_length": c.shared_intermediate_size, "attention.layer_norm_rms_epsilon": c.rms_norm_eps,
        "attention.scale": c.heads.scale, "embedding_scale": c.embedding_multiplier,
        "residual_scale": c.residual_multiplier, "logit_scale": c.logits_scaling, "rope.scaling.finetuned": False,
        "rope.dimension_count": c.heads.head_dim,
    }  # fmt: skip
    if c.moe is not None:
        keys |= {"expert_count": c.moe.num_experts, "expert_used_count": c.moe.num_experts_per_tok}
        keys |= {"feed_forward_length": c.moe.moe_intermediate_size}
        keys |= {"expert_shared_feed_forward_length": c.shared_intermediate_size}
    return keys, {}


ARCHITECTURE = Architecture("granitehybrid", from_gguf, from_hf, build, to_gguf=to_gguf)
