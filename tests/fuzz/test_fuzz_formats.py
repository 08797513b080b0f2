"""A few hundred fuzzed files in every run, and proof that the fuzzer sees what it should see."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from memfirst.convert.mixes import MIXES
from memfirst.convert.synthetic_shapes import ARCHITECTURES
from memfirst.formats.checkpoint import Checkpoint
from memfirst.formats.open import open_checkpoint
from tests.fuzz import runner
from tests.fuzz.fuzz_changes import config_of, gguf_file, mutate, safetensors_file
from tests.fuzz.fuzz_formats import run_cases, survivor
from tests.fuzz.runner import Survivor, Tally

SEED = 20


@pytest.fixture(scope="module")
def tallies() -> dict[str, Tally]:
    return {kind: run_cases(kind, range(count), SEED) for kind, count in (("gguf", 420), ("safetensors", 240))}


@pytest.mark.parametrize("kind", ["gguf", "safetensors"])
def test_broken_files_open_or_are_refused(kind: str, tallies: dict[str, Tally]) -> None:
    tally = tallies[kind]
    assert not tally.failures, "\n".join(tally.failures)
    # Both ends must be reached: a fuzzer that is always refused, or never, tests nothing.
    total = tally.opened + tally.refused
    assert total == {"gguf": 420, "safetensors": 240}[kind]
    assert 0.05 * total < tally.opened < 0.6 * total


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_unbroken_file_opens(architecture: str, mix: str, tmp_path: os.PathLike[str]) -> None:
    path = os.path.join(tmp_path, "m.gguf")
    with open(path, "wb") as file:
        file.write(gguf_file(architecture, mix).data)
    survivor(open_checkpoint(path))


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_unbroken_folder_opens(architecture: str, dtype: str, tmp_path: os.PathLike[str]) -> None:
    with open(os.path.join(tmp_path, "model.safetensors"), "wb") as file:
        file.write(safetensors_file(architecture, dtype).data)
    with open(os.path.join(tmp_path, "config.json"), "wb") as file:
        file.write(config_of(architecture))
    survivor(open_checkpoint(tmp_path))


def test_a_case_is_the_same_each_time_and_unlike_the_next() -> None:
    whole = gguf_file("llama", "q4_0")
    made = [mutate(whole, random.Random(f"{SEED} {i}")) for i in (1, 1, 2)]
    assert made[0] == made[1] != made[2]
    assert made[0] != whole.data


def raising(checkpoint: Checkpoint) -> None:
    raise ZeroDivisionError("a bug")


def dying(checkpoint: Checkpoint) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hanging(checkpoint: Checkpoint) -> None:
    while True:
        pass


def stuck(checkpoint: Checkpoint) -> None:
    """As native code that does not return: no alarm is heard."""
    time.sleep(60)


def hoarding(checkpoint: Checkpoint) -> None:
    bytearray(2 * runner.MEMORY)


@pytest.mark.parametrize(
    ("bug", "message", "cases"),
    [
        (raising, "ZeroDivisionError", 30),
        (dying, "killed its process", 30),
        (hanging, "TooSlow", 30),
        (stuck, "held its process for too long", 12),
        (hoarding, "MemoryError", 30),
    ],
)
def test_a_bug_after_opening_is_seen(bug: Survivor, message: str, cases: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "LIMIT_S", 0.2)
    if bug is stuck:
        monkeypatch.setattr(runner, "STUCK_S", 0.5)
    tally = run_cases("gguf", range(cases), SEED, bug)
    assert tally.failures
    assert all(message in failure and "gguf case" in failure for failure in tally.failures)
    assert tally.opened == 0


def test_the_program_runs() -> None:
    command = [sys.executable, "-m", "tests.fuzz.fuzz_formats", "--gguf", "5", "--safetensors", "5", "--seed", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "0 failed" in done.stdout
