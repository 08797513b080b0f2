"""Packed Q2_K: per 16 rows × 256 columns, 16 f16 d, 16 f16 dmin, 256 bytes of scales and minimums, 1,024 of codes.

Value d · scale · q − dmin · minimum, a scale and a minimum of 4 bits for each 16 columns. Columns come in halves of 128
and quarters of 32; a byte of codes has a column of each quarter.
"""

from memfirst.kernels.cpu.dots import weighed_three_bits16 as product
from memfirst.kernels.cpu.lang import inline
from memfirst.kernels.cpu.simd import bits, load_f16, load_pairs, load_w, shr

__all__ = [
    "HAS_MIN", "STRIDE", "columns", "minimum", "product", "scale", "sub_minimums", "sub_scales",
]  # fmt: skip

STRIDE = 1344
HAS_MIN = 1


@inline
def scale(w, p, part):
    """d of each row."""
    return load_f16(w, p, part)


@inline
def minimum(w, p, part):
    """dmin of each row."""
    return load_f16(w, p + 32, part)


@inline
def sub_scales(w, p, part, half, quarter):
    """Scales of sub-blocks 2j and 2j + 1 of each row, j = 4 · half + quarter, side by side."""
    return bits(load_pairs(w, p + 64 + 128 * half + 32 * quarter, part), 15)


@inline
def sub_minimums(w, p, part, half, quarter):
    """Minimums of the same sub-blocks."""
    return shr(load_pairs(w, p + 64 + 128 * half + 32 * quarter, part), 4)


@inline
def _four(w, p, part, half, quarter, h, i):
    """Columns 128·half + 32·quarter + 16h + 4i..+ 3 of each row, 0..3."""
    return bits(shr(load_w(w, p + 320 + 512 * half + 256 * h + 64 * i, part), 2 * quarter), 3)


@inline
def columns(w, p, part, half, quarter, h):
    """Columns 4i..4i+3 of sub-block 8·half + 2·quarter + h of each row, for i = 0..3."""
    return (
        _four(w, p, part, half, quarter, h, 0),
        _four(w, p, part, half, quarter, h, 1),
        _four(w, p, part, half, quarter, h, 2),
        _four(w, p, part, half, quarter, h, 3),
    )
