"""Matmuls of packed weights and activations: y[t, r] = Σ_c W[r, c] · x[t, c], PACK rows at a time, in `tiles`."""

from memfirst.kernels.cpu.bf12 import BYTES, bf12_tile, bf12_unpack
from memfirst.kernels.cpu.lang import kernel, lanes, macro, static
from memfirst.kernels.cpu.simd import PACK
from memfirst.kernels.cpu.tiles import block32_tile, floats_tile, k256_16_tile, k256_tile


@macro
def _rows_of_tile(at, to, worker, private, t0, tokens, size, stride, TILE):
    """Where a tile's activations and outputs begin; tokens that a tile lacks are the last one again."""
    for t in static(TILE):
        at[t] = (worker * private + min(t0 + t, tokens - 1)) * size
        to[t] = (t0 + t) * stride


@kernel
def block32(
    w: "u8", aq: "i8", ad: "f32", ao: "i32", af: "f32", y: "f32", step: "i64",
    count: "int", cols: "int", stride: "int", private: "int", add_to: "int", worker, lo, hi, *, CODEC, TILE,
):  # fmt: skip
    """Rows lo..hi for codecs with a scale for each 32 columns; returns the bytes of those rows.

    w        packed weights [rows/16, cols/32, CODEC.STRIDE]; lo and hi are multiples of 16
    aq       int8 activations [tokens, cols]; they and what belongs to them: see `tiles.block32_tile`
    y        [tokens, stride]; what is there is added to where `add_to` is 1
    count    where `step` holds the number of tokens
    private  token rows between workers' own activations (0: shared)
    """
    blocks = cols // 32
    tokens = step[count]
    for t0 in range(0, tokens, TILE):
        at = lanes(TILE)
        to = lanes(TILE)
        _rows_of_tile(at, to, worker, private, t0, tokens, blocks, stride, TILE)
        block32_tile(w, 0, lo, hi, aq, ad, ao, af, at, cols, y, to, tokens - t0, at, add_to, CODEC, TILE, 0)
    return (hi - lo) // PACK * blocks * CODEC.STRIDE


@kernel
def k256(
    w: "u8", aq: "i8", ad: "f32", am: "i32", y: "f32", step: "i64",
    count: "int", cols: "int", stride: "int", private: "int", add_to: "int", worker, lo, hi, *, CODEC, TILE,
):  # fmt: skip
    """As `block32` for K-quants with a scale for each 32 columns: Q4_K, Q5_K and IQ4_XS."""
    blocks = cols // 256
    tokens = step[count]
    for t0 in range(0, tokens, TILE):
        at = lanes(TILE)
        to = lanes(TILE)
        _rows_of_tile(at, to, worker, private, t0, tokens, blocks, stride, TILE)
        k256_tile(w, 0, lo, hi, aq, ad, am, at, cols, y, to, tokens - t0, at, add_to, CODEC, TILE, 0)
    return (hi - lo) // PACK * blocks * CODEC.STRIDE


@kernel
def k256_16(
    w: "u8", aq: "i8", ad: "f32", ap: "i32", y: "f32", step: "i64",
    count: "int", cols: "int", stride: "int", private: "int", add_to: "int", worker, lo, hi, *, CODEC, TILE,
):  # fmt: skip
    """As `block32` for K-quants with a scale for each 16 columns: Q2_K, Q3_K and Q6_K."""
    blocks = cols // 256
    tokens = step[count]
    for t0 in range(0, tokens, TILE):
        at = lanes(TILE)
        to = lanes(TILE)
        _rows_of_tile(at, to, worker, private, t0, tokens, blocks, stride, TILE)
        k256_16_tile(w, 0, lo, hi, aq, ad, ap, at, cols, y, to, tokens - t0, at, add_to, CODEC, TILE, 0)
    return (hi - lo) // PACK * blocks * CODEC.STRIDE


@kernel
def floats(
    w: "u8", x: "f32", y: "f32", step: "i64", count: "int", cols: "int", stride_x: "int", stride: "int",
    private: "int", add_to: "int", worker, lo, hi, *, CODEC, TILE,
):  # fmt: skip
    """As `block32` for F32, F16 and BF16, with float activations x [tokens, cols], rows `stride_x` floats apart."""
    tokens = step[count]
    for r in range(lo, hi, PACK):
        for t0 in range(0, tokens, TILE):  # inside: a group's rows, 64 kB and more, come from memory once
            at = lanes(TILE)
            to = lanes(TILE)
            _rows_of_tile(at, to, worker, private, t0, tokens, stride_x, stride, TILE)
            floats_tile(w, 0, r, r + PACK, x, at, cols, y, to, tokens - t0, at, add_to, CODEC, TILE, 0)
    return (hi - lo) // PACK * cols * CODEC.STRIDE


@kernel
def bf12(
    w: "u8", x: "f32", y: "f32", unpacked: "u8", step: "i64", count: "int", cols: "int", groups: "int", first: "int",
    stride_x: "int", stride: "int", private: "int", add_to: "int", worker, lo, hi, *, CODEC, TILE,
):  # fmt: skip
    """As `floats` for BF16 in 12 bits, to the same bits; returns the bytes of those rows, those aside among them.

    w         a whole matrix as in `memfirst.codecs.bf12`, `groups` of 16 rows; `first` of its rows is y's first
    unpacked  room for 16 rows of BF16 for each worker, where there are several tokens: a group is unpacked once for all
              of them. CODEC reads it ("bf16")
    """
    tokens = step[count]
    read = (hi - lo) // PACK * (cols + 1) * BYTES
    for r in range(lo, hi, PACK):
        group = (first + r) // PACK
        at = lanes(TILE)
        to = lanes(TILE)
        aside = lanes(1)
        aside[0] = 0
        if TILE > 1:
            room = worker * cols * CODEC.STRIDE
            bf12_unpack(w, group, groups, cols, unpacked, room, aside)
        for t0 in range(0, tokens, TILE):
            _rows_of_tile(at, to, worker, private, t0, tokens, stride_x, stride, TILE)
            if TILE > 1:
                base = room - r // PACK * cols * CODEC.STRIDE
                floats_tile(unpacked, base, r, r + PACK, x, at, cols, y, to, tokens - t0, at, add_to, CODEC, TILE, 0)
            else:
                bf12_tile(w, group, groups, x, at, cols, y, to, tokens - t0, r, add_to, aside)
        read += aside[0]
    return read
