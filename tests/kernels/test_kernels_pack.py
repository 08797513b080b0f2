"""The packing kernel: the bytes of `codec.pack`, for every codec, and nothing written beside them."""

from __future__ import annotations

import numpy as np
import pytest

from memfirst.backends.cpu.pack import Compiled, field_table, pack_rows
from memfirst.codecs import CODECS, ROWS, Codec
from memfirst.kernels.cpu import lang
from tests.support.kernel_calls import call, guarded, library, zeros

ALL = list(CODECS.values())
compiled = pytest.mark.skipif(lang.INTERPRETED, reason="calls machine code")


def random_rows(codec: Codec, rows: int, blocks: int) -> np.ndarray:
    return np.random.default_rng(rows).integers(0, 256, (rows, blocks, codec.block_bytes), np.uint8)


@pytest.mark.parametrize("codec", ALL, ids=lambda codec: codec.name)
def test_packs_as_the_codec_does(codec: Codec) -> None:
    """Groups 1 and 2 of three: the first stays as it is."""
    rows, blocks = random_rows(codec, 3 * ROWS, 3), 3
    out = zeros("u8", 3, blocks, ROWS * codec.block_bytes)
    read = call("pack.pack", 1, 3, rows=guarded(rows), out=out.reshape(-1), fields=guarded(field_table(codec.name)),
                blocks=blocks, width=codec.block_bytes)  # fmt: skip
    assert not out[0].any()
    np.testing.assert_array_equal(out[1:], codec.pack(rows)[1:])
    assert read == 2 * ROWS * blocks * codec.block_bytes


@compiled
@pytest.mark.parametrize("codec", ALL, ids=lambda codec: codec.name)
def test_rows_that_fill_no_group_are_followed_by_zeros(codec: Codec) -> None:
    rows = random_rows(codec, 2 * ROWS + 5, 7)
    filled = np.concatenate([rows, np.zeros((ROWS - 5, *rows.shape[1:]), np.uint8)])
    out = np.full((3, 7, ROWS * codec.block_bytes), 7, np.uint8)
    pack_rows(codec, rows, out, Compiled(library()))
    np.testing.assert_array_equal(out, codec.pack(filled))


@compiled
def test_other_shapes_and_strides_are_refused() -> None:
    codec, pack = CODECS["q4_k"], Compiled(library())
    rows, out = random_rows(codec, ROWS, 2), np.zeros((1, 2, ROWS * codec.block_bytes), np.uint8)
    for wrong in (rows[:15], rows[:, :1], rows[..., 1:]):
        with pytest.raises(ValueError, match="cannot be packed into"):
            pack(codec, wrong, out)
    with pytest.raises(ValueError, match="not contiguous"):
        pack(codec, random_rows(codec, ROWS, 4)[:, ::2], out)
    assert not out.any()
