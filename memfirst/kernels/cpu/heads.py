"""Matmuls by head: each head's row of activations times that head's own matrix, in `tiles`.

A token has a row for each head, `heads` rows one behind the other. A head's matrix may be a part of a larger one, of
which the next head's begins `apart` rows on: in a joined `kv_b` a head's rows for keys lie before those for values.
`transposed` goes the other way through a matrix: down its rows, where `int8` and `floats` go along them.
"""

from memfirst.kernels.cpu.lang import kernel, lanes, macro, static
from memfirst.kernels.cpu.simd import LANES, PACK, add, column, fma, load_y, mul, signed_column, splat, sub, to_float
from memfirst.kernels.cpu.simd16 import sum16
from memfirst.kernels.cpu.simd_dot import half_pair
from memfirst.kernels.cpu.tiles import block32_tile, floats_tile, k256_16_tile, k256_tile

PARTS = PACK // LANES
"""Registers that hold one value of each of the PACK rows."""

ACROSS = 16 if LANES == 16 else 4
"""Sums that `transposed` has at once, of columns × tokens; with narrower registers each takes two of them."""


@macro
def _rows(at, to, row, t0, tokens, heads, head, size, begin, stride, TILE):
    """Where the activations of a tile's tokens begin for one head, and its outputs; what a tile lacks is the last."""
    for t in static(TILE):
        at[t] = (row + min(t0 + t, tokens - 1) * heads + head) * size
        to[t] = (t0 + t) * stride + begin


@kernel
def int8(
    w: "u8", aq: "i8", ad: "f32", ao: "i32", af: "f32", am: "i32", ap: "i32", y: "f32", step: "i64", count: "int",
    heads: "int", rows: "int", apart: "int", cols: "int", stride: "int", private: "int",
    worker, lo, hi, *, CODEC, FAMILY, TILE,
):  # fmt: skip
    """Outputs lo..hi of heads · rows, by int8 activations; returns the bytes of their rows of matrices.

    w        packed weights [heads · apart / 16, cols / BLOCK, CODEC.STRIDE]; rows, lo and hi are multiples of 16
    aq … ap  int8 activations [tokens · heads, cols], see `tiles`
    y        [tokens, stride], head h from h · rows on
    count    where `step` holds the number of tokens
    private  rows (of a token's head) between workers' own activations (0: shared)
    """
    SIZE = 32 if FAMILY == "block32" else 256
    blocks, tokens = cols // SIZE, step[count]
    for head in range(lo // rows, (hi - 1) // rows + 1):
        low, high = max(lo - head * rows, 0), min(hi - head * rows, rows)
        base = head * apart // PACK * blocks * CODEC.STRIDE
        for t0 in range(0, tokens, TILE):
            at = lanes(TILE)
            to = lanes(TILE)
            _rows(at, to, worker * private, t0, tokens, heads, head, blocks, head * rows, stride, TILE)
            if FAMILY == "block32":
                block32_tile(w, base, low, high, aq, ad, ao, af, at, cols, y, to, tokens - t0, at, 0, CODEC, TILE, 0)
            elif FAMILY == "k256":
                k256_tile(w, base, low, high, aq, ad, am, at, cols, y, to, tokens - t0, at, 0, CODEC, TILE, 0)
            elif FAMILY == "k256_16":
                k256_16_tile(w, base, low, high, aq, ad, ap, at, cols, y, to, tokens - t0, at, 0, CODEC, TILE, 0)
    return (hi - lo) // PACK * blocks * CODEC.STRIDE


@kernel
def floats(
    w: "u8", x: "f32", y: "f32", step: "i64", count: "int", heads: "int", rows: "int", apart: "int", cols: "int",
    stride_x: "int", stride: "int", private: "int", worker, lo, hi, *, CODEC, TILE,
):  # fmt: skip
    """As `int8` for F32, F16 and BF16, with float x [tokens · heads, cols], rows `stride_x` floats apart."""
    tokens = step[count]
    for head in range(lo // rows, (hi - 1) // rows + 1):
        low, high = max(lo - head * rows, 0), min(hi - head * rows, rows)
        base = head * apart // PACK * cols * CODEC.STRIDE
        for r in range(low, high, PACK):
            for t0 in range(0, tokens, TILE):
                at = lanes(TILE)
                to = lanes(TILE)
                _rows(at, to, worker * private, t0, tokens, heads, head, stride_x, head * rows, stride, TILE)
                floats_tile(w, base, r, r + PACK, x, at, cols, y, to, tokens - t0, at, 0, CODEC, TILE, 0)
    return (hi - lo) // PACK * cols * CODEC.STRIDE


@macro
def _nothing_yet(acc, both, TILE):
    """No sums of columns, nor of what all columns of a sub-block share."""
    for i in static(PARTS * ACROSS):
        acc[i] = splat(0.0)
    for i in static(PARTS * TILE):
        both[i] = splat(0.0)


@macro
def _store_columns(acc, both, y, to, left, c, COLUMNS, TILE):
    """The sums over all rows of columns c..c + COLUMNS, by token: halves of 16 rows first, whatever the registers."""
    for t in static(TILE):
        if t < left:
            for j in static(COLUMNS):
                for part in static(PARTS):
                    acc[part * ACROSS + j * TILE + t] = add(acc[part * ACROSS + j * TILE + t], both[part * TILE + t])
                if PARTS > 1:
                    acc[j * TILE + t] = add(acc[j * TILE + t], acc[ACROSS + j * TILE + t])
                y[to[t] + c + j] = sum16(acc[j * TILE + t])


@macro
def _steps(acc, both, q, d, m, x, at, g, part, FIRST, OFFSET, HAS_MIN, SIGNED, COLUMNS, TILE):
    """Adds 16 rows' codes of columns FIRST.. times d · x; and (m − OFFSET · d) · x to what all columns share."""
    for t in static(TILE):
        v = load_y(x, at[t] + g + LANES * part)
        s = mul(d, v)
        if HAS_MIN:
            both[part * TILE + t] = fma(m, v, both[part * TILE + t])
        if OFFSET:
            both[part * TILE + t] = fma(splat(-1.0 * OFFSET), s, both[part * TILE + t])
        for j in static(COLUMNS):
            if SIGNED:
                step = to_float(signed_column(q[(FIRST + j) // 4], (FIRST + j) % 4))
            else:
                step = to_float(column(q[(FIRST + j) // 4], (FIRST + j) % 4))
            acc[part * ACROSS + j * TILE + t] = fma(step, s, acc[part * ACROSS + j * TILE + t])


@macro
def _block32_columns(w, p, group, rows, x, at, y, to, left, c, CODEC, COLUMNS, TILE):
    """32 columns of a codec with a scale for each of them and row."""
    acc = lanes(PARTS * ACROSS)
    both = lanes(PARTS * TILE)
    for n in static(32 // COLUMNS):
        _nothing_yet(acc, both, TILE)
        for g in range(0, rows, PACK):
            here = p + g // PACK * group
            for part in static(PARTS):
                q, d = CODEC.columns(w, here, part), CODEC.scale(w, here, part)
                m = d
                if CODEC.HAS_MIN:
                    m = CODEC.minimum(w, here, part)
                _steps(acc, both, q, d, m, x, at, g, part, n * COLUMNS, CODEC.OFFSET, CODEC.HAS_MIN, CODEC.SIGNED,
                       COLUMNS, TILE)  # fmt: skip
        _store_columns(acc, both, y, to, left, c + n * COLUMNS, COLUMNS, TILE)


@macro
def _k256_columns(w, p, group, rows, x, at, y, to, left, c, CODEC, COLUMNS, TILE):
    """256 columns of a K-quant with a scale for each 32."""
    acc = lanes(PARTS * ACROSS)
    both = lanes(PARTS * TILE)
    for i in range(4):
        for h in static(2):
            for n in static(32 // COLUMNS):
                _nothing_yet(acc, both, TILE)
                for g in range(0, rows, PACK):
                    here = p + g // PACK * group
                    for part in static(PARTS):
                        q = CODEC.columns(w, here, part, i, h)
                        d = mul(CODEC.scale(w, here, part), to_float(half_pair(CODEC.sub_scales(w, here, part, i), h)))
                        m = d
                        if CODEC.HAS_MIN:
                            m = to_float(half_pair(CODEC.sub_minimums(w, here, part, i), h))
                            m = sub(splat(0.0), mul(CODEC.minimum(w, here, part), m))
                        _steps(acc, both, q, d, m, x, at, g, part, n * COLUMNS, 0, CODEC.HAS_MIN, CODEC.SIGNED,
                               COLUMNS, TILE)  # fmt: skip
                _store_columns(acc, both, y, to, left, c + (2 * i + h) * 32 + n * COLUMNS, COLUMNS, TILE)


@macro
def _k256_16_columns(w, p, group, rows, x, at, y, to, left, c, CODEC, COLUMNS, TILE):
    """256 columns of a K-quant with a scale for each 16."""
    acc = lanes(PARTS * ACROSS)
    both = lanes(PARTS * TILE)
    for half in range(2):
        for quarter in static(4):
            for h in static(2):
                for n in static(16 // COLUMNS):
                    _nothing_yet(acc, both, TILE)
                    for g in range(0, rows, PACK):
                        here = p + g // PACK * group
                        for part in static(PARTS):
                            q = CODEC.columns(w, here, part, half, quarter, h)
                            scales = CODEC.sub_scales(w, here, part, half, quarter)
                            d = mul(CODEC.scale(w, here, part), to_float(half_pair(scales, h)))
                            if CODEC.HAS_MIN:
                                m = to_float(half_pair(CODEC.sub_minimums(w, here, part, half, quarter), h))
                                m = sub(splat(0.0), mul(CODEC.minimum(w, here, part), m))
                                _steps(acc, both, q, d, m, x, at, g, part, n * COLUMNS, 0, 1, 0, COLUMNS, TILE)
                            else:
                                OFFSET = 1 << CODEC.OFFSET_BITS
                                _steps(acc, both, q, d, d, x, at, g, part, n * COLUMNS, OFFSET, 0, 0, COLUMNS, TILE)
                    to_column = c + half * 128 + quarter * 32 + h * 16 + n * COLUMNS
                    _store_columns(acc, both, y, to, left, to_column, COLUMNS, TILE)


@macro
def _float_columns(w, p, group, rows, x, at, y, to, left, c, CODEC, COLUMNS, TILE):
    """16 columns of F32, F16 or BF16."""
    acc = lanes(PARTS * ACROSS)
    both = lanes(PARTS * TILE)
    for n in static(16 // COLUMNS):
        _nothing_yet(acc, both, TILE)
        for g in range(0, rows, PACK):
            here = p + g // PACK * group + n * COLUMNS * CODEC.STRIDE
            for part in static(PARTS):
                for j in static(COLUMNS):
                    v = CODEC.value(w, here + j * CODEC.STRIDE, part)
                    for t in static(TILE):
                        given = load_y(x, at[t] + g + LANES * part)
                        acc[part * ACROSS + j * TILE + t] = fma(v, given, acc[part * ACROSS + j * TILE + t])
        _store_columns(acc, both, y, to, left, c + n * COLUMNS, COLUMNS, TILE)


@kernel
def transposed(
    w: "u8", x: "f32", y: "f32", step: "i64", count: "int", heads: "int", rows: "int", apart: "int", cols: "int",
    stride_x: "int", stride: "int", worker, lo, hi, *, CODEC, FAMILY, TILE,
):  # fmt: skip
    """y[t, h · cols + c] = Σ_n x[t · heads + h, n] · W[h · apart + n, c] for outputs lo..hi of heads · cols, with float
    activations; returns the bytes of those columns of the matrices.

    w     packed weights [heads · apart / 16, cols / BLOCK, CODEC.STRIDE]; rows is a multiple of 16, lo and hi of BLOCK
    x     [tokens · heads, rows], rows `stride_x` floats apart
    TILE  tokens, 1 or 4, that share one unpacking of a weight
    """
    SIZE = 16 if FAMILY == "floats" else 32 if FAMILY == "block32" else 256
    COLUMNS = ACROSS // TILE
    EACH = CODEC.STRIDE * 16 if FAMILY == "floats" else CODEC.STRIDE  # bytes of SIZE columns of 16 rows
    group, tokens = cols // SIZE * EACH, step[count]
    for begin in range(lo, hi, SIZE):
        head, c = begin // cols, begin % cols
        p = head * apart // PACK * group + c // SIZE * EACH
        for t0 in range(0, tokens, TILE):
            at = lanes(TILE)
            to = lanes(TILE)
            _rows(at, to, 0, t0, tokens, heads, head, stride_x, begin, stride, TILE)
            if FAMILY == "floats":
                _float_columns(w, p, group, rows, x, at, y, to, tokens - t0, 0, CODEC, COLUMNS, TILE)
            elif FAMILY == "block32":
                _block32_columns(w, p, group, rows, x, at, y, to, tokens - t0, 0, CODEC, COLUMNS, TILE)
            elif FAMILY == "k256":
                _k256_columns(w, p, group, rows, x, at, y, to, tokens - t0, 0, CODEC, COLUMNS, TILE)
            elif FAMILY == "k256_16":
                _k256_16_columns(w, p, group, rows, x, at, y, to, tokens - t0, 0, CODEC, COLUMNS, TILE)
    return (hi - lo) // SIZE * (rows // PACK) * EACH
