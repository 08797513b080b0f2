"""A model without its output head: the rows that embeddings are made of."""

from __future__ import annotations

from dataclasses import replace

from memfirst.errors import UnsupportedError
from memfirst.graph import Graph
from memfirst.graph.ops.layer_norm import LayerNorm
from memfirst.graph.ops.norm import RMSNorm


def hidden(graph: Graph) -> Graph:
    """The graph up to its final norm, whose rows it gives; what stands for the vocabulary is their width.

    Raises:
        UnsupportedError: There is no norm before the head.
    """
    found = [i for i, op in enumerate(graph.ops) if isinstance(op, RMSNorm | LayerNorm) and op.head]
    if not found:
        raise UnsupportedError(f"hidden rows of {graph.architecture}", "a norm before its output head")
    return replace(graph, ops=graph.ops[: found[-1] + 1], vocab_size=graph.hidden_size)
