"""Packed Q6_K: per 16 rows × 256 columns, 16 f16 d, 256 int8 scales, 2,048 bytes of low nibbles, 1,024 of high 2 bits.

Value d · scale · (q − 32), a scale for each 16 columns. Columns come in halves of 128 and quarters of 32: quarter
u of half n has its low nibbles in bytes 64n + 32(u mod 2).. (high nibbles for u >= 2), its high bits in bits 2u of
bytes 32n...
"""

from memfirst.kernels.cpu.lang import inline
from memfirst.kernels.cpu.simd import bits, join, load_f16, load_i8, load_w, shl, shr

STRIDE = 3360


@inline
def scale(w, p, part):
    """d of each row."""
    return load_f16(w, p, part)


@inline
def sub_scale(w, p, part, s):
    """Scale of columns 16s..16s+15 of each row."""
    return load_i8(w, p + 32 + 16 * s, part)


@inline
def _four(w, p, part, s, i):
    """Columns 16s + 4i..16s + 4i + 3 of each row, 0..63."""
    half, quarter = s // 8, s % 8 // 2
    low = load_w(w, p + 288 + 1024 * half + 512 * (quarter % 2) + 256 * (s % 2) + 64 * i, part)
    high = load_w(w, p + 2336 + 512 * half + 256 * (s % 2) + 64 * i, part)
    return join(bits(shr(low, 4 * (quarter // 2)), 15), shl(bits(shr(high, 2 * quarter), 3), 4))


@inline
def columns(w, p, part, s):
    """Columns 4i..4i+3 of those 16 of each row, for i = 0..3."""
    return _four(w, p, part, s, 0), _four(w, p, part, s, 1), _four(w, p, part, s, 2), _four(w, p, part, s, 3)
