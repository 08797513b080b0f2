"""One file per architecture: its Config, read strictly, and `build(config, weights) -> Graph`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from memfirst.errors import UnsupportedError
from memfirst.formats.architectures import text_of
from memfirst.formats.checkpoint import Checkpoint
from memfirst.formats.names import TABLES
from memfirst.graph import Graph
from memfirst.models.base import Architecture, CheckpointWeights, ShapeOnly, WeightProvider

__all__ = ["ARCHITECTURES", "Architecture", "CheckpointWeights", "ShapeOnly", "WeightProvider", "build"]


class _Registry(Mapping[str, Architecture[Any]]):
    """Architectures by name, each imported when it is asked for: a start needs one of them."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self._files = files

    def __getitem__(self, name: str) -> Architecture[Any]:
        found: Architecture[Any] = import_module(f"memfirst.models.{self._files[name]}").ARCHITECTURE
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


_NAMED_AS_THEIR_FILE = (
    *(
        "llama",
        "llama4",
        "qwen2",
        "qwen3",
        "gemma2",
        "gemma3",
        "gemma4",
        "phi2",
        "phi3",
        "granite",
        "smollm3",
        "deepseek",
        "deepseek2",
        "dots1",
    ),
    *("olmo2", "exaone4", "seed_oss", "ernie4_5", "glm4", "cohere2", "starcoder2", "stablelm"),
    *("gemma", "arcee"),
    *("mamba", "mamba2", "rwkv6", "rwkv7", "jamba", "olmoe", "lfm2", "nemotron_h", "nemotron_h_moe"),
)

ARCHITECTURES: Mapping[str, Architecture[Any]] = _Registry(
    {name: name for name in _NAMED_AS_THEIR_FILE}
    | {"qwen3next": "qwen3_next", "qwen35": "qwen3_5", "qwen35moe": "qwen3_5_moe"}
    | {"qwen3moe": "qwen3_moe", "gpt-oss": "gpt_oss", "granitehybrid": "granite_hybrid"}
    | {"falcon-h1": "falcon_h1", "hunyuan-dense": "hunyuan_dense", "mistral3": "ministral3", "command-r": "cohere"}
    | {"qwen2moe": "qwen2_moe", "glm4moe": "glm4_moe", "minimax-m2": "minimax_m2", "ernie4_5-moe": "ernie4_5_moe"}
    | {"lfm2moe": "lfm2_moe", "granitemoe": "granite_moe", "hunyuan-moe": "hunyuan_moe"}
)
"""By GGUF's name."""

BY_MODEL_TYPE: Mapping[str, Architecture[Any]] = _Registry(
    {"mistral": "mistral", "ministral": "mistral", "mixtral": "mixtral"}
)
"""By config.json's `model_type`, where GGUF has the same name for something that is read otherwise."""


def build(checkpoint: Checkpoint, allow_unknown: bool = False, header: bool = False) -> Graph:
    """The graph of a checkpoint; without tensors (a bare config), with weights of the type that it names.

    header  only to be priced: no tensor is read, and the file may end with its header

    Raises UnsupportedError for an architecture that does not run here, ConfigError for hyperparameters or
    tensors that are missing, unknown or contradict each other.
    """
    architecture = entry(checkpoint)
    if checkpoint.kind == "gguf":
        config = architecture.from_gguf(checkpoint.metadata, checkpoint.tensors, allow_unknown)
    else:
        from memfirst.models import quantized

        scheme = quantized.scheme_of(checkpoint.metadata)
        if scheme and checkpoint.tensors and scheme.method not in quantized.AS_STORED:
            found = f"a safetensors folder of weights quantized by {scheme.method}"
            raise UnsupportedError(found, "a GGUF file to run, or its config.json alone to be priced")
        config = architecture.from_hf(quantized.without(checkpoint.metadata), allow_unknown)
    if not checkpoint.tensors:
        from memfirst.models import quantized

        return architecture.build(config, ShapeOnly(quantized.stated(checkpoint.metadata)))
    if checkpoint.kind == "hf" and checkpoint.path and checkpoint.architecture not in TABLES:
        found = f"names of tensors in safetensors folders of {checkpoint.architecture} are not known"
        raise UnsupportedError(found, "a GGUF file, or config.json alone to be priced")
    weights = CheckpointWeights(checkpoint, header)
    graph = architecture.build(config, weights)
    weights.check_all_requested()
    return graph


MODEL = "model"
"""What `general.type` says of a GGUF file with a model in it; of others "adapter", "imatrix", "mmproj"."""


def entry(checkpoint: Checkpoint) -> Architecture[Any]:
    """What reads and builds a checkpoint: by its architecture, of a config.json by its model_type first."""
    kind = checkpoint.metadata.get("general.type", MODEL) if checkpoint.kind == "gguf" else MODEL
    if kind != MODEL:
        raise UnsupportedError(f"this file is no model: it says that its type is {str(kind)[:40]!r}", "a model's file")
    found = find(checkpoint.architecture)
    kind = "" if checkpoint.kind == "gguf" else str(text_of(checkpoint.metadata).get("model_type"))
    return BY_MODEL_TYPE.get(kind, found)


def find(name: str) -> Architecture[Any]:
    """The architecture of that name; UnsupportedError, listing what runs."""
    found = ARCHITECTURES.get(name)
    if found is None:
        raise UnsupportedError(
            f"the architecture {name[:60]!r} does not run here", f"one of {', '.join(ARCHITECTURES)}"
        )
    return found
