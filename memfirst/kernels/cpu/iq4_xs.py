"""Packed IQ4_XS: per 16 rows × 256 columns, 16 f16 d, 96 bytes of 6-bit scales, 2,048 of nibbles.

Value d · (scale − 32) · level, a scale for each 32 columns (a sub-block); levels as of IQ4_NL.
"""

from memfirst.kernels.cpu.dots import weighed_signed32 as product
from memfirst.kernels.cpu.iq4_nl import VALUES
from memfirst.kernels.cpu.lang import inline
from memfirst.kernels.cpu.simd import bits, join, load_f16, load_pairs, load_w, minus, shl, shr, table16

__all__ = [
    "AHEAD", "HAS_MIN", "SIGNED", "STRIDE", "VALUES", "columns", "product", "scale", "sub_scales",
]  # fmt: skip

STRIDE = 2176
AHEAD = 17408
HAS_MIN = 0
SIGNED = 1


@inline
def scale(w, p, part):
    """d of each row."""
    return load_f16(w, p, part)


@inline
def sub_scales(w, p, part, j):
    """Scales − 32 of sub-blocks 2j and 2j + 1 of each row, side by side."""
    low = bits(shr(load_pairs(w, p + 32 + 32 * (j % 2), part), 4 * (j // 2)), 15)
    return minus(join(low, shl(bits(shr(load_pairs(w, p + 96, part), 2 * j), 3), 4)), 32)


@inline
def columns(w, p, part, j, h):
    """Columns 4i..4i+3 of sub-block 2j + h of each row, for i = 0..7: low nibbles of 256 bytes are the first 16."""
    at = p + 128 + 512 * j + 256 * h
    a, b = load_w(w, at, part), load_w(w, at + 64, part)
    c, d = load_w(w, at + 128, part), load_w(w, at + 192, part)
    return (
        table16(bits(a, 15), VALUES),
        table16(bits(b, 15), VALUES),
        table16(bits(c, 15), VALUES),
        table16(bits(d, 15), VALUES),
        table16(shr(a, 4), VALUES),
        table16(shr(b, 4), VALUES),
        table16(shr(c, 4), VALUES),
        table16(shr(d, 4), VALUES),
    )
