"""Which layers attend only a window of the nearest positions: from config.json or GGUF metadata.

A window counts positions, the token's own included. One that is not shorter than the context never bites, and
is left out (Phi-3.5 states 262,144 over a context of 131,072; Qwen2.5 states one and switches it off).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from memfirst.errors import ConfigError, UnsupportedError
from memfirst.models import reader as limits
from memfirst.models.decoder import Config
from memfirst.models.reader import ConfigReader

FULL, LOCAL = "full_attention", "sliding_attention"
Choice = Callable[[int], bool]
"""Whether a layer has the window."""


def every(layer: int) -> bool:
    """All layers (Mistral 7B v0.1, Phi-3)."""
    return True


def periodic(period: int) -> Choice:
    """All but the last of each `period` layers: with 6, five local ones and a global one (Gemma 3)."""
    return lambda layer: (layer + 1) % period != 0


def unused(r: ConfigReader, c: Config) -> Config:
    """Llama has no windows: a `sliding_window` without `use_sliding_window` is not used by anyone."""
    if r.flag("use_sliding_window"):
        raise UnsupportedError("use_sliding_window is true", "attention over the whole context")
    r.raw("sliding_window")
    kinds = _layer_types(r, c)
    if kinds is not None and any(kinds):
        raise UnsupportedError(f"layer_types holds {LOCAL!r}", f"{FULL} in every layer")
    return c


def everywhere(r: ConfigReader, c: Config) -> Config:
    """`sliding_window` on all layers; null or absent: none, whatever the class's default in transformers."""
    return _with(c, _window(r), _layer_types(r, c), every)


def flagged(r: ConfigReader, c: Config) -> Config:
    """`sliding_window` where `use_sliding_window` says so, from layer `max_window_layers` on (Qwen2, Qwen3)."""
    window, kinds = _window(r), _layer_types(r, c)
    full = r.integer("max_window_layers", limits.MAX_LAYERS, default=c.num_hidden_layers, low=0)
    if not r.flag("use_sliding_window"):
        if kinds is not None and any(kinds):
            raise ConfigError(f"layer_types holds {LOCAL!r}, and use_sliding_window is false", "one or the other")
        return c
    if window is None:
        raise ConfigError("use_sliding_window is true without a sliding_window", "a number of positions")
    return _with(c, window, kinds, lambda layer: layer >= full)


def patterned(r: ConfigReader, c: Config, period: int) -> Config:
    """`sliding_window` on all but each `period`-th layer, or as `layer_types` says (Gemma)."""
    saved = r.integer("_sliding_window_pattern", limits.MAX_LAYERS, default=period)  # transformers 5's name
    chosen = r.integer("sliding_window_pattern", limits.MAX_LAYERS, default=saved)
    window = r.integer("sliding_window", limits.MAX_CONTEXT)
    return _with(c, window, _layer_types(r, c), periodic(chosen))


def gguf(r: ConfigReader, c: Config, period: int = 0) -> Config:
    """`attention.sliding_window` (absent or 0: none) by `attention.sliding_window_pattern`: a period or flags.

    Without a pattern: all but each `period`-th layer, or with period 0 all.
    """
    window = r.integer("attention.sliding_window", limits.MAX_CONTEXT, default=0, low=0)
    pattern = r.raw("attention.sliding_window_pattern", period)
    if isinstance(pattern, int) and not isinstance(pattern, bool) and 0 <= pattern <= limits.MAX_LAYERS:
        return _with(c, window or None, None, periodic(pattern) if pattern else every)
    if not isinstance(pattern, Iterable) or isinstance(pattern, str | bytes):
        raise ConfigError(f"the sliding window pattern is {str(pattern)[:60]!r}", "a period, or a flag a layer")
    return _with(c, window or None, tuple(bool(flag) for flag in pattern), every)


def _with(c: Config, window: int | None, kinds: tuple[bool, ...] | None, local: Choice) -> Config:
    """`c` with the window on the layers that `kinds` names, else where `local` says."""
    if window is None or window >= c.max_position_embeddings:
        return c
    if kinds is not None and len(kinds) != c.num_hidden_layers:
        raise ConfigError(f"windows of {len(kinds)} layers", f"one for each of {c.num_hidden_layers}")
    chosen = kinds if kinds is not None else tuple(local(i) for i in range(c.num_hidden_layers))
    return replace(c, windows=tuple(window if here else None for here in chosen))


def _window(r: ConfigReader) -> int | None:
    return r.integer("sliding_window", limits.MAX_CONTEXT) if r.raw("sliding_window") is not None else None


def _layer_types(r: ConfigReader, c: Config) -> tuple[bool, ...] | None:
    """By layer whether it has the window; None where config.json does not list them."""
    kinds = r.raw("layer_types")
    if kinds is None:
        return None
    if not isinstance(kinds, list) or any(kind not in (FULL, LOCAL) for kind in kinds):
        raise UnsupportedError(f"layer_types is {str(kinds)[:60]}", f"a list of {FULL} and {LOCAL}")
    return tuple(kind == LOCAL for kind in kinds)
