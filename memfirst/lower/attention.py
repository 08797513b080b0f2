"""The default lowering of attention: keys and values into the cache, its splits, and what folds them; queries that
grow with the position."""

from __future__ import annotations

from functools import partial

from memfirst.errors import UnsupportedError
from memfirst.graph import Graph
from memfirst.graph.ops.attention import Attention
from memfirst.graph.ops.temperature import Temperature
from memfirst.graph.traffic import ACTIVATIONS, KV_READ, KV_WRITE, WEIGHTS
from memfirst.lower.default import STEP, Args, Default, lower, multiple, only, touch, weight_ref
from memfirst.lower.nodes import (
    TOKENS,
    UNITS,
    Moves,
    Node,
    NodeStatic,
    PrivateStride,
    Scratch,
    Touch,
    Value,
)
from memfirst.lower.program import Ref
from memfirst.lower.specs import KERNELS
from memfirst.lower.step_fields import BLOCK, SCORES, attention_scratch, count_of, tile_of

KV_CODECS = {"f16": 8, "f32": 8, "q8_0": 32, "q4_0": 32}
"""Codecs of keys and values, and what a head's size must be a multiple of."""

OF_ITEMS = (
    "item_token", "item_tokens", "item_split", "item_last", "first_part", "starts", "charged", "tables",
)  # fmt: skip
"""A cache group's arrays that attention is cut by."""

MAX_GROUP = 32
"""Query heads over one head of keys: each has accumulators of its own, and 64 take 20 s to compile."""


@lower.register
def _(op: Temperature, d: Default) -> Value:
    y = d.writable(op)
    args: Args = {
        "y": y.place, "factors": Ref("table", f"factors:{op.name}"), "rows": Ref("step", "positions"), "step": STEP,
        "count": count_of(y.rows), "stride": y.stride,
    }  # fmt: skip
    d.columns(op.name, [KERNELS["elementwise.scale_rows"].call(args, op.name)], [y], y, d.moves(op))
    return y


@lower.register
def _(op: Attention, d: Default) -> Value:
    """Keys and values into the cache; scores and weighted values of each split; splits folded together."""
    _check_attention(op)
    q, *new = (d.dense(d.input(op, i), op, i) for i in range(len(op.inputs)))
    c, group = op.cache, op.heads // op.cache.heads
    moved = d.moves(op)
    if op.writes:
        _write(op, d, new[0], "keys", only(moved, KV_WRITE))
        _write(op, d, new[1], "values", ())
    sizes = {"top": op.heads, "total": op.heads, "part": op.heads * -(-c.v_dim // 16) * 16}
    made = Value(f"{op.name}.splits", 0, 0)
    partials = d.arrays(made.storage, {n: ("f32", width) for n, width in sizes.items()}, rows=d.units)
    args: Args = {n: Scratch(n, kind, items) for n, (kind, items) in attention_scratch(group, c.k_dim).items()}
    args |= {"q": q.place, "stride": q.stride, "cap": op.softcap}
    args |= partials | _place(op, d, "keys") | _place(op, d, "values")
    args |= {n: d.of_group(op, n) for n in OF_ITEMS}
    items = d.of_group(op, "items").name
    args |= {"ends": Ref("step", "ends"), "table_at": Ref("step", "table_at"), "heads": c.heads, "scale": op.scale,
             "step": STEP, "count": count_of(items)}  # fmt: skip
    statics: dict[str, NodeStatic] = {"K_DIM": c.k_dim, "V_DIM": c.v_dim, "GROUP": group}
    statics |= {"KCODEC": f"kv_{c.k_codec}", "VCODEC": f"kv_{c.v_codec}", "ROTATE": int(c.rotate)}
    statics |= {"SOFTCAP": int(op.softcap > 0), "TILE": partial(tile_of, group)}
    call = KERNELS["attention.attend"].call(args, op.name, KV_READ, **statics)
    reads = [touch(q), *(Touch(f"cache:{c.name}.{what}") for what in ("keys", "values"))]
    own = only(moved, KV_READ, ACTIVATIONS)
    d.made.nodes.append(Node(op.name, [call], UNITS, c.heads, items, reads, [touch(made)], own, 1))
    out = d.new(op.output, op.heads * c.v_dim)
    args = {**partials, "out": out.place, "first_part": d.of_group(op, "first_part"), "heads": c.heads}
    args["private"] = PrivateStride(out.storage)
    args["sinks"] = partials["top"] if op.sinks is None else weight_ref(op.sinks)
    args["floats"] = Scratch("merged", "f32", 4 * -(-c.v_dim // 16) * 16)
    merge = KERNELS["attention.merge"].call(
        args, op.name, WEIGHTS if op.sinks else "", DIM=c.v_dim, GROUP=group, SINKS=int(op.sinks is not None),
        ROTATE=int(c.rotate),
    )  # fmt: skip
    d.tokens(f"{op.name}_merge", op, [merge], [made], [out], TOKENS, only(moved, WEIGHTS), repeats=True)
    return out


def shared_reads(graph: Graph) -> tuple[bool, ...]:
    """Whether several tokens of a sequence read the keys and values of each cache group together."""
    tiled = {op.cache.name for op in graph.ops if isinstance(op, Attention)}
    return tuple([any(cache.name in tiled for cache in group.caches) for group in graph.cache_groups])


def _check_attention(op: Attention) -> None:
    c = op.cache
    for codec, dim in ((c.k_codec, c.k_dim), (c.v_codec, c.v_dim)):
        if codec not in KV_CODECS:
            raise UnsupportedError(f"{op.name} has a cache of {codec}", f"one of {', '.join(KV_CODECS)}")
        if dim > SCORES:  # the working memory of a head's sums
            raise UnsupportedError(f"{op.name} has heads of {dim}", f"at most {SCORES}")
        multiple(op, dim, KV_CODECS[codec])
        if c.rotate and KV_CODECS[codec] < 32:
            raise UnsupportedError(f"{op.name} rotates what is cached as {codec}", "quantized keys and values")
    if c.block != BLOCK:
        raise UnsupportedError(f"{op.name} has blocks of {c.block} positions", f"{BLOCK} on the CPU backend")
    if op.heads > MAX_GROUP * c.heads:
        raise UnsupportedError(
            f"{op.name} has {op.heads} query heads over {c.heads} of keys", f"at most {MAX_GROUP} over each"
        )


def _write(op: Attention, d: Default, x: Value, what: str, moved: Moves) -> None:
    c, keys = op.cache, what == "keys"
    args: Args = {"k" if keys else "v": x.place, "slots": d.of_group(op, "slots"), "step": STEP}
    args |= {"count": count_of(TOKENS), "heads": c.heads, **_place(op, d, what)}
    dim, codec = (c.k_dim, c.k_codec) if keys else (c.v_dim, c.v_codec)
    args |= {"stride": x.stride, "floats": Scratch("rotated", "f32", 3 * dim)}
    statics: dict[str, NodeStatic] = {"DIM": dim, "CODEC": f"kv_{codec}", "ROTATE": int(c.rotate)}
    call = KERNELS[f"attention.write_{what}"].call(args, op.name, KV_WRITE, **statics)
    node = d.columns(f"{op.name}_{what}", [call], [x], x, moved, dim)
    node.writes = [Touch(f"cache:{c.name}.{what}")]


def _place(op: Attention, d: Default, what: str) -> Args:
    """Where a layer's keys or values lie in a block of its group."""
    group, block_bytes, at = d.places[op.cache.name]
    at += op.cache.block * op.cache.k_bytes if what == "values" else 0
    return {"cache": Ref("cache", f"kv.{group}"), "block_bytes": block_bytes, f"{what}_at": at}
