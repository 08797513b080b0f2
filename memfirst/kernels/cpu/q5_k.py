"""Packed Q5_K: as Q4_K, with 512 bytes of fifth bits before the nibbles."""

from memfirst.kernels.cpu.lang import inline
from memfirst.kernels.cpu.q4_k import minimum, nibbles, scale, sub_minimum, sub_scale
from memfirst.kernels.cpu.simd import bits, join, load_w, shl, shr

__all__ = ["STEPS", "STRIDE", "columns", "minimum", "scale", "sub_minimum", "sub_scale"]

STRIDE = 2816
STEPS = 4  # dot products that fit 16 bits: 4 · 2 · 31 · 127 = 31,496


@inline
def fifth(w, p, part, s, i):
    """Fifth bits (16 or 0) of columns 4i..4i+3 of sub-block s: bit s of each byte."""
    return shl(bits(shr(load_w(w, p + 256 + 64 * i, part), s), 1), 4)


@inline
def columns(w, p, part, s):
    """Columns 4i..4i+3 of sub-block s of each row, for i = 0..7."""
    n = nibbles(w, p + 512, part, s)  # behind the fifth bits
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
