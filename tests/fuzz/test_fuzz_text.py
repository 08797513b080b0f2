"""A few hundred cases of tests/fuzz/fuzz_text.py; `python -m tests.fuzz.fuzz_text --cases 5000` runs many."""

from __future__ import annotations

from tests.fuzz.fuzz_text import fuzz


def test_mutated_templates_and_tokenizers_load_or_are_refused() -> None:
    ended = fuzz(600, seed=1)
    assert sum(ended.values()) == 600
    assert ended["template, used"] > 5
    assert ended["tokenizer.json, used"] > 5
