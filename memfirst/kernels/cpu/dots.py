"""Integer dot products of unpacked columns and int8 activations, by how many steps fit a 16-bit sum.

q[i]  columns 4i..4i+3 of each row, a register each
a     where in `aq` the activations of column 0 lie; one step is the 4 columns of one register
"""

from memfirst.kernels.cpu.lang import inline
from memfirst.kernels.cpu.simd import add, dup4, mul, splat_i
from memfirst.kernels.cpu.simd_dot import dot, dot_end, dot_start, half_pair, sdot, sdot_start, weigh, weigh_both


@inline
def _steps4(s, q0, q1, q2, q3, aq, a):
    """Adds four steps to a sum."""
    s = dot(dot(s, q0, dup4(aq, a)), q1, dup4(aq, a + 4))
    return dot(dot(s, q2, dup4(aq, a + 8)), q3, dup4(aq, a + 12))


@inline
def _steps8(s, q, aq, a):
    """Adds eight steps to a sum."""
    s = _steps4(s, q[0], q[1], q[2], q[3], aq, a)
    return _steps4(s, q[4], q[5], q[6], q[7], aq, a + 16)


@inline
def nibbles32(q, aq, a, offset):
    """32 columns of w < 16, plus `offset`; all steps fit: 8 · 2 · 15 · 127 = 30,480."""
    return dot_end(_steps8(dot_start(offset), q, aq, a), offset)


@inline
def five_bits32(q, aq, a, offset):
    """32 columns of w < 32, plus `offset`; four steps fit: 4 · 2 · 31 · 127 = 31,496."""
    zero = splat_i(0)
    first = dot_end(_steps4(dot_start(offset), q[0], q[1], q[2], q[3], aq, a), offset)
    return add(first, dot_end(_steps4(dot_start(zero), q[4], q[5], q[6], q[7], aq, a + 16), zero))


@inline
def signed32(q, aq, a, offset):
    """32 columns of signed w; `offset` is −128 · the sum of their activations (see `sdot_start`)."""
    s = sdot(sdot_start(offset), q[0], dup4(aq, a))
    s = sdot(sdot(s, q[1], dup4(aq, a + 4)), q[2], dup4(aq, a + 8))
    s = sdot(sdot(s, q[3], dup4(aq, a + 12)), q[4], dup4(aq, a + 16))
    s = sdot(sdot(s, q[5], dup4(aq, a + 20)), q[6], dup4(aq, a + 24))
    return sdot(s, q[7], dup4(aq, a + 28))


@inline
def weighed_nibbles32(q, aq, a, scales, h, offset):
    """`nibbles32` without `offset`, times scales[2r + h]."""
    return weigh(_steps8(dot_start(splat_i(0)), q, aq, a), scales, h)


@inline
def weighed_five_bits32(q, aq, a, scales, h, offset):
    """`five_bits32` without `offset`, times scales[2r + h]."""
    first = _steps4(dot_start(splat_i(0)), q[0], q[1], q[2], q[3], aq, a)
    return weigh_both(first, _steps4(dot_start(splat_i(0)), q[4], q[5], q[6], q[7], aq, a + 16), scales, h)


@inline
def weighed_six_bits16(q, aq, a, scales, h):
    """16 columns of w < 64 times scales[2r + h]; two steps fit: 2 · 2 · 63 · 127 = 32,004."""
    first = dot(dot(dot_start(splat_i(0)), q[0], dup4(aq, a)), q[1], dup4(aq, a + 4))
    return weigh_both(first, dot(dot(dot_start(splat_i(0)), q[2], dup4(aq, a + 8)), q[3], dup4(aq, a + 12)), scales, h)


@inline
def weighed_signed32(q, aq, a, scales, h, offset):
    """`signed32` times scales[2r + h]."""
    return mul(signed32(q, aq, a, offset), half_pair(scales, h))


@inline
def weighed_three_bits16(q, aq, a, scales, h):
    """16 columns of w < 8 times scales[2r + h]; all steps fit: 4 · 2 · 7 · 127 = 7,112."""
    return weigh(_steps4(dot_start(splat_i(0)), q[0], q[1], q[2], q[3], aq, a), scales, h)
