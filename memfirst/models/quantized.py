"""The codecs that a config.json states for its weights: a dtype, and perhaps a `quantization_config`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from memfirst.errors import ConfigError, UnsupportedError
from memfirst.models.reader import ConfigReader

DTYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
MXFP4, FP8 = "mxfp4", "fp8"
FLOAT_ROLES = ("token_embd", "output", "ffn_gate_inp")
"""Matrices that DeepSeek-V3's FP8 leaves as they are."""

CodecOf = Callable[[str, tuple[int, ...]], str]
"""(tensor, shape) -> codec."""


def check(r: ConfigReader, method: str) -> None:
    """UnsupportedError where `quantization_config` names another method than the one these models come in."""
    values = r.raw("quantization_config")
    found = values.get("quant_method") if isinstance(values, Mapping) else values
    if values is not None and found != method:
        raise UnsupportedError(f"quantization_config says {str(found)[:40]!r}", f"{method!r}, or none")


def stated(config: Mapping[str, Any]) -> CodecOf:
    """The codec of each tensor of a model whose weights are not at hand; vectors are f32, as GGUF has them.

    FP8's scales, 4 bytes for each 128 × 128 weights, are not counted (0.02 %).
    """
    base, method = _dtype(config), _method(config)

    def codec(name: str, shape: tuple[int, ...]) -> str:
        if len(shape) == 1:
            return "f32"
        stem, _, what = name.rpartition(".")
        role = stem.rpartition(".")[2]
        if method == MXFP4 and role.endswith("_exps") and what == "weight":
            return MXFP4
        return "f8_e4m3" if method == FP8 and role not in FLOAT_ROLES else base

    return codec


def _dtype(config: Mapping[str, Any]) -> str:
    dtype = config.get("dtype") or config.get("torch_dtype") or "bfloat16"
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ConfigError(f"the config's dtype is {str(dtype)[:40]!r}", f"one of {', '.join(DTYPES)}")
    return DTYPES[dtype]


def _method(config: Mapping[str, Any]) -> Any:
    values = config.get("quantization_config")
    return values.get("quant_method") if isinstance(values, Mapping) else None
