"""Output heads with a sketch of themselves: graph -> graph."""

from __future__ import annotations

from dataclasses import replace

from memfirst.codecs import sketch
from memfirst.graph import DISK, Graph, Weight, decode
from memfirst.graph.ops.linear import Linear
from memfirst.graph.ops.sketched import SketchedHead
from memfirst.graph.traffic import HEAD, STREAMED

HEAD_AUTO, HEAD_FULL = "auto", "full"
"""An output head with a sketch where that is worth it, or none."""

NAME = "output.sketch"
"""Of the sketch among the model's weights."""

LEAST_TILES = 16
"""Of fewer, nothing can be left out that is worth it."""
LEAST_HEAD = 0.1
"""Share of a token's bytes from which on an output head is worth a sketch."""
MOST_COLUMNS = 16_384
"""What a bound's rounding is made for."""


def sketchable(graph: Graph) -> Linear | None:
    """The output head, where a sketch of it can be made: a whole matrix of Q8_0 in memory, whose products are the
    logits. Of other codecs the sketch is no smaller than most of the head, or activations are no int8."""
    op = graph.ops[-1]
    if not isinstance(op, Linear) or isinstance(op, SketchedHead) or not op.head:
        return None
    w, plain = op.weight, op.bias is None and op.scale == 1 and not op.softcap
    whole = w.shard is None and w.tier != DISK and w.rows == graph.vocab_size and w.groups >= LEAST_TILES
    return (
        op
        if plain and whole and w.codec == "q8_0" and w.columns % sketch.BLOCK == 0 and w.columns <= MOST_COLUMNS
        else None
    )


def with_sketch(graph: Graph) -> Graph:
    """The same graph, whose head has a sketch; the graph itself where none can be made."""
    op = sketchable(graph)
    if op is None:
        return graph
    made = Weight(NAME, op.weight.shape, op.weight.codec, pack=sketch.PACK, device=op.weight.device)
    head = SketchedHead(op.name, op.inputs, op.output, op.weight, head=True, sketch=made)
    return replace(graph, ops=(*graph.ops[:-1], head))


def where_worth_it(graph: Graph) -> Graph:
    """The same graph, whose head has a sketch if it is a tenth of a token's bytes or more; else the graph itself."""
    made = with_sketch(graph)
    if made is graph:
        return graph
    token = decode(0)
    streamed = sum(read.amount(token).mean for _, read in graph.moves if read.purpose in STREAMED)
    head = sum(read.amount(token).mean for _, read in graph.moves if read.purpose == HEAD)
    return made if head >= LEAST_HEAD * streamed else graph
