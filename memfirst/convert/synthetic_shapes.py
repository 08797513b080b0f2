"""Shapes of synthetic models, and the GGUF metadata and tensors that each implies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from memfirst.convert.mixes import Model
from memfirst.convert.synthetic_vocab import FIRST_MERGE, tokenizer_metadata
from memfirst.errors import ConfigError, UnsupportedError

ARCHITECTURES = ("llama", "qwen2", "qwen3")


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
        sizes = [self.hidden_size, self.num_hidden_layers, self.num_attention_heads]
        sizes += [self.num_key_value_heads, self.intermediate_size, self.max_position_embeddings]
        if self.architecture not in ARCHITECTURES:
            raise UnsupportedError(f"synthetic {self.architecture!r}", f"one of {', '.join(ARCHITECTURES)}")
        if min(sizes) < 1 or self.vocab_size < FIRST_MERGE:
            raise ConfigError(f"{self}", f"sizes from 1 and at least {FIRST_MERGE} tokens")
        if self.num_attention_heads % self.num_key_value_heads or self.head_width % 2:
            raise ConfigError(f"{self}", "heads in whole groups, of an even width")

    @property
    def head_width(self) -> int:
        """head_dim, given or implied."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def model(self) -> Model:
        """What the codec rules ask about it."""
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads
        return Model(self.architecture, self.num_hidden_layers, heads, kv_heads, self.tie_word_embeddings)


NAMED: Mapping[str, SyntheticShape] = {
    "llama-1b": SyntheticShape("llama", 2048, 16, 32, 8, 8192, 49152, rope_theta=500000.0),
    "smollm2-135m": SyntheticShape("llama", 576, 30, 9, 3, 1536, 49152, rope_theta=100000.0),
    "tiny-llama": SyntheticShape("llama", 256, 2, 4, 2, 512, 512, max_position_embeddings=512),
    # Rows of 96 and 160 fill no 256-weight block, and 3 heads are no multiple of 8 rows.
    "tiny-llama-odd": SyntheticShape("llama", 96, 3, 3, 1, 160, 300, max_position_embeddings=256),
    "tiny-qwen2": SyntheticShape("qwen2", 256, 2, 4, 2, 512, 512, False, rope_theta=1e6, rms_norm_eps=1e-6),
    "tiny-qwen3": SyntheticShape("qwen3", 256, 2, 4, 2, 512, 512, True, 128, 1e6, rms_norm_eps=1e-6),
}


def named_shape(name: str) -> SyntheticShape:
    """A shape of NAMED; UnsupportedError, listing them, for another name."""
    if name not in NAMED:
        raise UnsupportedError(f"no synthetic shape is called {name!r}", f"one of {', '.join(NAMED)}")
    return NAMED[name]


def tensor_shapes(shape: SyntheticShape) -> dict[str, tuple[int, ...]]:
    """Every tensor's NumPy shape by GGUF name, [rows out, columns in], in file order."""
    hidden, vocab = shape.hidden_size, shape.vocab_size
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (vocab, hidden)}
    for layer in range(shape.num_hidden_layers):
        shapes |= {f"blk.{layer}.{name}": size for name, size in _layer_shapes(shape).items()}
    shapes["output_norm.weight"] = (hidden,)
    if not shape.tie_word_embeddings:
        shapes["output.weight"] = (vocab, hidden)
    return shapes


def _layer_shapes(shape: SyntheticShape) -> dict[str, tuple[int, ...]]:
    hidden, ffn, width = shape.hidden_size, shape.intermediate_size, shape.head_width
    q, kv = shape.num_attention_heads * width, shape.num_key_value_heads * width
    shapes: dict[str, tuple[int, ...]] = {"attn_norm.weight": (hidden,), "ffn_norm.weight": (hidden,)}
    shapes |= {"attn_q.weight": (q, hidden), "attn_k.weight": (kv, hidden), "attn_v.weight": (kv, hidden)}
    shapes |= {"attn_output.weight": (hidden, q), "ffn_gate.weight": (ffn, hidden)}
    shapes |= {"ffn_up.weight": (ffn, hidden), "ffn_down.weight": (hidden, ffn)}
    if shape.architecture == "qwen2":
        shapes |= {"attn_q.bias": (q,), "attn_k.bias": (kv,), "attn_v.bias": (kv,)}
    if shape.architecture == "qwen3":
        shapes |= {"attn_q_norm.weight": (width,), "attn_k_norm.weight": (width,)}
    return shapes


def gguf_metadata(shape: SyntheticShape, file_type: int, name: str) -> dict[str, Any]:
    """The keys that llama.cpp's converter writes for such a model, with a made-up vocabulary."""
    general = {"architecture": shape.architecture, "type": "model", "name": name, "file_type": file_type}
    metadata: dict[str, Any] = {f"general.{key}": value for key, value in general.items()}
    metadata["general.quantization_version"] = 2
    metadata |= {f"{shape.architecture}.{key}": value for key, value in _hyperparameters(shape).items()}
    pre_tokenizer = "smollm" if shape.architecture == "llama" else "qwen2"
    return metadata | tokenizer_metadata(shape.vocab_size, pre_tokenizer)


def _hyperparameters(shape: SyntheticShape) -> dict[str, Any]:
    keys: dict[str, Any] = {
        "block_count": shape.num_hidden_layers,
        "context_length": shape.max_position_embeddings,
        "embedding_length": shape.hidden_size,
        "feed_forward_length": shape.intermediate_size,
        "attention.head_count": shape.num_attention_heads,
        "attention.head_count_kv": shape.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": float(np.float32(shape.rms_norm_eps)),
        "rope.freq_base": float(np.float32(shape.rope_theta)),
    }
    if shape.architecture == "llama":
        keys |= {"rope.dimension_count": shape.head_width, "vocab_size": shape.vocab_size}
    if shape.head_width * shape.num_attention_heads != shape.hidden_size:
        keys |= {"attention.key_length": shape.head_width, "attention.value_length": shape.head_width}
    return keys
