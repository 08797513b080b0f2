"""Published mixtures of experts, shrunk: models of a few hundred kilobytes with random weights, in codecs by role."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from memfirst.graph import Graph
from memfirst.models import quantized
from memfirst.transform.recode import with_kv
from tests.support.experts_configs import MODELS
from tests.support.tiny_configs import graph_of, shrunk

ROUTED = {"mixtral": "Mixtral-8x7B", "qwen3_moe": "Qwen3-30B-A3B", "gpt_oss": "gpt-oss-20b",
          "llama4_text": "Llama-4-Scout"}  # fmt: skip
"""Those whose operations all have kernels, by model type."""

SIZES = {
    "mixtral": {"num_local_experts": 8, "num_experts_per_tok": 2},
    "qwen3_moe": {"num_experts": 20, "num_experts_per_tok": 4, "moe_intermediate_size": 256},
    "gpt_oss": {"num_local_experts": 12, "num_experts_per_tok": 4, "experts_per_token": 4},
    "llama4_text": {
        "num_local_experts": 5, "intermediate_size": 256, "intermediate_size_mlp": 1024, "attention_chunk_size": 24,
        "interleave_moe_layer_step": 2, "no_rope_layer_interval": 2, "floor_scale": 16,
    },
}  # fmt: skip

CODECS: dict[str, dict[str, str]] = {
    "f32": {"": "f32"},
    "bf16": {"": "bf16", "ffn_gate_inp": "f32"},
    "q4_k_m": {"": "q4_k", "ffn_down_exps": "q6_k", "ffn_gate_inp": "f32"},
    "mxfp4": {"": "q8_0", "_exps": "mxfp4", "ffn_gate_inp": "bf16"},
    "mixed": {"": "q8_0", "ffn_gate_exps": "q5_k", "ffn_up_exps": "q4_0", "ffn_down_exps": "bf16"},
    "packed router": {"": "q5_1", "ffn_down_exps": "iq4_nl"},
}
"""Codec by the last role that a tensor's name has."""


def config_of(kind: str, head_dim: int, layers: int, **changes: Any) -> dict[str, Any]:
    """The published config, small."""
    small = shrunk(quantized.without(MODELS[ROUTED[kind]].config), head_dim, layers) | SIZES[kind]
    return small | {"max_window_layers": layers} | changes if kind == "qwen3_moe" else small | changes


def routed_graph(kind: str, codecs: str, head_dim: int = 64, layers: int = 2, **changes: Any) -> Graph:
    """Its graph, in some of CODECS; float32 keys and values where weights are."""
    graph = graph_of(config_of(kind, head_dim, layers, **changes), "f32")
    roles = CODECS[codecs]

    def codec(name: str) -> str:
        return [found for role, found in roles.items() if f"{role}." in f"{name}" or not role][-1]

    def coded(graph: Graph) -> Graph:
        changed = {
            n: replace(w, codec=codec(n)) for n, w in graph.weights().items() if len(w.shape) > 1 and ".bias" not in n
        }
        return replace(graph, ops=tuple(op.with_weights(changed) for op in graph.ops))

    graph = coded(graph)
    return with_kv(graph, "f32", "f32") if codecs == "f32" else graph
