"""A few hundred changed models in every run; `make fuzz-models` runs 20,000."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from memfirst import models
from memfirst.backends.cpu.backend import CpuBackend
from memfirst.errors import UnsupportedError
from memfirst.formats.checkpoint import Checkpoint
from memfirst.formats.open import open_checkpoint
from memfirst.ledger import Ledger
from tests.fuzz.fuzz_models import SCANS, cases, load_kernels, parts, run_cases, run_steps, write_case
from tests.support.tiny_files import FILES, architecture

SEED = 20
MIX = dict.fromkeys(SCANS, "f32")


@pytest.mark.parametrize("name", [*SCANS, *(name for name in FILES if name != "EXAONE-4.0-32B")])
def test_the_unbroken_model_runs(name: str, tmp_path: Path) -> None:
    """Otherwise nothing is tested of it."""
    mix = MIX.get(name, "q4_0")
    path = tmp_path / "m.gguf"
    path.write_bytes(parts(name, mix).encoded())
    checkpoint = open_checkpoint(path)
    load_kernels([(name, mix)])
    try:
        run_steps(False, True, checkpoint)
    except UnsupportedError:  # on the CPU: by then it has run on the reference
        assert name in SCANS


def test_all_architectures_are_there() -> None:
    scans = {parts(name, "f32").prefix.removesuffix(".") for name in SCANS}
    assert {architecture(name) for name in FILES} | scans == set(models.ARCHITECTURES)


@pytest.mark.parametrize("first", [("Llama-3.2-1B", "f32"), ("Llama-3.2-1B", "q4_k_s"), ("Mixtral-8x7B", "mxfp4")])
def test_changed_models_run_or_are_refused(first: tuple[str, str]) -> None:
    """Floats and small blocks; K-quants; MXFP4 and scans."""
    start = cases().index(first)
    tally = run_cases(range(start, start + 100), SEED)
    assert not tally.failures, "\n".join(tally.failures)
    assert tally.opened + tally.refused == 100
    assert 10 < tally.opened < 60  # both ends are reached


def test_a_case_is_the_same_each_time_and_unlike_the_next(tmp_path: Path) -> None:
    found = []
    for i, case in enumerate((7, 7, 8)):
        folder = tmp_path / str(i)
        folder.mkdir()
        found.append(write_case(case, SEED, folder).read_bytes())
    assert found[0] == found[1] != found[2]


def dying(checkpoint: Checkpoint) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def test_a_crash_names_its_case() -> None:
    tally = run_cases(range(6), SEED, after=dying)
    assert tally.failures
    assert all("killed its process (-11)" in failure for failure in tally.failures)


def test_bytes_that_are_not_counted_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger is held against the kernels' own counts at each step."""
    recorded = CpuBackend.recorded
    monkeypatch.setattr(CpuBackend, "recorded", lambda *args: _doubled(recorded(*args)))
    path = tmp_path / "m.gguf"
    path.write_bytes(parts("RWKV-7", "q4_0").encoded())
    load_kernels([("RWKV-7", "q4_0")])
    with pytest.raises(AssertionError, match="recorded"):
        run_steps(False, False, open_checkpoint(path))


def _doubled(ledger: Ledger) -> Ledger:
    return Ledger((*ledger.entries, *ledger.entries), ledger.tokens)
