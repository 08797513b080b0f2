"""DeepSeek-V4: keys that are values too, a window of them, and one entry for 4 or for 128 positions of all; of the
former an indexer picks some. The residual is several streams."""

from __future__ import annotations

from memfirst.errors import ConfigError
from memfirst.models import usual
from memfirst.models.described.latent import INDEX_DIM, INDEX_HEADS, INDEX_TOP
from memfirst.models.described.parts import Described, Layer, begin, experts, listed
from memfirst.models.reader import MAX_CONTEXT, MAX_HEAD_DIM, MAX_HEADS, MAX_LAYERS, MAX_WIDTH
from memfirst.models.usual import Stated

PICKED, HEAVY = 4, 128
"""Positions of an entry: of those that are picked from, and of those that are all attended."""

LEFT_OUT = "what its compressors keep of unfinished entries is not counted: some 10 MB a sequence"


def deepseek_v4(stated: Stated) -> Described:
    """V4 Flash and Pro."""
    found = begin(stated)
    streams = stated.needed(("hc_mult",), MAX_HEADS)
    wide, mixed = streams * found.hidden, (2 + streams) * streams
    ratios = listed(stated, ("compress_ratios",), len(found.layers))
    if not ratios:
        raise ConfigError("compress_ratios is missing", "positions of an entry for each layer, 0 for a window alone")
    by_token = stated.integer(("num_hash_layers",), MAX_LAYERS, 3)  # first layers, whose router looks experts up
    for layer, ratio in zip(found.layers, ratios, strict=True):
        _attention(layer, stated, ratio)
        experts(layer, stated, bias=layer.index >= by_token)
        for part in ("attn", "ffn"):
            layer.matrices(**{f"hc_{part}_fn": (mixed, wide)})
            layer.vectors(**{f"hc_{part}_base": mixed, f"hc_{part}_scale": 3})
    found.outside |= {"output_hc_fn": (streams, wide), "output_hc_base": (streams,), "output_hc_scale": (1,)}
    found.notes = (LEFT_OUT,)
    return found


def _attention(layer: Layer, stated: Stated, ratio: object) -> None:
    heads, dim = stated.needed(usual.HEADS, MAX_HEADS), stated.needed(("head_dim",), MAX_HEAD_DIM)
    q, o = stated.needed(usual.Q_LATENT, MAX_WIDTH), stated.needed(("o_lora_rank",), MAX_WIDTH)
    groups = stated.needed(("o_groups",), MAX_HEADS)
    layer.rows(attn_q_a=q, attn_kv=dim)
    layer.vectors(attn_q_a_norm=q, attn_kv_a_norm=dim, attn_sinks=heads)
    layer.matrices(
        attn_q_b=(heads * dim, q),
        attn_output_a=(groups * o, heads * dim // groups),
        attn_output_b=(layer.hidden, groups * o),
    )
    layer.attends.append((layer.cache("kv", 1, dim, 0, window=stated.needed(usual.WINDOW, MAX_CONTEXT)), heads))
    if ratio == PICKED:
        _entries(layer, "attn_compressor", dim, 2 * dim, PICKED)
        picked = stated.needed(INDEX_TOP, MAX_CONTEXT)
        layer.attends.append((layer.cache("entries", 1, dim, 0, picked=picked, every=PICKED), heads))
        _indexer(layer, stated, q)
    elif ratio == HEAVY:
        _entries(layer, "attn_compressor", dim, dim, HEAVY)
        layer.attends.append((layer.cache("entries", 1, dim, 0, every=HEAVY), heads))
    elif ratio != 0:
        raise ConfigError(f"compress_ratios has {str(ratio)[:20]!r}", f"0, {PICKED} and {HEAVY}")


def _indexer(layer: Layer, stated: Stated, q_rank: int) -> None:
    heads, dim = stated.needed(INDEX_HEADS, MAX_HEADS), stated.needed(INDEX_DIM, MAX_HEAD_DIM)
    _entries(layer, "indexer_compressor", dim, 2 * dim, PICKED)
    layer.matrices(**{"indexer.attn_q_b": (heads * dim, q_rank)})
    layer.rows(**{"indexer.proj": heads})
    layer.scores.append((layer.cache("index", 1, dim, 0, every=PICKED), heads))


def _entries(layer: Layer, name: str, dim: int, width: int, ratio: int) -> None:
    """Projections that make an entry of `ratio` positions; where windows overlap, two sets of numbers for each."""
    layer.rows(**{f"{name}_kv": width, f"{name}_gate": width})
    layer.matrices(**{f"{name}_ape": (ratio, width)})
    layer.vectors(**{f"{name}_norm": dim})
