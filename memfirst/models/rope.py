"""RoPE frequencies after scaling: linear, Llama 3 and YaRN, from config.json or GGUF metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, floor, log, pi, sqrt

from memfirst.errors import ConfigError, UnsupportedError
from memfirst.models.reader import MAX_CONTEXT, MAX_HEAD_DIM, ConfigReader

MIN = 1e-6
"""Divisors below would make frequencies that no float holds."""


@dataclass(frozen=True)
class RopeScaling:
    """How a model was stretched to a longer context.

    kind              "linear", "llama3", "yarn" or "longrope"
    factor            new context / original
    original          positions of the original training (llama3, yarn, longrope)
    low, high         llama3: low_freq_factor, high_freq_factor
    fast, slow        yarn: beta_fast, beta_slow, in turns over the original context
    truncate          yarn: the ramp's ends are rounded to whole pairs (not in gpt-oss)
    mscale_all_dim    yarn: what DeepSeek's attention multiplies its scores by, as an exponent of ln(factor)
    attention_factor  yarn, longrope: multiplies cosine and sine
    short, long       longrope: divisors of the frequencies up to `original` positions, and beyond
    """

    kind: str
    factor: float
    original: int = 0
    low: float = 1.0
    high: float = 4.0
    fast: float = 32.0
    slow: float = 1.0
    attention_factor: float = 1.0
    truncate: bool = True
    mscale_all_dim: float = 0.0
    short: tuple[float, ...] = ()
    long: tuple[float, ...] = ()


def frequencies(theta: float, dims: int, scaling: RopeScaling | None) -> tuple[float, ...]:
    """Radians a position of each of the dims/2 pairs: theta^(−2i/dims), then scaled."""
    plain = tuple(theta ** (-2 * i / dims) for i in range(dims // 2))
    if scaling is None:
        return plain
    if scaling.kind == "longrope":
        return divided(plain, scaling.short)
    if scaling.kind == "linear":
        return tuple(f / scaling.factor for f in plain)
    if scaling.kind == "llama3":
        return tuple(_llama3(f, scaling) for f in plain)
    return _yarn(plain, theta, scaling)


def long_frequencies(theta: float, dims: int, scaling: RopeScaling | None) -> tuple[float, ...]:
    """Those of a sequence beyond LongRoPE's original context; empty for other scalings."""
    return divided(frequencies(theta, dims, None), scaling.long) if scaling and scaling.long else ()


def divided(plain: tuple[float, ...], divisors: tuple[float, ...]) -> tuple[float, ...]:
    """Each frequency by its divisor; ConfigError where there are more or fewer of them."""
    if len(divisors) != len(plain):
        raise ConfigError(f"{len(divisors)} rope divisors", f"{len(plain)}, one for each pair that turns")
    return tuple(f / d for f, d in zip(plain, divisors, strict=True))


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

    ends = pair(s.fast), pair(s.slow)
    first, last = (floor(ends[0]), ceil(ends[1])) if s.truncate else ends
    first, last = max(first, 0), min(last, dims - 1)
    span = max(last - first, 0.001)
    ramp = [min(1.0, max(0.0, (i - first) / span)) for i in range(len(plain))]
    return tuple(f * (1 - r) + f / s.factor * r for f, r in zip(plain, ramp, strict=True))


def yarn_attention_factor(factor: float, mscale: float = 1.0) -> float:
    """0.1 · mscale · ln(factor) + 1, with mscale = 1 YaRN's default."""
    return 0.1 * mscale * log(factor) + 1 if factor > 1 else 1.0


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
    found = _scaling_of(reader, context, config)
    reader.check_unknown(("type", "rope_type", "finetuned", "partial_rotary_factor"), allow_unknown=False)
    return theta, found


def _scaling_of(values: ConfigReader, context: int, config: ConfigReader) -> RopeScaling | None:
    kind = values.raw("rope_type", values.raw("type", "default"))
    if kind == "default":
        return None
    if kind in ("longrope", "su"):
        key = "original_max_position_embeddings"  # beside the object in Phi-3's own files
        return _longrope(values, context, values.integer(key, MAX_CONTEXT, default=config.raw(key)))
    if kind not in ("linear", "llama3", "yarn"):
        raise UnsupportedError(f"rope scaling {str(kind)[:40]!r}", "default, linear, llama3, yarn or longrope")
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
    """`mscale` and `mscale_all_dim` are DeepSeek's: where both are there, cosine and sine grow by their ratio."""
    mscale, all_dim = (values.number(key, 0.0, low=-MIN, high=16.0) for key in ("mscale", "mscale_all_dim"))
    grown = yarn_attention_factor(factor)
    if mscale and all_dim:
        grown = yarn_attention_factor(factor, mscale) / yarn_attention_factor(factor, all_dim)
    return RopeScaling(
        "yarn",
        factor,
        original=values.integer("original_max_position_embeddings", MAX_CONTEXT, default=context),
        fast=values.number("beta_fast", 32.0, low=MIN),
        slow=values.number("beta_slow", 1.0, low=MIN),
        attention_factor=values.number("attention_factor", grown),
        truncate=values.flag("truncate", True),
        mscale_all_dim=all_dim,
    )


def _longrope(values: ConfigReader, context: int, original: int) -> RopeScaling:
    """Phi-3's scaling: lists of divisors; cosine and sine grow by sqrt(1 + ln(scale) / ln(original))."""
    scale = values.number("factor", context / original, low=MIN)
    grown = sqrt(1 + log(scale) / log(max(original, 2))) if scale > 1 else 1.0
    attention = values.single("attention_factor", grown)
    short, long = (_divisors(values, key) for key in ("short_factor", "long_factor"))
    return RopeScaling("longrope", scale, original, attention_factor=attention, short=short, long=long)


def _divisors(values: ConfigReader, key: str) -> tuple[float, ...]:
    """A list of positive numbers, as float32 holds them."""
    found = values.raw(key)
    if not isinstance(found, list) or not 0 < len(found) <= MAX_HEAD_DIM:
        raise ConfigError(f"{key} is {str(found)[:60]!r}", "a list of numbers")
    reader = ConfigReader({str(i): v for i, v in enumerate(found)})
    return tuple(reader.single(str(i), low=MIN) for i in range(len(found)))


def read_gguf(config: ConfigReader, context: int) -> tuple[float, RopeScaling | None]:
    """(theta, scaling) from `rope.freq_base` and `rope.scaling.*` (Llama 3's scaling is a tensor)."""
    theta = config.number("rope.freq_base", 10000.0, low=1.0)
    factor = config.number("rope.scaling.factor", config.number("rope.scale_linear", 1.0, low=MIN), low=MIN)
    original = config.integer("rope.scaling.original_context_length", MAX_CONTEXT, default=context)
    multiplier = config.number("rope.scaling.attn_factor", 1.0)
    kind = config.raw("rope.scaling.type", "linear" if factor != 1 else "none")
    if kind == "longrope":  # the divisors are tensors
        return theta, RopeScaling(kind, context / original, original, attention_factor=multiplier)
    if kind not in ("none", "linear", "yarn"):
        raise UnsupportedError(f"rope.scaling.type is {str(kind)[:40]!r}", "none, linear, yarn or longrope")
    if kind == "none" or (kind == "linear" and factor == 1):
        return theta, None
    if kind == "linear":
        return theta, RopeScaling(kind, factor)
    attention = multiplier * yarn_attention_factor(factor)
    fast = config.number("rope.scaling.yarn_beta_fast", 32.0, low=MIN)
    slow = config.number("rope.scaling.yarn_beta_slow", 1.0, low=MIN)
    return theta, RopeScaling(kind, factor, original, fast=fast, slow=slow, attention_factor=attention)
