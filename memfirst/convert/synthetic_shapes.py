"""What a synthetic model is made from: a small shape by name, any model of the catalogue, or a config.json."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from memfirst import models
from memfirst.catalog.configs import configs, find_config
from memfirst.convert.mixes import Model, described
from memfirst.convert.synthetic_vocab import FIRST_MERGE, byte_strings_metadata, tokenizer_metadata
from memfirst.errors import ConfigError, ModelNotFoundError, UnsupportedError
from memfirst.formats.hf import HFCheckpoint, open_config
from memfirst.models import ShapeOnly, gguf_keys, quantized
from memfirst.models.gguf_keys import Vectors

ARCHITECTURES = ("llama", "qwen2", "qwen3")
"""Of SyntheticShape; a config.json may have any."""


@dataclass(frozen=True)
class SyntheticShape:
    """Hyperparameters, named as in HF configs; `head_dim` 0 means hidden_size / num_attention_heads."""

    architecture: str
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    intermediate_size: int
    vocab_size: int
    tie_word_embeddings: bool = True
    head_dim: int = 0
    rope_theta: float = 10000.0
    max_position_embeddings: int = 8192
    rms_norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise UnsupportedError(f"synthetic {self.architecture!r}", f"one of {', '.join(ARCHITECTURES)}")
        models.ARCHITECTURES[self.architecture].from_hf(self.config, False)
        if self.vocab_size < FIRST_MERGE:
            raise ConfigError(f"a vocabulary of {self.vocab_size}", f"at least {FIRST_MERGE} tokens")

    @property
    def config(self) -> dict[str, Any]:
        """The same as a config.json."""
        stated = {key: value for key, value in vars(self).items() if key != "architecture"}
        return {"model_type": self.architecture, **stated, "head_dim": self.head_dim or None}


NAMED: Mapping[str, SyntheticShape] = {
    "llama-1b": SyntheticShape("llama", 2048, 16, 32, 8, 8192, 49152, rope_theta=500000.0),
    "smollm2-135m": SyntheticShape("llama", 576, 30, 9, 3, 1536, 49152, rope_theta=100000.0),
    "tiny-llama": SyntheticShape("llama", 256, 2, 4, 2, 512, 512, max_position_embeddings=512),
    # Rows of 96 and 160 fill no 256-weight block, and 3 heads are no multiple of 8 rows.
    "tiny-llama-odd": SyntheticShape("llama", 96, 3, 3, 1, 160, 300, max_position_embeddings=256),
    "tiny-qwen2": SyntheticShape("qwen2", 256, 2, 4, 2, 512, 512, False, rope_theta=1e6, rms_norm_eps=1e-6),
    "tiny-qwen3": SyntheticShape("qwen3", 256, 2, 4, 2, 512, 512, True, 128, 1e6, rms_norm_eps=1e-6),
}


@dataclass(frozen=True)
class Blueprint:
    """Everything of a model but its weights."""

    architecture: str
    kind: str
    """Of the checkpoint: "gguf", or "hf" where no GGUF metadata of that architecture is written here."""
    metadata: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    """Every tensor's NumPy shape by GGUF name, [rows out, columns in], in file order."""
    model: Model
    """What the rules of codec mixes ask."""
    vectors: Vectors
    """Tensors whose numbers follow from the config (RoPE's divisors)."""


def config_of(source: str | os.PathLike[str] | SyntheticShape, layers: int = 0) -> tuple[str, dict[str, Any]]:
    """(name, config.json) of a shape, of a model of the catalogue, or of a config.json; `layers` > 0: only the first.

    Raises ModelNotFoundError for a name that is none of these.
    """
    if isinstance(source, SyntheticShape):
        name, config = "synthetic", source.config
    elif os.path.exists(name := os.fspath(source)):
        path = os.path.abspath(os.path.join(name, "config.json") if os.path.isdir(name) else name)
        config = dict(open_config(path).metadata)
        name = os.path.basename(path)
        name = os.path.basename(os.path.dirname(path)) if name == "config.json" else name
    elif name in NAMED:
        config = NAMED[name].config
    else:
        config = dict(_found(name))
    config = quantized.without(config)
    return (f"{name}, {layers} layers", _shortened(config, layers)) if layers else (name, config)


def _found(name: str) -> Mapping[str, Any]:
    try:
        return find_config(name).config
    except ModelNotFoundError as error:
        some = ", ".join([*NAMED, *(m.name for m in configs()[:3])])
        raise ModelNotFoundError(error.found, f"{error.expected}; a config.json; one of {some}, …") from error


def _shortened(config: dict[str, Any], layers: int) -> dict[str, Any]:
    """The first `layers` layers, of a wrapped text model too; lists that have an item for each layer are cut."""
    text = config.get("text_config")
    if isinstance(text, Mapping):
        return config | {"text_config": _shortened(dict(text), layers)}
    count = config.get("num_hidden_layers")
    if not isinstance(count, int) or isinstance(count, bool) or layers > count:
        raise ConfigError(f"{layers} layers of a model of {count}", "no more than it has")
    cut = {key: value[:layers] for key, value in config.items() if isinstance(value, list) and len(value) == count}
    return config | cut | {"num_hidden_layers": layers}


def blueprint(config: Mapping[str, Any]) -> Blueprint:
    """What a config.json says of a model; ConfigError or UnsupportedError where no model can be made of it."""
    entry = models.entry(HFCheckpoint("", dict(config), []))
    c = entry.from_hf(config, False)
    graph = entry.build(c, ShapeOnly("f32"))
    if graph.vocab_size < FIRST_MERGE:
        raise ConfigError(f"a vocabulary of {graph.vocab_size}", f"at least {FIRST_MERGE} tokens")
    shapes = {name: weight.shape for name, weight in graph.weights().items()}
    try:
        metadata, vectors, unread = gguf_keys.written(entry, config)
    except UnsupportedError:
        return Blueprint(graph.architecture, "hf", config, shapes, described(graph), {})
    shapes |= {**unread, **{name: (len(values),) for name, values in vectors.items()}}
    return Blueprint(graph.architecture, "gguf", metadata, shapes, described(graph), vectors)


def gguf_metadata(plan: Blueprint, file_type: int, name: str, vocab_size: int) -> dict[str, Any]:
    """The keys that llama.cpp's converter writes for such a model, with a synthetic vocabulary."""
    general = {"architecture": plan.architecture, "type": "model", "name": name, "file_type": file_type}
    metadata: dict[str, Any] = {f"general.{key}": value for key, value in general.items()}
    metadata["general.quantization_version"] = 2
    metadata |= plan.metadata
    if plan.architecture.startswith("rwkv"):
        return metadata | byte_strings_metadata(vocab_size)
    return metadata | tokenizer_metadata(vocab_size, "smollm" if plan.architecture == "llama" else "qwen2")
