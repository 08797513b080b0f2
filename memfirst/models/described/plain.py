"""Layers of grouped attention and a feed-forward or experts, as most decoders have them, by what each leaves out or
adds: Trinity, Command R and A+, MiMo-V2, Solar Open, Hy3, K-EXAONE, Ling 2, Apertus, Nemotron-4, Falcon, GPT-NeoX
and others; Bamba, whose layers are mostly Mamba-2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from memfirst.errors import ConfigError
from memfirst.models import usual
from memfirst.models.described.parts import (
    Described,
    Layer,
    attention,
    begin,
    dense_layers,
    experts,
    gated,
    listed,
    sliding,
)
from memfirst.models.reader import MAX_CONTEXT, MAX_HEAD_DIM, MAX_HEADS, MAX_LAYERS, MAX_WIDTH
from memfirst.models.usual import Stated

KV_HEADS = (*usual.KV_HEADS, "num_kv_heads")


@dataclass(frozen=True)
class Kind:
    """How an architecture differs from Llama's layers.

    head_norms  of each head's queries and keys; None: where `use_qk_norm` says so, by head as a matrix
    gate        attention's output is gated by number
    after       norms behind attention and feed-forward too
    one_norm    attention and feed-forward read the same norm; none: there are no norms with weights
    centred     layer norms, with biases
    up_only     a feed-forward of two matrices, not gated
    biases      in every matrix
    correction  what the router adds to choose
    tied        the head is the embedding where nothing is said
    dense_first layers with one feed-forward where nothing is said
    dense_width what config.json calls that feed-forward's width
    """

    head_norms: bool | None = False
    gate: bool = False
    after: bool = False
    one_norm: bool = False
    none: bool = False
    centred: bool = False
    up_only: bool = False
    biases: bool = False
    correction: bool = True
    tied: bool = False
    dense_first: int = 0
    dense_width: tuple[str, ...] = usual.WIDTH


def decoder(kind: Kind, stated: Stated) -> Described:
    """The model; it has experts where they are stated."""
    found = begin(stated, kind.tied)
    heads, kv, dim = _heads(stated)
    routed = stated.integer(usual.EXPERTS, MAX_WIDTH) > 1
    dense = dense_layers(stated, len(found.layers), kind.dense_first)
    for layer, window in zip(found.layers, _windows(stated, len(found.layers)), strict=True):
        cache = layer.cache("kv", kv, dim, dim, window=window)
        attention(layer, heads, kv, dim, cache, norms=kind.head_norms is True)
        if kind.head_norms is None and stated.raw(("use_qk_norm",)) is True:
            layer.matrices(attn_q_norm=(heads, dim), attn_k_norm=(kv, dim))
        if kind.gate:
            layer.rows(attn_gate=heads * dim)
        if routed and layer.index not in dense:
            experts(layer, stated, bias=kind.correction)
        elif kind.up_only:
            width = stated.integer(kind.dense_width, MAX_WIDTH) or 4 * found.hidden
            layer.rows(ffn_up=width)
            layer.matrices(ffn_down=(found.hidden, width))
        else:
            gated(layer, stated.needed(kind.dense_width, MAX_WIDTH))
        _norms_and_biases(layer, kind, stated)
    if kind.none:
        found.outside.clear()
    if kind.centred:
        found.outside["output_norm_bias"] = (found.hidden,)
    if stated.raw(("lm_head_bias",)) is True:
        found.outside["output_bias"] = (found.vocab,)
    return found


afmoe = partial(decoder, Kind(head_norms=True, gate=True, after=True))
baichuan = internlm2 = internlm3 = exaone = minicpm = partial(decoder, Kind())
cohere = partial(decoder, Kind(head_norms=None, one_norm=True, tied=True))
cohere2_moe = partial(
    decoder, Kind(one_norm=True, tied=True, correction=False, dense_width=("prefix_dense_intermediate_size",))
)
exaone_moe = hy_v3 = partial(decoder, Kind(head_norms=True, dense_first=1))
gpt_neox = partial(decoder, Kind(centred=True, up_only=True, biases=True))
nemotron = partial(decoder, Kind(centred=True, up_only=True))
olmo = partial(decoder, Kind(none=True))
phimoe = partial(decoder, Kind(centred=True, correction=False))
solar_open = partial(decoder, Kind())


def bailing_moe(stated: Stated) -> Described:
    """Ling 1.5 and 2: norms of heads and the router's correction where the config has them."""
    norms = stated.raw(("use_qk_norm",)) is True
    return decoder(Kind(norms, correction=stated.raw(("moe_router_enable_expert_bias",)) is True), stated)


def falcon(stated: Stated) -> Described:
    """Falcon: one key head in the first ones, two norms side by side in the larger ones."""
    larger = stated.raw(("new_decoder_architecture",)) is True
    parallel = stated.raw(("parallel_attn",)) is not False
    two = (larger and stated.integer(("num_ln_in_parallel_attn",), 2, 2) == 2) or not parallel
    return decoder(Kind(centred=True, up_only=True, one_norm=not two, tied=True), stated)


def apertus(stated: Stated) -> Described:
    """Apertus: not gated, by an activation with two numbers to learn."""
    found = decoder(Kind(head_norms=True, up_only=True), stated)
    for layer in found.layers:
        layer.vectors(ffn_act_alpha_p=1, ffn_act_alpha_n=1)
    return found


def mimo_v2_flash(stated: Stated) -> Described:
    """MiMo-V2: values are narrower than keys; layers with a window have heads of their own, and sinks."""
    found = begin(stated)
    heads, kv, dim = _heads(stated)
    value = stated.integer(("v_head_dim",), MAX_HEAD_DIM, dim) or dim
    local = (
        stated.integer(("swa_num_attention_heads",), MAX_HEADS, heads),
        stated.integer(("swa_num_key_value_heads",), MAX_HEADS, 2 * kv),
        stated.integer(("swa_head_dim",), MAX_HEAD_DIM, dim),
        stated.integer(("swa_v_head_dim",), MAX_HEAD_DIM, value),
    )
    dense, windows = dense_layers(stated, len(found.layers), 1), _mimo_windows(stated, len(found.layers))
    for layer, window in zip(found.layers, windows, strict=True):
        n, m, k, v = local if window else (heads, kv, dim, value)
        layer.rows(attn_q=n * k, attn_k=m * k, attn_v=m * v)
        layer.matrices(attn_output=(found.hidden, n * v))
        layer.attends.append((layer.cache("kv", m, k, v, window=window), n))
        if window:
            layer.vectors(attn_sinks=n)
        if layer.index in dense:
            gated(layer, stated.needed(usual.WIDTH, MAX_WIDTH))
        else:
            experts(layer, stated)
    return found


def _mimo_windows(stated: Stated, layers: int) -> list[int | None]:
    """Each layer's window. `sliding_window_size` leaves the token itself out, as transformers reads it."""
    beside = stated.integer(("sliding_window_size",), MAX_CONTEXT)
    size = beside + 1 if beside else stated.needed(("sliding_window",), MAX_CONTEXT)
    kinds = listed(stated, ("hybrid_layer_pattern", "layer_types"), layers)
    if not kinds:
        kinds = [int(i > 0 and (i + 1) % 6 != 0) for i in range(layers)]
    return [size if kind in (1, "sliding_attention") else None for kind in kinds]


def bamba(stated: Stated) -> Described:
    """Bamba: Mamba-2 in all layers but those listed, a gated feed-forward in each."""
    found = begin(stated)
    heads, kv, dim = _heads(stated)
    attends: Any = stated.raw(("attn_layer_indices",)) or []
    if not isinstance(attends, list):
        raise ConfigError(f"attn_layer_indices is {str(attends)[:60]!r}", "a list of layers")
    inner = stated.needed(("mamba_expand",), MAX_HEADS) * found.hidden
    n, size, groups, kernel = (stated.needed((f"mamba_{key}",), MAX_WIDTH) for key in
                               ("n_heads", "d_state", "n_groups", "d_conv"))  # fmt: skip
    for layer in found.layers:
        if layer.index in attends:
            attention(layer, heads, kv, dim, layer.cache("kv", kv, dim, dim), norms=False)
        else:
            channels = inner + 2 * groups * size
            layer.rows(ssm_in=inner + channels + n)
            layer.matrices(ssm_conv1d=(channels, kernel), ssm_out=(found.hidden, inner))
            layer.vectors(ssm_conv1d_bias=channels, ssm_a=n, ssm_d=n, ssm_dt=n, ssm_norm=inner)
            layer.state("state", (kernel - 1) * channels + inner * size)
        gated(layer, stated.needed(usual.WIDTH, MAX_WIDTH))
    return found


def nemotron_nas(stated: Stated) -> Described:
    """Llama 3.3 Nemotron Super: what a search left of Llama's layers, some without attention, widths by layer."""
    found, heads = begin(stated), stated.needed(usual.HEADS, MAX_HEADS)
    dim = found.hidden // heads
    blocks = listed(stated, ("block_configs",), len(found.layers))
    if not blocks or not all(isinstance(block, Mapping) for block in blocks):
        raise ConfigError("block_configs is missing", "attention and feed-forward of each layer")
    for layer, block in zip(found.layers, blocks, strict=True):
        kept, ffn = _part(block, "attention"), _part(block, "ffn")
        shared, factor = kept.get("n_heads_in_group"), ffn.get("ffn_mult")
        if kept.get("no_op"):
            del layer.tensors["attn_norm"]
        elif isinstance(shared, int) and 0 < shared <= heads:
            kv = heads // shared
            attention(layer, heads, kv, dim, layer.cache("kv", kv, dim, dim), norms=False)
        else:
            raise ConfigError(f"n_heads_in_group is {str(shared)[:20]!r}", f"an integer in 1..{heads}")
        if ffn.get("no_op"):
            del layer.tensors["ffn_norm"]
        elif isinstance(factor, int | float) and 0 < factor <= MAX_FACTOR:
            gated(layer, -(-int(2 * factor * found.hidden / 3) // 256) * 256)
        else:
            raise ConfigError(f"ffn_mult is {str(factor)[:20]!r}", f"a number up to {MAX_FACTOR}")
    return found


MAX_FACTOR = 64


def _part(block: Any, name: str) -> Mapping[str, Any]:
    part = block.get(name)
    return part if isinstance(part, Mapping) else {}


def _heads(stated: Stated) -> tuple[int, int, int]:
    """Query heads, key and value heads, and numbers of each: where nothing is said, what the hidden state divides
    into. Falcon's first models have one key head, by a flag."""
    heads, hidden = stated.needed(usual.HEADS, MAX_HEADS), stated.needed(usual.HIDDEN, MAX_WIDTH)
    kv = stated.integer(KV_HEADS, MAX_HEADS) or heads
    if stated.raw(("multi_query",)) is True and stated.raw(("new_decoder_architecture",)) is not True:
        kv = 1
    return heads, kv, stated.integer(("head_dim",), MAX_HEAD_DIM) or hidden // heads


def _windows(stated: Stated, layers: int) -> list[int | None]:
    """Each layer's window: by `layer_types`; else every so many layers, or where a pattern of letters has a G, one
    attends all."""
    every = stated.raw(("sliding_window_pattern", "global_attn_every_n_layers"))
    size = stated.integer(usual.WINDOW, MAX_CONTEXT)
    if stated.raw(("layer_types",)) is not None or not every or not size:
        return sliding(stated, layers)
    if isinstance(every, str) and 0 < len(every) <= MAX_LAYERS:
        return [None if every[i % len(every)] == "G" else size for i in range(layers)]
    if not isinstance(every, int) or not 0 < every <= MAX_LAYERS:
        raise ConfigError(f"sliding_window_pattern is {str(every)[:60]!r}", "every how many layers one attends all")
    first = stated.integer(usual.DENSE_FIRST, MAX_LAYERS) if stated.raw(PREFIX) == 1 else 0
    return [None if i < first or (i - first + 1) % every == 0 else size for i in range(layers)]


PREFIX = ("prefix_dense_sliding_window_pattern",)
"""1: the first layers, those with one feed-forward, attend all, and the pattern begins behind them."""


def _norms_and_biases(layer: Layer, kind: Kind, stated: Stated) -> None:
    hidden = layer.hidden
    if kind.none:
        del layer.tensors["attn_norm"], layer.tensors["ffn_norm"]
    if kind.one_norm:
        del layer.tensors["ffn_norm"]
    if kind.after:
        layer.vectors(post_attention_norm=hidden, post_ffw_norm=hidden)
    if kind.centred:
        layer.vectors(**{f"{norm}_bias": hidden for norm in ("attn_norm", "ffn_norm") if norm in layer.tensors})
    flagged = stated.raw(("attention_bias", "use_qkv_bias")) is True
    parts = ("attn_q", "attn_k", "attn_v", "attn_output", *(("ffn_up", "ffn_down") if kind.biases else ()))
    if kind.biases or flagged:
        layer.vectors(**{f"{part}_bias": layer.tensors[part][0] for part in parts if part in layer.tensors})
