"""RoPE frequencies after scaling: linear, Llama 3 and YaRN, from config.json or GGUF metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, floor, log, pi

from memfirst.errors import ConfigError, UnsupportedError
from memfirst.models.reader import MAX_CONTEXT, ConfigReader

MIN = 1e-6
"""Divisors below would make frequencies that no float holds."""


@dataclass(frozen=True)
class RopeScaling:
    """How a model was stretched to a longer context.

    kind              "linear", "llama3" or "yarn"
    factor            new context / original
    original          positions of the original training (llama3, yarn)
    low, high         llama3: low_freq_factor, high_freq_factor
    fast, slow        yarn: beta_fast, beta_slow, in turns over the original context
    attention_factor  yarn: multiplies cosine and sine
    """

    kind: str
    factor: float
    original: int = 0
    low: float = 1.0
    high: float = 4.0
    fast: float = 32.0
    slow: float = 1.0
    attention_factor: float = 1.0


def frequencies(theta: float, dims: int, scaling: RopeScaling | None) -> tuple[float, ...]:
    """Radians a position of each of the dims/2 pairs: theta^(−2i/dims), then scaled."""
    plain = tuple(theta ** (-2 * i / dims) for i in range(dims // 2))
    if scaling is None:
        return plain
    if scaling.kind == "linear":
        return tuple(f / scaling.factor for f in plain)
    if scaling.kind == "llama3":
        return tuple(_llama3(f, scaling) for f in plain)
    return _yarn(plain, theta, scaling)


def _llama3(frequency: float, s: RopeScaling) -> float:
    """Slow pairs are divided, fast ones kept, in between blended (Llama 3.1's `apply_scaling`)."""
    turns = s.original * frequency / (2 * pi)
    if turns < s.low:
        return frequency / s.factor
    if turns > s.high:
        return frequency
    smooth = (turns - s.low) / (s.high - s.low)
    return (1 - smooth) * frequency / s.factor + smooth * frequency


def _yarn(plain: tuple[float, ...], theta: float, s: RopeScaling) -> tuple[float, ...]:
    """NTK-by-parts (Peng et al. 2023, arXiv:2309.00071): pairs are ramped from kept to divided by index."""
    dims = 2 * len(plain)

    def pair(turns: float) -> float:
        """The (fractional) pair that makes so many turns over the original context."""
        return dims * log(s.original / (turns * 2 * pi)) / (2 * log(theta))

    first, last = max(floor(pair(s.fast)), 0), min(ceil(pair(s.slow)), dims - 1)
    span = max(last - first, 0.001)
    ramp = [min(1.0, max(0.0, (i - first) / span)) for i in range(len(plain))]
    return tuple(f * (1 - r) + f / s.factor * r for f, r in zip(plain, ramp, strict=True))


def yarn_attention_factor(factor: float) -> float:
    """0.1 · ln(factor) + 1, YaRN's default."""
    return 0.1 * log(factor) + 1 if factor > 1 else 1.0


def rotary_dim(config: ConfigReader, head_dim: int) -> int:
    """Values of a head that turn: `partial_rotary_factor` of them, stated beside the theta or in its object."""
    values = config.raw("rope_parameters", config.raw("rope_scaling"))
    inner = ConfigReader(values if isinstance(values, Mapping) else {})
    outer = config.number("partial_rotary_factor", 1.0, high=1.0)
    return int(head_dim * inner.number("partial_rotary_factor", outer, high=1.0))


def read_hf(config: ConfigReader, context: int) -> tuple[float, RopeScaling | None]:
    """(theta, scaling) from `rope_theta` and `rope_scaling`, or from `rope_parameters`, which holds both."""
    scaling = config.raw("rope_scaling")
    values = config.raw("rope_parameters", scaling)
    if values is None:
        return config.number("rope_theta", 10000.0, low=1.0), None
    if not isinstance(values, Mapping):
        raise ConfigError(f"rope scaling is {str(values)[:60]!r}", "an object")
    reader = ConfigReader(values)
    theta = reader.number("rope_theta", config.number("rope_theta", 10000.0, low=1.0), low=1.0)
    found = _scaling_of(reader, context)
    reader.check_unknown(("type", "rope_type", "finetuned", "partial_rotary_factor"), allow_unknown=False)
    return theta, found


def _scaling_of(values: ConfigReader, context: int) -> RopeScaling | None:
    kind = values.raw("rope_type", values.raw("type", "default"))
    if kind == "default":
        return None
    if kind not in ("linear", "llama3", "yarn"):
        raise UnsupportedError(f"rope scaling {str(kind)[:40]!r}", "default, linear, llama3 or yarn")
    factor = values.number("factor", low=MIN)
    if kind == "linear":
        return RopeScaling(kind, factor)
    if kind == "llama3":
        original = values.integer("original_max_position_embeddings", MAX_CONTEXT)
        low, high = values.number("low_freq_factor"), values.number("high_freq_factor")
        if low >= high:
            raise ConfigError(f"low_freq_factor {low} >= high_freq_factor {high}", "low below high")
        return RopeScaling(kind, factor, original, low, high)
    return _read_yarn(values, factor, context)


def _read_yarn(values: ConfigReader, factor: float, context: int) -> RopeScaling:
    values.only("truncate", (True,))
    return RopeScaling(
        "yarn",
        factor,
        original=values.integer("original_max_position_embeddings", MAX_CONTEXT, default=context),
        fast=values.number("beta_fast", 32.0, low=MIN),
        slow=values.number("beta_slow", 1.0, low=MIN),
        attention_factor=values.number("attention_factor", yarn_attention_factor(factor)),
    )


def read_gguf(config: ConfigReader, context: int) -> tuple[float, RopeScaling | None]:
    """(theta, scaling) from `rope.freq_base` and `rope.scaling.*` (Llama 3's scaling is a tensor)."""
    theta = config.number("rope.freq_base", 10000.0, low=1.0)
    factor = config.number("rope.scaling.factor", config.number("rope.scale_linear", 1.0, low=MIN), low=MIN)
    original = config.integer("rope.scaling.original_context_length", MAX_CONTEXT, default=context)
    multiplier = config.number("rope.scaling.attn_factor", 1.0)
    kind = config.raw("rope.scaling.type", "linear" if factor != 1 else "none")
    if kind not in ("none", "linear", "yarn"):
        raise UnsupportedError(f"rope.scaling.type is {str(kind)[:40]!r}", "none, linear or yarn")
    if kind == "none" or (kind == "linear" and factor == 1):
        return theta, None
    if kind == "linear":
        return theta, RopeScaling(kind, factor)
    attention = multiplier * yarn_attention_factor(factor)
    fast = config.number("rope.scaling.yarn_beta_fast", 32.0, low=MIN)
    slow = config.number("rope.scaling.yarn_beta_slow", 1.0, low=MIN)
    return theta, RopeScaling(kind, factor, original, fast=fast, slow=slow, attention_factor=attention)
