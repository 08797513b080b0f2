"""The likeliest token by a sketch of the head: for any activations that of the whole head, and the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from memfirst.codecs import sketch
from memfirst.codecs.base import ROWS
from tests.codecs.test_sketch import head, packed, sketched, values
from tests.support.kernel_calls import call, guarded, key_of, library, zeros

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
COUNT, LISTED, FIRST = 0, 4, 8


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """All of them together."""
    keys = [key_of(f"sketch.{name}", {"CODEC": "q8_0"}) for name in ("reach", "rows", "choose")]
    keys += [key_of("matmul.block32", {"CODEC": "q8_0", "TILE": 1}), key_of("activations.quantize", {"BLOCK": 32})]
    library().load([*keys, key_of("pack_sketch.pack", {})])


class Head:
    """A head, its sketch, and what a step has for both."""

    def __init__(self, raw: U8, omega: F32) -> None:
        self.rows, self.cols = len(raw), 32 * raw.shape[1]
        self.tiles = -(-self.rows // ROWS)
        self.padded = self.tiles * ROWS
        self.packed, self.sketch = packed(raw), sketched(raw, omega)
        blocks = self.cols // 32
        step = zeros("i64", FIRST + self.tiles)
        step[COUNT] = 1
        self.operands: dict[str, Any] = {
            "aq": zeros("i8", self.cols), "ad": zeros("f32", blocks), "ao": zeros("i32", 3 * blocks),
            "af": zeros("f32", blocks), "am": zeros("i32", blocks), "ap": zeros("i32", blocks),
            "sums": zeros("i32", blocks), "inverse": guarded((1 / omega).astype(np.float32)),
            "reach": zeros("f32", 1), "tops": zeros("f32", 2 * self.tiles), "step": step, "cols": self.cols,
            "tiles": self.tiles, "vocab": self.rows, "listed": FIRST, "width": self.cols, "stride": self.padded,
            "private_in": 0, "private": 0, "add_to": 0, "CODEC": "q8_0", "TILE": 1, "BLOCK": 32,
        }  # fmt: skip

    def full(self, x: F32) -> F32:
        """All logits."""
        y = zeros("f32", self.padded)
        call("activations.quantize", 0, 1, **{**self.operands, "x": guarded(x)})
        call("matmul.block32", 0, self.padded, **{**self.operands, "w": self.packed, "y": y, "count": COUNT})
        return y

    def bounds(self) -> F32:
        """Of the quantized activations: the largest bound of each tile."""
        y, group = zeros("f32", self.padded), self.cols // 32 * sketch.GROUP_BYTES + sketch.TAIL_BYTES
        call("sketch.reach", 0, 1, **self.operands)
        read = call("sketch.rows", 0, self.padded, **{**self.operands, "w": self.sketch, "y": y})
        assert read == self.tiles * group == len(self.sketch) and np.isneginf(y).all()
        found: F32 = self.operands["tops"][self.tiles :].copy()
        self.y = y
        return found

    def likeliest(self) -> tuple[F32, int]:
        """Logits, −inf of rows that are not read, and how many tiles are."""
        more = {"w": self.packed, "y": self.y}
        read = call("sketch.choose", 0, 1, **{**self.operands, **more, "count": LISTED})
        assert read == self.cols // 32 * 544
        n = int(self.operands["step"][LISTED])
        listed = self.operands["step"][FIRST : FIRST + n].tolist()
        assert listed == sorted(set(listed))
        for tile in listed:
            assert np.isneginf(self.y[ROWS * tile : ROWS * tile + ROWS]).all()  # the first is not read again
            call("matmul.block32", ROWS * tile, ROWS * tile + ROWS, **{**self.operands, **more, "count": COUNT})
        return self.y, n + 1


def check(head: Head, x: F32) -> float:
    """All that is promised; the share of tiles that were read."""
    full = head.full(x)
    bounds = head.bounds()
    found, tiles = head.likeliest()
    there = ~np.isneginf(found)
    assert there.sum() == tiles * ROWS
    np.testing.assert_array_equal(found[there].view(np.uint32), full[there].view(np.uint32))
    if np.isfinite(full).all():
        most = full[: head.rows].max()
        assert found[: head.rows].argmax() == full[: head.rows].argmax()
        assert there[np.flatnonzero(full[: head.rows] == most)].all()  # all that are equal to it
        if 1e-12 < np.abs(x).max() < 1e15:  # beyond these, everything is read
            assert (
                np.where(np.arange(head.padded) < head.rows, full, -np.inf).reshape(-1, ROWS).max(1) <= bounds
            ).all()
    else:
        assert tiles == head.tiles
    return tiles / head.tiles


def omega(cols: int, seed: int) -> F32:
    """Any: it must not make anything wrong."""
    return np.exp(np.random.default_rng(seed).uniform(-3, 3, cols)).astype(np.float32)


@pytest.mark.parametrize(("rows", "cols", "seed"), [(1040, 64, 0), (1003, 576, 1), (520, 32, 2), (2050, 160, 3)])
def test_states_give_the_token_of_the_whole_head(rows: int, cols: int, seed: int) -> None:
    made, random = Head(head(rows, cols, seed), omega(cols, seed)), np.random.default_rng(seed)
    for _ in range(500):
        check(made, (random.standard_normal(cols) * np.exp(random.uniform(-4, 4))).astype(np.float32))


def test_what_the_sketch_leaves_out_may_point_any_way() -> None:
    """Activations along what the sketch does not see, of one row or of many, and along a row."""
    raw = head(1040, 96)
    made = Head(raw, np.ones(96, np.float32))
    weights = values(raw)
    missing = weights - sketch.unpack(made.sketch, 96)[0][:1040]
    for row in range(0, 1040, 13):
        for x in (missing[row], -missing[row], weights[row], -weights[row], missing[row] * 1e4 - weights[row]):
            check(made, x.copy())
    check(made, np.linalg.svd(missing, full_matrices=False)[2][0].copy())


@pytest.mark.parametrize("value", [0.0, 1e-30, 1e-18, 1e18, 1e30, 3e38, np.inf, -np.inf, np.nan])
def test_activations_of_any_size(value: float) -> None:
    made, random = Head(head(520, 64), omega(64, 5)), np.random.default_rng(4)
    with np.errstate(all="ignore"):
        check(made, (random.standard_normal(64) * value).astype(np.float32))
        one = random.standard_normal(64).astype(np.float32)
        one[40] = value
        check(made, one)


def test_a_row_that_is_no_number_is_always_read() -> None:
    raw = head(520, 64)
    raw[333, 1, :2] = np.array([np.nan], np.float16).view(np.uint8)
    made = Head(raw, np.ones(64, np.float32))
    made.full(np.ones(64, np.float32))
    made.bounds()
    found, _ = made.likeliest()
    assert np.isnan(found[333])


def test_equal_rows_are_all_read() -> None:
    raw = head(520, 64)
    raw[[7, 200, 519]] = raw[300]
    made = Head(raw, np.ones(64, np.float32))
    x = values(raw)[300].copy()
    full = made.full(x)
    made.bounds()
    found, _ = made.likeliest()
    assert full.argmax() == found.argmax() == 7 and (found[[7, 200, 300, 519]] == found[7]).all()


def test_most_of_a_head_is_not_read_where_one_row_stands_out() -> None:
    raw = head(4096, 256)
    made = Head(raw, np.ones(256, np.float32))
    assert np.mean([check(made, values(raw[row : row + 1])[0]) for row in range(0, 4096, 256)]) < 0.01
