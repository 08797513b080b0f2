"""GGUF files as files: the map behind the views, models in parts, and the one entry for every form."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest

from memfirst.convert.gguf_write import write_checkpoint
from memfirst.errors import FormatError, MemfirstError, ModelNotFoundError
from memfirst.formats.gguf import GGUFCheckpoint, open_gguf
from memfirst.formats.open import open_checkpoint
from memfirst.models import build
from tests.support import raw_gguf as raw
from tests.support.raw_gguf import ARCHITECTURE, Raw, Save, key, one_tensor, saved, tensor


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Write bytes under a name in this test's folder."""
    return lambda content, name="m.gguf": saved(tmp_path, content, name)


def test_views_are_read_only_and_outlive_close(save: Save) -> None:
    checkpoint = open_gguf(save(one_tensor()))
    view = checkpoint.read("a.weight")
    assert not view.flags.writeable
    checkpoint.close()
    assert view.tobytes() == bytes(range(32))
    with pytest.raises(MemfirstError, match="closed"):
        checkpoint.read("a.weight")
    checkpoint.close()
    checkpoint.release("a.weight")


def test_what_nobody_computes_with_may_be_odd(save: Save) -> None:
    """An author in Latin-1, a flag of 255, a tensor of no elements: llama.cpp loads the first two."""
    author = key("general.author", raw.STRING, struct.pack("<Q", 5) + b"Ren\xe9 ")
    keys = [ARCHITECTURE, author, key("f", raw.BOOL, b"\xff")]
    tensors = [tensor("a.weight", (4, 2), 0, 0), tensor("empty", (0,), 0, 32), tensor("b", (4,), 0, 32)]
    checkpoint = open_gguf(save(one_tensor(keys=keys, tensors=tensors, data=bytes(range(48)))))
    assert checkpoint.metadata["general.author"] == "Ren\ufffd " and checkpoint.metadata["f"] is True
    assert checkpoint.tensors["empty"].nbytes == 0 and len(checkpoint.read("empty")) == 0
    assert checkpoint.read("b").tobytes() == bytes(range(32, 48))


@pytest.mark.parametrize("kind", ["adapter", "imatrix", "mmproj"])
def test_a_file_that_is_no_model_says_what_it_is(save: Save, kind: str) -> None:
    said = key("general.type", raw.STRING, struct.pack("<Q", len(kind)) + kind.encode())
    checkpoint = open_gguf(save(one_tensor(keys=[ARCHITECTURE, said])))
    with pytest.raises(MemfirstError, match=f"this file is no model: it says that its type is '{kind}'"):
        build(checkpoint)


def test_a_file_cut_while_open_is_refused_not_fatal(save: Save) -> None:
    path = save(one_tensor(tensors=[tensor("a", (1 << 14,), 0, 0)], data=bytes(1 << 16)))
    checkpoint = open_gguf(path)
    os.truncate(path, 4096)
    with pytest.raises(FormatError, match="cut while it was open"):
        checkpoint.read("a")


def test_a_file_replaced_while_open_stays_readable(save: Save) -> None:
    path = save(one_tensor())
    checkpoint = open_gguf(path)
    os.replace(save(b"short", "other"), path)
    assert checkpoint.read("a.weight").tobytes() == bytes(range(32))


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's page accounting")
def test_release_drops_the_pages(save: Save) -> None:
    size = 8 << 20
    path = save(one_tensor(tensors=[tensor("a", (size // 4,), 0, 0)], data=b"\7" * size))
    checkpoint = open_gguf(path)
    assert int(checkpoint.read("a").sum()) == 7 * size
    assert mapped_kib(path) > 7 << 10
    checkpoint.release("a")
    assert mapped_kib(path) < 64
    assert int(checkpoint.read("a").sum()) == 7 * size


def mapped_kib(path: Path) -> int:
    """Resident KiB of this process's maps of the file."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    return sum(
        next(int(after.split()[1]) for after in lines if after.startswith("Rss:"))
        for line in lines
        if line.endswith(str(path))
    )


def part(number: int, count: int, name: str, extra: list[bytes] | None = None) -> Raw:
    keys = [key("split.no", raw.U16, struct.pack("<H", number))]
    keys += [key("split.count", raw.U16, struct.pack("<H", count)), *(extra or [])]
    return one_tensor(keys=keys, tensors=[tensor(name, (8,), 0, 0)], data=bytes([number]) * 32)


def save_parts(save: Save, *names: str, declared: int = 3) -> list[Path]:
    total = [ARCHITECTURE, key("split.tensors.count", raw.I32, struct.pack("<i", declared))]
    return [
        save(part(i, len(names), name, None if i else total), f"m-{i + 1:05d}-of-{len(names):05d}.gguf")
        for i, name in enumerate(names)
    ]


@pytest.mark.parametrize("which", [0, 1, 2])
def test_parts_open_by_any_of_them(which: int, save: Save) -> None:
    paths = save_parts(save, "a", "b", "c")
    checkpoint = open_gguf(paths[which])
    assert checkpoint.path == str(paths[0])
    assert checkpoint.architecture == "llama"
    assert [checkpoint.read(name)[0] for name in checkpoint.tensors] == [0, 1, 2]


def test_parts_must_agree(save: Save) -> None:
    paths = save_parts(save, "a", "b", "c")
    save(part(2, 3, "b"), paths[1].name)
    with pytest.raises(FormatError, match=r"\(2, 3\)"):
        open_gguf(paths[0])
    with pytest.raises(FormatError, match="two parts"):
        open_gguf(save_parts(save, "a", "b", "a")[0])
    with pytest.raises(FormatError, match="as the first part says"):
        open_gguf(save_parts(save, "a", "b", "c", declared=4)[0])
    paths[2].unlink()
    with pytest.raises(ModelNotFoundError, match="00003-of-00003"):
        open_gguf(paths[0])


@pytest.mark.parametrize("name", ["m-00004-of-00003.gguf", "m-00000-of-00003.gguf", "m-00001-of-99999.gguf"])
def test_part_numbers_are_bounded(name: str, save: Save) -> None:
    with pytest.raises(FormatError, match="parts"):
        open_gguf(save(one_tensor(), name))


def test_parts_are_written_as_one_file(save: Save, tmp_path: Path) -> None:
    checkpoint = open_gguf(save_parts(save, "a", "b", "c")[0])
    write_checkpoint(checkpoint, tmp_path / "whole.gguf")
    whole = open_gguf(tmp_path / "whole.gguf")
    assert whole.tensors == checkpoint.tensors
    assert not [name for name in whole.metadata if name.startswith("split.")]


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (b"", "m.gguf", "is empty"),
        (b"", "m.txt", "is empty"),
        (b"Dear model,\nplease run.", "m.txt", "a text file"),
        (b"%PDF-1.7\n%\xe2\xe3", "m.pdf", "a PDF document"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "m.gguf", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "m.gguf", "an HTML page"),
        (b"PK\x03\x04\x14\0", "pytorch_model.bin", "safetensors or GGUF"),
        (b"Dear model,\nplease run.", "m.gguf", "does not start with 'GGUF'"),
        (b"\x80\x02}q\x00.", "m.bin", "not a model"),
        (b"GGUF\3\0\0\0", "m", "needs 8 bytes"),
        (b'{"model_type": ', "config.json", "not valid JSON"),
        (bytes(100), "model.safetensors", "give the folder"),
    ],
)
def test_what_is_no_model_is_refused(content: bytes, name: str, message: str, save: Save) -> None:
    with pytest.raises(FormatError, match=message):
        open_checkpoint(save(content, name))


def test_a_missing_path_is_not_found(tmp_path: Path) -> None:
    for path in (tmp_path / "no", "", "a\0b"):
        with pytest.raises(ModelNotFoundError, match="there is no file"):
            open_checkpoint(path)


def test_a_folder_without_a_config_says_what_it_has(tmp_path: Path, save: Save) -> None:
    with pytest.raises(FormatError, match=r"no config\.json"):
        open_checkpoint(tmp_path)
    save(one_tensor())
    with pytest.raises(FormatError, match=r"such as m\.gguf"):
        open_checkpoint(tmp_path)


def test_a_file_without_tensors_has_nothing_to_run(save: Save) -> None:
    assert open_checkpoint(save(one_tensor())).has_bytes
    assert not open_checkpoint(save(Raw(), "vocabulary.gguf")).has_bytes


def test_a_device_is_no_model() -> None:
    with pytest.raises(FormatError, match="not a regular file"):
        open_checkpoint("/dev/zero")


def test_the_entry_opens_each_form(save: Save) -> None:
    assert isinstance(open_checkpoint(save(one_tensor(), "no-suffix")), GGUFCheckpoint)
    config = open_checkpoint(save(json.dumps({"model_type": "llama"}).encode(), "config.json"))
    assert (config.kind, config.architecture, config.has_bytes, dict(config.tensors)) == (
        "hf",
        "llama",
        False,
        {},
    )
