"""The default lowering of what processes that run parts of one model exchange: nodes without kernels, done between two
phases."""

from __future__ import annotations

from memfirst.graph.ops.collective import AllGather, Receive, Send
from memfirst.lower.default import LOGITS, Default, lower, touch
from memfirst.lower.nodes import TOKENS, Exchanged, Node, Touch, Value
from memfirst.lower.program import GATHER, RECEIVE, SEND

PEERS = "peers"
"""What all of them touch: who waits for a value must have sent before what others wait for."""
EXCHANGE = "exchange"
"""What such a node's range counts: nothing that could be divided."""


@lower.register
def _(op: AllGather, d: Default) -> Value:
    part = d.input(op)
    whole = d.new(op.output, op.width, part.rows)
    parts = op.parts or (op.width // op.degree,) * op.degree
    _add(op, d, Exchanged(op.name, GATHER, part, whole, parts), [part], [whole])
    return whole


@lower.register
def _(op: Send, d: Default) -> Value:
    value = d.dense(d.input(op), op)
    _add(op, d, Exchanged(op.name, SEND, value, None, (), op.to), [value], [])
    return value


@lower.register
def _(op: Receive, d: Default) -> Value:
    value = d.new(op.output, op.width, LOGITS if op.head else TOKENS)
    _add(op, d, Exchanged(op.name, RECEIVE, None, value, (), op.source), [], [value])
    return value


def _add(op: AllGather | Send | Receive, d: Default, what: Exchanged, reads: list[Value], writes: list[Value]) -> None:
    touched = [touch(v) for v in reads], [*map(touch, writes), Touch(PEERS)]
    rows = (*reads, *writes)[0].rows
    d.made.nodes.append(Node(op.name, [], EXCHANGE, 1, rows, *touched, d.moves(op), exchange=what))
