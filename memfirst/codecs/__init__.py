"""Weight formats: what their bytes mean (`dequantize`), how to write them, and how the kernels want them.

`CODECS` are those that memfirst reads (kernels run them by family); `BLOCK_TYPES` are all
that a GGUF file can hold, with their sizes; `sized` also knows what safetensors files hold in groups (`grouped`).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from memfirst.codecs import (
    bf16,
    f16,
    f32,
    iq4_nl,
    iq4_xs,
    mxfp4,
    q2_k,
    q3_k,
    q4_0,
    q4_1,
    q4_k,
    q5_0,
    q5_1,
    q5_k,
    q6_k,
    q8_0,
)
from memfirst.codecs.base import F32, ROWS, U8, BlockType, Codec
from memfirst.codecs.block_types import BLOCK_TYPES, block_type
from memfirst.codecs.grouped import grouped
from memfirst.errors import UnsupportedError

__all__ = ["BLOCK_TYPES", "CODECS", "F32", "ROWS", "U8", "BlockType", "Codec", "block_type", "get", "sized"]

_MODULES = (
    f32, f16, bf16, q4_0, q4_1, q5_0, q5_1, q8_0, q2_k, q3_k, q4_k, q5_k, q6_k, iq4_nl, iq4_xs, mxfp4,
)  # fmt: skip

CODECS: Mapping[str, Codec] = MappingProxyType({module.CODEC.name: module.CODEC for module in _MODULES})
"""By name, lower case."""


def sized(name: str) -> BlockType:
    """The size of any weight format that a graph may name, with a codec or without; KeyError for no format."""
    return BLOCK_TYPES.get(name) or grouped(name) or BLOCK_TYPES[name]


def get(name: str) -> Codec:
    """The codec of that name ("q4_k"); UnsupportedError, naming those there are, where memfirst has none."""
    codec = CODECS.get(name)
    if codec is None:
        known = "has sizes but no codec yet" if name in BLOCK_TYPES else "is not a GGUF type"
        raise UnsupportedError(f"weight format {name!r} {known}", f"one of {', '.join(CODECS)}")
    return codec
