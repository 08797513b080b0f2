"""Plans of models that memory does not hold: memfirst reads the rest from disk, and its speed is predicted."""

from __future__ import annotations

import pytest
import typer

from memfirst.cli import plan_sources as sources
from memfirst.graph import decode
from memfirst.plan import Options, Plan, make, place, subject
from memfirst.plan.advice import advise
from memfirst.plan.advice.change import EXACT, SLOW
from memfirst.plan.framework import CODEC
from memfirst.predict.disk import DISK, disk_bytes, in_steps
from memfirst.predict.prediction import Prediction, Term

GB = 1_000_000_000


def planned(model: str, machine: str, **options: float) -> Plan:
    return make(subject(model, engine="memfirst"), place(machine), Options(engine="memfirst", **options))  # type: ignore[arg-type]


def test_what_does_not_fit_is_read_in_each_step() -> None:
    """All bytes of a dense model's matrices are either held or read, and its time is the disk's."""
    whole, limited = planned("llama-3.1:8b", "ryzen-7950x"), planned("llama-3.1:8b", "ryzen-7950x", memory=4 * GB)
    assert whole.disk is None
    assert whole.json()["disk"] is None
    assert limited.fits and limited.disk is not None and limited.decode is not None and whole.decode is not None
    read = limited.disk.reads(decode(limited.context - 1))
    assert read.exact
    assert limited.memory.needs.total <= 4 * GB
    assert 0.8 * limited.disk.on_disk < read.low <= limited.disk.on_disk
    assert limited.disk.on_disk >= whole.memory.needs.total - 4 * GB
    assert limited.decode.seconds == pytest.approx(max(whole.decode.seconds or 0, read.low / limited.disk.bandwidth))
    assert limited.json()["disk"]["step_bytes"] == read.low


def test_a_disk_that_is_given_counts() -> None:
    slow = planned("llama-3.1:8b", "ryzen-7950x", memory=4 * GB, disk=0.5e9)
    fast = planned("llama-3.1:8b", "ryzen-7950x", memory=4 * GB, disk=1e9)
    assert slow.disk and fast.disk and slow.rate and fast.rate
    assert slow.disk.source == "given"
    assert fast.rate == pytest.approx(2 * slow.rate)
    assert slow.decode and slow.decode.binding == DISK
    assert sum(term.seconds for term in slow.decode.terms) == pytest.approx(slow.decode.seconds)


def test_experts_are_expected_in_memory_by_their_share() -> None:
    found = planned("qwen3:30b-a3b", "raspberry-pi-5", memory=12 * GB)
    assert found.disk and found.disk.experts and found.decode
    read = found.disk.reads(decode(found.context - 1))
    assert 0.3 < found.disk.experts < 0.7
    assert read.low < read.mean < read.high
    streamed, experts = disk_bytes(found.disk.program, [decode(100)])
    assert streamed.high < 1e6  # rows of the embedding
    assert experts.mean == pytest.approx((1 - found.disk.experts) * experts.high, rel=0.02)
    assert experts.low == 0  # a router may like those that are in memory: then it costs what reading none does
    assert found.decode.low and found.decode.seconds
    assert found.decode.low < found.decode.seconds - 0.99 * experts.mean / found.disk.bandwidth


def test_too_little_memory_does_not_fit() -> None:
    found = planned("llama-3.1:8b", "ryzen-7950x", memory=GB)
    assert found.fits is False
    assert found.disk is None
    assert found.rate is None


def test_others_are_not_streamed() -> None:
    found = make(subject("llama-3.1:8b"), place("ryzen-7950x"), Options(memory=4 * GB))
    assert found.engine == "llama.cpp"
    assert found.fits is False
    assert found.disk is None


def test_the_disk_is_advised_beside_fewer_bits() -> None:
    """Exact, with a speed; before fewer bits where it is faster."""
    plan = planned("qwen3:30b-a3b", "raspberry-pi-5")
    assert plan.fits is False
    found = advise(plan)
    disk = next(a for a in found if a.kind == SLOW)
    assert disk.effect == EXACT
    assert disk.rate
    assert disk.after and disk.after.disk
    assert "--memory" in disk.flags
    dense = advise(planned("qwen2.5:32b", "raspberry-pi-5"))
    kinds = [a.kind for a in dense]
    by_kind = {a.kind: a for a in reversed(dense)}
    if CODEC in kinds and SLOW in kinds:
        faster = (by_kind[SLOW].rate or 0.0) > (by_kind[CODEC].rate or 0.0)
        assert (kinds.index(SLOW) < kinds.index(CODEC)) == faster


def test_prompts_are_read_for_in_steps() -> None:
    from memfirst.graph import prefill

    parts = in_steps(prefill(600))
    assert [(p.sequences[0].past, p.tokens, p.logits) for p in parts] == [(0, 256, 0), (256, 256, 0), (512, 88, 1)]
    assert in_steps(decode(5, 3)) == [decode(5, 3)]


def test_a_step_without_weights_on_disk_is_as_it_was() -> None:
    from memfirst.predict.disk import from_disk

    found = planned("llama-3.1:8b", "ryzen-7950x", memory=4 * GB).disk
    assert found
    unknown = Prediction(None, None, None, (), "", 1)
    assert from_disk(unknown, found.program, decode(5), 1e9) is unknown
    computed = Prediction(100.0, 90.0, 110.0, (Term("weights", 100.0),), "weights", 1)
    hidden = from_disk(computed, found.program, decode(5), 1e9)
    assert (hidden.seconds, hidden.low, hidden.high, hidden.binding) == (100.0, 90.0, 110.0, "weights")


@pytest.mark.parametrize(("text", "rate"), [("", 0.0), ("3.5", 3.5e9), ("7GB/s", 7e9)])
def test_disks_are_typed_in_gigabytes(text: str, rate: float) -> None:
    assert sources.rate("--disk", text) == rate


def test_what_is_no_disk_is_refused() -> None:
    with pytest.raises(typer.BadParameter, match="--disk"):
        sources.rate("--disk", "fast")
