"""`bench --text`: drafted tokens measured on a text of the user's."""

from __future__ import annotations

from pathlib import Path

import pytest

from memfirst.errors import ConfigError
from memfirst.measure.drafts import measure

TEXT = "\n".join(
    f"def field_{name}(row):\n    return float(row['{name}'])\n" for name in ["amount", "price", "weight", "tax"] * 4
)


def test_a_text_that_repeats_itself_takes_fewer_bytes(smollm2: Path) -> None:
    found = measure(smollm2, TEXT, threads=1, generate=60, ctx=512)
    assert found.answer == 60 and found.prompt > 60
    assert found.kept > 20 and found.steps + found.kept == found.answer - 1
    assert found.fast_bytes < 0.8 * found.plain_bytes
    assert f"{found.kept} of {found.drafted} drafts kept" in found.page()
    assert found.report()["ratio"] == found.ratio > 0
    with pytest.raises(ConfigError, match="a text of 2 tokens"):
        measure(smollm2, "Too short", ctx=512)
