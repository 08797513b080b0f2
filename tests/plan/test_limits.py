"""What a machine or a step cannot hold is refused before memory is touched, and before a kernel sees it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import memfirst
from memfirst.backends.cpu.backend import CpuBackend, CpuOptions
from memfirst.codecs.base import U8
from memfirst.convert.synthetic import SyntheticCheckpoint
from memfirst.errors import CapacityError, ConfigError, MemfirstError, UnsupportedError
from memfirst.graph import Sequence, Step
from memfirst.hardware import host
from memfirst.lower.cpu import lower
from tests.support.tiny_models import tiny


class Unread(SyntheticCheckpoint):
    """Fails the test if its bytes are asked for."""

    def read(self, name: str) -> U8:
        raise AssertionError(f"{name} was read")


def unread(context: int = 2048) -> SyntheticCheckpoint:
    checkpoint = tiny("llama", "q4_0", max_position_embeddings=context)[1]
    checkpoint.__class__ = Unread
    return checkpoint


def nested_group(root: Path, limit: int, used: int) -> Path:
    """A /proc/self whose process is in a control group two levels down."""
    group = root / "cg" / "outer" / "inner"
    group.mkdir(parents=True)
    (group / "memory.max").write_text(f"{limit}\n")
    (group / "memory.current").write_text(f"{used}\n")
    (root / "cgroup").write_text("0::/outer/inner\n")
    (root / "mountinfo").write_text(f"31 23 0:28 / {root / 'cg'} rw - cgroup2 cgroup2 rw\n")
    return root


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_what_a_control_group_cannot_hold_is_not_read(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "_PROC", nested_group(tmp_path, 300_000_000, 190_000_000))
    with pytest.raises(CapacityError, match=r"0\.1 GB are needed .* at most the 0\.1 GB that are free"):
        memfirst.load(unread(), backend=backend)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_what_memory_cannot_hold_is_not_read(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "available_memory", lambda: 100_000_000)
    with pytest.raises(CapacityError, match="are needed"):
        memfirst.load(unread(), backend=backend)


@pytest.mark.parametrize(
    ("options", "word"),
    [({"ctx": 2049}, "2048"), ({"ctx": -1}, "2048"), ({"threads": -1}, "threads"), ({"threads": 1 << 20}, "threads")],
)
def test_numbers_that_make_no_sense(options: dict[str, int], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        memfirst.load(unread(), **options)  # type: ignore[arg-type]


def test_a_group_of_too_many_heads_is_not_compiled() -> None:
    graph = tiny("llama", "q4_0", num_attention_heads=64, num_key_value_heads=1)[0]
    with pytest.raises(UnsupportedError, match="64 query heads over 1"):
        lower(graph, 1, 64, 1)


@pytest.fixture(scope="module")
def backend() -> Iterator[CpuBackend]:
    made = CpuBackend(*tiny("llama", "q4_0"), CpuOptions(1, 128))
    yield made
    made.close()


ONE, TWO = Sequence(0, 1, tables=((0,),)), Sequence(0, 2, tables=((0,),))


@pytest.mark.parametrize(
    ("sequence", "tokens", "message"),
    [
        (ONE, [260], "260 to 260"),
        (ONE, [-1], "-1 to -1"),
        (TWO, [0, 1 << 40], "0 to 1099511627776"),
        (TWO, [3], "1 tokens"),
        (TWO, [1, 2, 3], "3 tokens"),
        (replace(ONE, past=-1), [1], "-1 past"),
        (replace(ONE, new=0), [], "0 new"),
        (replace(ONE, past=128, tables=((0, 1),)), [1], "position 129"),
        (replace(ONE, past=64), [1], "position 65"),
        (replace(ONE, tables=((2,),)), [1], "blocks 2 to 2"),
        (replace(ONE, tables=((-1,),)), [1], "blocks -1"),
        (replace(ONE, tables=((0, 1, 0),)), [1], "3 blocks"),
        (replace(ONE, positions=(128,)), [1], "positions (128,)"),
        (replace(TWO, positions=(0, -1)), [1, 1], "positions (0, -1)"),
        (replace(TWO, positions=(0,)), [1, 1], "positions (0,)"),
        (replace(TWO, logits=(2,)), [1, 1], "logits of 1 tokens: (2,)"),
        (replace(TWO, logits=(-1,)), [1, 1], "logits"),
        (replace(TWO, logits=(0, 0, 0)), [1, 1], "logits of 3 tokens"),
        (replace(TWO, parents=(-1, -1)), [1, 1], "a tree of tokens"),
    ],
    ids=lambda v: str(v) if isinstance(v, str) else "",
)
def test_steps_that_would_read_out_of_bounds(
    backend: CpuBackend, sequence: Sequence, tokens: list[int], message: str
) -> None:
    with pytest.raises(MemfirstError, match=re.escape(message)):
        backend.step(Step((sequence,)), tokens)
    logits = backend.step(Step((ONE,)), [5]).logits  # and the next step is as good as ever
    assert np.isfinite(logits).all()
