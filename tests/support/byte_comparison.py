"""memfirst's price of a case beside the oracle's: by purpose, wherever they differ."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import prod
from random import Random
from types import SimpleNamespace
from typing import cast

from memfirst import graph, ledger, models
from memfirst.convert.mixes import layer_of
from memfirst.formats.architectures import architecture_of
from memfirst.graph import Graph, Step
from memfirst.graph.ops.experts import Experts
from memfirst.graph.traffic import NOTHING
from memfirst.lower import cpu
from memfirst.lower.program import Program
from memfirst.models import ShapeOnly, quantized
from memfirst.runtime.generation import Generation, Timing
from memfirst.runtime.report import Report
from memfirst.transform.recode import with_kv
from tests.oracle import BLOCKS, Moved, Sequence, by_layer, held, parameters, price
from tests.support.byte_cases import Case

CLOSE = Fraction(1, 10**9)
"""Of an expectation, which memfirst computes in floating point; everything else is equal."""

PACKED_ROWS = 16
"""Rows that the CPU's products take side by side."""

STREAMED = ("weights", "embedding", "head", "experts", "kv_read", "state_read")
"""What must come from memory before a token is there: not what is written."""


Expected = tuple[tuple[Moved, ...], dict[str, object]]
"""The oracle's figures of a case: of each step, and of what is held."""


@dataclass(frozen=True)
class Difference:
    """One figure of which there are two."""

    figure: str
    where: str
    memfirst: object
    oracle: object


def kind_and_layer(name: str) -> tuple[str, int]:
    """("attn_q.weight", 7) of "blk.7.attn_q.weight"."""
    layer = layer_of(name)
    return (name if layer < 0 else name.split(".", 2)[2]), layer


def build(case: Case) -> Graph:
    """memfirst's graph of the case; a tensor that the oracle has otherwise or not at all is f32."""
    architecture = models.BY_MODEL_TYPE.get(case.config["model_type"])
    architecture = architecture or models.find(architecture_of(case.config))

    def codec(name: str, shape: tuple[int, ...]) -> str:
        chosen = case.table.get(kind_and_layer(name), "f32")
        return chosen if shape[-1] % BLOCKS[chosen][0] == 0 else "f32"

    found = architecture.build(architecture.from_hf(quantized.without(case.config), False), ShapeOnly(codec))
    return found if case.kv == ("f16", "f16") else with_kv(found, *case.kv)


def program(case: Case) -> Graph | Program:
    """As the case wants it lowered."""
    found = build(case)
    return cpu.lower(found, capacity=128, context=1024, workers=2) if case.cpu else found


def graph_in(found: Graph | Program) -> Graph:
    """The graph that was priced."""
    return found.graph if isinstance(found, Program) else found


def counts(case: Case, tokens: int, layer: int, experts: int) -> tuple[int, ...]:
    """Tokens by expert as a run might record them: some layers send all of them to few experts."""
    random = Random(f"{case.name}{tokens}{layer}")
    share = [random.choice([0, 0, 1, 3]) for _ in range(experts - 1)]
    return (*share, max(1, tokens))


def routing(case: Case, tokens: int) -> Mapping[int, tuple[int, ...]] | None:
    """By layer, where the case has it recorded."""
    sizes = {t.layer: t.shape[0] for t in case.model.tensors if t.active}
    return {i: counts(case, tokens, i, n) for i, n in sizes.items()} if case.recorded else None


def as_step(case: Case, number: int, found: Graph) -> Step:
    """The case's step as memfirst has it; logits are asked for the last tokens, by default for one of them."""
    sequences = tuple(
        graph.Sequence(s.past, s.new, logits=None if s.logits == 1 else tuple(range(s.new - s.logits, s.new)))
        for s in case.steps[number]
    )
    recorded = routing(case, sum(s.new for s in sequences)) or {}
    experts = [op.name for op in found.ops if isinstance(op, Experts)]
    return Step(sequences, routing={name: recorded[layer_of(name)] for name in experts if recorded})


def expected(case: Case) -> Expected:
    """The oracle's figures: of each step, and of what is held."""
    multiple = PACKED_ROWS if case.cpu else 1

    def blocks(kind: str, layer: int) -> tuple[int, int]:
        return BLOCKS[case.table[kind, layer]]

    kv = BLOCKS[case.kv[0]], BLOCKS[case.kv[1]]
    moved = []
    for step in case.steps:
        recorded = routing(case, sum(s.new for s in step))
        moved.append(price(case.model, step, blocks, kv, recorded.__getitem__ if recorded else None, multiple))
    h = held(case.model, case.contexts, blocks, kv, multiple)
    return tuple(moved), {
        "parameters": parameters(case.model),
        "stored": h.weights,
        "held": h.kv_live + h.state_live,
        "allocated": h.kv_pages + h.state_slots,
    }


def found_held(case: Case, found: Graph | Program) -> dict[str, object]:
    """memfirst's figures of what is held."""
    memory = ledger.memory(found, case.contexts)
    total = sum(prod(w.shape) for w in graph_in(found).weights().values())
    return {
        "parameters": total, "stored": memory.weights, "held": memory.kv_held, "allocated": memory.kv_allocated,
    }  # fmt: skip


def found_moved(case: Case, found: Graph | Program, number: int) -> tuple[Moved, Fraction, Fraction]:
    """memfirst's figures of a step, what it streams, and that by token."""
    priced = ledger.price(found, as_step(case, number, graph_in(found)))
    by = {purpose: amount for purpose, amount in priced.by_purpose().items() if purpose != "activations"}
    experts = by.pop("experts", NOTHING)
    exact = {name: int(by.pop(name, NOTHING)) for name in Moved.__dataclass_fields__ if "experts" not in name}
    assert not by, by
    moved = Moved(**exact, experts=Fraction(experts.mean), experts_least=experts.low, experts_most=experts.high)
    return moved, Fraction(priced.streamed.mean), Fraction(priced.bytes_per_token)


def differences(case: Case, oracle: Expected | None = None) -> list[Difference]:
    """Every figure that memfirst and the oracle do not agree on; `oracle` where it is known already."""
    moved, occupied = oracle or expected(case)
    found = program(case)
    out = [Difference(key, case.name, value, occupied[key]) for key, value in found_held(case, found).items()
           if value != occupied[key]]  # fmt: skip
    out += tensors(case, graph_in(found))
    for number, want in enumerate(moved):
        where = f"{case.name}, step {number}"
        out += [Difference(key, where, a, b) for key, a, b in step_figures(case, found, number, want)]
        out += layers(case, found, number)
    return out


def layers(case: Case, found: Graph | Program, number: int) -> list[Difference]:
    """Layers that read other keys, values and states in a step: sums do not show what stands in another layer."""
    by: Counter[int] = Counter()
    for entry in ledger.price(found, as_step(case, number, graph_in(found))).entries:
        if entry.purpose in ("kv_read", "state_read"):
            by[layer_of(entry.op)] += int(entry.amount)
    want = by_layer(case.model, case.steps[number], (BLOCKS[case.kv[0]], BLOCKS[case.kv[1]]))
    rest = [i for i in {**by, **want} if by[i] != want.get(i, 0)]
    return [Difference("by_layer", f"{case.name}, layer {i}, step {number}", by[i], want.get(i)) for i in rest]


def step_figures(case: Case, found: Graph | Program, number: int, want: Moved) -> Iterator[tuple[str, object, object]]:
    """Figures of one step that differ: (purpose, memfirst's, the oracle's)."""
    got, streamed, by_token = found_moved(case, found, number)
    tokens = max(1, sum(s.new for s in case.steps[number]))
    all_of_it = sum((Fraction(getattr(want, name)) for name in STREAMED), Fraction(0))
    pairs = [(name, getattr(got, name), getattr(want, name)) for name in Moved.__dataclass_fields__]
    pairs += [("streamed", streamed, all_of_it), ("by_token", by_token, all_of_it / tokens)]
    for name, a, b in pairs:
        inexact = name in ("experts", "streamed", "by_token")
        if (abs(a - b) > CLOSE * b) if inexact else a != b:
            yield name, a, b


def tensors(case: Case, found: Graph) -> list[Difference]:
    """Tensors that only one of the two has, or has in another shape."""
    here = {kind_and_layer(name): w.shape for name, w in found.weights().items()}
    there = {(t.kind, t.layer): t.shape for t in case.model.tensors if t.stored}
    keys = [key for key in {**here, **there} if here.get(key) != there.get(key)]
    return [Difference("tensors", f"{case.name} {key}", here.get(key), there.get(key)) for key in keys]


def line_differences(case: Case) -> list[Difference]:
    """The line that an answer ends with, after the case's first step: megabytes are of 1,000,000 bytes."""
    found = program(case)
    priced, memory = ledger.price(found, as_step(case, 0, graph_in(found))), ledger.memory(found, case.contexts)
    growth = price(case.model, [Sequence(1)], lambda kind, layer: BLOCKS[case.table[kind, layer]]).kv_read // 2
    answer = SimpleNamespace(timing=Timing(decode_steps=1, decode_s=1.0), stop_reason="")
    text = Report(cast(Generation, answer), priced, priced, memory, growth, None).line()
    (want, *_), occupied = expected(case)
    streamed = sum(getattr(want, name) for name in STREAMED)
    figures = {"by_token": rf"per token {streamed / 1e6:.1f} MB", "weights": rf"weights {want.weights / 1e6:.1f}\b"}
    figures |= {"head": rf"head {want.head / 1e6:.1f}\b", "growth": rf"{growth / 1e3:.1f} kB a token of context"}
    figures["held"] = rf"KV {cast(int, occupied['held']) / 1e6:.1f} MB held"
    return [Difference(key, case.name, text, figure) for key, figure in figures.items() if not re.search(figure, text)]
