"""One file per architecture: its Config, read strictly, and `build(config, weights) -> Graph`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memfirst.errors import UnsupportedError
from memfirst.formats.checkpoint import Checkpoint
from memfirst.formats.names import TABLES
from memfirst.graph import Graph
from memfirst.models import (
    deepseek2,
    gemma2,
    gemma3,
    gpt_oss,
    granite,
    granite_hybrid,
    jamba,
    llama,
    mamba,
    mamba2,
    mistral,
    mixtral,
    phi3,
    quantized,
    qwen2,
    qwen3,
    qwen3_moe,
    rwkv6,
    rwkv7,
    smollm3,
)
from memfirst.models.base import Architecture, CheckpointWeights, ShapeOnly, WeightProvider

__all__ = ["ARCHITECTURES", "Architecture", "CheckpointWeights", "ShapeOnly", "WeightProvider", "build"]

ARCHITECTURES: Mapping[str, Architecture[Any]] = {
    a.name: a
    for a in (
        *(llama.ARCHITECTURE, qwen2.ARCHITECTURE, qwen3.ARCHITECTURE),
        *(gemma2.ARCHITECTURE, gemma3.ARCHITECTURE, phi3.ARCHITECTURE),
        *(granite.ARCHITECTURE, smollm3.ARCHITECTURE),
        *(qwen3_moe.ARCHITECTURE, deepseek2.ARCHITECTURE, gpt_oss.ARCHITECTURE),
        *(mamba.ARCHITECTURE, mamba2.ARCHITECTURE, rwkv6.ARCHITECTURE, rwkv7.ARCHITECTURE),
        *(jamba.ARCHITECTURE, granite_hybrid.ARCHITECTURE),
    )
}
"""By GGUF's name."""

BY_MODEL_TYPE: Mapping[str, Architecture[Any]] = {
    "mistral": mistral.ARCHITECTURE,
    "mixtral": mixtral.ARCHITECTURE,
}
"""By config.json's `model_type`, where GGUF has the same name for something that is read otherwise."""


def build(checkpoint: Checkpoint, allow_unknown: bool = False) -> Graph:
    """The graph of a checkpoint; without tensors (a bare config), with weights of the type that it names.

    Raises UnsupportedError for an architecture that does not run here, ConfigError for hyperparameters or
    tensors that are missing, unknown or contradict each other.
    """
    architecture = find(checkpoint.architecture)
    if checkpoint.kind == "gguf":
        config = architecture.from_gguf(checkpoint.metadata, checkpoint.tensors, allow_unknown)
    else:
        architecture = BY_MODEL_TYPE.get(str(checkpoint.metadata.get("model_type")), architecture)
        config = architecture.from_hf(checkpoint.metadata, allow_unknown)
    if not checkpoint.tensors:
        return architecture.build(config, ShapeOnly(quantized.stated(checkpoint.metadata)))
    if checkpoint.kind == "hf" and checkpoint.architecture not in TABLES:
        found = f"names of tensors in safetensors folders of {checkpoint.architecture} are not known"
        raise UnsupportedError(found, "a GGUF file, or config.json alone to be priced")
    weights = CheckpointWeights(checkpoint)
    graph = architecture.build(config, weights)
    weights.check_all_requested()
    return graph


def find(name: str) -> Architecture[Any]:
    """The architecture of that name; UnsupportedError, listing what runs."""
    found = ARCHITECTURES.get(name)
    if found is None:
        raise UnsupportedError(
            f"the architecture {name[:60]!r} does not run here", f"one of {', '.join(ARCHITECTURES)}"
        )
    return found
