"""A decoder's hyperparameters as GGUF has them: the counterpart of reading them, for files that memfirst writes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import isclose
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from memfirst.errors import UnsupportedError
from memfirst.formats.architectures import text_of
from memfirst.models import decoder, rope
from memfirst.models.base import Architecture
from memfirst.models.builder import Heads
from memfirst.models.experts import SIGMOID, MoE
from memfirst.models.rope import RopeScaling, Rotation

NOT_ROTATED = 1e30
"""A pair's divisor where it is not rotated."""
NOT_WRITTEN = {"num_nextn_predict_layers"}
"""Of layers that such files do not hold."""
COUNTS = re.compile(r"ssm\.|(_count|_length|_layers|_rank|_step|_per_layer_input|_interval)$")

Vectors = dict[str, tuple[float, ...]]
"""By tensor name, the numbers of what GGUF has as a tensor and config.json as numbers."""


class Written(NamedTuple):
    """What a GGUF file says of a model beside its weights."""

    metadata: dict[str, Any]
    vectors: Vectors
    unread: Mapping[str, tuple[int, ...]] = MappingProxyType({})
    """Shapes of tensors that other loaders ask for, and no token reads."""


def written(entry: Architecture[Any], config: Mapping[str, Any]) -> Written:
    """Metadata with its prefix, vectors and unread tensors of a config.json; UnsupportedError where there is no writer.

    What GGUF has no key for (Gemma's scales, layers without rotation) is implied by the architecture's name there.
    """
    c = entry.from_hf(config, False)
    if entry.to_gguf is not None:
        keys, unread = entry.to_gguf(c)
        return Written({f"{entry.name}.{key}": _number_or_count(value) for key, value in keys.items()}, {}, unread)
    if not isinstance(c, decoder.Config):
        raise UnsupportedError(f"GGUF files of {entry.name} are not written here", "a decoder with grouped attention")
    text, stated = text_of(config), _sizes(c, entry)
    own = entry.keys.keys() - decoder.KEYS.keys() - decoder.LAYER_NORM_KEYS.keys() - NOT_WRITTEN
    own = {key for key in own if text.get(key) is not None and not isinstance(text[key], list)}
    stated |= {entry.keys[key]: _stated(entry.keys[key], text[key]) for key in sorted(own)}
    if c.moe and c.moe.shared and "n_shared_experts" not in own:
        stated["expert_shared_feed_forward_length"] = c.moe.shared
    stated |= c.gguf_keys
    vectors: Vectors = {}
    rotations = [h.rotation for h in c.heads if h.rotation is not None]
    if rotations:
        whole = next((r for r in rotations if not r.local), rotations[0])
        stated |= rotation_keys(whole, vectors)
        if local := [r.theta for r in rotations if r.local]:
            stated["rope.freq_base_swa"] = _number(local[0])
    return Written({f"{c.architecture}.{key}": value for key, value in stated.items()}, vectors)


def _sizes(c: decoder.Config, entry: Architecture[Any]) -> dict[str, Any]:
    first, local = _of_kinds(c)
    rms = "attention.layer_norm_rms_epsilon" in entry.keys.values()
    epsilon = "layer_norm_rms_epsilon" if rms else "layer_norm_epsilon"
    found: dict[str, Any] = {
        "vocab_size": c.vocab_size,
        "context_length": c.max_position_embeddings,
        "embedding_length": c.hidden_size,
        "block_count": c.layers,
        "feed_forward_length": _one_or_all(c.intermediate_size),
        "attention.head_count": _one_or_all([h.heads for h in c.heads]),
        "attention.head_count_kv": _one_or_all([h.kv_heads for h in c.heads]),
        "attention.key_length": first.head_dim,
        "attention.value_length": first.head_dim,
        f"attention.{epsilon}": _number(c.eps),
    }
    if local and local.head_dim != first.head_dim:
        widths = ("attention.key_length", "attention.value_length", "rope.dimension_count")
        found |= {f"{key}_swa": local.head_dim for key in widths}
    windows = {h.window for h in c.heads if h.window and not h.chunked}
    if windows:
        found["attention.sliding_window"] = windows.pop()
        if not all(h.window for h in c.heads):
            found["attention.sliding_window_pattern"] = np.array([bool(h.window) for h in c.heads])
    gating = {"expert_gating_func": 2} if c.moe and c.moe.scoring == SIGMOID else {}
    return found | gating | (experts_keys(c.moe) if c.moe else {})


def _of_kinds(c: decoder.Config) -> tuple[Heads, Heads | None]:
    """Heads of layers without a window, where there are any, and of those with one."""
    local = next((h for h in c.heads if h.window), None)
    return next((h for h in c.heads if not h.window), c.heads[0]), local


def experts_keys(moe: MoE) -> dict[str, Any]:
    """How many experts there are, are picked, and how wide they are."""
    return {
        "expert_count": moe.num_experts,
        "expert_used_count": moe.num_experts_per_tok,
        "expert_feed_forward_length": moe.moe_intermediate_size,
    }


def rotation_keys(r: Rotation, vectors: Vectors) -> dict[str, Any]:
    """`rope.*` of a rotation; what GGUF has as tensors goes into `vectors`."""
    found: dict[str, Any] = {"rope.dimension_count": r.dims, "rope.freq_base": _number(r.theta)}
    s, pairs = r.scaling, r.dims // 2
    if r.turning:
        vectors["rope_freqs.weight"] = (1.0,) * r.turning + (NOT_ROTATED,) * (pairs - r.turning)
    if s is None:
        return found
    if s.kind == "dynamic":
        raise UnsupportedError("dynamic RoPE scaling has no GGUF form", "another scaling")
    if s.kind == "llama3":
        plain = rope.frequencies(r.theta, r.dims, None)
        scaled = rope.frequencies(r.theta, r.dims, s)
        vectors["rope_freqs.weight"] = tuple(p / q for p, q in zip(plain, scaled, strict=True))
        return found
    found |= {"rope.scaling.type": s.kind}
    if s.kind == "longrope":
        vectors |= {"rope_factors_short.weight": s.short, "rope_factors_long.weight": s.long}
        original = {"rope.scaling.original_context_length": s.original}
        return found | original | {"rope.scaling.attn_factor": _number(s.attention_factor)}
    found["rope.scaling.factor"] = _number(s.factor)
    return found if s.kind == "linear" else found | _yarn(r, s)


def _yarn(r: Rotation, s: RopeScaling) -> dict[str, Any]:
    found: dict[str, Any] = {
        "rope.scaling.original_context_length": s.original,
        "rope.scaling.yarn_beta_fast": _number(s.fast),
        "rope.scaling.yarn_beta_slow": _number(s.slow),
    }
    expected = rope.yarn_attention_factor(s.factor)
    if s.mscale_all_dim:
        found["rope.scaling.yarn_log_multiplier"] = _number(s.mscale_all_dim)
        expected /= rope.yarn_attention_factor(s.factor, s.mscale_all_dim)
    if not isclose(s.attention_factor, expected, rel_tol=1e-6):
        found["rope.scaling.attn_factor"] = _number(s.attention_factor / expected)
    if r.temperature:
        found["attention.temperature_scale"] = _number(r.temperature)
    return found


def _one_or_all(values: Sequence[int]) -> Any:
    """A number where all layers have it, else a list."""
    return values[0] if len(set(values)) == 1 else np.array(values, np.int32)


def _stated(key: str, value: Any) -> Any:
    """Of a key that is the architecture's own: counts and lengths are integers in GGUF, all else float32."""
    return value if isinstance(value, int) and COUNTS.search(key) else _number(value)


def _number_or_count(value: Any) -> Any:
    return value if isinstance(value, int | str | np.ndarray) else _number(value)


def _number(value: Any) -> Any:
    """As GGUF's float32 holds it; what is no number (a flag) as it is."""
    return value if isinstance(value, bool) else float(np.float32(value))
