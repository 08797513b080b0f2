"""One file per architecture: its Config, read strictly, and `build(config, weights) -> Graph`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memfirst.errors import ConfigError, UnsupportedError
from memfirst.formats.checkpoint import Checkpoint
from memfirst.graph import Graph
from memfirst.models import (
    gemma2,
    gemma3,
    granite_hybrid,
    jamba,
    llama,
    mamba,
    mamba2,
    mistral,
    phi3,
    qwen2,
    qwen3,
    rwkv6,
    rwkv7,
)
from memfirst.models.base import Architecture, CheckpointWeights, ShapeOnly, WeightProvider

__all__ = ["ARCHITECTURES", "Architecture", "CheckpointWeights", "ShapeOnly", "WeightProvider", "build"]

ARCHITECTURES: Mapping[str, Architecture[Any]] = {
    a.name: a
    for a in (
        *(llama.ARCHITECTURE, qwen2.ARCHITECTURE, qwen3.ARCHITECTURE),
        *(gemma2.ARCHITECTURE, gemma3.ARCHITECTURE, phi3.ARCHITECTURE),
        *(mamba.ARCHITECTURE, mamba2.ARCHITECTURE, rwkv6.ARCHITECTURE, rwkv7.ARCHITECTURE),
        *(jamba.ARCHITECTURE, granite_hybrid.ARCHITECTURE),
    )
}
"""By GGUF's name."""

BY_MODEL_TYPE: Mapping[str, Architecture[Any]] = {"mistral": mistral.ARCHITECTURE}
"""By config.json's `model_type`, where GGUF has the same name for something that is read otherwise."""

_DTYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


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
        return architecture.build(config, ShapeOnly(_stated_codec(checkpoint.metadata)))
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


def _stated_codec(config: Mapping[str, Any]) -> str:
    dtype = config.get("dtype") or config.get("torch_dtype") or "bfloat16"
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise ConfigError(f"the config's dtype is {str(dtype)[:40]!r}", f"one of {', '.join(_DTYPES)}")
    return _DTYPES[dtype]
