"""How many tiles the tokens of routed experts fill: the work of their matmuls, which depends on who picked whom."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from math import comb

from memfirst.graph import Step
from memfirst.graph.ops.experts import Experts


def tiles_by_size(op: Experts, step: Step, most: int) -> dict[int, float]:
    """Tiles of 8, 4, 2 and 1 tokens that a step's tokens fill, expert by expert, where the largest has `most`.

    Expected, if each token's experts are as likely as any other, before the step's routing is known.
    """
    out: dict[int, float] = {}
    for tokens, experts in _loads(op, step):
        for size in _tiles(tokens, most):
            out[size] = out.get(size, 0.0) + experts
    return out


def active(op: Experts, step: Step) -> float:
    """Experts that some token of the step picked, or that are expected to be."""
    return sum(experts for tokens, experts in _loads(op, step) if tokens)


def _loads(op: Experts, step: Step) -> Iterator[tuple[int, float]]:
    """(tokens, how many experts got as many): as recorded, or binomial with n tokens and k/E."""
    recorded = step.routing.get(op.name)
    if recorded is not None:
        yield from ((tokens, 1.0) for tokens in recorded)
        return
    yield from _binomial(step.tokens, op.up.shape[0], op.k)


@cache
def _binomial(n: int, experts: int, k: int) -> tuple[tuple[int, float], ...]:
    p = k / experts
    return tuple((m, experts * comb(n, m) * p**m * (1 - p) ** (n - m)) for m in range(n + 1))


def _tiles(tokens: int, most: int) -> Iterator[int]:
    """The sizes of an expert's tiles, as `kernels.cpu.routed` takes them: the smallest that what is left fits."""
    while tokens > 0:
        size = next((size for size in (1, 2, 4, 8) if size >= tokens or size == most), most)
        yield size
        tokens -= size
