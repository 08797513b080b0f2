"""A GGUF model: one file, or a set of `-00001-of-00003.gguf` parts, opened without reading its weights."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from memfirst.codecs.base import U8
from memfirst.errors import FormatError, MemfirstError
from memfirst.formats.checkpoint import Extent, TensorInfo
from memfirst.formats.gguf_header import (
    Cursor,
    Placed,
    alignment_of,
    read_counts,
    read_metadata,
    read_tensor_table,
)
from memfirst.formats.mapped import MappedFile

PART = re.compile(r"^(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf$", re.DOTALL)
MAX_PARTS = 1024


@dataclass(frozen=True)
class GGUFPart:
    """One file of the set, mapped, with its header read."""

    file: MappedFile
    version: int
    metadata: dict[str, Any]
    placed: dict[str, Placed]


FUSED, PARTS = "ffn_gate_up_exps.", ("ffn_gate_exps.", "ffn_up_exps.")
"""Experts whose gate and up are one tensor, gate's rows before up's, and what they are called apart."""


class GGUFCheckpoint:
    """A Checkpoint over mapped GGUF files; `version` is the format's, 2 or 3.

    tensors  as the files have them, but for experts' fused gate and up, which are two tensors here
    """

    kind = "gguf"

    def __init__(self, path: str, parts: list[GGUFPart]) -> None:
        self.path, self._parts = path, parts
        self.version = parts[0].version
        self.metadata: Mapping[str, Any] = MappingProxyType(parts[0].metadata)
        self._where: dict[str, tuple[MappedFile, Placed]] = {}
        for part in parts:
            self._add(part)
        self._halves: dict[str, tuple[str, int]] = {}
        infos = [info for name, (_, placed) in self._where.items() for info in self._infos(name, placed.info)]
        self.tensors: Mapping[str, TensorInfo] = MappingProxyType({info.name: info for info in infos})
        if len(infos) != len(self.tensors):
            raise FormatError("gate and up of experts are there twice, apart and together", "one of both")

    def _infos(self, name: str, info: TensorInfo) -> list[TensorInfo]:
        """The tensor, or the two that are fused in it."""
        if FUSED not in name or len(info.shape) != 3 or info.shape[1] % 2:
            return [info]
        shape, found = (info.shape[0], info.shape[1] // 2, info.shape[2]), []
        for half, part in enumerate(PARTS):
            apart = name.replace(FUSED, part)
            self._halves[apart] = name, half
            found.append(TensorInfo(apart, shape, info.codec, info.nbytes // 2))
        return found

    def _add(self, part: GGUFPart) -> None:
        twice = self._where.keys() & part.placed.keys()
        if twice:
            raise FormatError(f"tensor {min(twice)} is in two parts of the model", "unique names")
        self._where.update({name: (part.file, placed) for name, placed in part.placed.items()})

    @property
    def architecture(self) -> str:
        """`general.architecture`; FormatError where the file does not name one."""
        name = self.metadata.get("general.architecture")
        if not isinstance(name, str) or not name:
            raise FormatError(f"{self.path} names no general.architecture", "a language model")
        return name

    @property
    def has_bytes(self) -> bool:
        """False for a file without tensors (a vocabulary alone)."""
        return bool(self.tensors)

    def read(self, name: str) -> U8:
        """The tensor's bytes, flat, read-only, on the map (a copy where it is half of one); KeyError for a name that is
        not in `tensors`."""
        stored, half = self._halves.get(name, (name, 0))
        file, placed = self._where[stored]
        data = file.view(placed.start, placed.info.nbytes)
        if stored == name:
            return data
        data = data.reshape(placed.info.shape[0], 2, -1)[:, half].reshape(-1)
        data.flags.writeable = False
        return data

    def extents(self, name: str) -> tuple[Extent, ...]:
        """One stretch of the file; of half a tensor one for each expert."""
        stored, half = self._halves.get(name, (name, 0))
        file, placed = self._where[stored]
        if stored == name:
            return (file.extent(placed.start, placed.info.nbytes),)
        experts = placed.info.shape[0]
        each = placed.info.nbytes // experts // 2
        return tuple(file.extent(placed.start + (2 * e + half) * each, each) for e in range(experts))

    def release(self, name: str) -> None:
        """Drop the whole pages that the tensor fills from this process."""
        file, placed = self._where[self._halves.get(name, (name, 0))[0]]
        file.release(placed.start, placed.info.nbytes)

    def close(self) -> None:
        """Unmap the files; bytes that are still in use stay mapped until they are let go."""
        for part in self._parts:
            part.file.close()


def open_gguf(path: str | os.PathLike[str]) -> GGUFCheckpoint:
    """Open a GGUF file, or a split one by any of its parts; raises FormatError, ModelNotFoundError."""
    paths = part_paths(os.fspath(path))
    parts: list[GGUFPart] = []
    try:
        for each in paths:
            parts.append(_open_part(each))
        if len(parts) > 1:
            _check_split(parts)
        elif parts[0].metadata.get("split.count", 1) != 1:
            raise FormatError(f"{path} is one of several parts", "a name like model-00001-of-00003.gguf")
        return GGUFCheckpoint(paths[0], parts)
    except BaseException:
        for part in parts:
            part.file.close()
        raise


def part_paths(path: str) -> list[str]:
    """The files of the set that `path` belongs to, in order: itself alone unless its name says otherwise."""
    folder, base = os.path.split(path)
    match = PART.match(base)
    count = int(match["count"]) if match else 1
    if match is None or count == 1:
        return [path]
    if not 1 <= int(match["number"]) <= count <= MAX_PARTS:
        raise FormatError(f"{base} is part {match['number']} of {count}", f"1 to {MAX_PARTS} parts")
    stem = match["stem"]
    return [os.path.join(folder, f"{stem}-{i:05d}-of-{count:05d}.gguf") for i in range(1, count + 1)]


def _open_part(path: str) -> GGUFPart:
    file = MappedFile(path)
    try:
        with memoryview(file.map) as buffer:
            return _read_part(file, buffer)
    except MemfirstError as error:
        file.close()
        raise type(error)(f"{path}: {error.found}", error.expected, error.do) from error
    except BaseException:
        file.close()
        raise


def _read_part(file: MappedFile, buffer: memoryview) -> GGUFPart:
    cursor = Cursor(buffer)
    n_tensors, n_keys = read_counts(cursor)
    version = int.from_bytes(buffer[4:8], "little")
    metadata = read_metadata(cursor, n_keys)
    placed = read_tensor_table(cursor, n_tensors, alignment_of(metadata))
    return GGUFPart(file, version, metadata, placed)


def _check_split(parts: list[GGUFPart]) -> None:
    """Each part says its number, from 0, and how many there are; the first says how many tensors in all."""
    for number, part in enumerate(parts):
        found = part.metadata.get("split.no"), part.metadata.get("split.count")
        if found != (number, len(parts)):
            raise FormatError(f"{part.file.path} says (part, count) {found}", f"{(number, len(parts))}")
    declared, held = parts[0].metadata.get("split.tensors.count"), sum(len(p.placed) for p in parts)
    if declared is not None and declared != held:
        raise FormatError(f"{held} tensors in {len(parts)} parts", f"{declared}, as the first part says")
