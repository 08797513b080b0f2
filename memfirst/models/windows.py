"""Which layers attend only a window of the nearest positions: from config.json or GGUF metadata.

A window counts positions, the token's own included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from memfirst.errors import ConfigError, UnsupportedError
from memfirst.models import reader as limits
from memfirst.models.reader import ConfigReader
from memfirst.models.rope import FULL, LOCAL

Choice = Callable[[int], bool]
"""Whether a layer has the window."""
Windows = tuple[int | None, ...]
"""For each layer the positions that a token attends at most; None: all. Empty: all layers attend everything."""


def every(layer: int) -> bool:
    """All layers (Mistral 7B v0.1, Phi-3)."""
    return True


def periodic(period: int) -> Choice:
    """All but the last of each `period` layers: with 6, five local ones and a global one (Gemma 3)."""
    return lambda layer: (layer + 1) % period != 0


def unused(r: ConfigReader, layers: int) -> Windows:
    """Llama has no windows: a `sliding_window` without `use_sliding_window` is not used by anyone.

    GGUF has no key for it either; a file that states one all the same means it.
    """
    if r.gguf:
        return _of_gguf(r, layers, 0)
    if r.flag("use_sliding_window"):
        raise UnsupportedError("use_sliding_window is true", "attention over the whole context")
    r.raw("sliding_window")
    r.raw("max_window_layers")
    kinds = _layer_types(r)
    if kinds is not None and any(kinds):
        raise UnsupportedError(f"layer_types holds {LOCAL!r}", f"{FULL} in every layer")
    return ()


def everywhere(r: ConfigReader, layers: int) -> Windows:
    """`sliding_window` on all layers; null or absent: none, whatever the class's default in transformers."""
    if r.gguf:
        return _of_gguf(r, layers, 0)
    return _with(layers, _window(r), _layer_types(r), every)


def flagged(r: ConfigReader, layers: int) -> Windows:
    """`sliding_window` where `use_sliding_window` says so, from layer `max_window_layers` on (Qwen2, Qwen3)."""
    if r.gguf:
        return _of_gguf(r, layers, 0)
    r.raw("sliding_window")  # where it is off, transformers 5 saves 0
    kinds = _layer_types(r)
    full = r.integer("max_window_layers", limits.MAX_LAYERS, default=layers, low=0)
    if not r.flag("use_sliding_window"):
        if kinds is not None and any(kinds):
            raise ConfigError(f"layer_types holds {LOCAL!r}, and use_sliding_window is false", "one or the other")
        return ()
    window = _window(r)
    if window is None:
        raise ConfigError("use_sliding_window is true without a sliding_window", "a number of positions")
    return _with(layers, window, kinds, lambda layer: layer >= full)


def by_period(period: int, optional: bool = False) -> Callable[[ConfigReader, int], Windows]:
    """`sliding_window` on all but each `period`-th layer, or as the file lists (Gemma, Cohere 2, OLMo 3).

    optional  a model without a `sliding_window` has none (OLMo 2, small EXAONE 4)
    """

    def read(r: ConfigReader, layers: int) -> Windows:
        return _of_gguf(r, layers, period) if r.gguf else _patterned(r, layers, period, optional)

    return read


def _patterned(r: ConfigReader, layers: int, period: int, optional: bool) -> Windows:
    # transformers 5 saves the period with an underscore; null says that layer_types has it all
    saved = r.integer("_sliding_window_pattern", limits.MAX_LAYERS, default=period)
    chosen = r.raw("sliding_window_pattern", saved)
    kinds = _layer_types(r)
    if _window(r) is None and optional:
        if kinds is not None and any(kinds):
            raise ConfigError(f"layer_types holds {LOCAL!r} without a sliding_window", "a number of positions")
        return ()
    window = r.integer("sliding_window", limits.MAX_CONTEXT)
    if isinstance(chosen, str) and chosen and set(chosen) <= {"L", "G"}:  # EXAONE 4: "LLLG"
        return _with(layers, window, kinds, lambda layer: chosen[layer % len(chosen)] == "L")
    chosen = r.integer("sliding_window_pattern", limits.MAX_LAYERS, default=saved)
    return _with(layers, window, kinds, periodic(chosen))


def _of_gguf(r: ConfigReader, layers: int, period: int) -> Windows:
    """`attention.sliding_window` (absent or 0: none) by `attention.sliding_window_pattern`: a period or flags.

    Without a pattern: all but each `period`-th layer, or with period 0 all.
    """
    window = r.plain.integer("attention.sliding_window", limits.MAX_CONTEXT, default=0, low=0)
    pattern = r.plain.raw("attention.sliding_window_pattern", period)
    if isinstance(pattern, int) and not isinstance(pattern, bool) and 0 <= pattern <= limits.MAX_LAYERS:
        return _with(layers, window or None, None, periodic(pattern) if pattern else every)
    if not isinstance(pattern, Iterable) or isinstance(pattern, str | bytes):
        raise ConfigError(f"the sliding window pattern is {str(pattern)[:60]!r}", "a period, or a flag a layer")
    return _with(layers, window or None, tuple(bool(flag) for flag in pattern), every)


def _with(layers: int, window: int | None, kinds: tuple[bool, ...] | None, local: Choice) -> Windows:
    """The window on the layers that `kinds` names, else where `local` says."""
    if window is None:
        return ()
    if kinds is not None and len(kinds) != layers:
        raise ConfigError(f"windows of {len(kinds)} layers", f"one for each of {layers}")
    chosen = kinds if kinds is not None else tuple(local(i) for i in range(layers))
    return tuple(window if here else None for here in chosen)


def _window(r: ConfigReader) -> int | None:
    return r.integer("sliding_window", limits.MAX_CONTEXT) if r.raw("sliding_window") is not None else None


def _layer_types(r: ConfigReader) -> tuple[bool, ...] | None:
    """By layer whether it has the window; None where config.json does not list them."""
    kinds = r.raw("layer_types")
    if kinds is None:
        return None
    if not isinstance(kinds, list) or any(kind not in (FULL, LOCAL) for kind in kinds):
        raise UnsupportedError(f"layer_types is {str(kinds)[:60]}", f"a list of {FULL} and {LOCAL}")
    return tuple(kind == LOCAL for kind in kinds)
