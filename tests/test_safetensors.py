"""Safetensors folders and configs: names, exact transforms, and everything that a header can lie about."""

from __future__ import annotations

import json
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from memfirst.errors import ConfigError, FormatError, MemfirstError, ModelNotFoundError, UnsupportedError
from memfirst.formats.checkpoint import TensorInfo
from memfirst.formats.hf import HFCheckpoint, open_config, open_folder, to_f32
from memfirst.formats.names import gguf_name, pair_rows
from memfirst.formats.open import open_checkpoint
from memfirst.formats.safetensors import DTYPE_BYTES, SafetensorsFile

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


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    def make(arrays: Arrays, model_type: str = "llama", **config: Any) -> Path:
        (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"model_type": model_type} | config))
        save_file(arrays, tmp_path / "model.safetensors")
        return tmp_path

    return make


def values(checkpoint: HFCheckpoint, name: str) -> np.ndarray[Any, Any]:
    info = checkpoint.tensors[name]
    return checkpoint.read(name).view({"f32": "f4", "f16": "f2"}[info.codec]).reshape(info.shape)


# ---- names and transforms --------------------------------------------------------------


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
def test_llama_rows_are_paired_so_that_rope_means_the_same(
    part: str, heads: int, folder: Callable[..., Path]
) -> None:
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
def test_qwen_keeps_all_rows(
    model_type: str, extra: Callable[[Arrays], Arrays], folder: Callable[..., Path]
) -> None:
    arrays = extra(llama())
    checkpoint = open_folder(folder(arrays, model_type))
    assert checkpoint.architecture == model_type
    assert len(checkpoint.tensors) == len(arrays)
    for name, array in arrays.items():
        assert np.array_equal(values(checkpoint, gguf_name(model_type, name)[0]), array)


def test_qwen3_norms_have_gguf_names(folder: Callable[..., Path]) -> None:
    checkpoint = open_folder(folder(with_norms(llama()), "qwen3"))
    assert checkpoint.tensors["blk.1.attn_q_norm.weight"] == TensorInfo(
        "blk.1.attn_q_norm.weight", (WIDTH,), "f32", 24
    )
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


# ---- shards ----------------------------------------------------------------------------


def shard(folder: Path, **changes: Any) -> dict[str, Any]:
    """Split the folder's file in two, with an index."""
    with_file = llama()
    (folder / "model.safetensors").unlink()
    names = sorted(with_file)
    where = {name: f"model-0000{1 + (i > 8)}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(where.values()):
        save_file({name: with_file[name] for name in names if where[name] == file}, folder / file)
    index = {"metadata": {"total_size": 1}, "weight_map": where | changes}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return index


def test_shards_read_like_one_file(folder: Callable[..., Path]) -> None:
    path = folder(llama())
    whole = open_folder(path)
    expected = {name: whole.read(name).tobytes() for name in whole.tensors}
    shard(path)
    sharded = open_checkpoint(path)
    assert {name: sharded.read(name).tobytes() for name in sharded.tensors} == expected
    assert sharded.has_bytes
    sharded.release("token_embd.weight")
    sharded.close()
    with pytest.raises(MemfirstError, match="closed"):
        sharded.read("token_embd.weight")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lm_head.weight": "../model-00001-of-00002.safetensors"}, "beside it"),
        ({"lm_head.weight": "/etc/passwd"}, "beside it"),
        ({"lm_head.weight": "a\\b.safetensors"}, "beside it"),
        ({"lm_head.weight": "pytorch_model.bin"}, "beside it"),
        ({"lm_head.weight": 7}, "beside it"),
        ({"lm_head.weight": "model-00002-of-00002.safetensors"}, r"lm_head\.weight is not in"),
        ({"other.weight": "model-00002-of-00002.safetensors"}, r"other\.weight is not in"),
        ({"other.weight": "model-00003-of-00003.safetensors"}, "model-00003-of-00003"),
    ],
)
def test_an_index_that_lies_is_refused(
    changes: dict[str, Any], message: str, folder: Callable[..., Path]
) -> None:
    path = folder(llama())
    shard(path, **changes)
    with pytest.raises(MemfirstError, match=message):
        open_folder(path)


def test_a_tensor_outside_the_index_is_refused(folder: Callable[..., Path]) -> None:
    path = folder(llama())
    index = shard(path)
    del index["weight_map"]["model.norm.weight"]
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(FormatError, match=r"model\.norm\.weight is not listed"):
        open_folder(path)


@pytest.mark.parametrize("index", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', "nonsense"])
def test_an_index_without_a_map_is_refused(index: str, folder: Callable[..., Path]) -> None:
    path = folder(llama())
    (path / "model.safetensors").rename(path / "kept")
    (path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(FormatError):
        open_folder(path)


def test_pickled_weights_are_never_opened(folder: Callable[..., Path]) -> None:
    path = folder(llama())
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    with pytest.raises(UnsupportedError, match="pickled"):
        open_folder(path)
    (path / "pytorch_model.bin").unlink()
    with pytest.raises(FormatError, match="no weights"):
        open_folder(path)
    (path / "m.gguf").touch()
    with pytest.raises(FormatError, match=r"such as m\.gguf"):
        open_folder(path)


# ---- one file --------------------------------------------------------------------------


def file_of(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype: Any = "F32", shape: Any = (2, 2), offsets: Any = (0, 16)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "seven bytes": (bytes(7), "7 bytes"),
    "a header past the end": (struct.pack("<Q", 100) + b"{}", "a header of 100 bytes"),
    "a header of 2^64": (struct.pack("<Q", (1 << 64) - 1) + b"{}", "a header of"),
    "not JSON": (file_of(b"{"), "not valid JSON"),
    "not UTF-8": (file_of(b"\xff\xfe{}"), "not valid JSON"),
    "a list": (file_of([]), "holds a list"),
    "depth": (file_of(b'{"a":' * 100_000), "not valid JSON"),
    "a number of 5000 digits": (file_of(b'{"a":' + b"9" * 5000 + b"}"), "not valid JSON"),
    "a name twice": (
        file_of(b'{"a":' + json.dumps(entry()).encode() + b',"a":' + json.dumps(entry()).encode() + b"}"),
        "a key appears twice",
    ),
    "an entry that is a list": (file_of({"a": []}), "tensor 'a' is list"),
    "an empty name": (file_of({"": entry()}, bytes(16)), "tensor ''"),
    "a long name": (file_of({"n" * 513: entry()}, bytes(16)), "tensor 'nnn"),
    "no dtype": (file_of({"a": {"shape": [1], "data_offsets": [0, 4]}}, bytes(4)), "dtype 'None'"),
    "an unknown dtype": (file_of({"a": entry("F12")}, bytes(16)), "dtype 'F12'"),
    "a dtype that is a list": (file_of({"a": entry([])}, bytes(16)), "dtype"),
    "a negative size": (file_of({"a": entry(shape=[-2, -2])}, bytes(16)), "shape"),
    "a size of 0": (file_of({"a": entry(shape=[0], offsets=[0, 0])}), "shape"),
    "a size of 1.0": (file_of({"a": entry(shape=[2.0, 2])}, bytes(16)), "shape"),
    "a size of true": (file_of({"a": entry(shape=[True, 4])}, bytes(16)), "shape"),
    "nine dimensions": (file_of({"a": entry(shape=[1] * 9, offsets=[0, 4])}, bytes(4)), "shape"),
    "a huge size": (file_of({"a": entry(shape=[1 << 40, 1 << 40])}, bytes(16)), "spans"),
    "a size over 2^62": (file_of({"a": entry(shape=[1 << 64])}, bytes(16)), "shape"),
    "one offset": (file_of({"a": entry(offsets=[16])}, bytes(16)), "data_offsets"),
    "offsets backwards": (file_of({"a": entry(offsets=[16, 0])}, bytes(16)), "spans"),
    "offsets below 0": (file_of({"a": entry(offsets=[-16, 0])}, bytes(16)), "data_offsets"),
    "offsets that disagree": (file_of({"a": entry(offsets=[0, 12])}, bytes(12)), "spans"),
    "a hole": (file_of({"a": entry(), "b": entry(offsets=[20, 36])}, bytes(36)), "tensor b starts"),
    "a hole at the start": (file_of({"a": entry(offsets=[4, 20])}, bytes(20)), "tensor a starts"),
    "an overlap": (file_of({"a": entry(), "b": entry(offsets=[8, 24])}, bytes(24)), "tensor b starts"),
    "bytes after the end": (file_of({"a": entry()}, bytes(17)), "the tensors end at"),
    "a byte too few": (file_of({"a": entry()}, bytes(15)), "the tensors end at"),
    "no tensors but bytes": (file_of({}, bytes(1)), "the tensors end at"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused(case: str, tmp_path: Path) -> None:
    content, message = BAD[case]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=message) as caught:
        SafetensorsFile(str(path))
    assert str(path) in str(caught.value)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole = file_of(
        {"__metadata__": {"format": "pt"}, "b": entry(offsets=[16, 32]), "a": entry()}, bytes(range(32))
    )
    path = tmp_path / "model.safetensors"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(FormatError):
            SafetensorsFile(str(path))
    path.write_bytes(whole)
    assert SafetensorsFile(str(path)).read("b").tobytes() == bytes(range(16, 32))


def test_a_header_is_bounded_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 1 << 30))
        file.truncate(2 << 30)
    tracemalloc.start()
    with pytest.raises(FormatError, match="a header of 1073741824 bytes"):
        SafetensorsFile(str(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000


def test_dtype_sizes_are_those_of_numpy() -> None:
    names = {"F": "f", "I": "i", "U": "u"}
    for dtype, size in DTYPE_BYTES.items():
        if dtype[1:].isdigit():
            assert np.dtype(f"{names[dtype[0]]}{int(dtype[1:]) // 8}").itemsize == size


# ---- config.json -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "architecture"),
    [
        ({"model_type": "llama"}, "llama"),
        ({"model_type": "qwen2"}, "qwen2"),
        ({"architectures": ["Qwen3ForCausalLM"]}, "qwen3"),
        ({"model_type": "mistral", "architectures": ["MistralForCausalLM"]}, "mistral"),
        ({"architectures": ["NewForCausalLM"]}, "NewForCausalLM"),
    ],
)
def test_a_config_names_its_architecture(config: dict[str, Any], architecture: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert open_config(tmp_path / "config.json").architecture == architecture


@pytest.mark.parametrize("config", [{}, {"model_type": 3}, {"architectures": []}, {"architectures": "Llama"}])
def test_a_config_without_an_architecture_is_refused(config: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="model_type"):
        open_config(tmp_path / "config.json")


def test_a_config_is_bounded_and_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        open_config(tmp_path / "config.json")
    (tmp_path / "config.json").write_text(" " * (1 << 23))
    with pytest.raises(FormatError, match="at most"):
        open_config(tmp_path / "config.json")
