"""BF16 in 12 bits: any bit pattern survives, and the bytes are what is said of them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from memfirst.codecs import bf12
from memfirst.codecs.bf16 import quantize

U16 = NDArray[np.uint16]


def every_word() -> U16:
    """All 65,536 words: NaN, infinities, both zeros, denormals; nearly all blocks lie aside."""
    return np.random.default_rng(0).permutation(1 << 16).astype(np.uint16).reshape(256, 256)


def trained(rows: int, columns: int) -> U16:
    """Rows of different sizes, as trained matrices have."""
    random = np.random.default_rng(1)
    scale = random.uniform(0.01, 0.04, (rows, 1))
    weights = (random.standard_normal((rows, columns)) * scale).astype(np.float32)
    return quantize(weights.reshape(-1, 1)).view(np.uint16).reshape(rows, columns)


def test_all_words_survive() -> None:
    words = every_word()
    packed = bf12.pack(words)
    np.testing.assert_array_equal(bf12.unpack(packed, 16, 256), words)


def test_trained_weights_take_about_twelve_bits() -> None:
    words = trained(256, 512)
    counts = bf12.aside_of(words, bf12.table_of(words))
    packed = bf12.pack(words)
    np.testing.assert_array_equal(bf12.unpack(packed, 16, 512), words)
    assert len(packed) == bf12.matrix_bytes(16, 512, int(counts.sum()))
    assert 12 < 8 * len(packed) / words.size < 12.2
    assert 0 < counts.sum() <= bf12.most_aside(16, 512)


def test_a_block_lies_aside_for_one_high_byte_that_the_table_lacks() -> None:
    words = np.full((32, 8), 0x3F80, np.uint16)
    words[:, 0] = np.arange(32) % 15 << 8  # with these the table is full
    words[17, 6] = 0xC000
    table = bf12.table_of(words)
    assert table.tolist() == [*range(15), 0x3F]
    assert bf12.aside_of(words, table).tolist() == [0, 1]
    np.testing.assert_array_equal(bf12.unpack(bf12.pack(words), 2, 8), words)


@pytest.mark.parametrize("count", [1, 16])
def test_few_high_bytes_need_no_room_aside(count: int) -> None:
    words = (np.arange(16 * 12, dtype=np.uint16) % count << 8 | 7).reshape(16, 12)
    packed = bf12.pack(words)
    assert len(packed) == bf12.matrix_bytes(1, 12, 0) == 24 * 13
    np.testing.assert_array_equal(bf12.unpack(packed, 1, 12), words)
