"""Folders and configs: shards, indexes that lie, and config.json alone."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save_file

from memfirst.errors import ConfigError, FormatError, MemfirstError, ModelNotFoundError, UnsupportedError
from memfirst.formats.hf import open_config, open_folder
from memfirst.formats.open import open_checkpoint
from tests.support.tiny_hf import llama, save_folder


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Make a folder of these arrays in this test's own."""
    return functools.partial(save_folder, tmp_path)


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
def test_an_index_that_lies_is_refused(changes: dict[str, Any], message: str, folder: Callable[..., Path]) -> None:
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


@pytest.mark.parametrize(
    ("config", "architecture"),
    [
        ({"model_type": "llama"}, "llama"),
        ({"model_type": "qwen2"}, "qwen2"),
        ({"architectures": ["Qwen3ForCausalLM"]}, "qwen3"),
        ({"model_type": "mistral", "architectures": ["MistralForCausalLM"]}, "llama"),
        ({"model_type": "gemma3_text"}, "gemma3"),
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
