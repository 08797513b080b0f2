"""Steps as the first process tells them to the others."""

from __future__ import annotations

import numpy as np
import pytest

from memfirst.distributed import mpi, words
from memfirst.errors import ConfigError, UnsupportedError
from memfirst.graph import Sequence, Step

STEPS = [
    Step((Sequence(0),)),
    Step((Sequence(5, 3, ((1, 2), ()), None, None, (0, 2), 3, 4), Sequence(0, 1, ((), (7,)), (9,), (-1,), ()))),
    Step(()),
]


@pytest.mark.parametrize("step", STEPS)
def test_a_step_comes_back(step: Step) -> None:
    tokens = np.arange(3, 3 + step.tokens, dtype=np.int32)
    message = words.of_step(step, tokens)
    assert message.dtype == np.int64 and message[0] == words.STEP
    again, ids = words.to_step(message)
    assert again == step and ids.tolist() == tokens.tolist() and ids.dtype == np.int32
    assert words.to_step(words.of_step(step, tokens.tolist()))[0] == step


def test_other_messages_are_their_numbers() -> None:
    assert words.of(words.COPY, 1, 2, 3).tolist() == [words.COPY, 1, 2, 3]


def test_a_rank_is_what_the_launcher_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*mpi.LAUNCHED, *mpi.LOCAL):
        monkeypatch.delenv(name, raising=False)
    assert mpi.rank_of_environment() is None and mpi.processes_here() == 1
    monkeypatch.setenv("PMI_RANK", "1")
    monkeypatch.setenv("MPI_LOCALNRANKS", "2")
    assert mpi.rank_of_environment() == 1 and mpi.processes_here() == 2


def test_without_mpi_or_alone_it_says_what_to_do() -> None:
    with pytest.raises((UnsupportedError, ConfigError), match=r"memfirst\[scale\]|start it by mpiexec"):
        mpi.Group()
