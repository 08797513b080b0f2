"""Packed Q6_K: per 8 rows × 256 columns, 8 f16 d, 128 int8 scales, 1,024 bytes of low nibbles, 512 of high 2 bits.

Value d · scale · (q − 32), a scale for each 16 columns. Columns come in halves of 128 and quarters of 32: quarter u of half n
has its low nibbles in bytes 64n + 32(u mod 2).. (high nibbles for u >= 2) and its high bits in bits 2u of bytes 32n...
"""

from memfirst.kernels.cpu.lang import inline
from memfirst.kernels.cpu.simd import bits, join, load_f16, load_i8, load_w, shl, shr

STRIDE = 1680


@inline
def scale(w, p, gap):
    """d of each row."""
    return load_f16(w, p, gap)


@inline
def sub_scale(w, p, gap, s):
    """Scale of columns 16s..16s+15 of each row."""
    return load_i8(w, p + 16 + 8 * s, gap)


@inline
def _four(w, p, gap, s, i):
    """Columns 16s + 4i..16s + 4i + 3 of each row, 0..63."""
    half, quarter = s // 8, s % 8 // 2
    low = load_w(w, p + 144 + 512 * half + 256 * (quarter % 2) + 128 * (s % 2) + 32 * i, gap)
    high = load_w(w, p + 1168 + 256 * half + 128 * (s % 2) + 32 * i, gap)
    return join(bits(shr(low, 4 * (quarter // 2)), 15), shl(bits(shr(high, 2 * quarter), 3), 4))


@inline
def columns(w, p, gap, s):
    """Columns 4i..4i+3 of those 16 of each row, for i = 0..3."""
    return _four(w, p, gap, s, 0), _four(w, p, gap, s, 1), _four(w, p, gap, s, 2), _four(w, p, gap, s, 3)
