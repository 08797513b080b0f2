"""DeepSeek-V2, V2-Lite, V3 and R1, Kimi-K2, GLM-4.7-Flash: latent attention (MLA), shared experts beside routed ones.

Attention is absorbed and the cache holds the latent, whichever way a file stores `kv_b`: kv_lora_rank +
qk_rope_head_dim values a position and layer (576 in V3), where an engine that expands it first holds every head's
key and value (128 · (192 + 128), 71 times as many). The layers that V3 has for predicting further tokens
(`num_nextn_predict_layers`) are no part of decoding: they are neither built nor priced, and a file's tensors of
theirs are left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import log, sqrt
from typing import Any

from memfirst.errors import ConfigError, UnsupportedError
from memfirst.graph import Graph
from memfirst.graph.ops.latent import LatentAttention
from memfirst.models import decoder, experts, gguf_keys, rope
from memfirst.models import reader as limits
from memfirst.models.base import WeightProvider
from memfirst.models.builder import Builder
from memfirst.models.decoder import PAIRS
from memfirst.models.experts import GATING, SIGMOID, SOFTMAX, MoE
from memfirst.models.reader import ConfigReader, Keys
from memfirst.models.rope import Rotation

KEYS: Keys = decoder.KEYS | {
    "kv_lora_rank": "attention.kv_lora_rank",
    "q_lora_rank": "attention.q_lora_rank",
    "first_k_dense_replace": "leading_dense_block_count",
    "n_shared_experts": "expert_shared_count",
    "num_nextn_predict_layers": "nextn_predict_layers",
    "moe_intermediate_size": "expert_feed_forward_length",
    "routed_scaling_factor": "expert_weights_scale",
    "norm_topk_prob": "expert_weights_norm",
    "n_group": "expert_group_count",
    "topk_group": "expert_group_used_count",
}
HARMLESS_HF = ("aux_loss_alpha", "seq_aux", "ep_size", "output_router_logits", "router_aux_loss_coef")
THIRD = ("deepseek_v3", "kimi_k2", "glm4_moe_lite")
"""Whose experts are picked as V3's are."""


@dataclass(frozen=True)
class Config:
    """Hyperparameters, named as in config.json."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    tie_word_embeddings: bool
    rotation: Rotation
    score_scale: float
    moe: MoE | None
    kv_lora_rank: int
    q_lora_rank: int
    """0: q is one projection (V2-Lite)."""
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    first_k_dense_replace: int = 0
    """The first layers have a dense feed-forward, of `intermediate_size`."""
    n_shared_experts: int = 0
    """Experts that every token goes through, stored as one that is that many times as wide."""
    num_nextn_predict_layers: int = 0


def read(r: ConfigReader) -> Config:
    """Of either form; V2 and V3 differ in how experts are picked."""
    if not r.gguf:
        r = _with_dense_layers(r)
        _refuse_variants(r)
    heads, context = (
        r.integer("num_attention_heads", limits.MAX_HEADS),
        r.context("max_position_embeddings"),
    )
    rank = _rank(r, "kv_lora_rank")
    nope, rotated, v = _gguf_widths(r.plain, heads, rank) if r.gguf else _widths(r, heads)
    rotation, exponent = _rotation(r, context, rotated)
    more = r.integer("num_nextn_predict_layers", limits.MAX_LAYERS, default=0, low=0)
    layers = r.integer("num_hidden_layers", limits.MAX_LAYERS, low=more + 1 if r.gguf else 1)
    dense = r.integer("first_k_dense_replace", limits.MAX_LAYERS, default=0, low=0)
    return Config(
        hidden_size=r.integer("hidden_size", limits.MAX_WIDTH),
        num_hidden_layers=layers - more if r.gguf else layers,
        num_attention_heads=heads,
        intermediate_size=r.integer("intermediate_size", limits.MAX_WIDTH),
        vocab_size=decoder.vocab_size(r),
        max_position_embeddings=context,
        rms_norm_eps=r.single("rms_norm_eps", high=1.0, default=None if r.gguf else 1e-6),
        tie_word_embeddings=decoder.tied(r, False),
        rotation=rotation,
        score_scale=score_scale(nope + rotated, rotation.scaling, exponent),
        moe=_gguf_moe(r, dense) if r.gguf else _hf_moe(r),
        kv_lora_rank=rank,
        q_lora_rank=_rank(r, "q_lora_rank", 0),
        qk_nope_head_dim=nope,
        qk_rope_head_dim=rotated,
        v_head_dim=v,
        first_k_dense_replace=dense,
        n_shared_experts=r.integer("n_shared_experts", experts.MAX_EXPERTS, default=0, low=0),
        num_nextn_predict_layers=more,
    )


def _refuse_variants(r: ConfigReader) -> None:
    """Values of config.json that would mean another arithmetic, and what other readers fill in."""
    r.require("q_lora_rank", "first_k_dense_replace", "n_shared_experts", "routed_scaling_factor")
    r.only("hidden_act", ("silu",))
    for key, allowed in (
        ("moe_layer_freq", 1),
        ("rope_interleave", True),
        ("attention_bias", False),
        ("mlp_bias", False),
        ("rope_interleaved", False),
    ):
        r.only(key, (allowed,))
    for key in HARMLESS_HF:
        r.raw(key)


def _with_dense_layers(r: ConfigReader) -> ConfigReader:
    """transformers 5 lists layers in `mlp_layer_types`; others count the dense ones, which come first."""
    kinds = r.raw("mlp_layer_types")
    if not isinstance(kinds, list):
        return r
    first = kinds.index("sparse") if "sparse" in kinds else len(kinds)
    if kinds != ["dense"] * first + ["sparse"] * (len(kinds) - first):
        raise UnsupportedError(f"mlp_layer_types is {str(kinds)[:60]}", "dense layers, then sparse ones")
    r.only("first_k_dense_replace", (first,))
    return r.given({"first_k_dense_replace": first})


def _rank(r: ConfigReader, key: str, default: int | None = None) -> int:
    return r.integer(key, limits.MAX_WIDTH, default, low=0 if default == 0 else 1)


def _rotation(r: ConfigReader, context: int, rotated: int) -> tuple[Rotation, float]:
    """The rotation, and mscale_all_dim, the exponent of the scores' scale."""
    found = rope.read(r, context, rotated, PAIRS)
    if not r.gguf:
        return found, found.scaling.mscale_all_dim if found.scaling else 0.0
    exponent = r.plain.number("rope.scaling.yarn_log_multiplier", 0.0, low=-1e-9, high=1.0) / 0.1
    if found.scaling is not None and exponent:  # written for mscale = mscale_all_dim: cosines are not scaled
        found = replace(found, scaling=replace(found.scaling, attention_factor=1.0))
    return found, exponent


def _widths(r: ConfigReader, heads: int) -> tuple[int, int, int]:
    """What of a head's query is not rotated and what is, and its value."""
    nope, rotated = (r.integer(f"qk_{part}_head_dim", limits.MAX_HEAD_DIM) for part in ("nope", "rope"))
    r.only("head_dim", (rotated, nope + rotated))
    r.only("qk_head_dim", (nope + rotated,))
    r.only("num_key_value_heads", (heads,))
    return nope, rotated, r.integer("v_head_dim", limits.MAX_HEAD_DIM)


def _gguf_widths(r: ConfigReader, heads: int, rank: int) -> tuple[int, int, int]:
    """The same, of files that store `kv_b` as one tensor (until April 2025) or as two.

    The former state the widths of expanded heads, the latter those of the latent and `*_mla` ones besides.
    """
    rotated = r.integer("rope.dimension_count", limits.MAX_HEAD_DIM)
    two = r.raw("attention.key_length_mla") is not None
    if two:  # the cache as llama.cpp sees it: one head of the latent
        stated = {"key_length": rank + rotated, "value_length": rank, "head_count_kv": 1}
        for key, value in stated.items():
            r.only(f"attention.{key}", (value,))
    else:
        r.only("attention.head_count_kv", (heads,))
    suffix = "_mla" if two else ""
    qk, v = (r.integer(f"attention.{part}_length{suffix}", limits.MAX_HEAD_DIM) for part in ("key", "value"))
    if rotated >= qk:
        raise ConfigError(f"{rotated} of a query's {qk} values are rotated", "fewer")
    return qk - rotated, rotated, v


def _gguf_moe(r: ConfigReader, dense: int) -> MoE | None:
    """Routed experts; files without `expert_gating_func` are from before V3: softmax.

    Groups are then scored as in V2 (their best expert), where llama.cpp scores all models' as in V3 (the two best).
    """
    found = experts.read_gguf(r.plain, r.integer("moe_intermediate_size", limits.MAX_WIDTH))
    gating = r.plain.integer("expert_gating_func", 2, default=1)
    scale, norm = r.single("routed_scaling_factor", 1.0), r.flag("norm_topk_prob")
    groups = r.integer("n_group", experts.MAX_EXPERTS, default=1)
    used = r.integer("topk_group", experts.MAX_EXPERTS, default=groups)
    if found is None:
        return None
    return replace(
        found, scoring=GATING[gating], norm_topk_prob=norm, routed_scaling_factor=scale, n_group=groups,
        topk_group=used, correction=f"blk.{dense}.exp_probs_b.bias" in r.tensors,
    )  # fmt: skip


def _hf_moe(r: ConfigReader) -> MoE:
    """V3 and its relatives: sigmoid and noaux_tc; in V2 a token's experts are normalized by nothing."""
    third = r.raw("model_type") in THIRD
    r.only("scoring_func", (SIGMOID if third else SOFTMAX,))
    methods = (experts.CORRECTED,) if third else ("greedy", "group_limited_greedy")
    r.only("topk_method", methods)
    norm = r.flag("norm_topk_prob", third)
    if norm and not third:
        r.only("norm_topk_prob", (False,))
    grouped = third or r.raw("topk_method") == "group_limited_greedy"
    if grouped:
        r.require("n_group", "topk_group")
    groups = r.integer("n_group", experts.MAX_EXPERTS, default=1)
    used = r.integer("topk_group", experts.MAX_EXPERTS, default=groups)
    return MoE(
        num_experts=r.integer("n_routed_experts", experts.MAX_EXPERTS),
        num_experts_per_tok=r.integer("num_experts_per_tok", experts.MAX_EXPERTS),
        moe_intermediate_size=r.integer("moe_intermediate_size", limits.MAX_WIDTH),
        norm_topk_prob=norm,
        scoring=SIGMOID if third else SOFTMAX,
        routed_scaling_factor=r.single("routed_scaling_factor", 1.0),
        n_group=groups if grouped else 1,
        topk_group=used if grouped else 1,
        correction=third,
    )


def score_scale(head_dim: int, scaling: rope.RopeScaling | None, mscale_all_dim: float) -> float:
    """1/√head_dim, times (0.1 · mscale_all_dim · ln factor + 1)² under YaRN (DeepSeek-V2's modeling code)."""
    if scaling is None or scaling.kind != "yarn" or scaling.factor <= 1:
        return 1 / sqrt(head_dim)
    return (0.1 * mscale_all_dim * log(scaling.factor) + 1) ** 2 / sqrt(head_dim)


def layer(b: Builder, i: int, x: str, c: Config) -> str:
    """Latent attention; a dense feed-forward in the first layers, then routed experts and shared ones beside them."""
    at = f"blk.{i}"
    y = latent_attention(b, f"{at}.attn", b.rms_norm(f"{at}.attn_norm", x), c)
    x = b.residual(f"{at}.attn_residual", x, y)
    h, ffn = b.rms_norm(f"{at}.ffn_norm", x), f"{at}.ffn"
    if i < c.first_k_dense_replace or c.moe is None:
        return b.residual(f"{ffn}_residual", x, b.swiglu(ffn, h, c.intermediate_size))
    y = experts.routed(b, ffn, h, c.moe)
    if c.n_shared_experts:
        width = c.n_shared_experts * c.moe.moe_intermediate_size
        y = b.residual(f"{ffn}_sum", y, b.swiglu(ffn, h, width, suffix="_shexp"))
    return b.residual(f"{ffn}_residual", x, y)


def latent_attention(b: Builder, at: str, x: str, c: Config) -> str:
    """q, the cached latent, attention over it: [n, hidden] -> [n, hidden] (arXiv:2405.04434, section 2.1)."""
    heads, rotated, rank = c.num_attention_heads, c.qk_rope_head_dim, c.kv_lora_rank
    cache = b.kv(f"{at.removesuffix('.attn')}.kv", 1, rank + rotated, 0)
    head_dim = c.qk_nope_head_dim + rotated
    if c.q_lora_rank:
        q = b.rms_norm(f"{at}_q_a_norm", b.linear(f"{at}_q_a", x, c.q_lora_rank))
        q = b.linear(f"{at}_q_b", q, heads * head_dim)
    else:
        q = b.linear(f"{at}_q", x, heads * head_dim)
    q = b.rope(f"{at}_q_rope", q, heads, c.rotation, start=c.qk_nope_head_dim)
    both = b.linear(f"{at}_kv_a_mqa", x, rank + rotated)
    latent, k_pe = b.cut({f"{at}_latent": rank, f"{at}_k_pe": rotated}, both)
    latent = b.rms_norm(f"{at}_kv_a_norm", latent)
    k_pe = b.rope(f"{at}_k_rope", k_pe, 1, c.rotation)
    inputs = (q, latent, k_pe)
    if b.w.has(f"{at}_kv_b.weight"):  # as trained; else cut in two and k_b transposed
        kv_b = b.w(f"{at}_kv_b.weight", (heads * (c.qk_nope_head_dim + c.v_head_dim), rank))
        op = LatentAttention(at, inputs, at, cache, heads, kv_b, None, c.score_scale, c.v_head_dim)
    else:
        k_b = b.w(f"{at}_k_b.weight", (heads, rank, c.qk_nope_head_dim))
        v_b = b.w(f"{at}_v_b.weight", (heads, c.v_head_dim, rank))
        op = LatentAttention(at, inputs, at, cache, heads, k_b, v_b, c.score_scale)
    return b.linear(f"{at}_output", b.add(op), b.hidden_size)


def build(c: Config, w: WeightProvider) -> Graph:
    """The model's operations in order."""
    for i in range(c.num_nextn_predict_layers):
        w.leave(f"blk.{c.num_hidden_layers + i}.")
    b = Builder(w, c.hidden_size, c.rms_norm_eps)
    x = b.embed(c.vocab_size)
    for i in range(c.num_hidden_layers):
        x = layer(b, i, x, c)
    b.head(b.rms_norm("output_norm", b.select(x), head=True), c.vocab_size, c.tie_word_embeddings)
    return b.graph("deepseek2", c.vocab_size, c.max_position_embeddings)


def to_gguf(c: Config) -> tuple[Mapping[str, Any], Mapping[str, tuple[int, ...]]]:
    """The keys that llama.cpp's converter writes since `kv_b` is two tensors; no tensor that is not read."""
    rotated, rank = c.qk_rope_head_dim, c.kv_lora_rank
    found: dict[str, Any] = {
        "vocab_size": c.vocab_size, "context_length": c.max_position_embeddings, "embedding_length": c.hidden_size,
        "block_count": c.num_hidden_layers, "feed_forward_length": c.intermediate_size,
        "leading_dense_block_count": c.first_k_dense_replace, "expert_shared_count": c.n_shared_experts,
        "attention.head_count": c.num_attention_heads, "attention.head_count_kv": 1,
        "attention.layer_norm_rms_epsilon": c.rms_norm_eps, "attention.kv_lora_rank": rank,
        "attention.key_length": rank + rotated, "attention.value_length": rank,
        "attention.key_length_mla": c.qk_nope_head_dim + rotated, "attention.value_length_mla": c.v_head_dim,
        **_rotation_keys(c.rotation),
    }  # fmt: skip
    if c.q_lora_rank:
        found["attention.q_lora_rank"] = c.q_lora_rank
    if c.moe is not None:
        found |= gguf_keys.experts_keys(c.moe) | {
            "expert_gating_func": 1 + (c.moe.scoring == SIGMOID), "expert_weights_norm": c.moe.norm_topk_prob,
            "expert_weights_scale": float(c.moe.routed_scaling_factor), "expert_group_count": c.moe.n_group,
            "expert_group_used_count": c.moe.topk_group,
        }  # fmt: skip
    return found, {}


def _rotation_keys(r: Rotation) -> dict[str, Any]:
    """`rope.*`; the logarithm's factor is a tenth of mscale_all_dim, which stands for mscale as well."""
    s = r.scaling
    if s is None or not s.mscale_all_dim:
        return gguf_keys.rotation_keys(r, {})
    if s.attention_factor != 1.0:
        raise UnsupportedError("an mscale unlike mscale_all_dim has no GGUF form", "the same of both")
    plain = replace(s, mscale_all_dim=0.0, attention_factor=rope.yarn_attention_factor(s.factor))
    found = gguf_keys.rotation_keys(replace(r, scaling=plain), {})
    return found | {"rope.scaling.yarn_log_multiplier": 0.1 * s.mscale_all_dim}


ARCHITECTURE = replace(decoder.architecture("deepseek2", read, build, KEYS), to_gguf=to_gguf)
