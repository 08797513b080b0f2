"""A tiny random Llama as a Hugging Face folder, and its relatives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from memfirst.formats.hf import HFCheckpoint

HEADS, KV_HEADS, WIDTH, HIDDEN, FFN, VOCAB, LAYERS = 4, 2, 6, 20, 28, 11, 2
CONFIG: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": WIDTH,
    "intermediate_size": FFN,
    "vocab_size": VOCAB,
}
Arrays = dict[str, np.ndarray[Any, Any]]


def llama(dtype: str = "f4") -> Arrays:
    """A tiny random Llama under HF names."""
    q, kv = HEADS * WIDTH, KV_HEADS * WIDTH
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCAB, HIDDEN)}
    shapes |= {"model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCAB, HIDDEN)}
    for layer in range(LAYERS):
        block = f"model.layers.{layer}."
        shapes |= {block + "input_layernorm.weight": (HIDDEN,)}
        shapes |= {block + "post_attention_layernorm.weight": (HIDDEN,)}
        sizes = {"q": (q, HIDDEN), "k": (kv, HIDDEN), "v": (kv, HIDDEN), "o": (HIDDEN, q)}
        shapes |= {f"{block}self_attn.{part}_proj.weight": size for part, size in sizes.items()}
        sizes = {"gate": (FFN, HIDDEN), "up": (FFN, HIDDEN), "down": (HIDDEN, FFN)}
        shapes |= {f"{block}mlp.{part}_proj.weight": size for part, size in sizes.items()}
    random = np.random.default_rng(7)
    return {name: random.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def with_biases(arrays: Arrays) -> Arrays:
    """The same with biases on Q, K and V, as Qwen2 has them."""
    matrices = [name for name in arrays if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight"))]
    random = np.random.default_rng(8)
    biases = {n.replace(".weight", ".bias"): random.standard_normal(len(arrays[n])) for n in matrices}
    return arrays | {name: bias.astype("f4") for name, bias in biases.items()}


def with_norms(arrays: Arrays) -> Arrays:
    """The same with norms on Q and K, as Qwen3 has them."""
    names = [f"model.layers.{i}.self_attn.{x}_norm.weight" for i in range(LAYERS) for x in "qk"]
    return arrays | {name: np.full(WIDTH, len(name), "f4") for name in names}


def save_folder(folder: Path, arrays: Arrays, model_type: str = "llama", **config: Any) -> Path:
    """Write config.json and model.safetensors there."""
    (folder / "config.json").write_text(json.dumps(CONFIG | {"model_type": model_type} | config))
    save_file(arrays, folder / "model.safetensors")
    return folder


def values(checkpoint: HFCheckpoint, name: str) -> np.ndarray[Any, Any]:
    info = checkpoint.tensors[name]
    return checkpoint.read(name).view({"f32": "f4", "f16": "f2"}[info.codec]).reshape(info.shape)
