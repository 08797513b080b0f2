"""SIMD functions for integer dot products: lane r sums 4 neighbouring bytes of row r, or two int16.

Every processor's instructions give the same integers (`instructions_dot`).
"""

import numpy as np

from memfirst.kernels.cpu.simd import LANES, emission, op


@op(emission("dot_start"), "dot")
def dot_start(offset):
    """An empty sum for `dot`, to which `dot_end` adds the int32 lanes `offset`; pairs add in 16 bits where need be."""
    return np.zeros(2 * LANES, np.int32)


@op(emission("dot"), "dot")
def dot(s, w, a):
    """s + w·a, w unsigned, a signed. Few steps fit: 8 with w < 16, 4 with w < 32, 2 with w < 64."""
    products = w.astype(np.int32) * a.view(np.int8)
    s = s + products[::2] + products[1::2]
    if (s != s.astype(np.int16)).any():
        raise OverflowError("a 16-bit partial sum overflowed")
    return s


@op(emission("dot_end"), "i32")
def dot_end(s, offset):
    """The sum as int32, one lane a row, and `offset`: the one that `dot_start` was given."""
    return s.reshape(-1, 2).sum(1, dtype=np.int32) + offset


@op(emission("sdot_start"), "i32")
def sdot_start(offset):
    """An empty sum for `sdot`; lanes of `offset` are −128 · the sum of all activations to come."""
    return np.zeros(LANES, np.int32)


@op(emission("sdot"), "i32")
def sdot(s, w, a):
    """s + w·a, both signed, |a| <= 127."""
    product = w.view(np.int8).astype(np.int32) * a.view(np.int8).astype(np.int32)
    return s + product.reshape(-1, 4).sum(1, dtype=np.int32)


@op(emission("weigh"), "i32")
def weigh(s, v, h):
    """The sum times the row's v[2r + h], |v| < 256, as int32, one lane a row."""
    return s.reshape(-1, 2).sum(1, dtype=np.int32) * v[h::2].astype(np.int32)


@op(emission("weigh_both"), "i32")
def weigh_both(s, s2, v, h):
    """The sum of two that do not fit one, as `weigh`."""
    return (s + s2).reshape(-1, 2).sum(1, dtype=np.int32) * v[h::2].astype(np.int32)


@op(emission("pair_dot"), "i32")
def pair_dot(v, a):
    """v[2r] · low + v[2r + 1] · high for each row: the two int16 that each lane of `a` is made of."""
    return (v.astype(np.int32) * a.view(np.int16)).reshape(-1, 2).sum(1, dtype=np.int32)


@op(emission("half_pair"), "i32")
def half_pair(v, h):
    """v[2r + h], one lane a row."""
    return v[h::2].astype(np.int32)


@op(emission("signed_offset"), "i32")
def signed_offset(a, h):
    """−128 · int16 h of the two that each lane of `a` is made of: what `sdot_start` takes."""
    return a.view(np.int16)[h::2].astype(np.int32) * np.int32(-128)
