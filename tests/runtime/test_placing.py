"""A limit on memory: what does not fit stays on disk, and answers are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import memfirst
from memfirst import Model
from memfirst.convert.synthetic import synthetic, write
from memfirst.convert.synthetic_shapes import SyntheticShape
from memfirst.errors import CapacityError, ConfigError
from memfirst.graph import DISK

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


@pytest.mark.parametrize("memory", [0, -1, True, 1.5, "4G", "most"])
def test_what_is_no_number_of_bytes_is_refused(file: Path, memory: Any) -> None:
    with pytest.raises(ConfigError, match="memory is"):
        load(file, memory=memory)


def test_the_reference_has_all_in_memory(file: Path) -> None:
    with pytest.raises(ConfigError, match="reference"):
        load(file, memory="auto", backend="reference")
