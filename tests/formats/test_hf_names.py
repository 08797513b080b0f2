"""HF names and exact transforms: every row of every tensor where GGUF has it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memfirst.errors import ConfigError, FormatError
from memfirst.formats.checkpoint import TensorInfo
from memfirst.formats.hf import open_folder
from memfirst.formats.names import gguf_name, pair_rows
from memfirst.formats.safetensors import to_f32
from tests.support.tiny_hf import (
    HEADS,
    HIDDEN,
    KV_HEADS,
    VOCAB,
    WIDTH,
    Arrays,
    llama,
    save_folder,
    values,
    with_biases,
    with_norms,
)


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Make a folder of these arrays in this test's own."""
    return functools.partial(save_folder, tmp_path)


def rotate_half(x: np.ndarray[Any, Any], angles: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """RoPE as HF's Llama does it: row i turns with row i + width/2."""
    first, second = np.split(x, 2)
    return np.concatenate(
        [first * np.cos(angles) - second * np.sin(angles), second * np.cos(angles) + first * np.sin(angles)]
    )


def rotate_pairs(x: np.ndarray[Any, Any], angles: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """RoPE as GGUF's llama means it: row 2i turns with row 2i + 1."""
    even, odd = x[0::2], x[1::2]
    out = np.empty_like(x)
    out[0::2], out[1::2] = (
        even * np.cos(angles) - odd * np.sin(angles),
        odd * np.cos(angles) + even * np.sin(angles),
    )
    return out


@pytest.mark.parametrize(("part", "heads"), [("q", HEADS), ("k", KV_HEADS)])
def test_llama_rows_are_paired_so_that_rope_means_the_same(part: str, heads: int, folder: Callable[..., Path]) -> None:
    arrays = llama()
    matrix = arrays[f"model.layers.1.self_attn.{part}_proj.weight"]
    ours = values(open_folder(folder(arrays)), f"blk.1.attn_{part}.weight")
    x, angles = np.random.default_rng(1).standard_normal(HIDDEN), np.array([0.3, 1.1, 2.9])
    for head in range(heads):
        rows = slice(head * WIDTH, (head + 1) * WIDTH)
        halves, pairs = rotate_half(matrix[rows] @ x, angles), rotate_pairs(ours[rows] @ x, angles)
        np.testing.assert_allclose(pairs[0::2], halves[: WIDTH // 2], rtol=1e-12)
        np.testing.assert_allclose(pairs[1::2], halves[WIDTH // 2 :], rtol=1e-12)


def test_llama_rows_move_exactly(folder: Callable[..., Path]) -> None:
    arrays = with_biases(llama("f2"))
    checkpoint = open_folder(folder(arrays))
    for hf, ours, heads in (("q_proj", "attn_q", HEADS), ("k_proj", "attn_k", KV_HEADS)):
        for what in ("weight", "bias"):
            stored = arrays[f"model.layers.0.self_attn.{hf}.{what}"]
            found = values(checkpoint, f"blk.0.{ours}.{what}")
            for head in range(heads):
                for i in range(WIDTH // 2):
                    for half in range(2):
                        row, source = head * WIDTH + 2 * i + half, head * WIDTH + half * WIDTH // 2 + i
                        assert np.array_equal(found[row], stored[source])


def test_everything_else_of_llama_keeps_its_rows(folder: Callable[..., Path]) -> None:
    arrays = llama()
    checkpoint = open_folder(folder(arrays))
    expected = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output.weight": "lm_head.weight",
        "output_norm.weight": "model.norm.weight",
        "blk.1.attn_v.weight": "model.layers.1.self_attn.v_proj.weight",
        "blk.1.attn_output.weight": "model.layers.1.self_attn.o_proj.weight",
        "blk.1.ffn_gate.weight": "model.layers.1.mlp.gate_proj.weight",
        "blk.1.ffn_up.weight": "model.layers.1.mlp.up_proj.weight",
        "blk.1.ffn_down.weight": "model.layers.1.mlp.down_proj.weight",
        "blk.1.attn_norm.weight": "model.layers.1.input_layernorm.weight",
        "blk.1.ffn_norm.weight": "model.layers.1.post_attention_layernorm.weight",
    }
    for ours, hf in expected.items():
        assert np.array_equal(values(checkpoint, ours), arrays[hf])
    assert len(checkpoint.tensors) == len(arrays)


@pytest.mark.parametrize(("model_type", "extra"), [("qwen2", with_biases), ("qwen3", with_norms)])
def test_qwen_keeps_all_rows(model_type: str, extra: Callable[[Arrays], Arrays], folder: Callable[..., Path]) -> None:
    arrays = extra(llama())
    checkpoint = open_folder(folder(arrays, model_type))
    assert checkpoint.architecture == model_type
    assert len(checkpoint.tensors) == len(arrays)
    for name, array in arrays.items():
        assert np.array_equal(values(checkpoint, gguf_name(model_type, name)[0]), array)


def test_qwen3_norms_have_gguf_names(folder: Callable[..., Path]) -> None:
    checkpoint = open_folder(folder(with_norms(llama()), "qwen3"))
    assert checkpoint.tensors["blk.1.attn_q_norm.weight"] == TensorInfo("blk.1.attn_q_norm.weight", (WIDTH,), "f32", 24)
    assert "blk.1.attn_k_norm.weight" in checkpoint.tensors


def test_matrices_keep_their_dtype_and_vectors_become_f32(folder: Callable[..., Path]) -> None:
    arrays = llama("f2")
    checkpoint = open_folder(folder(arrays))
    embedding, norm = checkpoint.tensors["token_embd.weight"], checkpoint.tensors["output_norm.weight"]
    assert (embedding.codec, embedding.nbytes) == ("f16", VOCAB * HIDDEN * 2)
    assert (norm.codec, norm.nbytes) == ("f32", HIDDEN * 4)
    assert np.array_equal(values(checkpoint, "output_norm.weight"), arrays["model.norm.weight"].astype("f4"))
    for name, info in checkpoint.tensors.items():
        data = checkpoint.read(name)
        assert data.nbytes == info.nbytes
        assert not data.flags.writeable


def test_bf16_becomes_f32_exactly() -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    found = to_f32(bits.view(np.uint8), "BF16")
    assert np.array_equal(found.view(np.uint32), bits.astype(np.uint32) << 16)


@pytest.mark.parametrize("tied", [True, False, None])
def test_a_tied_head_that_is_stored_twice_is_dropped(tied: bool | None, folder: Callable[..., Path]) -> None:
    checkpoint = open_folder(folder(llama(), tie_word_embeddings=tied))
    assert ("output.weight" in checkpoint.tensors) is (tied is not True)
    assert checkpoint.ignored == (["lm_head.weight"] if tied else [])


def test_harmless_buffers_are_listed(folder: Callable[..., Path]) -> None:
    names = ["model.layers.0.self_attn.rotary_emb.inv_freq", "rotary_emb.inv_freq"]
    checkpoint = open_folder(folder(llama() | {name: np.ones(3, "f4") for name in names}))
    assert sorted(checkpoint.ignored) == names
    assert len(checkpoint.tensors) == len(llama())


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.q_proj.qweight",
        "model.layers.00.self_attn.q_proj.weight",
        "model.layers.999999.self_attn.q_proj.weight",
        "model.layers.{}.self_attn.q_proj.weight",
        "layers.0.self_attn.q_proj.weight",
        "model.layers.0.self_attn.q_norm.weight",
        "score.weight",
    ],
)
def test_a_tensor_without_a_place_is_named(name: str, folder: Callable[..., Path]) -> None:
    with pytest.raises(FormatError, match="is not part of the llama architecture") as caught:
        open_folder(folder(llama() | {name: np.ones((4, 4), "f4")}))
    assert name in str(caught.value)


def test_an_unknown_architecture_can_still_be_looked_at(folder: Callable[..., Path]) -> None:
    arrays = {"transformer.h.0.attn.weight": np.ones((3, 5), "f4"), "rotary_emb.inv_freq": np.ones(2, "f4")}
    checkpoint = open_folder(folder(arrays, "gpt_bigcode"))
    assert checkpoint.architecture == "gpt_bigcode"
    assert checkpoint.tensors["transformer.h.0.attn.weight"].shape == (3, 5)


def test_heads_that_do_not_divide_the_rows_are_refused(folder: Callable[..., Path]) -> None:
    checkpoint = open_folder(folder(llama(), num_attention_heads=5))
    with pytest.raises(FormatError, match="24 rows for 5 heads"):
        checkpoint.read("blk.0.attn_q.weight")
    for bad in (0, -1, "4", True, None, 1 << 40):
        with pytest.raises(ConfigError, match="num_attention_heads"):
            open_folder(folder(llama(), num_attention_heads=bad)).read("blk.0.attn_q.weight")


def test_a_query_matrix_must_be_a_matrix(folder: Callable[..., Path]) -> None:
    name = "model.layers.0.self_attn.q_proj.weight"
    for shape in ((), (4, 2, 3)):
        with pytest.raises(FormatError, match="a matrix or a bias") as caught:
            open_folder(folder(llama() | {name: np.ones(shape, "f4")}))
        assert name in str(caught.value)


def test_key_heads_default_to_query_heads() -> None:
    _, transform = gguf_name("llama", "model.layers.0.self_attn.k_proj.weight")
    rows = np.arange(24, dtype=np.uint8).reshape(24, 1)
    assert np.array_equal(transform(rows, {"num_attention_heads": 4}), pair_rows(rows, 4))
    config = {"num_attention_heads": 4, "num_key_value_heads": None}
    assert np.array_equal(transform(rows, config), pair_rows(rows, 4))
