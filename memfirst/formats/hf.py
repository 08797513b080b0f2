"""A Hugging Face folder (config.json, safetensors) or a bare config.json, in GGUF names and row order."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from memfirst.codecs.base import U8
from memfirst.errors import FormatError, MemfirstError, UnsupportedError
from memfirst.formats.architectures import architecture_of, multimodal, text_of
from memfirst.formats.checkpoint import CONFIG, Checkpoint, Extent, TensorInfo
from memfirst.formats.expert_names import left_out, places
from memfirst.formats.joined import Joined, Piece
from memfirst.formats.json_file import parse_object
from memfirst.formats.mapped import list_folder, read_bounded
from memfirst.formats.names import HARMLESS, TABLES, TIED, Transform, beside_text, gguf_name, identity, inside
from memfirst.formats.safetensors import FLOATS, MAX_TENSORS, SafetensorsFile, StoredTensor, to_f32

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_CONFIG, MAX_INDEX = 1 << 22, 1 << 25  # bytes


@dataclass(frozen=True)
class Source:
    """Where a tensor's bytes are, and how they become GGUF's."""

    file: SafetensorsFile
    stored: StoredTensor
    transform: Transform


class HFCheckpoint:
    """A Checkpoint whose metadata is config.json.

    tensors    under GGUF names; matrices as stored, vectors (norms, biases) as f32, as GGUF has them.
               Of an architecture without a table in `names`: under its own names, rows as stored, to look at
    ignored    tensors of the file that decoding does not read: buffers that the config implies, a tied
               lm_head, what a multimodal model has beside its text model, of `beside_text` bytes
    """

    kind = "hf"

    def __init__(self, path: str, config: dict[str, Any], files: list[SafetensorsFile]) -> None:
        self.path, self._files = path, files
        self.metadata: Mapping[str, Any] = MappingProxyType(config)
        self._text = text_of(config)
        self._sources: dict[str, Source] = {}
        self._joined: dict[str, Joined] = {}
        self.ignored: list[str] = []
        self.beside_text = 0
        for file in files:
            for stored in file.tensors.values():
                self._add(file, stored)
        infos = {name: _info(name, source) for name, source in self._sources.items()}
        twice = infos.keys() & self._joined.keys()
        if twice:
            raise FormatError(f"tensor {min(twice)} is twice in {self.path}", "each tensor once")
        infos |= {name: joined.info for name, joined in self._joined.items()}
        self.tensors: Mapping[str, TensorInfo] = MappingProxyType(infos)

    @property
    def architecture(self) -> str:
        """As in GGUF ("llama") where known, else the config's `model_type`."""
        return architecture_of(self.metadata)

    @property
    def has_bytes(self) -> bool:
        """False for a bare config.json."""
        return bool(self._files)

    @property
    def _tied(self) -> bool:
        stated = self._text.get("tie_word_embeddings")
        return self.architecture in TIED if stated is None else stated is True

    def _add(self, file: SafetensorsFile, stored: StoredTensor) -> None:
        if HARMLESS.search(stored.name):
            self.ignored.append(stored.name)
            return
        wrapped, known = "text_config" in self.metadata, self.architecture in TABLES
        if multimodal(self.metadata) and beside_text(stored.name, self.metadata):
            self.ignored.append(stored.name)  # decoding text does not read it
            self.beside_text += stored.nbytes
            return
        inner = inside(stored.name) if wrapped else stored.name
        if left_out(self.architecture, inner, self._text):
            self.ignored.append(stored.name)
            return
        if self._join(file, stored, inner):
            return
        name, transform = gguf_name(self.architecture, inner) if known else (stored.name, identity)
        if known and name == "output.weight" and self._tied:
            self.ignored.append(stored.name)  # stored twice: the config says that the embedding is the head
            return
        if transform is not identity and len(stored.shape) not in (1, 2):
            raise FormatError(f"tensor {stored.name} has shape {list(stored.shape)}", "a matrix or a bias")
        if name in self._sources:
            raise FormatError(f"tensor {name} is twice in {self.path}", "each tensor once")
        self._sources[name] = Source(file, stored, transform)

    def _join(self, file: SafetensorsFile, stored: StoredTensor, inner: str) -> bool:
        """Whether the tensor, called `inner` in its model, is (or holds) a piece of GGUF's: then it is noted."""
        found = places(self.architecture, inner, self._text)
        for place in found:
            joined = self._joined.setdefault(place.name, Joined(place.name))
            joined.pieces.append(Piece(file, stored, place, self._text))
        return bool(found)

    def read(self, name: str) -> U8:
        """The tensor's bytes, flat, read-only; a copy where rows move or a vector becomes f32."""
        if name in self._joined:
            joined = self._joined[name].read()
            joined.flags.writeable = False
            return joined
        source = self._sources[name]
        data = source.file.read(source.stored.name)
        if _becomes_f32(source.stored):
            data = to_f32(data, source.stored.dtype).view(np.uint8)
        if source.transform is not identity:
            rows = source.stored.shape[0]
            data = source.transform(data.reshape(rows, -1), self._text).reshape(-1)
        data.flags.writeable = False
        return data

    def extents(self, name: str) -> tuple[Extent, ...]:
        """Where a matrix lies that is stored as GGUF has it; of stacked experts, where each does."""
        if name in self._joined:
            return self._joined[name].extents()
        source = self._sources[name]
        as_read = source.transform is identity and not _becomes_f32(source.stored)
        return (source.file.extent(source.stored.name),) if as_read else ()

    def release(self, name: str) -> None:
        """Drop the whole pages that the stored tensor fills from this process."""
        if name in self._joined:
            self._joined[name].release()
        else:
            source = self._sources[name]
            source.file.release(source.stored.name)

    def close(self) -> None:
        """Unmap the files."""
        for file in self._files:
            file.close()


def text_alone(checkpoint: Checkpoint) -> str:
    """What is said of a multimodal model, of which the text model alone is built; "" of others."""
    if not isinstance(checkpoint, HFCheckpoint) or not multimodal(checkpoint.metadata):
        return ""
    size = f", {checkpoint.beside_text / 1e9:.2f} GB," if checkpoint.beside_text else ""
    return f"the text model alone: towers for images and sound{size} are left out"


def _becomes_f32(stored: StoredTensor) -> bool:
    return len(stored.shape) == 1 and stored.dtype in FLOATS


def _info(name: str, source: Source) -> TensorInfo:
    stored = source.stored
    if _becomes_f32(stored):
        return TensorInfo(name, stored.shape, "f32", 4 * stored.shape[0])
    return TensorInfo(name, stored.shape, stored.dtype.lower(), stored.nbytes)


def open_config(path: str | os.PathLike[str]) -> HFCheckpoint:
    """A bare config.json, to be priced: no weights. Raises FormatError, ModelNotFoundError."""
    name = os.fspath(path)
    return HFCheckpoint(name, _read_config(name), [])


def _read_config(path: str) -> dict[str, Any]:
    config = parse_object(read_bounded(path, MAX_CONFIG), path)
    architecture_of(config)
    return config


def open_folder(path: str | os.PathLike[str]) -> HFCheckpoint:
    """A folder with config.json and model.safetensors, whole or in shards; raises MemfirstError."""
    folder = os.fspath(path)
    config = _read_config(os.path.join(folder, CONFIG))
    files: list[SafetensorsFile] = []
    try:
        for name, expected in _shards(folder).items():
            files.append(SafetensorsFile(os.path.join(folder, name)))
            _check_shard(files[-1], expected)
        return HFCheckpoint(folder, config, files)
    except MemfirstError:
        for file in files:
            file.close()
        raise


def _shards(folder: str) -> Mapping[str, set[str] | None]:
    """File names of the weights, each with the tensors that the index promises in it (None: no index)."""
    if os.path.exists(os.path.join(folder, SINGLE)):
        return {SINGLE: None}
    index = os.path.join(folder, INDEX)
    if not os.path.exists(index):
        raise _no_weights(folder)
    weight_map = parse_object(read_bounded(index, MAX_INDEX), index).get("weight_map")
    if not isinstance(weight_map, dict) or not 1 <= len(weight_map) <= MAX_TENSORS:
        raise FormatError(f"{index} has no weight_map", "an object of tensor names and file names")
    shards: dict[str, set[str]] = {}
    for tensor, file in weight_map.items():
        shards.setdefault(_plain_name(file, index), set()).add(tensor)
    return shards


def _plain_name(file: Any, index: str) -> str:
    """A shard's name, which must stay in its folder."""
    if not isinstance(file, str) or not file.endswith(".safetensors") or set(file) & set("/\\\0"):
        raise FormatError(f"{index} names the file {str(file)[:80]!r}", "a .safetensors file beside it")
    return file


def _check_shard(file: SafetensorsFile, expected: set[str] | None) -> None:
    if expected is None or expected == file.tensors.keys():
        return
    odd = min(expected ^ file.tensors.keys())
    where = "is not in" if odd in expected else "is not listed by the index but is in"
    raise FormatError(f"tensor {odd} {where} {file.path}", "an index that matches its files")


def _no_weights(folder: str) -> MemfirstError:
    """Say what the folder has instead."""
    found = list_folder(folder)
    if any(name.endswith((".bin", ".pt", ".pth")) for name in found):
        return UnsupportedError(f"{folder} has only pickled weights", SINGLE, "convert them to safetensors")
    models = [name for name in found if name.endswith(".gguf")]
    if models:
        return FormatError(f"{folder} has no {SINGLE}", SINGLE, f"give one of its files, such as {models[0]}")
    return FormatError(f"{folder} has {CONFIG} but no weights", SINGLE, f"give {CONFIG} itself")
