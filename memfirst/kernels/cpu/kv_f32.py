"""Keys and values as f32, laid out as in `kv_f16`."""

from memfirst.kernels.cpu.lang import inline
from memfirst.kernels.cpu.simd16 import load16_f32, load16_f32_half, load16_f32_of, store_f32

__all__ = ["INT8", "PER32", "SIZE", "load", "load_half", "load_of", "store"]

INT8 = 0
SIZE = 4
PER32 = 128


@inline
def load_of(cache, at, skip, used):
    """16 values, of which skip..used matter."""
    return load16_f32_of(cache, at, skip, used)


@inline
def load(cache, at):
    """16 values."""
    return load16_f32(cache, at)


@inline
def load_half(cache, at):
    """8 values, and 8 zeros."""
    return load16_f32_half(cache, at)


@inline
def store(cache, at, value):
    """One value."""
    store_f32(cache, at, value)
