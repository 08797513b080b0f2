"""Tables that kernels read: rotations of RoPE, factors of columns, and where each expert's matrix lies."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from memfirst.graph import Graph
from memfirst.graph.ops.experts import Experts
from memfirst.graph.ops.rope import Rope
from memfirst.graph.ops.scale import ScaleParts
from memfirst.graph.ops.temperature import Temperature
from memfirst.lower.program import Program


def expert_tables(program: Program) -> dict[str, NDArray[np.int64]]:
    """For each tensor of routed experts' matrices the byte at which each expert's begins [experts]."""
    stacked = [w for op in program.graph.of(Experts) for w in (*op.inner, op.down)]
    names = dict.fromkeys(w.alias or w.name for w in stacked)
    sizes = {name: program.weights[name] for name in names}
    return {f"experts:{n}": np.arange(w.matrices, dtype=np.int64) * w.matrix_bytes for n, w in sizes.items()}


def rope_tables(graph: Graph, context: int) -> dict[str, NDArray[np.float32]]:
    """Cosines and sines [context, pairs] of each RoPE; operations that rotate alike share theirs."""
    made: dict[Any, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}
    out = {}
    positions = np.arange(context, dtype=np.float64)
    for op in graph.ops:
        if isinstance(op, Rope):
            frequencies = op.frequencies_for(context)
            key = frequencies, op.factor, op.temperature, op.original if op.temperature else 0
            if key not in made:
                angles, factors = np.outer(positions, np.array(frequencies, np.float64)), op.factors(positions)[:, None]
                cos, sin = ((factors * f(angles)).astype(np.float32).reshape(-1) for f in (np.cos, np.sin))
                made[key] = cos, sin
            out[f"cos:{op.name}"], out[f"sin:{op.name}"] = made[key]
    return out


def factor_tables(graph: Graph, context: int, tokens: int) -> dict[str, NDArray[np.float32]]:
    """Each column's factor [width] of operations that scale parts of a row, each position's [context] of those that
    scale by it (such as scale alike share theirs); and the weights of what experts give, of steps of up to `tokens`,
    where theirs are on what they get."""
    out, made, positions = {}, dict[Any, NDArray[np.float32]](), np.arange(context)
    for op in graph.ops:
        if isinstance(op, ScaleParts):
            out[f"factors:{op.name}"] = made.setdefault(op.parts, op.factors)
        elif isinstance(op, Temperature):
            out[f"factors:{op.name}"] = made.setdefault((op.slope, op.floor), op.factors(positions))
        elif isinstance(op, Experts) and op.weigh_input:
            out[f"ones:{op.k}"] = np.ones(tokens * op.k, np.float32)
    return out
