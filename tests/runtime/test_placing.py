"""A limit on memory: what does not fit stays on disk, and answers are the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import memfirst
from memfirst import Model
from memfirst.convert.synthetic import synthetic, write
from memfirst.convert.synthetic_shapes import SyntheticShape
from memfirst.errors import CapacityError, ConfigError
from memfirst.graph import DISK
from memfirst.hardware import host
from memfirst.runtime.placing import SPARE

SHAPE = SyntheticShape("llama", 512, 12, 8, 2, 2048, 4096, max_position_embeddings=512)
"""42 million weights."""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "model.gguf"
    write(synthetic(SHAPE, "q8_0"), path)
    return path


def load(file: Path, **options: Any) -> Model:
    return memfirst.load(file, threads=2, ctx=256, progress=False, **options)


def least(file: Path) -> int:
    """Bytes of memory that the error names, which are enough."""
    with pytest.raises(CapacityError, match="GB or more") as refused:
        load(file, memory=1_000_000)
    return int(1e9 * (float(str(refused.value).split("expected ")[1].split(" GB")[0]) + 0.005))


def test_an_answer_is_the_same(file: Path) -> None:
    with load(file, speculate="off") as model:
        expected = model.generate("Once upon", max_tokens=8, temperature=0.0)
        text, plain = str(expected), expected.report()
    assert plain["disk"] is None
    with load(file, memory=least(file), speculate="off") as model:
        tiers = {w.tier for w in model.graph.weights().values()}
        found = model.generate("Once upon", max_tokens=8, temperature=0.0)
        assert str(found) == text
        report = found.report()
        assert DISK in tiers
        for token in [*model.generate("Once upon", max_tokens=3, temperature=0.0)]:
            predicted, recorded = token.predicted.by_purpose(), token.recorded.by_purpose()
            assert int(predicted["disk"]) == int(recorded["disk"]) > 1_000_000
            assert int(predicted["weights"]) == int(recorded["weights"])
    disk = report["disk"]
    assert disk["bytes_per_step"] == report["recorded_bytes"]["disk"]
    assert disk["read_bandwidth_GBps"] > 0
    assert disk["experts_in_memory"] is None
    assert "measured disk read bandwidth" in found.line()
    assert report["packed_weight_bytes"] < 42e6


def test_more_memory_reads_less(file: Path) -> None:
    least_memory = least(file)
    read = []
    for memory in (least_memory, least_memory + 15_000_000, "auto"):
        with load(file, memory=memory) as model:
            read.append(int(model.price().from_disk))
    assert read[0] > read[1] > read[2] == 0


def test_a_refusal_says_what_reading_from_disk_would_give(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes are those of the model that the option loads; their speed is what a plan would say."""
    free = int((least(file) + 2_000_000) / (1 - SPARE))
    monkeypatch.setattr(host, "available_memory", lambda: free)
    monkeypatch.setattr("memfirst.hardware.disk.file_rate", lambda path: 1e9)
    with pytest.raises(CapacityError, match="are needed") as refused:
        load(file)
    found = re.search(
        r"--memory auto: ([\d.]+) GB a token are read from disk then, at 1.0 GB/s as measured: about ([\d.]+) tok",
        refused.value.at_a_prompt(),
    )
    assert found, refused.value.at_a_prompt()
    with load(file, memory="auto") as model:
        read = int(model.price().from_disk) / 1e9
    assert float(found[1]) == pytest.approx(read, rel=0.05)
    assert 0 < float(found[2]) <= 1 / read * 1.05


def test_a_refusal_offers_no_disk_where_that_does_not_do(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "available_memory", lambda: 50_000_000)
    for options in ({}, {"backend": "reference"}, {"memory": least(file)}):
        with pytest.raises(CapacityError, match="are needed") as refused:
            load(file, **options)
        assert "disk" not in str(refused.value)


@pytest.mark.parametrize("memory", [0, -1, True, 1.5, "4G", "most"])
def test_what_is_no_number_of_bytes_is_refused(file: Path, memory: Any) -> None:
    with pytest.raises(ConfigError, match="memory is"):
        load(file, memory=memory)


def test_the_reference_has_all_in_memory(file: Path) -> None:
    with pytest.raises(ConfigError, match="reference"):
        load(file, memory="auto", backend="reference")
