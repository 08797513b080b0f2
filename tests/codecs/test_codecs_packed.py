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
LEVELS = {"iq4_nl": quants.IQ4_NL.kvalues, "mxfp4": quants.MXFP4.kvalues}


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
    blocks = random_blocks(codec, 16 * tiles, n_blocks, seed=seed)
    packed = codec.pack(blocks)
    assert packed.shape == (tiles, n_blocks, 16 * codec.block_bytes)
    np.testing.assert_array_equal(codec.unpack(packed), blocks)


# Bytes of a packed row: three tiles of 16 rows are two chunks of 512 KiB, or each is larger than one.
@pytest.mark.parametrize("row_bytes", [12_000, 50_000])
@pytest.mark.parametrize("codec", ALL, ids=by_name)
def test_pack_writes_into_out_and_across_its_own_chunks(codec: Codec, row_bytes: int) -> None:
    n_blocks = 1 + row_bytes // codec.block_bytes
    blocks = random_blocks(codec, 48, n_blocks)
    blocks.flags.writeable = False
    buffer = np.full((5, n_blocks, 16 * codec.block_bytes), 7, np.uint8)
    assert np.shares_memory(codec.pack(blocks, out=buffer[1:4]), buffer)
    one_by_one = [codec.pack(blocks[row : row + 16]) for row in (0, 16, 32)]
    np.testing.assert_array_equal(buffer[1:4], np.concatenate(one_by_one))
    assert (buffer[[0, 4]] == 7).all()
    np.testing.assert_array_equal(codec.unpack(buffer[1:4]), blocks)


@pytest.mark.parametrize("codec", ALL, ids=by_name)
def test_pack_refuses_other_shapes(codec: Codec) -> None:
    blocks = random_blocks(codec, 16, 2)
    for wrong in (blocks[:15], blocks[:8], blocks[..., 1:], blocks.astype(np.int16)):
        with pytest.raises(ValueError, match="cannot be packed"):
            codec.pack(wrong)
    with pytest.raises(ValueError, match="expected uint8"):
        codec.pack(blocks, out=np.empty((1, 2, 16 * codec.block_bytes - 1), np.uint8))


def packed_code(name: str, tile: np.ndarray, row: int, column: int) -> int:
    """The unsigned code of one weight, read from a packed tile byte by byte."""
    quants_at = {"q2_k": 320, "q3_k": 736, "q4_0": 32, "iq4_nl": 32, "q4_1": 64, "q5_0": 96, "q5_1": 128, "q8_0": 32,
                 "q4_k": 256, "q5_k": 768, "q6_k": 288, "iq4_xs": 128, "mxfp4": 16}[name]  # fmt: skip

    def grouped(at: int, byte: int) -> int:
        """Byte `byte` of this row in 64-byte vectors that start at `at`: 4-byte groups of 16 rows."""
        return int(tile[at + 64 * (byte // 4) + 4 * row + byte % 4])

    if name in ("q2_k", "q3_k"):
        half, quarter, within = column // 128, column // 32 % 4, column % 32
        low = grouped(quants_at, 32 * half + within) >> 2 * quarter & 3
        third = grouped(224, within) >> column // 32 & 1 if name == "q3_k" else 0
        return low | third << 2
    if name == "q8_0":
        return grouped(quants_at, column)
    if name == "q6_k":
        half, quarter, part, within = column // 128, column // 32 % 4, column // 16 % 2, column % 16
        at = quants_at + 768 * (2 * half + part)  # high bits of 64 columns, then their nibbles
        low = grouped(at + 256 + 256 * (quarter % 2), within) >> 4 * (quarter // 2) & 15
        return low | (grouped(at, within) >> 2 * quarter & 3) << 4
    if name == "iq4_xs":
        sub, within = divmod(column, 32)
        return grouped(quants_at, 16 * sub + within % 16) >> 4 * (within // 16) & 15
    if name in ("q4_k", "q5_k"):
        pair, within = divmod(column, 64)
        low = grouped(quants_at, 32 * pair + within % 32) >> 4 * (within // 32) & 15
        fifth = grouped(256, column % 32) >> column // 32 & 1 if name == "q5_k" else 0
        return low | fifth << 4
    low = grouped(quants_at, column % 16) >> 4 * (column // 16) & 15
    fifth = tile[quants_at - 64 + 4 * row + column % 4] >> column // 4 & 1 if name in ("q5_0", "q5_1") else 0
    return low | int(fifth) << 4


def scaled_by_pairs(name: str, tile: np.ndarray, row: int, column: int) -> np.float32:
    """The same of Q2_K, Q3_K and IQ4_XS, whose scales lie by two sub-blocks of a row side by side."""
    code = packed_code(name, tile, row, column)
    d, m = tile[:64].view(np.float16).astype(np.float32).reshape(2, 16)[:, row]
    pair, j = 2 * row + column // (32 if name == "iq4_xs" else 16) % 2, column // (64 if name == "iq4_xs" else 32)
    if name == "q2_k":
        both = int(tile[64 + 32 * j + pair])
        return d * np.float32(both & 15) * np.float32(code) - m * np.float32(both >> 4)
    if name == "q3_k":
        low, high = int(tile[32 + 32 * (j % 4) + pair]) >> 4 * (j // 4), int(tile[160 + 32 * (j % 2) + pair])
        level = np.float32(code - 4)
    else:
        low, high = int(tile[32 + 32 * (j % 2) + pair]) >> 4 * (j // 2), int(tile[96 + pair])
        level = np.float32(quants.IQ4_NL.kvalues[code])
    sixth = high >> 2 * (j // 2 if name == "q3_k" else j) & 3
    return d * np.float32((low & 15 | sixth << 4) - 32) * level


def packed_weight(name: str, tile: np.ndarray, row: int, column: int) -> np.float32:
    """One weight, read from a packed tile as a kernel would."""
    code = packed_code(name, tile, row, column)
    d, m = tile[:64].view(np.float16).astype(np.float32).reshape(2, 16)[:, row]
    if name in ("q4_1", "q5_1"):
        return d * np.float32(code) + m
    if name in ("q4_k", "q5_k"):
        sub = column // 32
        at = 32 * (sub // 2) + 2 * row + sub % 2  # two sub-blocks of a row side by side
        low, high = int(tile[64 + at]), int(tile[192 + at % 64]) >> 2 * (sub // 4)
        scale, minimum = low & 15 | (high & 3) << 4, low >> 4 | (high >> 4 & 3) << 4
        return d * np.float32(scale) * np.float32(code) - m * np.float32(minimum)
    if name == "q6_k":
        scale = tile[32 + 32 * (column // 32) + 2 * row + column // 16 % 2].view(np.int8)  # two of a row side by side
        return d * np.float32(scale) * np.float32(code - 32)
    if name == "q8_0":
        return d * np.float32(np.uint8(code).view(np.int8))
    if name in LEVELS:
        scale = np.ldexp(np.float32(1), int(tile[row]) - 128) if name == "mxfp4" else d
        return scale * np.float32(LEVELS[name][code])
    return d * np.float32(code - {"q4_0": 8, "q5_0": 16}[name])


@pytest.mark.parametrize("codec", BLOCKS, ids=by_name)
def test_packed_bytes_read_slowly_are_the_weights(codec: Codec) -> None:
    blocks = random_blocks(codec, 32, 2, seed=3)
    for at in f16_at(codec):  # 0.5..2, either sign: no NaN, which would hide a wrong byte
        blocks[..., at + 1] = 0x38 + blocks[..., at + 1] % 8 + (blocks[..., at + 1] & 0x80)
    packed = codec.pack(blocks)
    for row, block in ((0, 0), (7, 1), (8, 0), (15, 1), (21, 1), (26, 0), (31, 1)):
        tile = packed[row // 16, block]
        expected = codec.dequantize(blocks[row, block][None])[0]
        read = scaled_by_pairs if codec.name in ("q2_k", "q3_k", "iq4_xs") else packed_weight
        got = [read(codec.name, tile, row % 16, column) for column in range(codec.block)]
        np.testing.assert_array_equal(np.array(got), expected)


@pytest.mark.parametrize(("name", "dtype"), [("f32", np.uint32), ("f16", np.uint16), ("bf16", np.uint16)])
def test_packed_floats_are_a_column_of_sixteen_rows(name: str, dtype: type) -> None:
    blocks = random_blocks(get(name), 32, 5)
    values, packed = blocks.view(dtype)[..., 0], get(name).pack(blocks).view(dtype)
    for row in range(32):
        for column in range(5):
            assert packed[row // 16, column, row % 16] == values[row, column]
