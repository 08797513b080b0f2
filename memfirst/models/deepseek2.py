"""DeepSeek-V2, V2-Lite, V3 and R1: Llama with latent attention (MLA), and shared experts beside routed ones.

Attention is absorbed and the cache holds the latent, whichever way a file stores `kv_b`: kv_lora_rank +
qk_rope_head_dim values a position and layer (576 in V3), where an engine that expands it first holds every head's
key and value (128 · (192 + 128), 71 times as many). The layers that V3 has for predicting further tokens
(`num_nextn_predict_layers`) are no part of decoding: they are neither built nor priced, and a file's tensors of
theirs are left alone.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import log, sqrt
from typing import Any

from memfirst.errors import ConfigError
from memfirst.graph import Graph, Op
from memfirst.graph.ops.add import Add
from memfirst.graph.ops.glu import Glu
from memfirst.graph.ops.rope import INTERLEAVED
from memfirst.models import decoder, experts, llama, mla, quantized, rope
from memfirst.models import reader as limits
from memfirst.models.base import Architecture, WeightProvider
from memfirst.models.decoder import Family
from memfirst.models.experts import MoE
from memfirst.models.reader import ConfigReader

FAMILY = Family("deepseek2", INTERLEAVED)

HARMLESS_HF = ("aux_loss_alpha", "seq_aux", "ep_size", "output_router_logits", "router_aux_loss_coef")
SOFTMAX, SIGMOID = "softmax", "sigmoid"
GATING = {1: SOFTMAX, 2: SIGMOID}
"""`expert_gating_func` of a GGUF file."""


@dataclass(frozen=True)
class Config(mla.Config):
    """Besides MLA's, named as in config.json.

    first_k_dense_replace  the first layers have a dense feed-forward, of `intermediate_size`
    n_shared_experts       experts that every token goes through, stored as one that is so many times as wide
    """

    first_k_dense_replace: int = 0
    n_shared_experts: int = 0
    num_nextn_predict_layers: int = 0


def from_gguf(metadata: Mapping[str, Any], tensors: Container[str], allow_unknown: bool = False) -> Config:
    """Read `deepseek2.*`, of files that store `kv_b` as one tensor (until April 2025) or as two.

    The former state the widths of expanded heads, the latter those of the latent and `*_mla` ones besides.
    """
    r = ConfigReader(metadata, "deepseek2.")
    heads, rank = r.integer("attention.head_count", limits.MAX_HEADS), _rank(r, "attention.kv_lora_rank")
    qk, v, turned = _gguf_widths(r, heads, rank)
    context = r.integer("context_length", limits.MAX_CONTEXT)
    theta, scaling = rope.read_gguf(r, context)
    mscale_all_dim = r.number("rope.scaling.yarn_log_multiplier", 0.0, low=-1e-9, high=1.0) / 0.1
    if scaling is not None and mscale_all_dim:  # written for mscale = mscale_all_dim: cosines are not scaled
        scaling = replace(scaling, attention_factor=1.0)
    more = r.integer("nextn_predict_layers", limits.MAX_LAYERS, default=0, low=0)
    dense = r.integer("leading_dense_block_count", limits.MAX_LAYERS, default=0, low=0)
    config = Config(
        family=FAMILY,
        hidden_size=r.integer("embedding_length", limits.MAX_WIDTH),
        num_hidden_layers=r.integer("block_count", limits.MAX_LAYERS, low=more + 1) - more,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=qk,
        intermediate_size=r.integer("feed_forward_length", limits.MAX_WIDTH),
        vocab_size=llama.vocab_size(r, metadata),
        max_position_embeddings=context,
        rms_norm_eps=r.single("attention.layer_norm_rms_epsilon", high=1.0),
        rope_theta=theta,
        rope_scaling=scaling,
        rotary_dim=turned,
        tie_word_embeddings="output.weight" not in tensors,
        attention_multiplier=score_scale(qk, scaling, mscale_all_dim),
        moe=_gguf_moe(r, tensors, dense),
        kv_lora_rank=rank,
        q_lora_rank=_rank(r, "attention.q_lora_rank", 0),
        qk_nope_head_dim=qk - turned,
        qk_rope_head_dim=turned,
        v_head_dim=v,
        first_k_dense_replace=dense,
        n_shared_experts=r.integer("expert_shared_count", experts.MAX_EXPERTS, default=0, low=0),
        num_nextn_predict_layers=more,
    )
    r.check_unknown(llama.HARMLESS_GGUF, allow_unknown)
    return config


def _rank(r: ConfigReader, key: str, default: int | None = None) -> int:
    return r.integer(key, limits.MAX_WIDTH, default, low=0 if default == 0 else 1)


def _gguf_widths(r: ConfigReader, heads: int, rank: int) -> tuple[int, int, int]:
    """A head's query and value, and how much of the query turns."""
    turned = r.integer("rope.dimension_count", limits.MAX_HEAD_DIM)
    two = r.raw("attention.key_length_mla") is not None
    if two:  # the cache as llama.cpp sees it: one head of the latent
        stated = {"key_length": rank + turned, "value_length": rank, "head_count_kv": 1}
        for key, value in stated.items():
            r.only(f"attention.{key}", (value,))
    else:
        r.only("attention.head_count_kv", (heads,))
    suffix = "_mla" if two else ""
    qk, v = (r.integer(f"attention.{part}_length{suffix}", limits.MAX_HEAD_DIM) for part in ("key", "value"))
    if turned >= qk:
        raise ConfigError(f"{turned} of a query's {qk} values turn", "fewer")
    return qk, v, turned


def _gguf_moe(r: ConfigReader, tensors: Container[str], dense: int) -> MoE | None:
    """Routed experts; files without `expert_gating_func` are from before V3: softmax.

    Groups are then scored as in V2 (their best expert), where llama.cpp scores all models' as in V3 (the two best).
    """
    found = experts.read_gguf(r, tensors, r.integer("expert_feed_forward_length", limits.MAX_WIDTH))
    gating = r.integer("expert_gating_func", 2, default=1)
    scale, norm = r.single("expert_weights_scale", 1.0), r.flag("expert_weights_norm")
    groups = r.integer("expert_group_count", experts.MAX_EXPERTS, default=1)
    used = r.integer("expert_group_used_count", experts.MAX_EXPERTS, default=groups)
    if found is None:
        return None
    return replace(
        found, scoring=GATING[gating], norm_topk_prob=norm, routed_scaling_factor=scale, n_group=groups,
        topk_group=used, correction=f"blk.{dense}.exp_probs_b.bias" in tensors,
    )  # fmt: skip


def own_hf(r: ConfigReader, c: decoder.Config) -> Config:
    """The keys of config.json that Llama has not; V2 and V3 differ in how experts are picked."""
    r.require("q_lora_rank", "first_k_dense_replace", "n_shared_experts", "routed_scaling_factor")
    for key, allowed in (("moe_layer_freq", 1), ("rope_interleave", True), ("attention_bias", False)):
        r.only(key, (allowed,))
    for key in HARMLESS_HF:
        r.raw(key)
    quantized.check(r, "fp8")
    nope, turned = (r.integer(f"qk_{part}_head_dim", limits.MAX_HEAD_DIM) for part in ("nope", "rope"))
    r.only("head_dim", (turned, nope + turned))
    r.only("qk_head_dim", (nope + turned,))
    r.only("num_key_value_heads", (c.num_attention_heads,))
    base = {k: v for k, v in vars(c).items() if k not in ("head_dim", "rotary_dim", "num_key_value_heads")}
    return Config(
        **base | {"attention_multiplier": score_scale(nope + turned, c.rope_scaling, _mscale_all_dim(c)),
                  "moe": _hf_moe(r)},
        num_key_value_heads=c.num_attention_heads,
        head_dim=nope + turned,
        rotary_dim=turned,
        kv_lora_rank=_rank(r, "kv_lora_rank"),
        q_lora_rank=_rank(r, "q_lora_rank", 0),
        qk_nope_head_dim=nope,
        qk_rope_head_dim=turned,
        v_head_dim=r.integer("v_head_dim", limits.MAX_HEAD_DIM),
        first_k_dense_replace=r.integer("first_k_dense_replace", limits.MAX_LAYERS, default=0, low=0),
        n_shared_experts=r.integer("n_shared_experts", experts.MAX_EXPERTS, default=0, low=0),
        num_nextn_predict_layers=r.integer("num_nextn_predict_layers", limits.MAX_LAYERS, default=0, low=0),
    )  # fmt: skip


def _mscale_all_dim(c: decoder.Config) -> float:
    return 0.0 if c.rope_scaling is None else c.rope_scaling.mscale_all_dim


def _hf_moe(r: ConfigReader) -> MoE:
    """V3 says deepseek_v3, or sigmoid and noaux_tc; in V2 a token's experts are normalised by nothing."""
    third = r.raw("model_type") == "deepseek_v3"
    r.only("scoring_func", (SIGMOID if third else SOFTMAX,))
    methods = ("noaux_tc",) if third else ("greedy", "group_limited_greedy")
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


@dataclass(frozen=True)
class Layers(mla.Layers):
    """A layer's halves: latent attention; a dense feed-forward, or routed and shared experts."""

    c: Config

    def feed_forward(self, at: str, x: str) -> list[Op]:
        """Dense in the first layers; else routed experts, and shared ones beside them."""
        if int(at.split(".")[1]) < self.c.first_k_dense_replace:
            return self.dense(at, x)
        ops = super().feed_forward(at, x)
        if not self.c.n_shared_experts or self.c.moe is None:
            return ops
        *routed, residual = ops
        shared, name = self.shared(at), f"{at}_sum"
        both = Add(name, (residual.inputs[1], shared[-1].output), name, self.c.hidden_size)
        return [*routed, *shared, both, *self.added(at, x, name)]

    def shared(self, at: str) -> list[Op]:
        """The experts that all tokens go through, as one gated feed-forward."""
        c, inner = self.c, self.c.n_shared_experts * (self.c.moe.moe_intermediate_size if self.c.moe else 0)
        names = [f"{at}_{part}_shexp" for part in ("gate", "up")]
        gate, up = (self.linear(name, f"{at}_norm", inner) for name in names)
        glu = Glu(f"{at}_glu_shexp", (gate.output, up.output), f"{at}_glu_shexp", inner)
        return [gate, up, glu, self.linear(f"{at}_down_shexp", glu.output, c.hidden_size, columns=inner)]


def build(c: Config, w: WeightProvider) -> Graph:
    """The model's operations in order."""
    for i in range(c.num_nextn_predict_layers):
        w.leave(f"blk.{c.num_hidden_layers + i}.")
    return decoder.build(c, w, Layers)


HF = partial(llama.from_hf, family=FAMILY, own=own_hf)
ARCHITECTURE: Architecture[Any] = Architecture("deepseek2", from_gguf, HF, build)
