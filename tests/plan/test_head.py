"""A plan with a sketch of the output head: what it reads and holds, when it is advised, what the engine then runs."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

import memfirst
from memfirst.codecs import sketch
from memfirst.errors import ConfigError, UnsupportedError
from memfirst.graph import decode
from memfirst.graph.ops.sketched import SketchedHead, sketched
from memfirst.graph.traffic import EXPECTED_TILES, HEAD, MEASURED_TILES
from memfirst.ledger import price
from memfirst.lower.cpu import lower
from memfirst.plan import Options, Place, Plan, make, place, subject
from memfirst.plan.advice import advise
from memfirst.plan.framework import HEAD as CHANGE
from memfirst.plan.make import NO_ROOM
from memfirst.predict.measured import works

MACHINE = "ryzen-9-7950x"
GEMMA, SMOLLM = "gemma-3:270m", "smollm2:135m"


@cache
def planned(name: str, head: str = "auto", codec: str = "q4_k_m", batch: int = 1) -> Plan:
    options = Options(engine="memfirst", context=1024, head=head, batch=batch)
    return make(subject(name, codec), place(MACHINE), options)


def head_of(plan: Plan) -> SketchedHead:
    found = sketched(plan.place.priced(plan.subject, plan.options).graph)
    assert found
    return found


@pytest.mark.parametrize(("name", "codec"), [(GEMMA, "q4_k_m"), (SMOLLM, "q8_0")])
def test_a_greedy_step_reads_the_sketch_and_the_rows_that_were_measured(name: str, codec: str) -> None:
    full, auto = (planned(name, head, codec) for head in ("full", "auto"))
    head = head_of(auto)
    rows, cols = head.weight.rows, head.weight.columns
    there, whole, tile = sketch.matrix_bytes(rows, cols), rows * cols // 32 * 34, 16 * cols // 32 * 34
    found, share, norm = auto.amounts[HEAD], MEASURED_TILES[rows, cols], 4 * cols
    assert full.amounts[HEAD].exact and full.amounts[HEAD].low == norm + whole
    assert (found.low, found.high) == (norm + there + tile, norm + there + whole)
    assert found.mean == pytest.approx(norm + there + share * whole)
    assert {p: a for p, a in auto.amounts.items() if p != HEAD} == {p: a for p, a in full.amounts.items() if p != HEAD}
    assert auto.memory.needs.weights - full.memory.needs.weights == there
    assert auto.sketch is not None and auto.sketch.measured and auto.sketch.used
    assert (auto.sketch.nbytes, auto.sketch.head, auto.sketch.share) == (there, whole, share)
    assert auto.json()["head_sketch"] == vars(auto.sketch) and full.json()["head_sketch"] is None


def test_the_plan_and_the_program_that_runs_say_the_same_bytes() -> None:
    plan = planned(GEMMA)
    step = plan.options.step(plan.context)
    assert step.likeliest
    program = lower(plan.place.priced(plan.subject, plan.options).graph, 1, plan.context, 2)
    for one in (step, replace(step, listed=7), decode(10)):
        mine = plan.place.priced(plan.subject, plan.options).amounts(one)[HEAD]
        assert mine == price(program, one).by_purpose()[HEAD]


def test_heads_that_nobody_measured_are_expected_to_be_as_uncertain_as_any() -> None:
    plan = make(subject("llama-3.2:1b", "q8_0"), place(MACHINE), Options(engine="memfirst", context=1024, head="auto"))
    assert plan.sketch is not None and not plan.sketch.measured
    assert plan.sketch.share == EXPECTED_TILES == max(MEASURED_TILES.values())


@pytest.mark.parametrize(("name", "codec", "advised"), [(GEMMA, "q4_k_m", True), (SMOLLM, "q4_1", False)])
def test_it_is_advised_where_it_was_measured_to_help(name: str, codec: str, advised: bool) -> None:
    """1.26 times the tokens/s of Gemma 3 270M, 1.01 of SmolLM2 135M."""
    found = [a for a in advise(planned(name, "full", codec)) if a.kind == CHANGE]
    assert bool(found) == advised
    for advice in found:
        assert advice.effect == "exact, at temperature 0" and advice.gain is not None and 1.1 < advice.gain < 1.5
        assert advice.flags.endswith("--temp 0 --head auto") and "--head auto" in advice.command
        assert advice.after is not None and advice.memory - planned(name, "full").memory.needs.total > 0
    assert not [a for a in advise(planned(name, "auto", codec)) if a.kind == CHANGE]
    assert not [a for a in advise(planned(name, "full", codec, 8)) if a.kind == CHANGE]


def test_several_sequences_hold_the_sketch_and_read_the_head() -> None:
    full, auto = (planned(GEMMA, head, batch=8) for head in ("full", "auto"))
    assert auto.amounts == full.amounts and auto.amounts[HEAD].exact
    assert auto.memory.needs.weights > full.memory.needs.weights
    assert auto.sketch is not None and not auto.sketch.used


def test_without_memory_for_it_there_is_none() -> None:
    full, auto = (planned(GEMMA, head).memory.needs.total for head in ("full", "auto"))
    where = place(MACHINE)
    for memory, there in ((auto, True), (auto - 1, False), (full, False)):
        tight = Place(replace(where.machine, memory=memory))
        made = make(subject(GEMMA, "q4_k_m"), tight, Options(engine="memfirst", context=1024, head="auto"))
        assert made.fits and (made.sketch is not None) == there == (NO_ROOM not in made.notes)
        assert made.memory.needs.total == (auto if there else full)


def test_a_head_of_another_codec_has_none_and_it_is_said() -> None:
    made = planned(GEMMA, "auto", "f16")
    assert made.sketch is None and any("has no sketch" in note for note in made.notes)
    assert made.amounts[HEAD].exact


def test_only_memfirst_makes_one() -> None:
    with pytest.raises(UnsupportedError, match=r"llama.cpp with a sketch"):
        make(subject(GEMMA), place("rtx-4090"), Options(head="auto"))
    with pytest.raises((ConfigError, UnsupportedError), match="the head 'half'"):
        Options(head="half")


def test_python_asks_for_it() -> None:
    found = memfirst.plan(GEMMA, MACHINE, codec="q4_k_m", ctx=1024, engine="memfirst", head="auto")
    assert found.sketch == planned(GEMMA).sketch and found.rate == planned(GEMMA).rate
    assert found.rate and found.rate > 1.1 * (planned(GEMMA, "full").rate or 0.0)


def test_a_head_by_its_sketch_is_timed_by_the_rows_that_it_reads() -> None:
    plan = planned(GEMMA)
    program = lower(plan.place.priced(plan.subject, plan.options).graph, 1, plan.context, 2)
    last = program.graph.ops[-1].name

    def amounts(step: memfirst.graph.Step) -> dict[str, float]:
        return {
            call.kernel: sum(w.amount for w in found)
            for part in works(program, step) for call, found in part.calls if call.op == last
        }  # fmt: skip

    whole, some = amounts(decode(5)), amounts(replace(decode(5), likeliest=True, listed=1024))
    head = head_of(plan)
    assert whole["matmul.block32"] == head.weight.rows * head.weight.columns
    assert some["matmul.block32"] == 16 * 1024 * head.weight.columns
    assert some["sketch.rows"] == whole["matmul.block32"]
