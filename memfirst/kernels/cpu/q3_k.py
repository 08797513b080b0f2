"""Packed Q3_K: per 16 rows × 256 columns, 16 f16 d, 192 bytes of 6-bit scales, 512 of third bits, 1,024 of low bits.

Value d · (scale − 32) · (q − 4), a scale for each 16 columns. Columns come in halves of 128 and quarters of 32; a byte
of low bits has a column of each quarter of a half, one of third bits a column of each quarter of both.
"""

from memfirst.kernels.cpu.dots import weighed_three_bits16 as product
from memfirst.kernels.cpu.lang import inline
from memfirst.kernels.cpu.simd import bits, join, load_f16, load_pairs, load_w, minus, shl, shr

__all__ = [
    "HAS_MIN", "OFFSET_BITS", "STRIDE", "columns", "product", "scale", "sub_scales",
]  # fmt: skip

STRIDE = 1760
OFFSET_BITS = 2
HAS_MIN = 0


@inline
def scale(w, p, part):
    """d of each row."""
    return load_f16(w, p, part)


@inline
def sub_scales(w, p, part, half, quarter):
    """Scales − 32 of sub-blocks 2j and 2j + 1 of each row, j = 4 · half + quarter, side by side."""
    low = bits(shr(load_pairs(w, p + 32 + 32 * quarter, part), 4 * half), 15)
    high = bits(shr(load_pairs(w, p + 160 + 32 * (quarter % 2), part), 4 * half + 2 * (quarter // 2)), 3)
    return minus(join(low, shl(high, 4)), 32)


@inline
def _four(w, p, part, half, quarter, h, i):
    """Columns 128·half + 32·quarter + 16h + 4i..+ 3 of each row, 0..7."""
    low = load_w(w, p + 736 + 512 * half + 256 * h + 64 * i, part)
    third = shr(load_w(w, p + 224 + 256 * h + 64 * i, part), 4 * half)
    return join(bits(shr(low, 2 * quarter), 3), shl(bits(shr(third, quarter), 1), 2))


@inline
def columns(w, p, part, half, quarter, h):
    """Columns 4i..4i+3 of sub-block 8·half + 2·quarter + h of each row, for i = 0..3."""
    return (
        _four(w, p, part, half, quarter, h, 0),
        _four(w, p, part, half, quarter, h, 1),
        _four(w, p, part, half, quarter, h, 2),
        _four(w, p, part, half, quarter, h, 3),
    )
