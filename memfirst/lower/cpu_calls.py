"""Calls of the CPU kernels: for each fused operation the kernel, its static parameters and its operands.

Buffers are made where they are first named. With few tokens a step's inputs are *private*: every worker prepares its
own, and `private` (in tokens) is how far the workers' copies lie apart; else `private` is 0 and they are shared.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from memfirst import codecs
from memfirst.errors import UnsupportedError
from memfirst.graph import Graph, Op, Weight
from memfirst.graph.ops.attention import Attention
from memfirst.graph.ops.embed import Embed
from memfirst.graph.ops.glu import Glu
from memfirst.graph.ops.linear import Linear
from memfirst.graph.ops.norm import RMSNorm
from memfirst.graph.ops.rope import Rope
from memfirst.graph.traffic import EMBEDDING, HEAD, KV_READ, KV_WRITE, WEIGHTS
from memfirst.lower.program import Buffer, Call, Operand, Ref
from memfirst.lower.step_fields import count_of, in_group

SCORES = 576
"""Floats of working memory of a query head: SPLIT, and room for a split that starts inside a group of 16."""

Args = dict[str, Operand]
"""Operands by a kernel's parameter names."""

STEP = Ref("step", "step")


def cpu_weight(weight: Weight) -> Weight:
    """How the CPU keeps a weight: matrices packed by sixteen rows, vectors as float32."""
    return weight.packed() if len(weight.shape) > 1 else replace(weight, codec="f32")


def whole_rows(weight: Weight) -> int:
    """Rows with padding: what a product writes for each token."""
    return weight.rows + cpu_weight(weight).padding


def family(weight: Weight) -> str:
    """Which kernels read it: "block32", "k256" or "float"."""
    return codecs.get(weight.codec).family


@dataclass
class CpuCalls:
    """Makes calls for one program, and remembers the buffers that they use."""

    graph: Graph
    capacity: int
    splits: int
    inline: bool
    buffers: dict[str, Buffer] = field(default_factory=dict)
    _inputs: dict[int, Args] = field(default_factory=dict)

    def buffer(self, name: str, kind: str, width: int, rows: int = 0, private: bool = False) -> Ref:
        """A buffer of at least that size; buffers of one name are one."""
        known = self.buffers.get(name, Buffer(name, kind, 0))
        self.buffers[name] = Buffer(name, kind, max(width, known.width), max(rows, known.rows), private)
        return Ref("buffer", name)

    @property
    def private(self) -> int:
        """Tokens between two workers' copies of an input."""
        return self.capacity if self.inline else 0

    @property
    def tile(self) -> int:
        """Tokens that share one load of a weight's bytes."""
        return 1 if self.capacity == 1 else 4 if self.capacity <= 4 else 8

    # --- inputs of products ----------------------------------------------------------------------------

    def embed(self, op: Embed) -> Call:
        """Rows of the embedding into the residual."""
        x = self.buffer("x", "f32", op.weight.columns)
        args: Args = {"w": _weight(op.weight), "tokens": Ref("step", "tokens"), "x": x, "cols": op.weight.columns}
        return _call(f"embed.{_kernel(op.weight)}", args, op, EMBEDDING, CODEC=op.weight.codec)

    def norm(self, op: RMSNorm, per: str) -> tuple[Call, Ref]:
        """RMS norm of the residual, for all tokens or for those that need logits."""
        width = op.weight.columns
        _check(op, width, 16)
        out = self.buffer("normed", "f32", width, private=self.inline)
        args: Args = {
            "x": Ref("buffer", "x"), "w": _weight(op.weight), "out": out, "width": width, "eps": op.eps,
            "rows": Ref("step", "logit_rows" if per == "logits" else "all_rows"), "offset": op.offset,
            "private": self.private,
        }  # fmt: skip
        return _call("activations.rms_norm", args, op, HEAD if op.head else WEIGHTS), out

    def merge(self, op: Attention) -> tuple[Call, Ref]:
        """Attention's partials, folded and divided by their sums."""
        c = op.cache
        out = self.buffer("attended", "f32", op.heads * c.v_dim, private=self.inline)
        first = self._of_group(op, "first_item")
        args: Args = {**self._partials(op), "out": out, "first_item": first, "heads": c.heads, "private": self.private}
        return _call("attention.merge", args, op, DIM=c.v_dim, GROUP=op.heads // c.heads), out

    def quantize(self, op: Op, x: Ref, width: int, shared: bool, block: int) -> Call:
        """int8 of `x`, one scale for each `block` columns; `shared`: x is one copy for all workers."""
        _check(op, width, block)
        args: Args = {"x": x, "width": width, "private_in": 0 if shared else self.private, **self._quantized(width)}
        return _call("activations.quantize", args, op, BLOCK=block)

    def _quantized(self, width: int) -> Args:
        if width in self._inputs:
            return self._inputs[width]
        block = width // 32
        sizes = {"aq": ("i8", width), "ad": ("f32", block), "ao": ("i32", 3 * block), "af": ("f32", block),
                 "am": ("i32", width // 64), "ap": ("i32", block)}  # fmt: skip
        made: Args = {name: self.buffer(name, *size, private=self.inline) for name, size in sizes.items()}
        self._inputs[width] = {**made, "private": self.private}
        return self._inputs[width]

    # --- products and what follows them ----------------------------------------------------------------

    def product(self, op: Linear, x: Ref, shared: bool, y: Ref, per: str, add_to: int) -> list[Call]:
        """y = W·x (or y += W·x), and the bias. `x` is used by float weights, its int8 by the others."""
        w, kind = op.weight, family(op.weight)
        args: Args = {
            "w": _weight(w), "y": y, "step": STEP, "count": count_of(per), "cols": w.columns,
            "stride": whole_rows(w), "add_to": add_to,
        }  # fmt: skip
        floats: Args = {"x": x, "private": 0 if shared else self.private}
        inputs = floats if kind == "float" else self._quantized(w.columns)
        tile = min(self.tile, 4) if kind == "float" else self.tile
        name = f"matmul.{_kernel(w)}"
        calls = [_call(name, {**args, **inputs}, op, HEAD if op.head else WEIGHTS, CODEC=w.codec, TILE=tile)]
        if op.bias is not None:
            _check(op, w.rows, 16)
            args = {"y": y, "bias": _weight(op.bias), "step": STEP, "count": count_of(per), "stride": whole_rows(w)}
            calls.append(_call("elementwise.add_bias", args, op, HEAD if op.head else WEIGHTS))
        return calls

    def norm_heads(self, op: RMSNorm, y: Ref, width: int) -> Call:
        """RMS norm of each head in `y`, in place."""
        dim = op.weight.columns
        _check(op, dim, 16)
        args: Args = {
            "y": y, "w": _weight(op.weight), "step": STEP, "count": count_of("tokens"), "stride": width,
            "head_dim": dim, "eps": op.eps, "offset": op.offset,
        }  # fmt: skip
        return _call("elementwise.norm_heads", args, op, WEIGHTS)

    def rope(self, op: Rope, y: Ref, width: int) -> Call:
        """Turns each head in `y`, in place."""
        if op.start:
            raise UnsupportedError(f"{op.name} turns a head from value {op.start} on", "from its first value on")
        args: Args = {
            "y": y, "cos": Ref("table", f"cos:{op.name}"), "sin": Ref("table", f"sin:{op.name}"), "step": STEP,
            "positions": Ref("step", "positions"), "count": count_of("tokens"), "stride": width,
            "head_dim": op.head_dim, "half": len(op.frequencies),
        }  # fmt: skip
        return _call("elementwise.rope", args, op, SPLIT=int(op.style == "half"))

    def glu(self, op: Glu, gate: Ref, up: Ref) -> Call:
        """Gates `up` by `gate`."""
        if op.activation != "silu":
            raise UnsupportedError(f"{op.name} gates with {op.activation}", "silu")
        _check(op, op.width, 16)
        out = self.buffer("h", "f32", op.width)
        args: Args = {"g": gate, "u": up, "out": out, "step": STEP, "count": count_of("tokens"), "stride": op.width}
        return _call("elementwise.glu", args, op)

    # --- attention --------------------------------------------------------------------------------------

    def write(self, op: Attention, y: Ref, keys: bool) -> Call:
        """Stores the step's keys, or its values."""
        c, what = op.cache, "keys" if keys else "values"
        args: Args = {"k" if keys else "v": y, "slots": self._of_group(op, "slots"), "step": STEP}
        args |= {"count": count_of("tokens"), "heads": c.heads, **self._place(op, what)}
        return _call(f"attention.write_{what}", args, op, KV_WRITE, DIM=c.k_dim)

    def attend(self, op: Attention, q: Ref) -> Call:
        """Scores, softmax and weighted values of each unit of attention."""
        c, group = op.cache, op.heads // op.cache.heads
        args: Args = {"q": q, "scores": self.buffer("scores", "f32", group * SCORES, rows=1, private=True)}
        args |= self._partials(op)
        for name in ("item_token", "item_split", "item_last", "starts", "charged", "tables"):
            args[name] = self._of_group(op, name)
        args |= {name: Ref("step", name) for name in ("ends", "table_at")}
        args |= {"heads": c.heads, "scale": op.scale, **self._place(op, "keys"), **self._place(op, "values")}
        return _call("attention.attend", args, op, KV_READ, DIM=c.k_dim, GROUP=group, AHEAD=int(self.capacity <= 8))

    def _partials(self, op: Attention) -> Args:
        """A maximum, a sum and weighted values for each unit and query head."""
        units = max(self.capacity, min(self.capacity, 8) * self.splits)
        return {
            "top": self.buffer("top", "f32", op.heads, units),
            "total": self.buffer("total", "f32", op.heads, units),
            "part": self.buffer("part", "f32", op.heads * op.cache.v_dim, units),
        }

    def _of_group(self, op: Attention, name: str) -> Ref:
        """An array of the step that belongs to the layer's cache group."""
        return Ref("step", in_group(name, self.graph.group_of[op.cache.name]))

    def _place(self, op: Attention, what: str) -> Args:
        """Where this layer's keys or values lie in a block."""
        index = self.graph.group_of[op.cache.name]
        group = self.graph.cache_groups[index]
        at = group.offset(op.cache.name) // 2
        if what == "values":
            at += op.cache.block * op.cache.heads * op.cache.k_dim
        return {"cache": Ref("cache", f"kv.{index}"), "page_items": group.block_bytes // 2, f"{what}_at": at}


def _weight(weight: Weight) -> Ref:
    return Ref("weight", weight.alias or weight.name)


def _kernel(weight: Weight) -> str:
    """The kernel of its family: Q6_K's scales differ from those of the other K-quants."""
    kind = family(weight)
    return {"float": "floats", "k256": "q6_k" if weight.codec == "q6_k" else "k256"}.get(kind, kind)


def _check(op: Op, width: int, multiple: int) -> None:
    if width % multiple:
        raise UnsupportedError(f"{op.name} has rows of {width}", f"a multiple of {multiple} on the CPU backend")


def _call(kernel: str, args: Args, op: Op, purpose: str = "", **statics: int | str) -> Call:
    return Call(kernel, tuple(sorted(statics.items())), tuple(args.items()), op.name, purpose)
