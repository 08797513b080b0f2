"""What `bench` says while it measures."""

from __future__ import annotations

from memfirst.convert.synthetic import synthetic
from memfirst.measure.bench import bench
from memfirst.progress import Silent
from tests.runtime.test_python import SHAPE


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
