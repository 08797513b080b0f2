"""The GGUF writer: what it makes reads back alike, and a failure leaves nothing behind."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest

from memfirst.codecs import CODECS
from memfirst.convert.gguf_write import write_checkpoint, write_gguf
from memfirst.convert.synthetic import synthetic
from memfirst.errors import CapacityError, FormatError, MemfirstError
from memfirst.formats.checkpoint import TensorInfo
from memfirst.formats.gguf import open_gguf

INFO = TensorInfo("a.weight", (8,), "f32", 32)


def failing(number: int) -> Callable[[TensorInfo], Iterator[bytes]]:
    def chunks(info: TensorInfo) -> Iterator[bytes]:
        yield bytes(16)
        raise OSError(number, os.strerror(number))

    return chunks


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, CapacityError), (errno.EIO, MemfirstError)])
def test_a_failed_write_leaves_what_was_there(number: int, kind: type[MemfirstError], tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"before")
    with pytest.raises(kind):
        write_gguf(tmp_path / "m.gguf", {"k": 1}, [INFO], failing(number))
    assert os.listdir(tmp_path) == ["m.gguf"]
    assert (tmp_path / "m.gguf").read_bytes() == b"before"


def test_what_does_not_fit_is_refused_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(CapacityError, match="the disk has 100"):
        write_gguf(tmp_path / "m.gguf", {"k": 1}, [INFO], lambda _: pytest.fail("asked for bytes"))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("sizes", [[], [16], [32, 1], [16, 17]])
def test_a_tensor_must_have_its_size(sizes: list[int], tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"tensor a\.weight"):
        write_gguf(tmp_path / "m.gguf", {}, [INFO], lambda _: [bytes(n) for n in sizes])
    assert os.listdir(tmp_path) == []


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    def chunks(_: TensorInfo) -> Iterator[bytes]:
        yield bytes(16)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_gguf(tmp_path / "m.gguf", {}, [INFO], chunks)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("place", ["missing/m.gguf", "."])
def test_an_impossible_place_is_a_clear_error(place: str, tmp_path: Path) -> None:
    with pytest.raises(MemfirstError, match="cannot write"):
        write_gguf(tmp_path / place, {}, [INFO], lambda _: [bytes(32)])
    assert os.listdir(tmp_path) == []


def test_alignment_is_kept(tmp_path: Path) -> None:
    infos = [TensorInfo("a", (3,), "f32", 12), TensorInfo("b", (3,), "f32", 12)]
    write_gguf(tmp_path / "m.gguf", {"general.alignment": 128}, infos, lambda info: [info.name.encode() * 12])
    stored = gguf.GGUFReader(tmp_path / "m.gguf").tensors
    assert [t.data_offset % 128 for t in stored] == [0, 0]
    assert open_gguf(tmp_path / "m.gguf").read("b").tobytes() == b"b" * 12


def test_a_value_that_gguf_cannot_hold_is_refused(tmp_path: Path) -> None:
    for value in (1 << 64, [["a"]], {"a": 1}, [1, "a"]):
        with pytest.raises(FormatError):
            write_gguf(tmp_path / "m.gguf", {"k": value}, [], lambda _: [])


@pytest.mark.parametrize("mix", ["f32", "bf16", "q4_0", "q5_1", "q8_0", "q4_k_m", "q6_k", "iq4_nl"])
@pytest.mark.parametrize("shape", ["tiny-llama", "tiny-llama-odd", "tiny-qwen2", "tiny-qwen3"])
def test_written_files_read_the_same_by_us_and_by_gguf(shape: str, mix: str, tmp_path: Path) -> None:
    source, path = synthetic(shape, mix, seed=3), tmp_path / "w.gguf"
    write_checkpoint(source, path)
    ours, theirs = open_gguf(path), gguf.GGUFReader(path)
    assert ours.tensors == source.tensors
    assert [t.name for t in theirs.tensors] == list(source.tensors)
    for stored in theirs.tensors:
        info = source.tensors[stored.name]
        assert (*reversed(stored.shape.tolist()),) == info.shape
        assert stored.tensor_type == CODECS[info.codec].ggml_type
        assert stored.data.tobytes() == ours.read(info.name).tobytes() == source.read(info.name).tobytes()
    for name, value in source.metadata.items():
        expected = value.tolist() if isinstance(value, np.ndarray) else value
        assert theirs.fields[name].contents() == expected
