"""Matmuls of routed experts: each active expert's rows once, for the tokens that it got, in `tiles`.

A step's (token, rank) pairs are grouped by expert (`experts.group`). Gate and up go over active expert × rows: one
token's experts are spread over all workers. Down goes over rows alone and takes the experts one after another, in
their order, so that a token's sum has one order whoever computes it, and needs no room for its parts.
"""

from memfirst.kernels.cpu.lang import kernel, lanes, macro, static
from memfirst.kernels.cpu.simd import PACK, splat, splat_at, store_rows
from memfirst.kernels.cpu.tiles import LANES, block32_tile, floats_tile, k256_16_tile, k256_tile

# int8 activations: a K-quant's sums are over 256 columns, all others' over 32.


@macro
def _places(at, to, share, pairs, weights, i, left, rows, size, k, stride, TILE, SUM):
    """Where the inputs and outputs of the next pairs begin, and their weights; what a tile lacks is the last again.

    rows  before the input's first: of this worker's own copy
    size  of an input's row, in what `at` counts
    """
    for t in static(TILE):
        pair = pairs[i + min(t, left - 1)]
        if SUM:
            at[t] = (rows + pair) * size
            to[t] = pair // k * stride
            share[t] = splat_at(weights, i + min(t, left - 1))
        else:
            at[t] = (rows + pair // k) * size
            to[t] = pair * stride


@macro
def _int8_tile(
    w, base, low, high, aq, ad, ao, af, am, ap, y, pairs, weights, i, left, rows, cols, k, stride,
    CODEC, FAMILY, TILE, SUM,
):  # fmt: skip
    """The next TILE pairs of one expert."""
    at = lanes(TILE)
    to = lanes(TILE)
    share = lanes(TILE)
    SIZE = 32 if FAMILY == "block32" else 256
    _places(at, to, share, pairs, weights, i, left, rows, cols // SIZE, k, stride, TILE, SUM)
    if FAMILY == "block32":
        block32_tile(w, base, low, high, aq, ad, ao, af, at, cols, y, to, left, share, 0, CODEC, TILE, SUM)
    elif FAMILY == "k256":
        k256_tile(w, base, low, high, aq, ad, am, at, cols, y, to, left, share, 0, CODEC, TILE, SUM)
    elif FAMILY == "k256_16":
        k256_16_tile(w, base, low, high, aq, ad, ap, at, cols, y, to, left, share, 0, CODEC, TILE, SUM)


@macro
def _clear(y, tokens, stride, lo, hi):
    """Zeros in columns lo..hi of all tokens."""
    for t in range(tokens):
        for r in range(lo, hi, LANES):
            store_rows(y, t * stride + r, splat(0.0))


@kernel
def int8(
    w: "u8", places: "i64", aq: "i8", ad: "f32", ao: "i32", af: "f32", am: "i32", ap: "i32", y: "f32",
    active: "i32", first: "i32", pairs: "i32", weights: "f32", step: "i64", count: "int", tokens: "int",
    rows: "int", cols: "int", k: "int", stride: "int", private: "int", worker, lo, hi, *, CODEC, FAMILY, TILE, SUM,
):  # fmt: skip
    """Rows of the active experts by int8 activations; returns the bytes of those rows.

    w        packed weights of all experts
    places   where each expert's matrix [rows/16, cols/BLOCK, CODEC.STRIDE] begins in w
    aq … ap  int8 activations [tokens, cols], with SUM [pairs, cols], see `tiles`
    active   experts that some token picked, in order; first: where the pairs of each begin, one more at the end
    pairs    token · k + rank, grouped by expert; weights: of each in its token's sum
    count, tokens  where `step` holds the number of active experts, of tokens
    private  rows between workers' own activations (0: shared)
    SUM      0: lo..hi of active × rows; y[pair] [pairs, stride] = the products
             1: lo..hi of rows, by all active experts; y[token] [tokens, stride] = Σ weight · product
    TILE     pairs at most that share one load of a weight's bytes
    """
    SIZE = 32 if FAMILY == "block32" else 256
    row16 = cols // SIZE * CODEC.STRIDE
    read = 0
    start, end = lo // rows, (hi - 1) // rows + 1
    if SUM:
        start, end = 0, step[count]
        _clear(y, step[tokens], stride, lo, hi)
    for n in range(start, end):
        low, high = lo, hi
        if not SUM:
            low, high = max(lo - n * rows, 0), min(hi - n * rows, rows)
        base = places[active[n]]
        i, last = first[n], first[n + 1]
        while i < last:
            if TILE >= 8 and last - i > 4:
                _int8_tile(w, base, low, high, aq, ad, ao, af, am, ap, y, pairs, weights, i, last - i,
                           worker * private, cols, k, stride, CODEC, FAMILY, 8, SUM)  # fmt: skip
                i += 8
            elif TILE >= 4 and last - i > 2:
                _int8_tile(w, base, low, high, aq, ad, ao, af, am, ap, y, pairs, weights, i, last - i,
                           worker * private, cols, k, stride, CODEC, FAMILY, 4, SUM)  # fmt: skip
                i += 4
            elif TILE >= 2 and last - i > 1:
                _int8_tile(w, base, low, high, aq, ad, ao, af, am, ap, y, pairs, weights, i, last - i,
                           worker * private, cols, k, stride, CODEC, FAMILY, 2, SUM)  # fmt: skip
                i += 2
            else:
                _int8_tile(w, base, low, high, aq, ad, ao, af, am, ap, y, pairs, weights, i, last - i,
                           worker * private, cols, k, stride, CODEC, FAMILY, 1, SUM)  # fmt: skip
                i += 1
        read += (high - low) // PACK * row16
    return read


@macro
def _floats_tile(w, base, low, high, x, y, pairs, weights, i, left, rows, cols, k, width, stride, CODEC, TILE, SUM):
    """The next TILE pairs of one expert."""
    at = lanes(TILE)
    to = lanes(TILE)
    share = lanes(TILE)
    _places(at, to, share, pairs, weights, i, left, rows, width, k, stride, TILE, SUM)
    floats_tile(w, base, low, high, x, at, cols, y, to, left, share, 0, CODEC, TILE, SUM)


@kernel
def floats(
    w: "u8", places: "i64", x: "f32", y: "f32", active: "i32", first: "i32", pairs: "i32", weights: "f32",
    step: "i64", count: "int", tokens: "int", rows: "int", cols: "int", k: "int", width: "int", stride: "int",
    private: "int", worker, lo, hi, *, CODEC, TILE, SUM,
):  # fmt: skip
    """As `int8` for F32, F16 and BF16, with float activations x, rows `width` apart."""
    read = 0
    start, end = lo // rows, (hi - 1) // rows + 1
    if SUM:
        start, end = 0, step[count]
        _clear(y, step[tokens], stride, lo, hi)
    for n in range(start, end):
        low, high = lo, hi
        if not SUM:
            low, high = max(lo - n * rows, 0), min(hi - n * rows, rows)
        base = places[active[n]]
        for r in range(low, high, PACK):
            i, last = first[n], first[n + 1]
            while i < last:
                if TILE >= 4 and last - i > 2:
                    _floats_tile(w, base, r, r + PACK, x, y, pairs, weights, i, last - i, worker * private,
                                 cols, k, width, stride, CODEC, 4, SUM)  # fmt: skip
                    i += 4
                elif TILE >= 2 and last - i > 1:
                    _floats_tile(w, base, r, r + PACK, x, y, pairs, weights, i, last - i, worker * private,
                                 cols, k, width, stride, CODEC, 2, SUM)  # fmt: skip
                    i += 2
                else:
                    _floats_tile(w, base, r, r + PACK, x, y, pairs, weights, i, last - i, worker * private,
                                 cols, k, width, stride, CODEC, 1, SUM)  # fmt: skip
                    i += 1
        read += (high - low) // PACK * cols * CODEC.STRIDE
    return read
