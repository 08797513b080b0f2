"""Every tensor type that a GGUF file can hold, and FP8 as safetensors files have it: its number, block and bytes.

Sizes follow ggml's block structures (`ggml-common.h`) and numbers its `enum ggml_type` (`ggml.h`). A type
that memfirst has no codec for is listed all the same, so that a file which holds it can be inspected and
priced.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from memfirst.codecs.base import BlockType
from memfirst.errors import UnsupportedError

_TABLE = (
    BlockType("f32", 0, 1, 4),
    BlockType("f16", 1, 1, 2),
    BlockType("q4_0", 2, 32, 18),
    BlockType("q4_1", 3, 32, 20),
    BlockType("q5_0", 6, 32, 22),
    BlockType("q5_1", 7, 32, 24),
    BlockType("q8_0", 8, 32, 34),
    BlockType("q8_1", 9, 32, 36),  # f16 d, f16 sum, 32 int8; activations only
    BlockType("q2_k", 10, 256, 84),
    BlockType("q3_k", 11, 256, 110),
    BlockType("q4_k", 12, 256, 144),
    BlockType("q5_k", 13, 256, 176),
    BlockType("q6_k", 14, 256, 210),
    BlockType("q8_k", 15, 256, 292),  # activations only
    BlockType("iq2_xxs", 16, 256, 66),
    BlockType("iq2_xs", 17, 256, 74),
    BlockType("iq3_xxs", 18, 256, 98),
    BlockType("iq1_s", 19, 256, 50),
    BlockType("iq4_nl", 20, 32, 18),
    BlockType("iq3_s", 21, 256, 110),
    BlockType("iq2_s", 22, 256, 82),
    BlockType("iq4_xs", 23, 256, 136),
    BlockType("i8", 24, 1, 1),
    BlockType("i16", 25, 1, 2),
    BlockType("i32", 26, 1, 4),
    BlockType("i64", 27, 1, 8),
    BlockType("f64", 28, 1, 8),
    BlockType("iq1_m", 29, 256, 56),
    BlockType("bf16", 30, 1, 2),
    BlockType("tq1_0", 34, 256, 54),
    BlockType("tq2_0", 35, 256, 66),
    BlockType("mxfp4", 39, 32, 17),
    BlockType("nvfp4", 40, 64, 36),
    BlockType("q1_0", 41, 128, 18),
    BlockType("q2_0", 42, 64, 18),
)

_ELSEWHERE = (BlockType("f8_e4m3", -1, 1, 1),)
"""Of safetensors files, and unknown to GGUF: no number."""

BLOCK_TYPES: Mapping[str, BlockType] = MappingProxyType({entry.name: entry for entry in _TABLE + _ELSEWHERE})
"""By name, lower case; codecs and types without a codec alike."""

REMOVED: Mapping[int, str] = MappingProxyType(
    {
        4: "q4_2",
        5: "q4_3",
        31: "q4_0_4_4",
        32: "q4_0_4_8",
        33: "q4_0_8_8",
        36: "iq4_nl_4_4",
        37: "iq4_nl_4_8",
        38: "iq4_nl_8_8",
    }
)
"""Numbers that old files used and GGUF has since withdrawn, with the names they had."""

_BY_NUMBER = {entry.ggml_type: entry for entry in _TABLE}


def block_type(ggml_type: int) -> BlockType:
    """The type with this number in a GGUF tensor table; UnsupportedError for a withdrawn or unknown one."""
    found = _BY_NUMBER.get(ggml_type)
    if found is not None:
        return found
    if ggml_type in REMOVED:
        raise UnsupportedError(
            f"tensor type {ggml_type} ({REMOVED[ggml_type]}) was withdrawn from GGUF",
            do="get the model again in a current type, such as q4_0",
        )
    raise UnsupportedError(
        f"unknown tensor type {ggml_type}",
        f"a GGUF type in 0..{max(_BY_NUMBER)}",
        "check the file, which may be damaged or newer than this version",
    )
