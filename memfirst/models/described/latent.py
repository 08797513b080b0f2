"""Latent attention over positions that an indexer picks (DeepSeek-V3.2, GLM-5), or over all (Mistral Small 4)."""

from __future__ import annotations

from memfirst.errors import ConfigError
from memfirst.models import usual
from memfirst.models.described.parts import (
    Described,
    Latent,
    Layer,
    begin,
    dense_layers,
    experts,
    gated,
    latent,
    listed,
)
from memfirst.models.reader import MAX_CONTEXT, MAX_HEAD_DIM, MAX_HEADS, MAX_LAYERS, MAX_WIDTH
from memfirst.models.usual import Stated

INDEX_HEADS, INDEX_DIM, INDEX_TOP = ("index_n_heads",), ("index_head_dim",), ("index_topk",)


def deepseek_v32(stated: Stated) -> Described:
    """DeepSeek-V3 with an indexer in every layer."""
    return _sparse(stated, [True] * stated.needed(usual.LAYERS, MAX_LAYERS))


def glm_moe_dsa(stated: Stated) -> Described:
    """GLM-5: some layers attend the positions that the last indexer before them picked."""
    return _sparse(stated, _own_indexers(stated, stated.needed(usual.LAYERS, MAX_LAYERS)))


def mistral4(stated: Stated) -> Described:
    """Mistral Small 4: latent attention over all positions, experts in every layer."""
    found = begin(stated)
    dense, sizes = dense_layers(stated, len(found.layers)), Latent.of(stated)
    for layer in found.layers:
        latent(layer, sizes)
        _feed_forward(layer, stated, layer.index in dense, bias=False)
    return found


def minicpm3(stated: Stated) -> Described:
    """MiniCPM3: latent attention over all positions, no experts."""
    return _dense(stated, tied=True)


def youtu(stated: Stated) -> Described:
    """Youtu-LLM: the same."""
    return _dense(stated, tied=True)


def _dense(stated: Stated, tied: bool) -> Described:
    found, sizes = begin(stated, tied), Latent.of(stated)
    for layer in found.layers:
        latent(layer, sizes)
        gated(layer, stated.needed(usual.WIDTH, MAX_WIDTH))
    return found


def longcat_flash(stated: Stated) -> Described:
    """LongCat-Flash: a layer attends twice, each time with a feed-forward behind it, beside one set of experts of which
    some pass a token on as it is: these have no weights."""
    found, sizes = begin(stated), Latent.of(stated)
    width = stated.needed(("ffn_hidden_size",), MAX_WIDTH)
    real, plain = stated.needed(usual.EXPERTS, MAX_WIDTH), stated.integer(("zero_expert_num",), MAX_WIDTH)
    for layer in found.layers:
        second = Layer(layer.index, found.hidden)
        for part in (layer, second):
            latent(part, sizes, name="kv" if part is layer else "kv_1")
            gated(part, width)
            part.vectors(attn_norm=found.hidden, ffn_norm=found.hidden)
        layer.tensors |= {f"{name}_1": shape for name, shape in second.tensors.items()}
        layer.attends += second.attends
        experts(layer, stated)
        layer.rows(ffn_gate_inp=real + plain)
        layer.vectors(exp_probs_b=real + plain)
    picked = stated.needed(usual.PICKED, MAX_WIDTH)
    found.picked = max(1, round(picked * real / (real + plain)))
    found.notes = (f"of {picked} experts that a token picks, {found.picked} are taken to have weights: {plain} of "
                   f"{real + plain} have none",)  # fmt: skip
    return found


def _sparse(stated: Stated, own: list[bool]) -> Described:
    found = begin(stated)
    dense, sizes = dense_layers(stated, len(found.layers)), Latent.of(stated)
    picked = stated.needed(INDEX_TOP, MAX_CONTEXT)
    for layer in found.layers:
        latent(layer, sizes, picked)
        if own[layer.index]:
            _indexer(layer, stated, sizes.q_rank)
        _feed_forward(layer, stated, layer.index in dense)
    return found


def _indexer(layer: Layer, stated: Stated, q_rank: int) -> None:
    heads, dim = stated.needed(INDEX_HEADS, MAX_HEADS), stated.needed(INDEX_DIM, MAX_HEAD_DIM)
    layer.matrices(**{"indexer.attn_q_b": (heads * dim, q_rank)})
    layer.rows(**{"indexer.attn_k": dim, "indexer.proj": heads})
    layer.vectors(**{"indexer.k_norm": dim, "indexer.k_norm_bias": dim})
    layer.scores.append((layer.cache("index", 1, dim, 0), heads))


def _own_indexers(stated: Stated, layers: int) -> list[bool]:
    """Which layers have an indexer: as listed, else every so many after the first ones."""
    kinds = listed(stated, ("indexer_types",), layers)
    if kinds:
        return [kind == "full" for kind in kinds]
    pattern = stated.raw(("index_topk_pattern",))
    if isinstance(pattern, str):
        if len(pattern) < layers:
            raise ConfigError(f"index_topk_pattern is {pattern[:60]!r}", f"a letter for each of {layers} layers")
        return [letter == "F" for letter in pattern[:layers]]
    every = stated.integer(("index_topk_freq",), MAX_LAYERS, 1) or 1
    first = stated.integer(("index_skip_topk_offset",), MAX_LAYERS, 2)
    return [max(i - first + 1, 0) % every == 0 for i in range(layers)]


def _feed_forward(layer: Layer, stated: Stated, dense: bool, bias: bool = True) -> None:
    if dense:
        gated(layer, stated.needed(usual.WIDTH, MAX_WIDTH))
    else:
        experts(layer, stated, bias)
