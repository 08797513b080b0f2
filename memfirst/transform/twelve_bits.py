"""BF16 matrices in 12 bits: those of a graph that may be packed so, and the graph as it is expected to be."""

from __future__ import annotations

from collections.abc import Iterator

from memfirst.codecs import bf12
from memfirst.graph import DISK, Graph, Weight
from memfirst.graph.ops.embed import Embed
from memfirst.graph.ops.linear import Linear


def packable(graph: Graph) -> dict[str, Weight]:
    """BF16 matrices in memory that only Linear and Embed read, by stored name: other kernels find rows by their place,
    which what lies aside moves."""
    weights, other = graph.weights(), set(_otherwise_read(graph))
    return {
        name: w
        for name, w in weights.items()
        if name not in other and w.codec == "bf16" and w.columns % bf12.COLUMNS == 0 and w.tier != DISK
    }


def _otherwise_read(graph: Graph) -> Iterator[str]:
    """Stored names of what is no matrix of a Linear or an Embed."""
    for op in graph.ops:
        matrix = op.weight if isinstance(op, Linear | Embed) and len(op.weight.shape) == 2 else None
        yield from (w.alias or w.name for w in op.weights if w is not matrix)


def bits(graph: Graph) -> float | None:
    """Bits a weight of the matrices that a graph has in 12 bits; None where there are none."""
    found = [w for w in graph.weights().values() if w.twelve_bits]
    return 8 * sum(w.nbytes for w in found) / sum(w.rows * w.columns for w in found) if found else None


def expected(graph: Graph) -> Graph:
    """The graph as it is run where nothing was measured: 1.2 % of the blocks lie aside, 0 to 4 % as bounds."""
    aside = {name: bf12.expected_aside(w.groups, w.columns) for name, w in packable(graph).items()}
    return graph.in_twelve_bits(aside, counted=False)
