"""The packed layouts, against readers that walk them byte by byte as a kernel does."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest
from gguf import quants
from hypothesis import given, settings
from hypothesis import strategies as st

from memfirst.codecs import CODECS, Codec, get

ALL = list(CODECS.values())
BLOCKS = [codec for codec in ALL if codec.block > 1]


def by_name(codec: Codec) -> str:
    return codec.name


def random_blocks(codec: Codec, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, codec.block_bytes), dtype=np.uint8)


def f16_at(codec: Codec) -> list[int]:
    """Where a block keeps its f16 scales: the fields of two bytes."""
    return [field.at for field in import_module(f"memfirst.codecs.{codec.name}").LAYOUT if field.unit == 2]


@pytest.mark.parametrize("codec", ALL, ids=by_name)
@settings(max_examples=25, deadline=None)
@given(tiles=st.integers(0, 5), n_blocks=st.integers(1, 7), seed=st.integers(0, 2**32 - 1))
def test_unpack_inverts_pack(codec: Codec, tiles: int, n_blocks: int, seed: int) -> None:
    blocks = random_blocks(codec, 8 * tiles, n_blocks, seed=seed)
    packed = codec.pack(blocks)
    assert packed.shape == (tiles, n_blocks, 8 * codec.block_bytes)
    np.testing.assert_array_equal(codec.unpack(packed), blocks)


@pytest.mark.parametrize("codec", ALL, ids=by_name)
def test_pack_writes_into_out_and_across_its_own_chunks(codec: Codec) -> None:
    n_blocks = 1 + 100_000 // codec.block_bytes
    blocks = random_blocks(codec, 24, n_blocks)
    blocks.flags.writeable = False
    buffer = np.full((5, n_blocks, 8 * codec.block_bytes), 7, np.uint8)
    assert np.shares_memory(codec.pack(blocks, out=buffer[1:4]), buffer)
    one_by_one = [codec.pack(blocks[row : row + 8]) for row in (0, 8, 16)]
    np.testing.assert_array_equal(buffer[1:4], np.concatenate(one_by_one))
    assert (buffer[[0, 4]] == 7).all()


@pytest.mark.parametrize("codec", ALL, ids=by_name)
def test_pack_refuses_other_shapes(codec: Codec) -> None:
    blocks = random_blocks(codec, 8, 2)
    for wrong in (blocks[:7], blocks[..., 1:], blocks.astype(np.int16)):
        with pytest.raises(ValueError, match="cannot be packed"):
            codec.pack(wrong)
    with pytest.raises(ValueError, match="expected uint8"):
        codec.pack(blocks, out=np.empty((1, 2, 8 * codec.block_bytes - 1), np.uint8))


def packed_code(name: str, tile: np.ndarray, row: int, column: int) -> int:
    """The unsigned code of one weight, read from a packed tile byte by byte."""
    quants_at = {"q4_0": 16, "iq4_nl": 16, "q4_1": 32, "q5_0": 48, "q5_1": 64, "q8_0": 16,
                 "q4_k": 128, "q5_k": 384, "q6_k": 144}[name]  # fmt: skip

    def grouped(at: int, byte: int) -> int:
        """Byte `byte` of this row in 32-byte vectors that start at `at`: 4-byte groups of the rows."""
        return int(tile[at + 32 * (byte // 4) + 4 * row + byte % 4])

    if name == "q8_0":
        return grouped(quants_at, column)
    if name == "q6_k":
        half, within = divmod(column, 128)
        low = grouped(quants_at, 64 * half + within % 64) >> 4 * (within // 64) & 15
        return low | (grouped(144 + 1024, 32 * half + within % 32) >> 2 * (within // 32) & 3) << 4
    if name in ("q4_k", "q5_k"):
        pair, within = divmod(column, 64)
        low = grouped(quants_at, 32 * pair + within % 32) >> 4 * (within // 32) & 15
        fifth = grouped(128, column % 32) >> column // 32 & 1 if name == "q5_k" else 0
        return low | fifth << 4
    low = grouped(quants_at, column % 16) >> 4 * (column // 16) & 15
    fifth = tile[quants_at - 32 + 4 * row + column % 4] >> column // 4 & 1 if name in ("q5_0", "q5_1") else 0
    return low | int(fifth) << 4


def packed_weight(name: str, tile: np.ndarray, row: int, column: int) -> np.float32:
    """One weight, read from a packed tile as a kernel would."""
    code = packed_code(name, tile, row, column)
    d, m = tile[:32].view(np.float16).astype(np.float32).reshape(2, 8)[:, row]
    if name in ("q4_1", "q5_1"):
        return d * np.float32(code) + m
    if name in ("q4_k", "q5_k"):
        sub = column // 32
        low, high = int(tile[32 + 8 * sub + row]), int(tile[96 + 8 * (sub % 4) + row]) >> 2 * (sub // 4)
        scale, minimum = low & 15 | (high & 3) << 4, low >> 4 | (high >> 4 & 3) << 4
        return d * np.float32(scale) * np.float32(code) - m * np.float32(minimum)
    if name == "q6_k":
        return d * np.float32(tile[16 + 8 * (column // 16) + row].view(np.int8)) * np.float32(code - 32)
    if name == "q8_0":
        return d * np.float32(np.uint8(code).view(np.int8))
    if name == "iq4_nl":
        return d * np.float32(quants.IQ4_NL.kvalues[code])
    return d * np.float32(code - {"q4_0": 8, "q5_0": 16}[name])


@pytest.mark.parametrize("codec", BLOCKS, ids=by_name)
def test_packed_bytes_read_slowly_are_the_weights(codec: Codec) -> None:
    blocks = random_blocks(codec, 16, 2, seed=3)
    for at in f16_at(codec):  # 0.5..2, either sign: no NaN, which would hide a wrong byte
        blocks[..., at + 1] = 0x38 + blocks[..., at + 1] % 8 + (blocks[..., at + 1] & 0x80)
    packed = codec.pack(blocks)
    for row, block in ((0, 0), (5, 1), (10, 0), (15, 1)):
        tile = packed[row // 8, block]
        expected = codec.dequantize(blocks[row, block][None])[0]
        got = [packed_weight(codec.name, tile, row % 8, column) for column in range(codec.block)]
        np.testing.assert_array_equal(np.array(got), expected)


@pytest.mark.parametrize(("name", "dtype"), [("f32", np.uint32), ("f16", np.uint16), ("bf16", np.uint16)])
def test_packed_floats_are_a_column_of_eight_rows(name: str, dtype: type) -> None:
    blocks = random_blocks(get(name), 16, 5)
    values, packed = blocks.view(dtype)[..., 0], get(name).pack(blocks).view(dtype)
    for row in range(16):
        for column in range(5):
            assert packed[row // 8, column, row % 8] == values[row, column]
