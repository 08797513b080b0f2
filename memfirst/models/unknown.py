"""A model of an architecture that is not known, by its tensors: to be priced, never run.

A token reads one row of each table that is looked up, of experts those that are picked, and every other tensor once.
What a layer keeps of a token are the rows of the projections that make its keys and values.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from memfirst.codecs import BLOCK_TYPES
from memfirst.errors import ConfigError, UnsupportedError
from memfirst.formats.checkpoint import Checkpoint, TensorInfo
from memfirst.formats.safetensors import DTYPE_BYTES
from memfirst.graph import Cache, Graph, KVCache, Op, StateCache, Weight
from memfirst.graph.ops.embed import Embed
from memfirst.graph.ops.linear import Linear
from memfirst.graph.ops.opaque import Opaque
from memfirst.models import quantized, usual
from memfirst.models.described import Described, describe
from memfirst.models.described.build import attention, build
from memfirst.models.described.build import caches as kept_by
from memfirst.models.reader import MAX_CONTEXT, MAX_HEAD_DIM, MAX_HEADS, MAX_LAYERS, MAX_WIDTH
from memfirst.models.usual import Stated

_IN_LAYER = re.compile(r"(?:^|\.)(?:blk|layers|h|blocks)\.(\d{1,4})\.(.+)$")
_TABLE = re.compile(r"(?:^|\.)(?:token_embd|per_layer_token_embd|embed_tokens|embed_tokens_per_layer|wte|embed_in"
                    r"|word_embeddings|tok_embeddings)\.weight$")  # fmt: skip
_HEAD = re.compile(r"(?:^|\.)(?:output|lm_head|embed_out)\.weight$")
_EXPERT = re.compile(r"(?:^|\.)experts\.(?:(\d+)\.)?(.+)$|_exps\.|_exps$")
_KEYS = re.compile(r"(?:^|\.)(?:attn_k|k_proj|wk)\.weight$")
_VALUES = re.compile(r"(?:^|\.)(?:attn_v|v_proj|wv)\.weight$")
_FUSED = re.compile(r"(?:^|\.)(?:attn_qkv|qkv_proj|query_key_value|Wqkv|c_attn)\.weight$")
_LATENT = re.compile(r"(?:^|\.)(?:attn_kv_a_mqa|kv_a_proj_with_mqa|attn_kv)\.weight$")
_INDEX = re.compile(r"(?:^|\.)indexer\.(?:attn_k|wk)\.weight$")
_RECURRENT = re.compile(r"ssm_|time_mix_|shortconv|conv1d|A_log|linear_attn|mamba")
_KEYS_STAY = re.compile(r"conv1d_k|k_conv1d")
"""A recurrent layer's keys: they go into its state, and not into a cache."""
_PREDICTING = re.compile(r"(?:^|\.)(?:mtp|nextn)\.")
_SPARSE = ("attention.compress_ratios", "attention.indexer.top_k", "index_topk", "compress_ratios")

FROM_TENSORS, FROM_CONFIG = 1.3, 1.5
"""How much wider the interval of a speed is. By these rules the catalogue's known models read, 8,192 tokens cached,
0.98 to 1.29 times the bytes of their own graphs from their tensors, 0.71 to 1.39 times from their configs."""


@dataclass(frozen=True)
class Unknown:
    """What could be made of it.

    spread  factor at both ends of the interval of a speed
    notes   what the price rests on, a sentence each
    """

    graph: Graph
    spread: float
    notes: tuple[str, ...]


@dataclass
class _Layer:
    """A layer's tensors by their names within it; experts that are stored one by one are stacked."""

    plain: dict[str, Weight] = field(default_factory=dict)
    routed: dict[str, Weight] = field(default_factory=dict)

    def rows(self, role: re.Pattern[str]) -> int:
        """Rows of the matrix of that role, 0 where there is none."""
        return next((w.rows for name, w in self.plain.items() if role.search(name) and len(w.shape) == 2), 0)

    def has(self, role: re.Pattern[str]) -> bool:
        """Whether a tensor of that role is in it."""
        return any(role.search(name) for name in self.plain)


def unknown(checkpoint: Checkpoint) -> Unknown:
    """The graph of a model by its tensors, of a bare config.json by those that it implies.

    Raises ConfigError where sizes are missing, UnsupportedError for what is no decoder, or is packed so that shapes are
    not those of its matrices.
    """
    stated = Stated(checkpoint)
    _check(checkpoint, stated)
    own = describe(stated, checkpoint.architecture)
    if own is not None and not checkpoint.tensors:
        return _described(own, checkpoint, stated)
    tensors = checkpoint.tensors or _implied(checkpoint, stated)
    tables, head, rest, layers = _sorted(tensors.values(), stated)
    if not tables or not layers:
        raise ConfigError(f"{checkpoint.path} has no embedding of tokens, or no layers", "a decoder's tensors")
    picked, ops, caches = stated.integer(usual.PICKED, MAX_WIDTH), list[Op](), list[Cache]()
    ops += (Embed(w.name, ("tokens",), w.name, w) for w in tables)
    for i, layer in layers.items():
        kept = tuple(_caches(i, layer, stated)) if own is None else tuple(own.layers[i].states)
        routed, plain = tuple(layer.routed.values()), tuple(layer.plain.values())
        few = min(picked or MAX_WIDTH, *(w.shape[0] for w in routed)) if routed else 0
        heads = stated.integer(usual.HEADS, MAX_HEADS)
        ops.append(Opaque(f"blk.{i}.tensors", ("stream",), "stream", plain, routed, few, kept, heads))
        ops += attention(own.layers[i]) if own else ()
        caches += kept
    ops.append(Opaque("rest", ("stream",), "stream", rest))
    head = head or Weight("output.weight", tables[0].shape, tables[0].codec, alias=tables[0].name)
    ops.append(Linear("output", ("stream",), "logits", head, head=True))
    context = stated.integer(usual.CONTEXT, MAX_CONTEXT) or MAX_CONTEXT
    hidden = stated.integer(usual.HIDDEN, MAX_WIDTH) or tables[0].columns
    kept = kept_by(own) if own else tuple(caches)
    graph = Graph(checkpoint.architecture, tuple(ops), kept, head.rows, hidden, context)
    if own is not None:
        return Unknown(graph, FROM_TENSORS, tuple(_said_of(checkpoint, own)))
    spread = FROM_TENSORS if checkpoint.tensors else FROM_CONFIG
    return Unknown(graph, spread, tuple(_notes(checkpoint, stated, layers)))


def _described(own: Described, checkpoint: Checkpoint, stated: Stated) -> Unknown:
    """By what its publisher's code makes of the config.json: as exact as from tensors."""
    picked = own.picked or stated.integer(usual.PICKED, MAX_WIDTH) or MAX_WIDTH
    graph = build(own, checkpoint.architecture, quantized.stated(checkpoint.metadata), picked)
    return Unknown(graph, FROM_TENSORS, tuple(_said_of(checkpoint, own)))


def _said_of(checkpoint: Checkpoint, own: Described) -> Iterator[str]:
    name = checkpoint.architecture[:60]
    yield f"{name!r} does not run here: it is priced by the tensors and caches that its publisher's code makes"
    if any(cache.picked is not None for layer in own.layers for cache, _ in layer.attends):
        yield "attention reads the positions that its indexer picks; an engine that masks the others reads all of them"
    yield from own.notes


def _check(checkpoint: Checkpoint, stated: Stated) -> None:
    name, metadata = checkpoint.architecture[:60], checkpoint.metadata
    encoder = stated.raw(("pooling_type", "is_encoder_decoder")) or stated.raw(("attention.causal",)) is False
    if encoder or metadata.get("general.type", "model") != "model":
        raise UnsupportedError(f"{name!r} is no decoder of text alone", "a model that writes a token at a time")
    scheme = quantized.scheme_of(metadata) if checkpoint.kind == "hf" else None
    if scheme and checkpoint.tensors and scheme.method not in quantized.AS_STORED:
        found = f"a safetensors folder of {name!r} packed by {scheme.method}"
        raise UnsupportedError(found, "its config.json alone, or a GGUF file")


def _implied(checkpoint: Checkpoint, stated: Stated) -> Mapping[str, TensorInfo]:
    codec = quantized.stated(checkpoint.metadata)
    tied = stated.raw(("tie_word_embeddings",)) is True
    found = {}
    for name, shape in usual.implied(stated, tied):
        weight = Weight(name, shape, codec(name, shape))
        found[name] = TensorInfo(name, shape, weight.codec, weight.nbytes)
    return found


def _sorted(
    tensors: Iterable[TensorInfo], stated: Stated
) -> tuple[list[Weight], Weight | None, tuple[Weight, ...], dict[int, _Layer]]:
    """Tables that are looked up, tokens' own first; the head; what else stands outside of layers; these in order."""
    tables, heads, rest = list[TensorInfo](), list[TensorInfo](), list[TensorInfo]()
    layers: dict[int, _Layer] = {}
    last = stated.integer(usual.LAYERS, MAX_LAYERS, MAX_LAYERS)
    last -= stated.integer(usual.PREDICTING, MAX_LAYERS) if stated.gguf else 0
    for info in tensors:
        place = _IN_LAYER.search(info.name)
        if _PREDICTING.search(info.name) or (place and int(place[1]) >= last) or 0 in info.shape:
            continue
        if place:
            _put(layers.setdefault(int(place[1]), _Layer()), f"blk.{int(place[1])}.", place[2], info)
        else:
            role = tables if _TABLE.search(info.name) else heads if _HEAD.search(info.name) else rest
            role.append(info)
    tables.sort(key=lambda t: t.shape[-1])  # a table for all layers has rows of all of them
    looked_up = [_weight(t.name if i else "token_embd.weight", t) for i, t in enumerate(tables)]
    head = _weight("output.weight", heads[0]) if heads else None
    return looked_up, head, tuple(_weight(t.name, t) for t in rest), dict(sorted(layers.items()))


def _put(layer: _Layer, prefix: str, name: str, info: TensorInfo) -> None:
    """Into its layer: as one of its plain tensors, or of those of experts, of which one may be stored by itself."""
    expert = _EXPERT.search(name)
    if expert and expert[1]:
        role, own = f"experts.{expert[2]}", _weight("", info)
        before = layer.routed.get(role)
        count = before.shape[0] if before else 0
        if before is None or before.shape[1:] == own.shape:
            layer.routed[role] = Weight(prefix + role, (count + 1, *own.shape), own.codec)
            return
    if expert and not expert[1] and len(info.shape) > 1:
        layer.routed[name] = _weight(prefix + name, info)
    else:
        layer.plain[name] = _weight(prefix + name, info)


def _weight(name: str, info: TensorInfo) -> Weight:
    """As it is stored; of types that GGUF does not have, one of as many bytes."""
    codec = info.codec
    if codec.upper() in DTYPE_BYTES and codec not in BLOCK_TYPES:
        codec = {1: "f8_e4m3", 2: "bf16", 4: "i32", 8: "i64"}[DTYPE_BYTES[codec.upper()]]
    return Weight(name, info.shape or (1,), codec)


def _caches(index: int, layer: _Layer, stated: Stated) -> Iterator[Cache]:
    """What a layer keeps of a sequence."""
    recurrent, fused = layer.has(_RECURRENT), layer.rows(_FUSED)
    if recurrent and stated.state:
        yield StateCache(f"blk.{index}.state", stated.state)
    into_state = recurrent and (layer.has(_KEYS_STAY) or fused > 0)
    if into_state or not stated.attends(index):
        return
    keys, values, latent = layer.rows(_KEYS), layer.rows(_VALUES), layer.rows(_LATENT)
    name, window = f"blk.{index}.kv", stated.window(index)
    if latent:
        yield KVCache(name, 1, latent, 0, window=window)
    elif keys:
        heads = _heads(stated, index, keys)
        yield KVCache(name, heads, keys // heads, (values or keys) // heads, window=window)
    elif fused:
        yield _of_fused(name, index, fused, stated)
    if index_keys := layer.rows(_INDEX):
        yield KVCache(f"blk.{index}.index", 1, index_keys, 0)


def _heads(stated: Stated, index: int, rows: int) -> int:
    """Key heads of a layer, 1 where what is said does not divide the rows."""
    found = stated.by_layer(usual.KV_HEADS, index) or stated.by_layer(usual.HEADS, index)
    return found if isinstance(found, int) and found > 0 and rows % found == 0 else 1


def _of_fused(name: str, index: int, rows: int, stated: Stated) -> KVCache:
    """Of one projection for queries, keys and values."""
    heads = stated.integer(usual.HEADS, MAX_HEADS, 1)
    kv = stated.by_layer(usual.KV_HEADS, index)
    kv = kv if isinstance(kv, int) and 0 < kv <= heads else heads
    k = stated.integer(usual.K_DIM, MAX_HEAD_DIM, rows // (heads + 2 * kv))
    return KVCache(name, kv, k, stated.integer(usual.V_DIM, MAX_HEAD_DIM, k), window=stated.window(index))


def _notes(checkpoint: Checkpoint, stated: Stated, layers: Mapping[int, _Layer]) -> Iterator[str]:
    how = "the shapes of its tensors" if checkpoint.tensors else "what its config.json says, as if it were like most"
    yield f"the architecture {checkpoint.architecture[:60]!r} is not known, so it does not run: priced by {how}"
    if stated.raw(_SPARSE) is not None:
        yield "its sparse attention is priced as if every token were attended: long contexts cost less"
    recurrent = sum(layer.has(_RECURRENT) or not stated.attends(i) for i, layer in layers.items())
    if recurrent and not stated.state:
        yield f"the state of {recurrent} layers is not counted, as nothing says how large it is"
