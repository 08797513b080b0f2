"""Kernels of BF16 in 12 bits against those of plain BF16: the same bits, for any bits."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from memfirst.backends.cpu.twelve_bits import BY_NUMPY, Compiled
from memfirst.codecs import bf12, bf16
from memfirst.codecs.base import ROWS
from memfirst.errors import FormatError
from tests.codecs.test_bf12 import U16, every_word, trained
from tests.kernels.test_kernels import counts, random
from tests.support.kernel_calls import call, guarded, key_of, library, zeros

F32 = NDArray[np.float32]
TILES = (1, 2, 3, 4)


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """All of them together."""
    keys = [key_of("matmul.bf12", {"CODEC": "bf16", "TILE": tile}) for tile in TILES]
    keys += [key_of("matmul.floats", {"CODEC": "bf16", "TILE": tile}) for tile in TILES]
    library().load([*keys, key_of("embed.bf12", {}), key_of("embed.floats", {"CODEC": "bf16"})])


def plain(words: U16) -> NDArray[np.uint8]:
    return bf16.pack(words.view(np.uint8).reshape(*words.shape, 2)).reshape(-1)


def in_twelve_bits(words: U16, x: F32, tile: int, first: int = 0, add_to: int = 0) -> tuple[F32, int]:
    rows, cols = words.shape
    y = zeros("f32", len(x), rows - first)
    y += 1.5
    read = call(
        "matmul.bf12", 0, rows - first, w=bf12.pack(words), x=x.reshape(-1), y=y.reshape(-1), step=counts(len(x)),
        unpacked=zeros("u8", 32 * cols), count=0, cols=cols, groups=rows // ROWS, first=first, stride_x=cols,
        stride=rows - first, private=0, add_to=add_to, CODEC="bf16", TILE=tile,
    )  # fmt: skip
    return y, read


def as_bf16(words: U16, x: F32, tile: int, add_to: int = 0) -> F32:
    rows, cols = words.shape
    y = zeros("f32", len(x), rows)
    y += 1.5
    call("matmul.floats", 0, rows, w=plain(words), x=x.reshape(-1), y=y.reshape(-1), step=counts(len(x)), count=0,
         cols=cols, stride_x=cols, stride=rows, private=0, add_to=add_to, CODEC="bf16", TILE=tile)  # fmt: skip
    return y


def assert_same(found: F32, expected: F32) -> None:
    """Bit by bit; of NaN that there is one."""
    same = (found.view(np.uint32) == expected.view(np.uint32)) | (np.isnan(found) & np.isnan(expected))
    assert same.all(), f"{(~same).sum()} of {same.size} differ"


@pytest.mark.parametrize(("tokens", "tile"), [(1, 1), (3, 1), (2, 2), (5, 3), (4, 4), (9, 4)])
@pytest.mark.parametrize("words", [trained(64, 200), every_word()], ids=["trained", "every word"])
def test_products_are_those_of_plain_bf16(words: U16, tokens: int, tile: int) -> None:
    x = random(tokens, words.shape[1], seed=tokens)
    found, read = in_twelve_bits(words, x, tile)
    assert_same(found, as_bf16(words, x, tile))
    assert read == len(bf12.pack(words))


@pytest.mark.parametrize("tile", [1, 4])
def test_some_rows_of_a_matrix_added_to_what_is_there(tile: int) -> None:
    words, x = every_word()[:64, :200].copy(), random(tile, 200)
    found, read = in_twelve_bits(words, x, tile, first=32, add_to=1)
    assert_same(found, as_bf16(words[32:], x, tile, add_to=1))
    aside = int(bf12.aside_of(words, bf12.table_of(words))[2:].sum())
    assert aside and read == bf12.matrix_bytes(2, 200, aside)


def test_any_table() -> None:
    """1,000 of them: matrices of some exponents only, so that some lie aside, from the first block to the last."""
    chance = np.random.default_rng(4)
    x = random(1, 24)
    for _ in range(1000):
        high = chance.choice(chance.integers(0, 256, chance.integers(1, 40), np.uint8), (16, 24)).astype(np.uint16)
        words = high << np.uint16(8) | chance.integers(0, 256, (16, 24), np.uint16)
        assert_same(in_twelve_bits(words, x, 1)[0], as_bf16(words, x, 1))


def test_look_ups_are_those_of_plain_bf16() -> None:
    words = every_word()
    tokens, packed = np.array([0, 17, 255, 8], np.int32), bf12.pack(words)
    found, expected = zeros("f32", 4, 256), zeros("f32", 4, 256)
    read = call("embed.bf12", 0, 4, w=packed, tokens=tokens, x=found.reshape(-1), cols=256, groups=16, scale=1.0)
    call("embed.floats", 0, 4, w=plain(words), tokens=tokens, x=expected.reshape(-1), cols=256, scale=1.0,
         CODEC="bf16")  # fmt: skip
    assert_same(found, expected)
    aside = bf12.aside_of(words, bf12.table_of(words))[tokens // ROWS]
    assert read == 4 * bf12.matrix_bytes(1, 256, 0) + bf12.ASIDE_BYTES * int(aside.sum())


@pytest.mark.parametrize("rows", [64, 37])
def test_the_packing_kernel_is_the_definition(rows: int) -> None:
    """Also of rows that fill no group."""
    for words in (trained(64, 200)[:rows].copy(), every_word()[:rows].copy()):
        table = bf12.table_of(words)
        made = []
        for passes in (BY_NUMPY, Compiled(library())):
            counts = passes.count(words, table)
            out = np.zeros((-(-rows // ROWS), words.shape[1] // 4, 96), np.uint8)
            records = np.zeros((int(counts.sum()), 68), np.uint8)
            passes.pack(words, table, out, records)
            made.append((counts, out, records))
        for expected, found in zip(*made, strict=True):
            np.testing.assert_array_equal(found, expected)


def test_packing_what_is_not_contiguous_or_was_not_counted_is_refused() -> None:
    words, table = every_word(), bf12.table_of(every_word())
    passes, rows = Compiled(library()), np.zeros((16, 64, 96), np.uint8)
    with pytest.raises(ValueError, match="not contiguous"):
        passes.count(words[:, ::2], table)
    with pytest.raises(ValueError, match="not contiguous"):
        passes.pack(words, table, rows[:, :, ::-1], np.zeros((1024, 68), np.uint8))
    with pytest.raises(FormatError, match="1024 blocks aside"):
        passes.pack(words, table, rows, guarded(np.zeros((7, 68), np.uint8)).reshape(7, 68))
