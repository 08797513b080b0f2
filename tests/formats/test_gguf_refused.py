"""The GGUF reader on bad files: byte by byte, each refused by name, and nothing allocated for a lie."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import pytest

from memfirst.errors import FormatError, MemfirstError, UnsupportedError
from memfirst.formats.gguf import open_gguf
from tests.support import raw_gguf as raw
from tests.support.raw_gguf import ARCHITECTURE, Raw, Save, array, key, one_tensor, saved, string, tensor


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Write bytes under a name in this test's folder."""
    return lambda content, name="m.gguf": saved(tmp_path, content, name)


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
    "an unknown type": (Raw(keys=[key("k", 13, bytes(16))]), "type 13"),
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


@pytest.mark.parametrize("case", ["an array of 2^64 strings", "more strings than bytes", "keys beyond the file"])
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


def test_nested_arrays_are_read_and_their_depth_is_limited(save: Save) -> None:
    inner = array(raw.U8, 2, b"\1\2")
    nested = open_gguf(save(Raw(keys=[ARCHITECTURE, key("n", raw.ARRAY, array(raw.ARRAY, 2, inner * 2))]))).metadata
    assert [part.tolist() for part in nested["n"]] == [[1, 2], [1, 2]]
    for _ in range(5000):
        inner = array(raw.ARRAY, 1, inner)
    refused(save(Raw(keys=[ARCHITECTURE, key("n", raw.ARRAY, inner)])), "nested")
