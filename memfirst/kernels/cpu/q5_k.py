"""Packed Q5_K: as Q4_K, with 512 bytes of fifth bits before the nibbles."""

from memfirst.kernels.cpu.dots import weighed_five_bits32 as product
from memfirst.kernels.cpu.lang import inline
from memfirst.kernels.cpu.q4_k import minimum, nibbles, scale, sub_minimums, sub_scales
from memfirst.kernels.cpu.simd import bits, join, load_w, shl, shr

__all__ = [
    "AHEAD", "HAS_MIN", "SIGNED", "STRIDE", "columns", "minimum", "product", "scale", "sub_minimums", "sub_scales",
]  # fmt: skip

STRIDE = 2816
AHEAD = 18432
HAS_MIN = 1
SIGNED = 0


@inline
def fifth(w, p, part, s, i):
    """Fifth bits (16 or 0) of columns 4i..4i+3 of sub-block s: bit s of each byte."""
    return shl(bits(shr(load_w(w, p + 256 + 64 * i, part), s), 1), 4)


@inline
def columns(w, p, part, j, h):
    """Columns 4i..4i+3 of sub-block 2j + h of each row, for i = 0..7."""
    s, n = 2 * j + h, nibbles(w, p + 768 + 512 * j, part, h)
    return (
        join(n[0], fifth(w, p, part, s, 0)),
        join(n[1], fifth(w, p, part, s, 1)),
        join(n[2], fifth(w, p, part, s, 2)),
        join(n[3], fifth(w, p, part, s, 3)),
        join(n[4], fifth(w, p, part, s, 4)),
        join(n[5], fifth(w, p, part, s, 5)),
        join(n[6], fifth(w, p, part, s, 6)),
        join(n[7], fifth(w, p, part, s, 7)),
    )
