"""Formats of weights by name: GGUF mixes ("q4_k_m") and schemes of safetensors ("awq", "fp8", "mlx-4bit").

A mix decides tensor by tensor as llama.cpp's quantizer does (`memfirst.convert.mixes`); a scheme is what most published
checkpoints of that kind say in their config.json, read by `memfirst.models.quantized` like any other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from memfirst.convert.mixes import PRICED, described, priced_mix, tensor_codec
from memfirst.errors import UnsupportedError
from memfirst.graph import Graph
from memfirst.models.quantized import CodecOf, stated


def _integers(bits: int, group: int, symmetric: bool = True) -> dict[str, Any]:
    """compressed-tensors with integers: of groups, or (0) of rows."""
    weights = {"num_bits": bits, "type": "int", "symmetric": symmetric}
    weights |= {"strategy": "group", "group_size": group} if group else {"strategy": "channel"}
    return _compressed(weights)


def _compressed(weights: Mapping[str, Any]) -> dict[str, Any]:
    groups = {"group_0": {"targets": ["Linear"], "weights": dict(weights)}}
    return {"quant_method": "compressed-tensors", "config_groups": groups, "ignore": ["lm_head"]}


def _gptq(bits: int) -> dict[str, Any]:
    return {"quant_method": "gptq", "bits": bits, "group_size": 128, "sym": True}


SCHEMES: Mapping[str, Mapping[str, Any]] = {
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True},
    "gptq-int4": _gptq(4),
    "gptq-int8": _gptq(8),
    "w4a16": _integers(4, 128),
    "w8a16": _integers(8, 0),
    "w8a8": _integers(8, 0),
    "fp8": _compressed({"num_bits": 8, "type": "float", "strategy": "channel"}),
    "fp8-block": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    "nvfp4": {"quant_method": "modelopt", "quant_algo": "NVFP4"},
    "mxfp8": {"quant_method": "modelopt", "quant_algo": "MXFP8"},
    "bnb-4bit": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_use_double_quant": True},
    "bnb-8bit": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    **{f"mlx-{bits}bit": {"bits": bits, "group_size": 64} for bits in (3, 4, 5, 6, 8)},
}
"""By name: the quantization that a config.json states. FP8 with a scale for each row is vLLM's FP8_DYNAMIC; groups of
128 are what AutoAWQ, GPTQModel and LLM Compressor write unless told otherwise, groups of 64 mlx_lm.convert."""

NAMES = (*PRICED, *SCHEMES)
COMMON = ("q4_k_m", "q5_k_m", "q6_k", "q8_0", "f16", "awq", "fp8", "mlx-4bit")
"""Named where nothing that is written is near."""
"""All that a plan can be asked for."""

_ALIASES: tuple[tuple[str, str], ...] = (
    (r"(?:awq|awq-marlin)(?:-(?:int)?4(?:bits?)?)?(?:-g128)?|(?:int)?4-?(?:bits?)?-awq", "awq"),
    (r"gptq(?:-(?:int)?4(?:bits?)?)?(?:-g128)?|gptq-marlin|(?:int4-)?auto-?round(?:-int4)?(?:-g128)?", "gptq-int4"),
    (r"gptq(?:-int)?8(?:bits?)?|gptq-8bit", "gptq-int8"),
    (r"int4|int4-w4a16|w4a16-g128|quantized\.w4a16", "w4a16"),
    (r"int8|(?:int8-)?w8a8(?:-int8)?|quantized\.w8a8|int8-w8a8", "w8a8"),
    (r"fp8-(?:dynamic|w8a8|static)|f8(?:-e4m3)?|float8|w8a8-fp8", "fp8"),
    (r"(?:mod(?:el)?opt-)?(?:nv)?fp4(?:-w4a4|-a16)?", "nvfp4"),
    (r"nf4|bnb(?:-nf4)?|bitsandbytes(?:-4bit)?", "bnb-4bit"),
    (r"mlx|4-?bit|mlx-(?:q|int)?4", "mlx-4bit"),
    (r"(?:mlx-)?(\d)-?bits?(?:-mlx)?", r"mlx-\1bit"),
    (r"fp16|half|float16", "f16"), (r"bfloat16", "bf16"), (r"fp32|float32", "f32"),
)  # fmt: skip
"""What people write, in lower case with "-" for spaces -> the name. The first that is the whole of it."""


def format_name(text: str) -> str:
    """The name of what is written: "AWQ INT4" is "awq", "UD-Q4_K_XL" "ud-q4_k_xl", "4-bit" "mlx-4bit".

    Raises:
        UnsupportedError: No such format, with the nearest names.
    """
    written = re.sub(r"[\s_-]+", "-", text.strip().lower())
    by_dashes = {name.replace("_", "-"): name for name in NAMES}
    if written in by_dashes:
        return by_dashes[written]
    for pattern, name in _ALIASES:
        if found := re.fullmatch(pattern, written):
            named = found.expand(name)
            if named in NAMES:
                return named
    near = get_close_matches(written, by_dashes, n=4, cutoff=0.6)
    shown = ", ".join(by_dashes[n] for n in near) if near else f"{', '.join(COMMON)}, … (docs/memory-model.md)"
    expected = f"something like {shown}"
    raise UnsupportedError(f"no codec mix is called {text[:40]!r}", expected)


def codecs_of(name: str, graph: Graph) -> CodecOf:
    """The codec of each tensor of the model in that format, by its name and shape.

    Raises UnsupportedError, listing the formats there are.
    """
    name = format_name(name)
    if name in SCHEMES:
        return stated({"dtype": "bfloat16", "quantization_config": SCHEMES[name]})
    chosen, model = priced_mix(name), described(graph)
    return lambda tensor, shape: tensor_codec(tensor, shape, chosen, model)
