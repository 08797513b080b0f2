"""RoPE: how a layer's heads are rotated, and its frequencies after scaling, from config.json or GGUF metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil, floor, isclose, log, pi, sqrt

from memfirst.errors import ConfigError, UnsupportedError
from memfirst.graph.ops.rope import HALF
from memfirst.models.reader import MAX_CONTEXT, MAX_HEAD_DIM, ConfigReader

MIN = 1e-6
"""Divisors below would make frequencies that no float holds."""


@dataclass(frozen=True)
class RopeScaling:
    """How a model was stretched to a longer context."""

    kind: str
    """ "linear", "llama3", "yarn", "longrope" or "dynamic"."""
    factor: float
    """New context / original."""
    original: int = 0
    """Positions of the original training (llama3, yarn, longrope, dynamic)."""
    low: float = 1.0
    """llama3: low_freq_factor."""
    high: float = 4.0
    """llama3: high_freq_factor."""
    fast: float = 32.0
    """yarn: beta_fast, in rotations over the original context."""
    slow: float = 1.0
    """yarn: beta_slow."""
    attention_factor: float = 1.0
    """yarn, longrope: multiplies cosine and sine."""
    truncate: bool = True
    """yarn: the ramp's ends are rounded to whole pairs (not in gpt-oss)."""
    mscale_all_dim: float = 0.0
    """yarn: what DeepSeek's attention multiplies its scores by, as an exponent of ln(factor)."""
    short: tuple[float, ...] = ()
    """longrope: divisors of the frequencies up to `original` positions."""
    long: tuple[float, ...] = ()
    """longrope: divisors beyond."""


@dataclass(frozen=True)
class Rotation:
    """How a layer's heads are rotated."""

    theta: float
    dims: int
    """Values of a head that are rotated, the first ones."""
    style: str = HALF
    """The pairs that rotate together, in GGUF's row order: see `graph.ops.rope`."""
    scaling: RopeScaling | None = None
    temperature: float = 0.0
    """Llama 4's: queries are multiplied by 1 + temperature · ln(1 + floor(position / original context))."""
    local: bool = False
    """A layer with a window that no scaling stretches, whatever divisors the file has (Gemma 3, OLMo 3)."""
    turning: int = 0
    """Of the dims / 2 pairs only the first so many are rotated (Gemma 4's "proportional"); 0: all."""

    @property
    def in_window(self) -> Rotation:
        """The same without its scaling: of a layer with a window."""
        return replace(self, scaling=None, local=True)


def frequencies(theta: float, dims: int, scaling: RopeScaling | None) -> tuple[float, ...]:
    """Radians a position of each of the dims/2 pairs: theta^(−2i/dims), then scaled."""
    plain = tuple(theta ** (-2 * i / dims) for i in range(dims // 2))
    if scaling is None or scaling.kind == "dynamic":
        return plain
    if scaling.kind == "longrope":
        return divided(plain, scaling.short)
    if scaling.kind == "linear":
        return tuple(f / scaling.factor for f in plain)
    if scaling.kind == "llama3":
        return tuple(_llama3(f, scaling) for f in plain)
    return _yarn(plain, theta, scaling)


def long_frequencies(theta: float, dims: int, scaling: RopeScaling | None) -> tuple[float, ...]:
    """Those of sequences beyond the original context; empty for scalings that have one set for all.

    "dynamic" raises the theta with the length of a sequence; here, as in vLLM, once, for the longest.
    """
    if scaling and scaling.kind == "dynamic":
        grown = (scaling.factor**2 - scaling.factor + 1) ** (dims / max(1, dims - 2))
        return frequencies(theta * grown, dims, None)
    return divided(frequencies(theta, dims, None), scaling.long) if scaling and scaling.long else ()


def divided(plain: tuple[float, ...], divisors: tuple[float, ...]) -> tuple[float, ...]:
    """Each frequency by its divisor; ConfigError where there are more or fewer of them."""
    if len(divisors) != len(plain):
        raise ConfigError(f"{len(divisors)} rope divisors", f"{len(plain)}, one for each rotated pair")
    return tuple(f / d for f, d in zip(plain, divisors, strict=True))


STILL = 1e29
"""GGUF has a divisor of 1e30 for a pair that is not rotated."""


def turning(divisors: tuple[float, ...]) -> int:
    """How many pairs are rotated, the first ones; ConfigError where others lie between them."""
    count = sum(d < STILL for d in divisors)
    if not count or max(divisors[:count]) >= STILL:
        raise ConfigError("pairs that are not rotated stand before some that are", "the first pairs rotated")
    return count


def _llama3(frequency: float, s: RopeScaling) -> float:
    """Slow pairs are divided, fast ones kept, in between blended (Llama 3.1's `apply_scaling`)."""
    rotations = s.original * frequency / (2 * pi)
    if rotations < s.low:
        return frequency / s.factor
    if rotations >= s.high:
        return frequency
    smooth = (rotations - s.low) / (s.high - s.low)
    return (1 - smooth) * frequency / s.factor + smooth * frequency


def _yarn(plain: tuple[float, ...], theta: float, s: RopeScaling) -> tuple[float, ...]:
    """NTK-by-parts (Peng et al. 2023, arXiv:2309.00071): pairs are ramped from kept to divided by index."""
    dims = 2 * len(plain)

    def pair(rotations: float) -> float:
        """The (fractional) pair that rotates that often over the original context."""
        return dims * log(s.original / (rotations * 2 * pi)) / (2 * log(theta))

    ends = pair(s.fast), pair(s.slow)
    first, last = (floor(ends[0]), ceil(ends[1])) if s.truncate else ends
    first, last = max(first, 0), min(last, dims - 1)
    span = max(last - first, 0.001)
    ramp = [min(1.0, max(0.0, (i - first) / span)) for i in range(len(plain))]
    return tuple(f * (1 - r) + f / s.factor * r for f, r in zip(plain, ramp, strict=True))


def yarn_attention_factor(factor: float, mscale: float = 1.0) -> float:
    """0.1 · mscale · ln(factor) + 1, with mscale = 1 YaRN's default."""
    return 0.1 * mscale * log(factor) + 1 if factor > 1 else 1.0


FULL, LOCAL = "full_attention", "sliding_attention"


@dataclass(frozen=True)
class Defaults:
    """A rotation where a form says nothing."""

    style: str = HALF
    theta: float = 10000.0
    partial: float = 1.0
    """The share of a head that is rotated."""


def read(r: ConfigReader, context: int, head_dim: int, default: Defaults) -> Rotation:
    """A model's rotation, of layers without a window where these have one of their own.

    config.json has `rope_theta` and `rope_scaling`, or both in `rope_parameters`, there perhaps by kind of layer; GGUF
    has `rope.*`, and as tensors what is a list or a formula for LongRoPE and Llama 3.
    """
    if r.gguf:
        dims = r.plain.integer("rope.dimension_count", MAX_HEAD_DIM, default=int(head_dim * default.partial))
        found = _read_gguf(r.plain, context, dims, default.style)
    else:
        found = _read_parameters(kinds(r)[0], r, context, head_dim, default)
    if found.dims % 2 or not 0 < found.dims <= head_dim:
        raise ConfigError(f"{found.dims} of {head_dim} values of a head are rotated", "an even number of them")
    return found


def kinds(r: ConfigReader) -> tuple[object, object]:
    """config.json's objects for layers without and with a window: twice the same where it has one for all."""
    values = r.raw("rope_parameters", r.raw("rope_scaling"))
    if not isinstance(values, Mapping) or not (
        {FULL, LOCAL} & values.keys() or any(isinstance(v, Mapping) for v in values.values())
    ):
        return values, values
    if not all(isinstance(v, Mapping) for v in values.values()):
        raise ConfigError(f"rope_parameters is {str(values)[:60]!r}", "an object for each kind of layer")
    ConfigReader(values).check_unknown((FULL, LOCAL), allow_unknown=False)
    return values.get(FULL), values.get(LOCAL)


def in_windows(r: ConfigReader, whole: Rotation, theta: float | None) -> Rotation:
    """The rotation of layers with a window, which no scaling stretches; theta where none is stated, None: `whole`'s."""
    plain = whole.in_window
    if r.gguf:
        return replace(plain, theta=r.plain.single("rope.freq_base_swa", theta or whole.theta, low=1.0))
    local, stated = kinds(r)[1], r.raw("rope_local_base_freq")
    outer = r.single("rope_local_base_freq", low=1.0) if stated is not None else theta or whole.theta
    if local is kinds(r)[0] or local is None:
        return replace(plain, theta=outer)
    reader = ConfigReader(local if isinstance(local, Mapping) else {})
    reader.only("rope_type", ("default",))
    found = reader.single("rope_theta", outer, low=1.0)
    reader.check_unknown(("partial_rotary_factor",), allow_unknown=False)
    return replace(plain, theta=found)


def _read_parameters(values: object, r: ConfigReader, context: int, head_dim: int, default: Defaults) -> Rotation:
    """From the object that config.json calls `rope_parameters` or `rope_scaling`, and what stands beside it in `r`."""
    theta = r.number("rope_theta", default.theta, low=1.0)
    share = r.number("partial_rotary_factor", default.partial, high=1.0)
    if values is None:
        return Rotation(theta, int(head_dim * share), default.style)
    if not isinstance(values, Mapping):
        raise ConfigError(f"rope_parameters is {str(values)[:60]!r}", "an object")
    reader = ConfigReader(values)
    theta = reader.number("rope_theta", theta, low=1.0)
    dims = int(head_dim * reader.number("partial_rotary_factor", share, high=1.0))
    if reader.raw("rope_type", reader.raw("type")) == "proportional":  # frequencies and pairs of the whole head
        reader.only("factor", (1.0,))
        reader.check_unknown(HARMLESS, allow_unknown=False)
        return Rotation(theta, head_dim, default.style, turning=dims // 2)
    theta *= _stretch(reader, dims)
    scaling = _scaling_of(reader, context, r)
    temperature = reader.number("llama_4_scaling_beta", 0.0, low=-MIN, high=16.0)
    if temperature and (scaling is None or scaling.kind != "yarn"):
        raise ConfigError("llama_4_scaling_beta without an original context", "YaRN's")
    reader.check_unknown(HARMLESS, allow_unknown=False)
    return Rotation(theta, dims, default.style, scaling, temperature)


def _stretch(values: ConfigReader, dims: int) -> float:
    """Hunyuan's "dynamic" scaling with a fixed `alpha`: the theta grows by alpha^(d / (d − 2)), and nothing else."""
    if values.raw("rope_type", values.raw("type")) != "dynamic" or values.raw("alpha") is None:
        return 1.0
    for key in ("factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"):
        values.raw(key)  # written beside it, and used by nothing
    return float(values.number("alpha", low=MIN, high=1e6) ** (dims / max(1, dims - 2)))


HARMLESS = ("type", "rope_type", "finetuned", "partial_rotary_factor", "max_position_embeddings", "mrope_section",
            "mrope_interleaved")  # fmt: skip
"""Keys of the object that change nothing here. M-RoPE's sections choose among the axes of an image: for text all axes
have the same position, and the rotation is the plain one."""


def _scaling_of(values: ConfigReader, context: int, config: ConfigReader) -> RopeScaling | None:
    kind = values.raw("rope_type", values.raw("type", "default"))
    if kind in ("default", "mrope") or (kind == "dynamic" and values.raw("alpha") is not None):
        return None
    if kind in ("longrope", "su"):
        key = "original_max_position_embeddings"  # beside the object in Phi-3's own files
        return _longrope(values, context, values.integer(key, MAX_CONTEXT, default=config.raw(key)))
    if kind not in ("linear", "llama3", "yarn", "dynamic"):
        expected = "default, linear, dynamic, llama3, yarn or longrope"
        raise UnsupportedError(f"rope scaling {str(kind)[:40]!r}", expected)
    factor = values.number("factor", low=1.0 - MIN if kind == "dynamic" else MIN)
    if kind == "dynamic":
        original = values.integer("original_max_position_embeddings", MAX_CONTEXT, default=context)
        return RopeScaling(kind, factor, original)
    if kind == "linear":
        return RopeScaling(kind, factor)
    if kind == "llama3":
        original = values.integer("original_max_position_embeddings", MAX_CONTEXT)
        low, high = values.number("low_freq_factor"), values.number("high_freq_factor")
        if low > high:  # Llama 4 Scout's are both 1: nothing between them is blended
            raise ConfigError(f"low_freq_factor {low} > high_freq_factor {high}", "low below high, or as large")
        return RopeScaling(kind, factor, original, low, high)
    return _read_yarn(values, factor, context)


def _read_yarn(values: ConfigReader, factor: float, context: int) -> RopeScaling:
    """`mscale` and `mscale_all_dim` are DeepSeek's: where both are there, cosine and sine grow by their ratio.

    `attention_factor` takes the place of YaRN's own; `attn_factor` (vLLM's, llama.cpp's) multiplies it.
    """
    mscale, all_dim = (values.number(key, 0.0, low=-MIN, high=16.0) for key in ("mscale", "mscale_all_dim"))
    grown = yarn_attention_factor(factor)
    if mscale and all_dim:
        grown = yarn_attention_factor(factor, mscale) / yarn_attention_factor(factor, all_dim)
    values.only("extrapolation_factor", (1.0,))
    grown *= values.number("attn_factor", 1.0, high=64.0)
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


def _read_gguf(r: ConfigReader, context: int, dims: int, style: str) -> Rotation:
    """From `rope.freq_base` and `rope.scaling.*`."""
    theta = r.number("rope.freq_base", 10000.0, low=1.0)
    factor = r.number("rope.scaling.factor", r.number("rope.scale_linear", 1.0, low=MIN), low=MIN)
    temperature = r.number("attention.temperature_scale", 0.0, low=-MIN, high=16.0)
    plain = Rotation(theta, dims, style)
    original = r.integer("rope.scaling.original_context_length", MAX_CONTEXT, default=context)
    multiplier = r.number("rope.scaling.attn_factor", 1.0)
    kind = r.raw("rope.scaling.type", "linear" if factor != 1 else "none")
    if kind == "longrope":  # the divisors are tensors
        return replace(plain, scaling=RopeScaling(kind, context / original, original, attention_factor=multiplier))
    if kind not in ("none", "linear", "yarn"):
        raise UnsupportedError(f"rope.scaling.type is {str(kind)[:40]!r}", "none, linear, yarn or longrope")
    if temperature and kind != "yarn":
        raise ConfigError("attention.temperature_scale without an original context", "YaRN's")
    if kind == "none" or (kind == "linear" and factor == 1):
        return plain
    if kind == "linear":
        return replace(plain, scaling=RopeScaling(kind, factor))
    return replace(plain, scaling=_yarn_of_gguf(r, factor, original, multiplier), temperature=temperature)


def _yarn_of_gguf(r: ConfigReader, factor: float, original: int, multiplier: float) -> RopeScaling:
    """`yarn_log_multiplier` is mscale_all_dim, of mscale 1.

    `yarn_attn_factor` holds one of two things, since llama.cpp's converter writes config.json's `attn_factor`, which
    multiplies YaRN's own factor, and its `attention_factor`, which takes its place. The latter is published as YaRN's
    own (OLMo 3), the former never is (DeepSeek-R1's 8B: its inverse).
    """
    r.only("rope.scaling.yarn_ext_factor", (1.0, -1.0))  # negative: not stated
    all_dim = r.number("rope.scaling.yarn_log_multiplier", 0.0, low=-MIN, high=16.0)
    grown = yarn_attention_factor(factor) / (yarn_attention_factor(factor, all_dim) if all_dim else 1.0)
    stated = r.number("rope.scaling.yarn_attn_factor", 1.0, high=64.0)
    if isclose(stated, yarn_attention_factor(factor), rel_tol=1e-4):
        stated = 1.0
    return RopeScaling(
        "yarn",
        factor,
        original,
        fast=r.number("rope.scaling.yarn_beta_fast", 32.0, low=MIN),
        slow=r.number("rope.scaling.yarn_beta_slow", 1.0, low=MIN),
        attention_factor=multiplier * grown * stated,
        mscale_all_dim=all_dim,
    )
