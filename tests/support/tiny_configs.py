"""Published configs, shrunk: every dense architecture as a model of a few hundred kilobytes, with random weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memfirst import codecs, models
from memfirst.formats.checkpoint import TensorInfo
from memfirst.formats.hf import architecture_of
from memfirst.graph import Graph
from memfirst.models import ShapeOnly
from tests.support.dense_configs import MODELS

WINDOW = 20


def by_model_type() -> dict[str, dict[str, Any]]:
    """The first published config of each model type."""
    found: dict[str, dict[str, Any]] = {}
    for config, *_ in MODELS.values():
        found.setdefault(config["model_type"], config)
    return found


def cases() -> dict[str, dict[str, Any]]:
    """Those, a model with LongRoPE on a part of each head, and one whose last layers share keys and values."""
    return by_model_type() | {
        "phi3 with LongRoPE": MODELS["Phi-4-mini"][0], "gemma4 with shared layers": MODELS["Gemma-4-E2B"][0],
    }  # fmt: skip


def shrunk(config: Mapping[str, Any], head_dim: int, layers: int = 4) -> dict[str, Any]:
    """The same architecture, small: 4 heads over 2, a window of 20 positions where there is one."""
    if isinstance(config.get("text_config"), Mapping):
        return {**config, "text_config": shrunk(config["text_config"], head_dim, layers)}
    small: dict[str, Any] = dict(config)
    small |= {
        "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": layers, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 260, "max_position_embeddings": 512, "head_dim": head_dim,
    }  # fmt: skip
    if "attention_head_dim" in small:
        small["attention_head_dim"] = head_dim
    if int(head_dim * small.get("partial_rotary_factor", 1.0)) % 2:
        small["partial_rotary_factor"] = 0.5
    for key in ("layer_types", "no_rope_layers"):
        if isinstance(small.get(key), list):
            small[key] = small[key][:layers]
    if "original_max_position_embeddings" in small:
        small["original_max_position_embeddings"] = 64
    if isinstance(small.get("sliding_window"), int):
        small["sliding_window"] = WINDOW
    if isinstance(small.get("sliding_window_pattern"), int):
        small["sliding_window_pattern"] = 2
    for name in ("rope_scaling", "rope_parameters"):
        if isinstance(small.get(name), dict):
            small[name] = _scaling(small[name], int(head_dim * small.get("partial_rotary_factor", 1.0)) // 2)
    return small | _gemma4(small, head_dim) if "global_head_dim" in small else small


def _gemma4(config: Mapping[str, Any], head_dim: int) -> dict[str, Any]:
    """Four layers of both kinds, the last two sharing where some do; heads without a window twice as wide."""
    found = {
        "num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2,
        "global_head_dim": 2 * head_dim, "vocab_size_per_layer_input": 260,
    }  # fmt: skip
    if config["num_kv_shared_layers"]:
        return found | {"num_kv_shared_layers": 2, "hidden_size_per_layer_input": 256}
    return found | {"num_global_key_value_heads": 1}


def _scaling(scaling: Mapping[str, Any], pairs: int) -> dict[str, Any]:
    """A scaling whose lists have one entry for each pair."""
    cut = {k: v[:1] * pairs if isinstance(v, list) else v for k, v in scaling.items()}
    return {k: 64 if k == "original_max_position_embeddings" else v for k, v in cut.items()}


def graph_of(config: Mapping[str, Any], codec: str) -> Graph:
    """Its graph with `codec` for all matrices."""
    architecture = models.BY_MODEL_TYPE.get(config["model_type"]) or models.find(architecture_of(config))
    return architecture.build(architecture.from_hf(config, False), ShapeOnly(codec))


class Coded:
    """A Checkpoint of random weights in the codecs of a graph: matrices N(0, 1/columns), norms near 1."""

    kind, path, has_bytes = "gguf", "", True
    metadata: Mapping[str, Any] = {}
    architecture = ""

    def __init__(self, graph: Graph, seed: int = 0) -> None:
        random, self._bytes, self.tensors = np.random.default_rng(seed), dict[str, NDArray[np.uint8]](), {}
        for name, w in graph.weights().items():
            values = random.standard_normal(w.shape).astype(np.float32)
            values = values / np.float32(w.columns**0.5) if len(w.shape) > 1 else 0.1 * values + ("norm" in name)
            codec = codecs.get(w.codec)
            blocks = codec.quantize(values.astype(np.float32).reshape(-1, codec.block))
            self._bytes[name] = blocks.reshape(-1).view(np.uint8)
            self.tensors[name] = TensorInfo(name, w.shape, w.codec, w.nbytes)

    def read(self, name: str) -> NDArray[np.uint8]:
        return self._bytes[name]

    def release(self, name: str) -> None:
        pass

    def close(self) -> None:
        pass
