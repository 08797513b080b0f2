"""Grouped attention with windows, gates or picked blocks: MiniMax-M3, Laguna, Step 3.5 and 3.7, Muse Glimmer,
Gemma 3n."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memfirst.errors import ConfigError
from memfirst.graph import KVCache
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
from memfirst.models.reader import MAX_CONTEXT, MAX_HEAD_DIM, MAX_HEADS, MAX_VOCAB, MAX_WIDTH
from memfirst.models.usual import Stated

KV_HEADS = (*usual.KV_HEADS, "num_attention_groups")


def minimax_m3(stated: Stated) -> Described:
    """MiniMax-M3: most layers attend blocks of positions that an indexer picks by the best key of each."""
    found = begin(stated)
    n, heads, kv, dim = len(found.layers), *_heads(stated)
    sparse, picked, index_heads, width = _blocks(stated, n)
    dense = dense_layers(stated, n)
    for layer in found.layers:
        chosen = sparse[layer.index]
        attention(layer, heads, kv, dim, layer.cache("kv", kv, dim, dim, picked=picked if chosen else None))
        if chosen:
            layer.rows(**{"indexer.q_proj": index_heads * width, "indexer.k_proj": width})
            layer.vectors(**{"indexer.q_norm": width, "indexer.k_norm": width})
            layer.scores.append((layer.cache("index", 1, width, 0), index_heads))
        if layer.index in dense:
            gated(layer, stated.needed(("dense_intermediate_size",), MAX_WIDTH))
        else:
            experts(layer, stated)
    return found


def _blocks(stated: Stated, layers: int) -> tuple[list[bool], int, int, int]:
    """Which layers pick blocks; positions that they attend; the indexer's heads and their width."""
    own = stated.raw(("sparse_attention_config",))
    config: Mapping[str, Any] = own if isinstance(own, Mapping) else {}

    def number(name: str, key: str, high: int) -> int:
        value = config.get(key) if key in config else stated.raw((name,))
        if not isinstance(value, int) or not 0 < value <= high:
            raise ConfigError(f"{key} is {str(value)[:60]!r}", f"an integer in 1..{high}")
        return value

    kinds: Any = config.get("sparse_attention_freq")
    if kinds is None:
        kinds = ["sparse" in str(kind) for kind in listed(stated, ("layer_types",), layers)]
    if not isinstance(kinds, list) or len(kinds) < layers:
        raise ConfigError(f"sparse_attention_freq is {str(kinds)[:60]!r}", f"a list for {layers} layers")
    block = number("index_block_size", "sparse_block_size", MAX_CONTEXT)
    return (
        [bool(kind) for kind in kinds],
        block * number("index_topk_blocks", "sparse_topk_blocks", MAX_CONTEXT),
        number("index_n_heads", "sparse_num_index_heads", MAX_HEADS),
        number("index_head_dim", "sparse_index_dim", MAX_HEAD_DIM),
    )


def laguna(stated: Stated) -> Described:
    """Laguna: windows in three of four layers, more query heads there, outputs gated by head or by number."""
    found = begin(stated)
    n, heads, kv, dim = len(found.layers), *_heads(stated)
    windows, own = sliding(stated, n), listed(stated, ("num_attention_heads_per_layer",), n) or [heads] * n
    dense, by_number = dense_layers(stated, n, default=1), stated.raw(("gating",)) == "per-element"
    for layer, window, count in zip(found.layers, windows, own, strict=True):
        if not isinstance(count, int) or not 0 < count <= MAX_HEADS:
            raise ConfigError(f"num_attention_heads_per_layer has {str(count)[:20]!r}", f"integers in 1..{MAX_HEADS}")
        _gated_attention(layer, count, kv, dim, window, count * dim if by_number else count)
        _feed_forward(layer, stated, layer.index in dense)
    return found


def step3p5(stated: Stated) -> Described:
    """Step 3.5 and 3.7: windows in three of four layers, more query heads there, outputs gated by head."""
    found = begin(stated)
    n, heads, kv, dim = len(found.layers), *_heads(stated)
    other = stated.raw(("attention_other_setting",))
    many: Any = other.get("num_attention_heads") if isinstance(other, Mapping) else None
    many = many or stated.integer(("num_sliding_attention_heads",), MAX_HEADS, heads)
    if not isinstance(many, int) or not 0 < many <= MAX_HEADS:
        raise ConfigError(f"attention_other_setting has {str(many)[:20]!r} heads", f"an integer in 1..{MAX_HEADS}")
    dense = dense_layers(stated, n, default=3)
    for layer, window in zip(found.layers, sliding(stated, n), strict=True):
        count = many if window else heads
        _gated_attention(layer, count, kv, dim, window, count)
        _feed_forward(layer, stated, layer.index in dense)
    return found


def muse_glimmer(stated: Stated) -> Described:
    """Muse Glimmer: windows in three of four layers, outputs gated by number, norms on both sides."""
    found = begin(stated)
    n, heads, kv, dim = len(found.layers), *_heads(stated)
    for layer, window in zip(found.layers, sliding(stated, n), strict=True):
        _gated_attention(layer, heads, kv, dim, window, heads * dim, norms=False)
        gated(layer, stated.needed(usual.WIDTH, MAX_WIDTH))
        layer.vectors(post_attention_norm=found.hidden, post_ffw_norm=found.hidden)
    return found


def gemma3n(stated: Stated) -> Described:
    """Gemma 3n: each layer has an embedding of its own, of which a token reads one row; the last layers attend what
    earlier ones keep; four streams are predicted and corrected (AltUp)."""
    found = begin(stated, tied=True)
    n, heads, kv, dim = len(found.layers), *_heads(stated)
    windows = sliding(stated, n)
    first_shared = n - stated.integer(("num_kv_shared_layers",), n)
    streams, each = stated.needed(("altup_num_inputs",), MAX_HEADS), stated.needed(PER_LAYER, MAX_WIDTH)
    for layer, window in zip(found.layers, windows, strict=True):
        cache = layer.cache("kv", kv, dim, dim, window=window)
        if layer.index >= first_shared:
            cache = _kept(found.layers[:first_shared], window)
        attention(layer, heads, kv, dim, cache)
        if layer.index >= first_shared:
            del layer.tensors["attn_k"], layer.tensors["attn_v"], layer.tensors["attn_k_norm"]
        width = stated.by_layer(usual.WIDTH, layer.index)
        if not isinstance(width, int) or not 0 < width <= MAX_WIDTH:
            raise ConfigError(f"intermediate_size is {str(width)[:60]!r}", f"an integer in 1..{MAX_WIDTH}")
        gated(layer, width)
        _beside(layer, streams, each, stated.needed(("laurel_rank",), MAX_WIDTH))
    rows = stated.needed(("vocab_size_per_layer_input",), MAX_VOCAB)
    found.tables["per_layer_token_embd"] = (rows, n * each)
    found.outside |= {
        "per_layer_model_proj": (n * each, found.hidden), "per_layer_proj_norm": (each,),
        "altup_proj": ((streams - 1) * found.hidden, found.hidden),
        "altup_unembd_proj": ((streams - 1) * found.hidden, found.hidden),
    }  # fmt: skip
    return found


PER_LAYER = ("hidden_size_per_layer_input",)


def _kept(layers: list[Layer], window: int | None) -> KVCache:
    """The cache of the last layer of the same kind that keeps one."""
    caches = (cache for layer in reversed(layers) for cache, _ in layer.attends if cache.window == window)
    found = next(caches, None)
    if found is None:
        raise ConfigError("layers that share keys and values with none", "an earlier layer of the same kind")
    return found


def _beside(layer: Layer, streams: int, each: int, rank: int) -> None:
    """What stands beside attention and feed-forward in a layer of Gemma 3n."""
    hidden = layer.hidden
    layer.rows(altup_router=streams, laurel_l=rank, inp_gate=each)
    layer.matrices(
        altup_correct_coef=(streams, streams), altup_predict_coef=(streams**2, streams),
        laurel_r=(hidden, rank), proj=(hidden, each),
    )  # fmt: skip
    layer.vectors(
        altup_correct_scale=hidden, altup_router_norm=hidden, laurel_post_norm=hidden, post_norm=hidden,
        post_attention_norm=hidden, post_ffw_norm=hidden,
    )  # fmt: skip


def _heads(stated: Stated) -> tuple[int, int, int]:
    """Query heads, key and value heads, and numbers of each."""
    heads = stated.needed(usual.HEADS, MAX_HEADS)
    return heads, stated.integer(KV_HEADS, MAX_HEADS) or heads, stated.needed(("head_dim",), MAX_HEAD_DIM)


def _gated_attention(
    layer: Layer, heads: int, kv: int, dim: int, window: int | None, gate: int, norms: bool = True
) -> None:
    attention(layer, heads, kv, dim, layer.cache("kv", kv, dim, dim, window=window), norms)
    layer.rows(attn_gate=gate)


def _feed_forward(layer: Layer, stated: Stated, dense: bool) -> None:
    if dense:
        gated(layer, stated.needed(usual.WIDTH, MAX_WIDTH))
    else:
        experts(layer, stated)
