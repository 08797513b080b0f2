"""Published models with latent attention, shrunk: a few hundred kilobytes of random weights, in codecs by role."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from memfirst.graph import Graph, Op, Weight
from memfirst.graph.ops.latent import LatentAttention
from memfirst.models import quantized
from memfirst.transform.recode import with_kv
from tests.support.experts_configs import V2, V2_LITE, V3
from tests.support.tiny_configs import graph_of

DENSE = {"first_k_dense_replace": 2}
"""No layer has routed experts."""

SMALL = {
    "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 4, "vocab_size": 260, "max_position_embeddings": 2048, "kv_lora_rank": 256,
    "qk_nope_head_dim": 96, "qk_rope_head_dim": 32, "v_head_dim": 64, "first_k_dense_replace": 1,
    "moe_intermediate_size": 256, "n_routed_experts": 16, "num_experts_per_tok": 4, "n_group": 1, "topk_group": 1,
}  # fmt: skip
YARN = {**V2_LITE["rope_scaling"], "original_max_position_embeddings": 64}

CONFIGS: dict[str, dict[str, Any]] = {
    "v2 lite": {**V2_LITE, **SMALL, "rope_scaling": YARN},
    "v2": {**V2, **SMALL, "rope_scaling": YARN, "q_lora_rank": 256, "n_group": 4, "topk_group": 2},
    "v3": {**V3, **SMALL, "rope_scaling": YARN, "q_lora_rank": 256, "n_group": 4, "topk_group": 2},
}
"""DeepSeek-V2-Lite has neither a query rank nor groups of experts; V3 picks experts by corrected sigmoids."""

CODECS: dict[str, dict[str, str]] = {
    "f32": {"": "f32"},
    "bf16": {"": "bf16"},
    "q8_0": {"": "q8_0", "ffn_gate_inp": "f32"},
    "q4_k_m": {"": "q4_k", "attn_k_b": "q5_0", "attn_v_b": "q6_k", "ffn_down": "q6_k", "ffn_gate_inp": "f32"},
    "q5_k": {"": "q5_k", "attn_k_b": "q5_1", "ffn_gate_inp": "f32"},
    "iq4_nl": {"": "iq4_nl", "attn_v_b": "f16", "ffn_gate_inp": "f32"},
    "q2_k": {"": "q2_k", "attn_k_b": "q4_0", "attn_v_b": "q3_k", "ffn_gate_inp": "f32"},
    "q3_k": {"": "q3_k", "attn_k_b": "q4_0", "attn_v_b": "q2_k", "ffn_gate_inp": "f32"},
    "iq4_xs": {"": "iq4_xs", "attn_k_b": "iq4_nl", "ffn_gate_inp": "f32"},
}
"""Codec by the last role that a tensor's name has."""


def latent_graph(name: str, codecs: str, kv: str = "f16", joined: bool = False, **changes: Any) -> Graph:
    """The graph of one of CONFIGS in some of CODECS; `joined`: with k_b and v_b in one tensor."""
    graph = graph_of(quantized.without({**CONFIGS[name], **changes}), "f32")
    if joined:
        graph = replace(graph, ops=tuple(_joined(op) for op in graph.ops))
    changed = {n: replace(w, codec=codec_of(n, CODECS[codecs])) for n, w in graph.weights().items() if _is_matrix(w)}
    return with_kv(replace(graph, ops=tuple(op.with_weights(changed) for op in graph.ops)), kv, kv)


def codec_of(name: str, roles: Mapping[str, str]) -> str:
    """By the last role that the name has."""
    return [codec for role, codec in roles.items() if f".{role}" in f".{name}"][-1]


def _is_matrix(w: Weight) -> bool:
    return len(w.shape) > 1 and ".bias" not in w.name


def _joined(op: Op) -> Op:
    """As it was trained, and as older files have it."""
    if not isinstance(op, LatentAttention) or op.v_b is None:
        return op
    v = op.v_b.rows
    both = Weight(op.k_b.name.replace("k_b", "kv_b"), (op.heads * (op.nope + v), op.rank), "f32")
    return replace(op, k_b=both, v_b=None, v_head_dim=v)
