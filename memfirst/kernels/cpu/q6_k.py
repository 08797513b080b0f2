"""Packed Q6_K: per 16 rows × 256 columns, 16 f16 d, 256 int8 scales, four times 256 bytes of high 2 bits and 512 of
low nibbles.

Value d · scale · (q − 32), a scale for each 16 columns. Columns come in halves of 128 and quarters of 32. Part h of
half n, columns 16h.. of each of its quarters, has bytes 768 · (2n + h)..: the high bits of quarter u in bits 2u of the
first 256, its low nibbles in those behind, 256(u mod 2).. (high nibbles for u >= 2).
"""

from memfirst.kernels.cpu.dots import weighed_six_bits16 as product
from memfirst.kernels.cpu.lang import inline
from memfirst.kernels.cpu.simd import bits, join, load_f16, load_signed_pairs, load_w, shl, shr

__all__ = [
    "HAS_MIN", "OFFSET_BITS", "STRIDE", "columns", "product", "scale", "sub_scales",
]  # fmt: skip

STRIDE = 3360
OFFSET_BITS = 5
HAS_MIN = 0


@inline
def scale(w, p, part):
    """d of each row."""
    return load_f16(w, p, part)


@inline
def sub_scales(w, p, part, half, quarter):
    """int8 scales of sub-blocks 2j and 2j + 1 of each row, j = 4 · half + quarter, side by side."""
    return load_signed_pairs(w, p + 32 + 128 * half + 32 * quarter, part)


@inline
def _four(w, p, part, half, quarter, h, i):
    """Columns 128·half + 32·quarter + 16h + 4i..+ 3 of each row, 0..63."""
    at = p + 288 + 1536 * half + 768 * h + 64 * i
    low = load_w(w, at + 256 + 256 * (quarter % 2), part)
    high = load_w(w, at, part)
    return join(bits(shr(low, 4 * (quarter // 2)), 15), shl(bits(shr(high, 2 * quarter), 3), 4))


@inline
def columns(w, p, part, half, quarter, h):
    """Columns 4i..4i+3 of sub-block 8·half + 2·quarter + h of each row, for i = 0..3."""
    return (
        _four(w, p, part, half, quarter, h, 0),
        _four(w, p, part, half, quarter, h, 1),
        _four(w, p, part, half, quarter, h, 2),
        _four(w, p, part, half, quarter, h, 3),
    )
