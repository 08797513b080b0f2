"""Programs for 2, 3, 5 and 6 tokens: the bits of single steps, and larger ones while their kernels are compiled."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from memfirst.backends.cpu.backend import CpuBackend
from memfirst.errors import BackendError
from memfirst.graph.traffic import ACTIVATIONS
from memfirst.kernels.cpu import compiling
from memfirst.kernels.cpu.background import Background
from memfirst.kernels.cpu.library import Library
from memfirst.kernels.cpu.sources import Key
from memfirst.ledger import Ledger
from memfirst.lower.cpu import BETWEEN, CAPACITIES
from tests.support.tiny_models import batch, fill_cache, options, tiny

KEY: Key = ("walk.read_cycles", ())
OTHER: Key = ("walk.serve", ())
SIZES = sorted({*CAPACITIES, *BETWEEN})


@pytest.fixture
def made() -> Iterator[list[CpuBackend]]:
    """Backends to close when the test ends."""
    backends: list[CpuBackend] = []
    yield backends
    for backend in backends:
        backend.close()


def drafting(made: list[CpuBackend], codec: str, threads: int = 1) -> CpuBackend:
    made.append(CpuBackend(*tiny("llama", codec), replace(options(threads), drafts=True)))
    fill_cache(made[-1])
    return made[-1]


def streamed(ledger: Ledger) -> Counter[tuple[str, str]]:
    out: Counter[tuple[str, str]] = Counter()
    for entry in ledger.entries:
        if entry.purpose != ACTIVATIONS:
            out[entry.op, entry.purpose] += int(entry.amount)
    return out


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("codec", ["q4_0", "q4_k_m", "f16"])
def test_tokens_of_one_step_have_the_bits_of_single_steps(made: list[CpuBackend], codec: str, threads: int) -> None:
    """Across a block, a group of 16 positions and a split of 512; bytes are those predicted, and no more."""
    backend = drafting(made, codec, threads)
    backend.finish_compiling()
    for past in (13, 61, 508):
        tokens = [(97 * i + past) % 256 for i in range(8)]
        singly = [backend.step(batch((past + i, 1)), [id]).logits.copy() for i, id in enumerate(tokens)]
        for n in range(2, 9):
            step = batch((past, n), logits=tuple(range(n)))
            result = backend.step(step, tokens[:n])
            assert backend.program(n).program.capacity == next(c for c in SIZES if c >= n)
            assert result.logits.tobytes() == np.concatenate(singly[:n]).tobytes(), (past, n)
            assert streamed(backend.recorded(step, result)) == streamed(backend.predicted(step))


def test_no_step_waits_for_a_small_program(made: list[CpuBackend], monkeypatch: pytest.MonkeyPatch) -> None:
    """The next larger one serves with the same bits; as soon as its kernels are there, the step's own does."""
    there: set[int] = set()
    asked: list[int] = []
    backend = drafting(made, "q4_0")

    def ready(self: Background, keys: object) -> bool:
        asked.append(len(asked))
        return bool(there)

    step, tokens = batch((40, 2), logits=(0, 1)), [5, 6]
    with monkeypatch.context() as patch:
        patch.setattr(Background, "ready", ready)
        large = backend.step(step, tokens).logits.copy()
        assert backend.program(2).program.capacity == CAPACITIES[-1]
        before = len(asked)
        backend.step(step, tokens)
        assert len(asked) == before, "nothing was compiled meanwhile: no file is looked at"
        there.add(2)
        backend._background.made += 1
        assert backend.program(2).program.capacity == 2
    backend.finish_compiling()
    assert backend.step(step, tokens).logits.tobytes() == large.tobytes()
    assert backend.program(1).program.capacity == 1


def test_kernels_are_compiled_meanwhile(tmp_path: Path) -> None:
    library = Library(tmp_path)
    meanwhile = Background(library)
    assert not meanwhile.ready([KEY, OTHER])
    assert not meanwhile.ready([KEY]), "asked for twice, compiled once"
    meanwhile.wait()
    assert meanwhile.made == 2 and meanwhile.ready([KEY, OTHER])
    assert library.load([KEY])[KEY].address and not library.compiled
    meanwhile.close()


def test_the_compiler_yields_and_ends_with_its_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = tmp_path / "said"
    slow = (
        "import pathlib, time; from memfirst.kernels.cpu import compiling\n"
        f"compiling.compile_one = lambda key: (pathlib.Path({str(said)!r}).touch(), time.sleep(60))\n"
        "compiling.main()"
    )
    monkeypatch.setattr(compiling, "_CHILD", [sys.executable, "-c", slow])
    meanwhile = Background(Library(tmp_path))
    assert not meanwhile.ready([KEY])
    end = time.monotonic() + 20
    while not said.exists() and time.monotonic() < end:
        time.sleep(0.02)
    child = meanwhile._child
    assert said.exists() and child.poll() is None
    assert os.getpgid(child.pid) != os.getpgid(0), "a terminal's Ctrl-C reached it"
    assert os.getsid(child.pid) == os.getsid(0), "another session gets a share of its own, whatever its priority"
    assert os.getpriority(os.PRIO_PROCESS, child.pid) == 19
    if sys.platform == "linux":
        assert os.sched_getscheduler(child.pid) == os.SCHED_IDLE
    meanwhile.close()
    assert meanwhile._thread is None and child.poll() is not None


def test_what_does_not_compile_is_served_by_larger_programs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    meanwhile = Background(Library(tmp_path))
    broken: Key = ("walk.no_such_kernel", ())
    assert not meanwhile.ready([broken])
    with pytest.raises(BackendError, match="no_such_kernel"):
        meanwhile.wait()
    assert not meanwhile.ready([broken])
    assert "no_such_kernel" in capfd.readouterr().err
