"""Llama 4 (Scout, Maverick): three layers of four are rotated and attend in chunks, every fourth attends everything
without rotation, its queries growing with the position; experts of which a token picks one, beside a shared one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from memfirst.errors import ConfigError, UnsupportedError
from memfirst.models import decoder, experts, llama
from memfirst.models import reader as limits
from memfirst.models.builder import UNIT
from memfirst.models.decoder import PAIRS, Family
from memfirst.models.delta_net import no_windows
from memfirst.models.experts import SIGMOID, MoE
from memfirst.models.reader import ConfigReader, Keys
from memfirst.models.rope import FULL

FAMILY = Family("llama4", no_windows, replace(PAIRS, theta=500000.0), eps=("rms_norm_eps", 1e-5),
                biases=("attention_bias", "attention_bias", False))  # fmt: skip
STEP = "interleave_moe_layer_step"
KEYS: Keys = {key: gguf for key, gguf in (decoder.KEYS | experts.KEYS).items() if key != "sliding_window"} | {
    STEP: STEP
}
CHUNK, INTERVAL, TEMPERATURE, LARGE = 8192, 4, (0.1, 8192), 128
"""Positions of a chunk; layers up to one without rotation; slope and floor; and the number of experts of the model
that does not normalize q and k: what GGUF has no keys for, as llama.cpp takes it."""
CHUNKED = "chunked_attention"


@dataclass(frozen=True, kw_only=True)
class Config(decoder.Config):
    """Besides what dense decoders have."""

    step: int
    """Every so many layers there is one with experts."""

    @property
    def gguf_keys(self) -> dict[str, Any]:
        """UnsupportedError for numbers that GGUF has no keys for, where they are others than llama.cpp takes."""
        large = self.moe is not None and self.moe.num_experts == LARGE
        if self.heads != _as_published(self, normed=not large).heads:
            found = "chunks, rotation or temperatures of attention that are not Llama 4's"
            raise UnsupportedError(f"{found} have no GGUF form", "Llama 4's own")
        return {STEP: self.step}


def read(r: ConfigReader) -> Config:
    """The dense feed-forward has a width of its own, and the experts' is what config.json calls the model's."""
    if not r.gguf:
        width = r.integer("intermediate_size", limits.MAX_WIDTH)
        dense = r.integer("intermediate_size_mlp", limits.MAX_WIDTH)
        r = r.given({"intermediate_size": dense, "moe_intermediate_size": width})
    c = decoder.read(r, FAMILY)
    step = r.integer(STEP, limits.MAX_LAYERS, default=None if r.gguf else 1)
    moe = _experts(r, c.layers, step)
    c = Config(**vars(c) | {"moe": moe}, step=step)
    if not r.gguf:
        return _as_stated(r, c)
    r.plain.only("attention.sliding_window", ())
    return _as_published(c, normed=moe.num_experts != LARGE)


def _experts(r: ConfigReader, layers: int, step: int) -> MoE:
    routed = set(range(step - 1, layers, step))
    r.only("moe_layers", () if r.gguf else (sorted(routed),))
    width = r.integer("moe_intermediate_size", limits.MAX_WIDTH)
    if r.gguf:
        r.plain.only("expert_gating_func", (2,))
        r.plain.only("expert_weights_scale", (1.0,))
        r.plain.only("expert_shared_feed_forward_length", (width,))
    return replace(
        experts.read(r, width),
        scoring=SIGMOID,
        norm_topk_prob=False,
        shared=width,
        weigh_input=True,
        dense=frozenset(range(layers)) - routed,
    )


def _as_published(c: Config, normed: bool) -> Config:
    """The attention of each layer, as llama.cpp takes it from the architecture's name."""
    rotated = tuple((i + 1) % INTERVAL != 0 for i in range(c.layers))
    return _attending(c, rotated, rotated, CHUNK, TEMPERATURE, normed)


def _as_stated(r: ConfigReader, c: Config) -> Config:
    """The same by config.json; a temperature that is a number there (Scout's) is as true."""
    interval = r.integer("no_rope_layer_interval", limits.MAX_LAYERS, default=INTERVAL)
    flags = r.raw("no_rope_layers") or [int((i + 1) % interval != 0) for i in range(c.layers)]
    if not isinstance(flags, list) or len(flags) != c.layers or any(flag not in (0, 1) for flag in flags):
        raise ConfigError(f"no_rope_layers is {str(flags)[:60]!r}", f"a 0 or 1 for each of {c.layers}")
    rotated = tuple(bool(flag) for flag in flags)
    chunk = r.integer("attention_chunk_size", limits.MAX_CONTEXT)
    kinds = r.raw("layer_types", [CHUNKED if flag else FULL for flag in rotated])
    if not isinstance(kinds, list) or len(kinds) != c.layers or any(kind not in (CHUNKED, FULL) for kind in kinds):
        raise UnsupportedError(f"layer_types is {str(kinds)[:60]}", f"{c.layers} times {CHUNKED} or {FULL}")
    r.only("attn_temperature_tuning", (True, False, 4))
    r.only("for_llm_compressor", (False,))
    slope, floor = r.number("attn_scale", TEMPERATURE[0]), r.integer("floor_scale", limits.MAX_CONTEXT, TEMPERATURE[1])
    tuned = bool(r.raw("attn_temperature_tuning", True))
    chunked = tuple(kind == CHUNKED for kind in kinds)
    normed = r.flag("use_qk_norm", True)
    return _attending(c, rotated, chunked, chunk, (slope, floor) if tuned else None, normed)


def _attending(
    c: Config, rotated: tuple[bool, ...], chunked: tuple[bool, ...], chunk: int, temperature: tuple[float, int] | None,
    normed: bool,
) -> Config:  # fmt: skip
    """By layer: rotated heads are normalized behind it, others have the temperature."""
    turned = {"qk_norm": UNIT if normed else "", "norm_after": True}
    still: dict[str, Any] = {"rotation": None, "temperature": temperature}
    layers = zip(c.heads, rotated, chunked, strict=True)
    heads = tuple(
        replace(h, window=chunk if local else None, chunked=local, **(turned if turns else still))
        for h, turns, local in layers
    )
    return replace(c, heads=heads)


ARCHITECTURE = decoder.architecture("llama4", read, llama.build, KEYS)
