"""The GGUF reader and writer: against the `gguf` package where files are good, by hand where they are not."""

from __future__ import annotations

import errno
import json
import os
import shutil
import struct
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest

from memfirst.codecs import CODECS
from memfirst.errors import CapacityError, FormatError, MemfirstError, ModelNotFoundError, UnsupportedError
from memfirst.formats.checkpoint import TensorInfo
from memfirst.formats.gguf import GGUFCheckpoint, open_gguf
from memfirst.formats.gguf_write import write_checkpoint, write_gguf
from memfirst.formats.open import open_checkpoint
from memfirst.formats.string_array import StringArray
from memfirst.formats.synthetic import synthetic
from tests import raw_gguf as raw
from tests.raw_gguf import ARCHITECTURE, Raw, array, key, string, tensor

Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def to_disk(content: Raw | bytes, name: str = "m.gguf") -> Path:
        path = tmp_path / name
        path.write_bytes(bytes(content))
        return path

    return to_disk


def one_tensor(**changes: object) -> Raw:
    """A good file with one f32 tensor of [2 rows, 4 columns]."""
    made = {"tensors": [tensor("a.weight", (4, 2), 0, 0)], "data": bytes(range(32))}
    return Raw(**{**made, **changes})  # type: ignore[arg-type]


# ---- good files ------------------------------------------------------------


VALUES = {
    "u8": (gguf.GGUFValueType.UINT8, 200),
    "i8": (gguf.GGUFValueType.INT8, -100),
    "u16": (gguf.GGUFValueType.UINT16, 60000),
    "i16": (gguf.GGUFValueType.INT16, -30000),
    "u32": (gguf.GGUFValueType.UINT32, 4000000000),
    "i32": (gguf.GGUFValueType.INT32, -2000000000),
    "u64": (gguf.GGUFValueType.UINT64, (1 << 64) - 1),
    "i64": (gguf.GGUFValueType.INT64, -(1 << 63)),
    "f32": (gguf.GGUFValueType.FLOAT32, 0.15625),
    "f64": (gguf.GGUFValueType.FLOAT64, 1e-300),
    "bool": (gguf.GGUFValueType.BOOL, True),
    "string": (gguf.GGUFValueType.STRING, "größe 日本"),
}
ARRAYS = {
    "ints": [1, -2, 3],
    "floats": [0.5, -1.25],
    "bools": [True, False, True],
    "strings": ["", "a", "日本", "x" * 300],
}


@pytest.fixture
def package_file(tmp_path: Path) -> Path:
    """A file by the gguf package: every value type, odd shapes, several codecs."""
    path = tmp_path / "package.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for name, (kind, value) in VALUES.items():
        writer.add_key_value(f"v.{name}", value, kind)
    for name, items in ARRAYS.items():
        writer.add_array(f"a.{name}", items)
    random = np.random.default_rng(0)
    writer.add_tensor("one", random.standard_normal(5, np.float32))
    writer.add_tensor("four", random.standard_normal((2, 3, 4, 5)).astype(np.float16))
    quantized = gguf.quants.quantize(
        random.standard_normal((3, 64), np.float32), gguf.GGMLQuantizationType.Q8_0
    )
    writer.add_tensor("q", quantized, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_values_are_those_that_the_gguf_package_wrote(package_file: Path) -> None:
    metadata = open_gguf(package_file).metadata
    assert {name: metadata[f"v.{name}"] for name in VALUES} == {
        name: value for name, (_, value) in VALUES.items()
    }
    assert {name: list(metadata[f"a.{name}"]) for name in ARRAYS} == ARRAYS
    assert metadata["v.bool"] is True


def test_tensors_are_those_that_the_gguf_package_wrote(package_file: Path) -> None:
    checkpoint = open_gguf(package_file)
    assert list(checkpoint.tensors) == ["one", "four", "q"]
    assert checkpoint.tensors["four"] == TensorInfo("four", (2, 3, 4, 5), "f16", 240)
    assert checkpoint.tensors["q"] == TensorInfo("q", (3, 64), "q8_0", 3 * 2 * 34)
    for stored in gguf.GGUFReader(package_file).tensors:
        assert checkpoint.read(stored.name).tobytes() == stored.data.tobytes()


def test_version_2_reads_like_3(save: Save) -> None:
    second, third = (open_gguf(save(one_tensor(version=v), f"{v}.gguf")) for v in (2, 3))
    assert (second.version, third.version) == (2, 3)
    assert second.read("a.weight").tobytes() == third.read("a.weight").tobytes() == bytes(range(32))


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


def test_a_file_written_again_is_identical(package_file: Path, tmp_path: Path) -> None:
    write_checkpoint(open_gguf(package_file), tmp_path / "one.gguf")
    write_checkpoint(open_gguf(tmp_path / "one.gguf"), tmp_path / "two.gguf")
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "two.gguf").read_bytes()
    first, again = open_gguf(package_file), open_gguf(tmp_path / "two.gguf")
    assert {k: str(v) for k, v in first.metadata.items()} == {k: str(v) for k, v in again.metadata.items()}


def test_the_real_file_is_read_whole_and_quickly(smollm2: Path, tmp_path: Path) -> None:
    checkpoint = open_gguf(smollm2)
    theirs = gguf.GGUFReader(smollm2)
    assert {t.name: t.n_bytes for t in theirs.tensors} == {n: i.nbytes for n, i in checkpoint.tensors.items()}
    assert theirs.fields["tokenizer.ggml.tokens"].contents() == list(
        checkpoint.metadata["tokenizer.ggml.tokens"]
    )
    write_checkpoint(checkpoint, tmp_path / "again.gguf")
    assert (tmp_path / "again.gguf").read_bytes() == Path(smollm2).read_bytes()
    assert fastest(lambda: open_gguf(smollm2).close()) < 0.2


def test_a_vocabulary_of_256k_with_512k_merges_opens_fast(save: Save) -> None:
    tokens, merges = (b"".join(string(f"{i:x} token") for i in range(n)) for n in (1 << 18, 1 << 19))
    keys = [ARCHITECTURE, key("tokens", raw.ARRAY, array(raw.STRING, 1 << 18, tokens))]
    path = save(Raw(keys=[*keys, key("merges", raw.ARRAY, array(raw.STRING, 1 << 19, merges))]))
    assert fastest(lambda: open_gguf(path).close()) < 0.3
    assert open_gguf(path).metadata["merges"][-1] == "7ffff token"


def fastest(action: Callable[[], object]) -> float:
    """Seconds of the best of 5: what the code needs when nobody else takes the processor."""

    def once() -> float:
        start = time.perf_counter()
        action()
        return time.perf_counter() - start

    return min(once() for _ in range(5))


def test_strings_that_are_not_utf8_stay_exact_in_arrays(save: Save) -> None:
    payload = array(raw.STRING, 3, string(b"ok") + string(b"\xff\xfe") + string(b""))
    words = open_gguf(save(Raw(keys=[ARCHITECTURE, key("w", raw.ARRAY, payload)]))).metadata["w"]
    assert isinstance(words, StringArray)
    assert [words.raw(i) for i in range(3)] == [b"ok", b"\xff\xfe", b""]
    assert list(words) == words[:] == [words[0], words[1], words[-1]] == ["ok", "\ufffd\ufffd", ""]
    with pytest.raises(IndexError):
        words[3]


def test_nested_arrays_are_read_and_their_depth_is_limited(save: Save) -> None:
    inner = array(raw.U8, 2, b"\1\2")
    nested = open_gguf(
        save(Raw(keys=[ARCHITECTURE, key("n", raw.ARRAY, array(raw.ARRAY, 2, inner * 2))]))
    ).metadata
    assert [part.tolist() for part in nested["n"]] == [[1, 2], [1, 2]]
    for _ in range(5000):
        inner = array(raw.ARRAY, 1, inner)
    refused(save(Raw(keys=[ARCHITECTURE, key("n", raw.ARRAY, inner)])), "nested")


# ---- bad files ------------------------------------------------------------


def refused(path: Path, message: str) -> None:
    with pytest.raises(MemfirstError, match=message) as caught:
        open_gguf(path)
    assert str(path) in str(caught.value)


HUGE = (1 << 64) - 1
BAD: dict[str, tuple[Raw, str]] = {
    "magic": (one_tensor(magic=b"GGML"), "does not start with 'GGUF'"),
    "version 1": (one_tensor(version=1), "version 1"),
    "version 4": (one_tensor(version=4), "version 4"),
    "version 0": (one_tensor(version=0), "version 0"),
    "big endian": (one_tensor(version=3 << 24), "big endian"),
    "keys beyond the file": (one_tensor(n_keys=HUGE), "metadata keys"),
    "one key too many": (one_tensor(n_keys=2, tensors=[], data=b""), "key '' is empty"),
    "tensors beyond the file": (one_tensor(n_tensors=HUGE), "tensors in"),
    "a key twice": (Raw(keys=[ARCHITECTURE] * 2), "repeated"),
    "an empty key": (Raw(keys=[key("", raw.U8, b"\1")]), "empty"),
    "a key longer than the file": (Raw(keys=[struct.pack("<Q", 1 << 15) + b"abc"], n_keys=1), "bytes"),
    "a key longer than allowed": (Raw(keys=[key("k" * 70000, raw.U8, b"\1")]), "65535"),
    "a key that is not UTF-8": (Raw(keys=[key(b"\xff\xff", raw.U8, b"\1")]), "not UTF-8"),
    "a value that is not UTF-8": (Raw(keys=[key("k", raw.STRING, string(b"\xff"))]), "not UTF-8"),
    "an unknown type": (Raw(keys=[key("k", 13, bytes(16))]), "type 13"),
    "a truth value of 2": (Raw(keys=[key("k", raw.BOOL, b"\2")]), "truth value 2"),
    "an array beyond the file": (
        Raw(keys=[key("k", raw.ARRAY, array(raw.F64, 1 << 20, bytes(64)))]),
        "bytes",
    ),
    "an array of 2^64 numbers": (Raw(keys=[key("k", raw.ARRAY, array(raw.U8, HUGE, b""))]), "at most"),
    "an array of 2^64 strings": (Raw(keys=[key("k", raw.ARRAY, array(raw.STRING, HUGE, b""))]), "at most"),
    "more strings than bytes": (
        Raw(keys=[key("k", raw.ARRAY, array(raw.STRING, 1 << 20, bytes(8)))]),
        "strings",
    ),
    "a string of 2^64 bytes": (
        Raw(keys=[key("k", raw.ARRAY, array(raw.STRING, 2, struct.pack("<QQ", 0, HUGE)))]),
        "past the end",
    ),
    "an array of nothing known": (Raw(keys=[key("k", raw.ARRAY, array(77, 1, bytes(8)))]), "type 77"),
    "alignment 0": (Raw(keys=[key("general.alignment", raw.U32, bytes(4))]), "alignment is 0"),
    "alignment 24": (Raw(keys=[key("general.alignment", raw.U32, b"\x18\0\0\0")]), "alignment is 24"),
    "alignment 4": (Raw(keys=[key("general.alignment", raw.U32, b"\4\0\0\0")]), "alignment is 4"),
    "alignment 2^31": (
        Raw(keys=[key("general.alignment", raw.U32, b"\0\0\0\x80")]),
        "alignment is 2147483648",
    ),
    "alignment true": (Raw(keys=[key("general.alignment", raw.BOOL, b"\1")]), "alignment is True"),
    "a tensor twice": (one_tensor(tensors=[tensor("a", (4,), 0, 0), tensor("a", (4,), 0, 32)]), "twice"),
    "an empty tensor name": (one_tensor(tensors=[tensor("", (4,), 0, 0)]), "dimensions"),
    "a long tensor name": (one_tensor(tensors=[tensor("n" * 65, (4,), 0, 0)]), "at most 64"),
    "a name that is not UTF-8": (one_tensor(tensors=[tensor(b"\xc3\x28", (4,), 0, 0)]), "not UTF-8"),
    "no dimensions": (one_tensor(tensors=[tensor("a", (), 0, 0) + bytes(8)]), "0 dimensions"),
    "five dimensions": (one_tensor(tensors=[tensor("a", (1,) * 5, 0, 0)]), "5 dimensions"),
    "2^32-1 dimensions": (one_tensor(tensors=[tensor("a", (4,), 0, 0, n_dims=(1 << 32) - 1)]), "dimensions"),
    "a dimension of 0": (one_tensor(tensors=[tensor("a", (4, 0), 0, 0)]), "shape"),
    "a product over 2^64": (one_tensor(tensors=[tensor("a", (1 << 32, 1 << 32), 0, 0)]), "shape"),
    "a product of 2^64 times 0 bytes": (one_tensor(tensors=[tensor("a", (1 << 63, 2, 1, 1), 0, 0)]), "shape"),
    "an unknown codec": (one_tensor(tensors=[tensor("a", (4,), 4, 0)]), "tensor a"),
    "a codec of 2^32-1": (one_tensor(tensors=[tensor("a", (4,), (1 << 32) - 1, 0)]), "tensor a"),
    "a row of half a block": (one_tensor(tensors=[tensor("a", (16, 2), 2, 0)]), "blocks of 32"),
    "an unaligned offset": (one_tensor(tensors=[tensor("a", (4,), 0, 4)]), "a multiple of 32"),
    "an offset past the end": (one_tensor(tensors=[tensor("a", (4,), 0, 1 << 20)]), "the file is cut"),
    "an offset near 2^64": (one_tensor(tensors=[tensor("a", (4,), 0, HUGE - 31)]), "the file is cut"),
    "an overlap": (
        one_tensor(tensors=[tensor("a", (16,), 0, 0), tensor("b", (8,), 0, 32)], data=bytes(128)),
        "overlaps",
    ),
    "a last tensor cut by a byte": (one_tensor(data=bytes(31)), "the file is cut"),
    "a part without its name": (
        Raw(keys=[ARCHITECTURE, key("split.count", raw.U16, b"\3\0")]),
        "several parts",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_by_name(case: str, save: Save) -> None:
    content, message = BAD[case]
    refused(save(content), message)


def test_an_unknown_codec_is_unsupported_not_malformed(save: Save) -> None:
    with pytest.raises(UnsupportedError, match="tensor a"):
        open_gguf(save(one_tensor(tensors=[tensor("a", (4,), 999, 0)])))


def test_every_truncation_is_refused(save: Save) -> None:
    keys = [ARCHITECTURE, key("w", raw.ARRAY, array(raw.STRING, 2, string("ab") + string("c")))]
    whole = bytes(one_tensor(keys=keys))
    for length in range(1, len(whole)):
        refused(save(whole[:length]), "m.gguf")
    assert open_gguf(save(whole)).tensors


@pytest.mark.parametrize(
    "case", ["an array of 2^64 strings", "more strings than bytes", "keys beyond the file"]
)
def test_a_lie_about_a_count_allocates_nothing(case: str, save: Save) -> None:
    path = save(BAD[case][0])
    tracemalloc.start()
    with pytest.raises(FormatError):
        open_gguf(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200_000


def test_the_architecture_must_be_named(save: Save) -> None:
    with pytest.raises(FormatError, match="architecture"):
        open_gguf(save(Raw(keys=[key("k", raw.U8, b"\1")]))).architecture  # noqa: B018
    assert open_gguf(save(Raw())).architecture == "llama"


# ---- the map ------------------------------------------------------------


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


# ---- parts ------------------------------------------------------------


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


# ---- writing ------------------------------------------------------------

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
    with pytest.raises(MemfirstError, match="cannot be written"):
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


# ---- one entry ------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (b"", "m.gguf", "is empty"),
        (b"", "m.txt", "is empty"),
        (b"Dear model,\nplease run.", "m.txt", "a text file"),
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
