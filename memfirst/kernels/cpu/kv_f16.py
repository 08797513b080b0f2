"""Keys and values as f16: keys lie as [block/16, dim, 16], values as [block, dim]."""

from memfirst.kernels.cpu.lang import inline
from memfirst.kernels.cpu.simd16 import load16_f16, load16_f16_half, load16_f16_of, store_f16

__all__ = ["INT8", "PER32", "SIZE", "load", "load_half", "load_of", "store"]

INT8 = 0
SIZE = 2
PER32 = 64


@inline
def load_of(cache, at, skip, used):
    """16 values, of which skip..used matter."""
    return load16_f16_of(cache, at, skip, used)


@inline
def load(cache, at):
    """16 values."""
    return load16_f16(cache, at)


@inline
def load_half(cache, at):
    """8 values, and 8 zeros."""
    return load16_f16_half(cache, at)


@inline
def store(cache, at, value):
    """One value."""
    store_f16(cache, at, value)
