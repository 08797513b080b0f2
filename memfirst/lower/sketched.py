"""The default lowering of an output head with a sketch: what bounds its logits, the tiles to be read, the head itself.

Of a step that does not ask for the likeliest token alone, `likeliest` is 0 and so is the range of all but the head. Of
one that does, a kernel writes which tiles the head computes into the step's header, where those that a grammar leaves
are as well; the head's matmul is behind its barrier.
"""

from __future__ import annotations

from memfirst.graph.ops.sketched import SketchedHead
from memfirst.graph.traffic import HEAD, SketchTraffic
from memfirst.lower.default import STEP, Args, Default, lower, matmul, quantized, touch, weight_ref
from memfirst.lower.nodes import COLUMNS, ROWS, TOKENS, UNITS, Moves, Node, NodeCall, Value
from memfirst.lower.program import Ref
from memfirst.lower.specs import KERNELS
from memfirst.lower.step_fields import COUNTS, LIKELIEST, count_of


@lower.register
def _(op: SketchedHead, d: Default) -> Value:
    x = d.input(op)
    x = d.dense(x, op) if x.picked else x
    rows = op.weight.rows + d.weights[op.weight.name].padding
    y = d.new(op.output, op.weight.rows, x.rows, stride=rows)
    call, reads = matmul(op, d, op.weight, x, y, HEAD)
    _bounds(op, d, x, y, rows)
    moves: Moves = tuple(m for m in d.moves(op) if not isinstance(m[1], SketchTraffic))
    d.columns(op.name, [call], reads, y, moves, units=rows)
    return y


def _bounds(op: SketchedHead, d: Default, x: Value, y: Value, rows: int) -> None:
    """The largest value and the largest bound of each tile, then which tiles may hold the largest logit."""
    tiles = rows // ROWS
    int8, source = quantized(op, d, x), Value(f"{op.inputs[0]}.int8", 0, 0)
    reach, tops = Value(f"{op.name}.reach", 0, 0), Value(f"{op.name}.tops", 0, 0)
    size = {"sums": ("i32", op.weight.columns // 32), "reach": ("f32", 1)}
    made = d.arrays(reach.storage, size, _one) | d.arrays(tops.storage, {"tops": ("f32", 2 * tiles)}, _one)
    args: Args = {name: int8[name] for name in ("aq", "ad", "ao", "af")}
    args |= made | {"y": y.place, "step": STEP, "cols": op.weight.columns, "tiles": tiles, "vocab": op.weight.rows}
    args |= {"inverse": Ref("table", f"inverse:{op.name}"), "count": count_of("head_tiles"), "listed": COUNTS}

    def node(name: str, over: str, units: int, call: NodeCall, reads: list[Value], writes: list[Value]) -> Node:
        touched = [touch(v) for v in reads], [touch(v, units if v is y else 0) for v in writes]
        return Node(f"{op.name}_{name}", [call], over, units, LIKELIEST, *touched, align=ROWS)

    def kernel(name: str, w: Ref | None = None, **statics: str) -> NodeCall:
        spec = KERNELS[f"sketch.{name}"]
        given = args if w is None else args | {"w": w}
        return spec.call({n: given[n] for n in spec.operands}, op.name, HEAD if w else "", **statics)

    whole = node("sketch", COLUMNS, rows, kernel("rows", weight_ref(op.sketch)), [source, reach], [tops, y])
    whole.moves = tuple(m for m in d.moves(op) if isinstance(m[1], SketchTraffic))
    choose = kernel("choose", weight_ref(op.weight), CODEC=op.weight.codec)
    d.made.nodes += [
        node("reach", TOKENS, 1, kernel("reach"), [source], [reach]),
        whole,
        node("choose", UNITS, 1, choose, [source, reach, tops], [y]),
    ]


def _one(capacity: int) -> int:
    return 1
