"""Layers that keep a state beside a few that attend: Kimi Linear and K3, Ling 3 (Kimi delta attention), and Qwen 3.8
Flash-Next (gated delta net)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memfirst.errors import ConfigError
from memfirst.models import usual
from memfirst.models.described.parts import (
    Described,
    Latent,
    Layer,
    attention,
    begin,
    dense_layers,
    experts,
    gated,
    latent,
    listed,
)
from memfirst.models.reader import MAX_CONTEXT, MAX_HEAD_DIM, MAX_HEADS, MAX_LAYERS, MAX_VOCAB, MAX_WIDTH
from memfirst.models.usual import Stated


def kimi_linear(stated: Stated) -> Described:
    """Kimi Linear; K3 has gates of full rank, experts on a latent, and mixes what earlier layers left."""
    found, c = begin(stated), stated.raw(("linear_attn_config",))
    if not isinstance(c, Mapping):
        raise ConfigError(f"linear_attn_config is {str(c)[:60]!r}", "heads, head_dim and which layers attend")
    sizes, dense = Latent.of(stated), dense_layers(stated, len(found.layers))
    attends = _numbers(c, "full_attn_layers")
    heads, dim, kernel = (_number(c, key) for key in ("num_heads", "head_dim", "short_conv_kernel_size"))
    gate = sizes.heads * sizes.v if stated.raw(("mla_use_output_gate",)) is True else 0
    inner, mixes = stated.integer(("routed_expert_hidden_size",), MAX_WIDTH), stated.integer(RESIDUALS, MAX_LAYERS)
    for layer in found.layers:
        if layer.index + 1 in attends:
            latent(layer, sizes, gate=gate)
        else:
            _delta(layer, heads, dim, kernel, forget=dim, gate=0 if c.get("use_full_rank_gate") is True else dim)
        if mixes:
            layer.vectors(attn_res_score=found.hidden, ffn_res_score=found.hidden)
        if layer.index in dense:
            gated(layer, stated.needed(usual.WIDTH, MAX_WIDTH))
        else:
            experts(layer, stated, inner=inner)
            _latent_experts(layer, inner, stated.raw(("latent_moe_use_norm",)) is True)
    if mixes:
        found.outside["output_res_score"] = (found.hidden,)
    return found


RESIDUALS = ("attn_res_block_size",)
"""Layers after which what has been added up is kept for later ones to attend."""


def bailing_hybrid(stated: Stated) -> Described:
    """Ling 3: the last of each group of layers attends latents."""
    found = begin(stated)
    sizes, dense = Latent.of(stated), dense_layers(stated, len(found.layers))
    dim, kernel = stated.needed(("head_dim",), MAX_HEAD_DIM), stated.needed(("short_conv_kernel_size",), MAX_WIDTH)
    every = stated.needed(("layer_group_size",), MAX_LAYERS)
    kinds = listed(stated, ("layer_types",), len(found.layers))
    for layer in found.layers:
        i = layer.index
        if kinds[i] == "full_attention" if kinds else (i + 1) % every == 0:
            latent(layer, sizes, gate=sizes.heads)
        else:
            _delta(layer, sizes.heads, dim, kernel, forget=0, gate=0)
        if i in dense:
            gated(layer, stated.needed(usual.WIDTH, MAX_WIDTH))
        else:
            experts(layer, stated)
    return found


def qwen4_exp(stated: Stated) -> Described:
    """Qwen 3.8 Flash-Next: four residual streams, attention over picked blocks, a table of n-grams looked up."""
    found = begin(stated)
    kinds = listed(stated, ("layer_types",), len(found.layers))
    every = stated.integer(("full_attention_interval",), MAX_LAYERS, 4) or 4
    streams, rank = stated.needed(("hc_count",), MAX_HEADS), stated.needed(("hc_lowrank",), MAX_WIDTH)
    with_table = stated.raw(("ple_layer_ids",)) or []
    if not isinstance(with_table, list):
        raise ConfigError(f"ple_layer_ids is {str(with_table)[:60]!r}", "a list of layers")
    for layer in found.layers:
        linear = kinds[layer.index] == "linear_attention" if kinds else (layer.index + 1) % every != 0
        (_gated_delta if linear else _blocks)(layer, stated)
        experts(layer, stated, bias=False)
        layer.rows(ffn_gate_inp_shexp=1)
        for part in ("attn", "ffn"):
            _streams(layer.tensors, f"hc_{part}", streams * found.hidden, rank)
            layer.matrices(**{f"hc_{part}_inject": (streams, streams * found.hidden)})
        if layer.index + 1 in with_table:
            _ngrams(found, layer, stated, streams)
    for layer in found.layers:  # streams are normalized instead
        del layer.tensors["attn_norm"], layer.tensors["ffn_norm"]
    _streams(found.outside, "output_hc", streams * found.hidden, rank)
    del found.outside["output_norm"]
    return found


def _delta(layer: Layer, heads: int, dim: int, kernel: int, forget: int, gate: int) -> None:
    """Kimi delta attention; `forget` and `gate`: ranks of the two gates, 0 for full ones."""
    inner = heads * dim
    layer.rows(attn_q=inner, attn_k=inner, attn_v=inner, ssm_beta=heads)
    layer.matrices(**{f"ssm_conv1d_{part}": (inner, kernel) for part in "qkv"})
    for name, rank in (("ssm_f", forget), ("ssm_g", gate)):
        if rank:
            layer.rows(**{f"{name}_a": rank})
            layer.matrices(**{f"{name}_b": (inner, rank)})
        else:
            layer.rows(**{name: inner})
    layer.vectors(ssm_a=heads, ssm_dt=inner, ssm_norm=dim)
    layer.matrices(attn_output=(layer.hidden, inner))
    layer.state("state", (kernel - 1) * 3 * inner + heads * dim * dim)


def _latent_experts(layer: Layer, inner: int, norm: bool) -> None:
    if inner:
        layer.rows(ffn_routed_down=inner)
        layer.matrices(ffn_routed_up=(layer.hidden, inner))
        if norm:
            layer.vectors(ffn_routed_norm=inner)


def _gated_delta(layer: Layer, stated: Stated) -> None:
    k, v = (stated.needed((f"linear_{part}_head_dim",), MAX_HEAD_DIM) for part in ("key", "value"))
    keys, values = (stated.needed((f"linear_num_{part}_heads",), MAX_HEADS) for part in ("key", "value"))
    kernel = stated.needed(("linear_conv_kernel_dim",), MAX_WIDTH)
    mixed = 2 * keys * k + values * v
    layer.rows(attn_qkv=mixed, attn_gate=values * v, ssm_ba=2 * values)
    layer.matrices(ssm_conv1d=(mixed, kernel), ssm_out=(layer.hidden, values * v))
    layer.vectors(ssm_a=values, ssm_dt=values, ssm_norm=v)
    layer.state("state", (kernel - 1) * mixed + values * k * v)


def _blocks(layer: Layer, stated: Stated) -> None:
    """Attention with an output gate over blocks of positions, chosen by the mean of their index keys."""
    heads, kv = stated.needed(usual.HEADS, MAX_HEADS), stated.needed(usual.KV_HEADS, MAX_HEADS)
    dim, budget = stated.needed(("head_dim",), MAX_HEAD_DIM), stated.integer(("indexer_budget",), MAX_CONTEXT)
    every = stated.integer(("indexer_compress_ratio",), MAX_CONTEXT, 1) or 1
    cache = layer.cache("kv", kv, dim, dim, picked=budget + every - 1 if budget else None)  # and the unfinished block
    attention(layer, heads, kv, dim, cache)
    layer.rows(attn_q=2 * heads * dim)
    if budget:
        scored, width = (
            stated.needed(("indexer_n_heads",), MAX_HEADS),
            stated.needed(("indexer_head_dim",), MAX_HEAD_DIM),
        )
        layer.rows(**{"indexer.attn_qk": (scored + 1) * width})
        layer.vectors(**{"indexer.q_norm": width, "indexer.k_norm": width})
        layer.scores.append((layer.cache("index", 1, width, 0), scored))  # as they are: means are made in each step


def _streams(tensors: dict[str, tuple[int, ...]], name: str, width: int, rank: int) -> None:
    """The mix that one sub-layer takes of all residual streams."""
    tensors |= {f"{name}_norm": (width,), f"{name}_down": (rank, width), f"{name}_up": (width, rank)}


def _ngrams(found: Described, layer: Layer, stated: Stated, streams: int) -> None:
    """A table a head: each order of n-gram has several, of about so many rows, of which a token reads one."""
    size = stated.needed(("ngram_size",), MAX_HEADS)
    heads = (size - 1) * stated.needed(("heads_per_ngram",), MAX_HEADS)
    rows = stated.needed(("ngram_vocab_size_base",), 64 * MAX_VOCAB)
    width = stated.integer(("ple_embed_dim",), MAX_WIDTH, found.hidden)
    if heads < 1 or width % heads:
        raise ConfigError(f"{heads} tables of n-grams for {width} numbers", "as many in each")
    for head in range(heads):
        found.tables[f"per_layer_token_embd.{layer.index}.{head}"] = (rows, width // heads)
    wide, kernel = streams * found.hidden, stated.needed(("ple_conv_kernel_size",), MAX_WIDTH)
    layer.matrices(ple_key=(wide, width), ple_value=(found.hidden, width), ple_conv1d=(wide, kernel))
    layer.vectors(ple_norm_key=wide, ple_norm_query=wide, ple_norm_conv=wide)
    layer.state("ple", (kernel - 1) * size * wide)


def _numbers(config: Mapping[str, Any], key: str) -> set[int]:
    value = config.get(key)
    if not isinstance(value, list) or not all(isinstance(each, int) for each in value):
        raise ConfigError(f"linear_attn_config.{key} is {str(value)[:60]!r}", "a list of layers, the first being 1")
    return set(value)


def _number(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or not 0 < value <= MAX_WIDTH:
        raise ConfigError(f"linear_attn_config.{key} is {str(value)[:60]!r}", f"an integer in 1..{MAX_WIDTH}")
    return value
