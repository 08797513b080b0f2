"""What `bench` says while it measures."""

from __future__ import annotations

from dataclasses import replace

import pytest

from memfirst.cli.bench_page import page
from memfirst.convert.synthetic import synthetic
from memfirst.graph.traffic import HEAD
from memfirst.measure.bench import bench
from memfirst.progress import Silent
from tests.runtime.test_python import SHAPE
from tests.support.tiny_models import SMALL, Uniform


class Heard(Silent):
    def __init__(self) -> None:
        self.updates: list[tuple[str, int, int]] = []

    def update(self, what: str, done: int, total: int, unit: str = "B") -> None:
        self.updates.append((what, done, total))


def test_each_stage_is_shown_from_its_beginning_to_its_end() -> None:
    """A stage of a large model takes seconds: it is on the screen before they pass."""
    heard = Heard()
    bench(synthetic(SHAPE, "q4_0"), prompt=40, generate=8, threads=2, progress=heard)
    stages = list(dict.fromkeys(what for what, _, _ in heard.updates if what not in ("reading weights", "kernels")))
    assert stages[-6:] == ["warm-up", "read bandwidth", "prefill", "decode", "operations", "read bandwidth again"]
    for stage in stages[-6:]:
        mine = [(done, total) for what, done, total in heard.updates if what == stage]
        assert mine[0][0] == 0 and mine[-1][0] == mine[-1][1] and mine == sorted(mine), stage


@pytest.mark.parametrize("vocab", [1003, 4096])
def test_rows_by_a_sketch_of_the_head_stand_beside_what_was_expected(vocab: int) -> None:
    """With the rows that were recorded, the head's bytes are those that kernels counted."""
    checkpoint = Uniform(replace(SMALL, vocab_size=vocab), "q8_0")
    found = bench(checkpoint, prompt=20, generate=40, threads=2, head="auto")
    head = found.head
    assert head is not None and head.steps == 40 and head.tiles == -(-vocab // 16)
    assert 0 < head.sketched <= 40 and head.sketched <= head.listed <= head.tiles * head.sketched
    assert head.predicted == head.counted > 0
    predicted, recorded = (ledger.by_purpose()[HEAD] for ledger in (found.predicted, found.recorded))
    assert predicted.exact and predicted == recorded
    read = sum(row.bytes for row in found.ops if row.op.startswith("output"))
    assert read == pytest.approx(head.counted / head.steps, abs=2)
    others = found.predicted.bytes_per_token - predicted.low
    assert found.streamed == pytest.approx(others + head.counted / head.steps)
    said = found.report()["head_sketch"]
    assert said["share"] == head.share and said["expected"] == head.expected
    assert f"by its sketch in {head.sketched} of 40 steps" in page(found, 0)


def test_a_head_in_full_says_nothing_of_a_sketch() -> None:
    found = bench(Uniform(SMALL, "q8_0"), prompt=20, generate=4, threads=2)
    assert found.head is None and found.report()["head_sketch"] is None
    assert found.streamed == found.predicted.bytes_per_token
