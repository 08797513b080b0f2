"""The default lowering of latent attention, absorbed: rows into the cache and queries through k_b, attention over the
latents, its splits folded together, their sums through v_b.

A token has a row for each head in what lies between these, `heads` rows one behind the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm

from memfirst.errors import UnsupportedError
from memfirst.graph import Weight
from memfirst.graph.ops.latent import LatentAttention
from memfirst.graph.traffic import ACTIVATIONS, KV_READ, KV_WRITE, WEIGHTS, Traffic, WeightTraffic
from memfirst.lower.default import STEP, Args, Default, lower, multiple, only, quantize, touch, weight_ref
from memfirst.lower.nodes import (
    COLUMNS,
    ROWS,
    TOKENS,
    UNITS,
    Moves,
    Node,
    NodeStatic,
    PrivateStride,
    Scratch,
    Storage,
    Touch,
    Value,
)
from memfirst.lower.packing import family, float_tile, int8_tile, kernel_of, rows16_bytes
from memfirst.lower.program import Ref
from memfirst.lower.specs import KERNELS
from memfirst.lower.step_fields import BLOCK, count_of, latent_scratch

ROW_CODECS = {"f16": 16, "f32": 16, "q8_0": 32}
"""Codecs of cached rows, and what both parts of a row must be multiples of."""

MOST_HEADS = 8
"""Query heads that share what is loaded of a row: with 16 positions × heads, all sums are in registers."""


@lower.register
def _(op: LatentAttention, d: Default) -> Value:
    """Five nodes, of which only the attention itself waits for the cache."""
    return _Latent(op, d).lower()


@dataclass(frozen=True)
class _Matrices:
    """A matrix for each head, a part of a stored weight: `rows` of it from row `first` on, every `apart` rows."""

    weight: Weight
    rows: int
    first: int
    apart: int

    @property
    def ref(self) -> Ref:
        """As an operand, from the first head's first row on."""
        return weight_ref(self.weight)._replace(offset=self.first // ROWS * rows16_bytes(self.weight))


class _Latent:
    """One operation's nodes in the making."""

    def __init__(self, op: LatentAttention, d: Default) -> None:
        self.op, self.d, self.moved = op, d, d.moves(op)
        _check(op)
        self.rope, self.v = op.cache.k_dim - op.rank, op.width // op.heads
        self.at_once = next(n for n in (MOST_HEADS, 4, 2, 1) if op.heads % n == 0)

    def lower(self) -> Value:
        """All of them."""
        op, d = self.op, self.d
        q, latent, k_rope = d.dense(d.input(op, 0), op, 0), d.input(op, 1), d.input(op, 2)
        self._write(latent, k_rope)
        return self._values(self._attend(q, self._absorb(q)))

    def _write(self, latent: Value, k_rope: Value) -> None:
        """The step's rows into the cache."""
        op, d, width = self.op, self.d, self.op.cache.k_dim
        args: Args = {"latent": latent.place, "stride": latent.stride, "private": PrivateStride(latent.storage)}
        args |= {"rotated": k_rope.place, "stride_rotated": k_rope.stride, "slots": d.of_group(op, "slots")}
        args |= {"step": STEP, "count": count_of(TOKENS), **self._place()}
        call = KERNELS["latent.write"].call(args, op.name, KV_WRITE, **self._row())
        reads, writes = [touch(latent), touch(k_rope)], [self._cached]
        node = Node(f"{op.name}_rows", [call], COLUMNS, width, "", reads, writes, only(self.moved, KV_WRITE), 2 * ROWS)
        d.made.nodes.append(node)

    def _absorb(self, q: Value) -> Value:
        """Each head's nope part through k_b: [tokens · heads, rank]."""
        op, d = self.op, self.d
        out = d.new(f"{op.name}.absorbed", op.heads * op.rank)
        rows = Value(q.storage, op.nope, op.nope + self.rope, q.at)
        if op.v_b is not None:
            k_b = _Matrices(d.weights[op.k_b.name], op.rank, 0, op.rank)
            self._heads("k_b", k_b, rows, q, out, self._weighed(op.k_b))
            return out
        w = d.weights[op.k_b.name]
        args: Args = {"w": weight_ref(w), "x": q.place, "y": out.place, "step": STEP, "count": count_of(TOKENS)}
        args |= {"heads": op.heads, "rows": op.nope, "apart": op.nope + self.v, "cols": op.rank}
        args |= {"stride_x": rows.stride, "stride": out.stride}
        kind = {"float": "floats"}.get(family(w), kernel_of(w))
        call = KERNELS["heads.transposed"].call(
            args, op.name, WEIGHTS, CODEC=w.codec, FAMILY=kind, TILE=_transposed_tile
        )
        block = {"floats": ROWS, "block32": 32}.get(kind, 256)
        multiple(op, op.rank, block)
        d.columns(f"{op.name}_k_b", [call], [q], out, self._weighed(op.k_b), lcm(ROWS, block))
        return out

    def _attend(self, q: Value, absorbed: Value) -> Value:
        """Sums of latents, weighed by each head's softmax: [tokens · heads, rank]."""
        op, d, heads = self.op, self.d, self.at_once
        made = Value(f"{op.name}.splits", 0, 0)
        sizes = {"top": op.heads, "total": op.heads, "part": op.heads * op.rank}
        partials = d.arrays(made.storage, {n: ("f32", width) for n, width in sizes.items()}, rows=d.units)
        scratch = latent_scratch(heads, op.rank, self.rope)
        args: Args = {n: Scratch(f"latent_{n}", kind, items) for n, (kind, items) in scratch.items()}
        args |= {"q": absorbed.place, "rotated": q.part(op.nope, 1).place, "apart": op.nope + self.rope}
        args |= {n: d.of_group(op, n) for n in ("item_token", "item_split", "item_last", "starts", "charged", "tables")}
        args |= {"ends": Ref("step", "ends"), "table_at": Ref("step", "table_at"), "groups": op.heads // heads}
        args |= {"scale": op.scale, **partials, **self._place()}
        call = KERNELS["latent.attend"].call(args, op.name, KV_READ, HEADS=heads, **self._row())
        items, reads = d.of_group(op, "items").name, [touch(absorbed), touch(q), self._cached]
        moved = only(self.moved, KV_READ, ACTIVATIONS)
        d.made.nodes.append(Node(op.name, [call], UNITS, op.heads // heads, items, reads, [touch(made)], moved, 8))
        out = self._by_head("merged", op.rank)
        args = {**partials, "out": out.place, "first_part": d.of_group(op, "first_part"), "heads": op.heads}
        args["private"] = PrivateStride(out.storage)
        merge = KERNELS["latent.merge"].call(args, op.name, RANK=op.rank)
        d.tokens(f"{op.name}_merge", op, [merge], [made], [out], TOKENS, repeats=True)
        return out

    def _values(self, merged: Value) -> Value:
        """Each head's sum through v_b: [tokens, heads · v_head_dim]."""
        op, d = self.op, self.d
        out = d.new(op.output, op.width)
        if op.v_b is None:
            v_b = _Matrices(d.weights[op.k_b.name], self.v, op.nope, op.nope + self.v)
            self._heads("v_b", v_b, merged, merged, out, ())
        else:
            v_b = _Matrices(d.weights[op.v_b.name], self.v, 0, self.v)
            self._heads("v_b", v_b, merged, merged, out, self._weighed(op.v_b))
        return out

    # --- parts of them

    def _heads(self, name: str, m: _Matrices, x: Value, read: Value, out: Value, moves: Moves) -> None:
        """A matmul of each head's rows, which lie as `x` says in `read`, by that head's matrix."""
        op, d, reads = self.op, self.d, [read]
        args: Args = {"w": m.ref, "y": out.place, "step": STEP, "count": count_of(TOKENS), "heads": op.heads}
        args |= {"rows": m.rows, "apart": m.apart, "cols": m.weight.columns, "stride": out.stride}
        if family(m.weight) == "float":
            args |= {"x": x.place, "stride_x": x.stride, "private": PrivateStride(x.storage)}
            call = KERNELS["heads.floats"].call(args, op.name, WEIGHTS, CODEC=m.weight.codec, TILE=float_tile)
        else:
            int8 = Value(f"{op.name}.{name}.int8", 0, 0)
            row, made = quantize(op, d, int8.storage, x, [m.weight], self._rows)
            heads: Args = {**dict(row.args), "heads": op.heads}
            each = KERNELS["activations.quantize_heads"].call(heads, op.name, "", **dict(row.statics))
            d.tokens(f"{op.name}_{name}_input", op, [each], reads, [int8], TOKENS, repeats=True)
            reads = [int8]
            statics: dict[str, NodeStatic] = {"CODEC": m.weight.codec, "FAMILY": kernel_of(m.weight)}
            call = KERNELS["heads.int8"].call({**args, **made}, op.name, WEIGHTS, **statics, TILE=int8_tile)
        d.columns(f"{op.name}_{name}", [call], reads, out, moves)

    def _by_head(self, name: str, width: int) -> Value:
        """A value with a row for each token and head."""
        out = Value(f"{self.op.name}.{name}", width, width)
        self.d.made.storages[out.storage] = Storage(out.storage, {"": ("f32", width)}, self._rows)
        return out

    def _rows(self, capacity: int) -> int:
        return capacity * self.op.heads

    def _row(self) -> dict[str, NodeStatic]:
        """What kernels are compiled for, of a cached row."""
        return {"RANK": self.op.rank, "ROPE": self.rope, "CODEC": f"kv_{self.op.cache.k_codec}"}

    def _place(self) -> Args:
        """Where the layer's rows lie in a block of its group."""
        group, block_bytes, at = self.d.places[self.op.cache.name]
        return {"cache": Ref("cache", f"kv.{group}"), "block_bytes": block_bytes, "rows_at": at}

    @property
    def _cached(self) -> Touch:
        return Touch(f"cache:{self.op.cache.name}.keys")

    def _weighed(self, weight: Weight) -> Moves:
        """The traffic of one of the weights."""

        def is_its(traffic: Traffic) -> bool:
            return isinstance(traffic, WeightTraffic) and traffic.weight.name == weight.name

        return tuple((name, traffic) for name, traffic in self.moved if is_its(traffic))


def _transposed_tile(capacity: int) -> int:
    """Tokens that share one unpacking of a weight."""
    return 1 if capacity == 1 else 4


def _check(op: LatentAttention) -> None:
    """UnsupportedError for what the kernels do not take."""
    c, v = op.cache, op.width // op.heads
    if c.k_codec not in ROW_CODECS:
        raise UnsupportedError(f"{op.name} caches latents as {c.k_codec}", f"one of {', '.join(ROW_CODECS)}")
    for width in (op.rank, c.k_dim - op.rank):
        multiple(op, width, ROW_CODECS[c.k_codec])
    for width in (op.nope, v):
        multiple(op, width, ROWS)
    if c.rotate:
        raise UnsupportedError(f"{op.name} rotates its latents", "latents as they are")
    if c.block != BLOCK:
        raise UnsupportedError(f"{op.name} has blocks of {c.block} positions", f"{BLOCK} on the CPU backend")
