"""Vocabularies of 152,000 to 262,144 tokens open at once, and partial models give the ids of the whole one."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from memfirst.text import Tokenizer, build
from tests.support.hard_strings import hard_strings
from tests.support.large_vocabularies import byte_level_vocabulary, sentence_piece_vocabulary
from tests.support.make_tokenizer_fixture import DATA, digest, metadata

FIXTURE: dict[str, Any] = json.loads((DATA / "tokenizer_ids.json").read_text())
OPENED = 15
"""As long as so many dicts of the encoded tokens take to make: 3 to 10 beside one another, the whole model 17 to 30."""

LARGE: dict[str, Callable[[], dict[str, Any]]] = {
    "byte-level, 152,000": lambda: byte_level_vocabulary(152_000),
    "byte-level, 200,000": lambda: byte_level_vocabulary(200_000, "gpt-4o"),
    "SentencePiece, 262,144": lambda: sentence_piece_vocabulary(262_144),
}


@pytest.mark.parametrize("name", LARGE)
def test_large_vocabularies_open_at_once_and_encode_as_the_whole_model(name: str) -> None:
    fields = LARGE[name]()
    took, dicts = [], []
    for _ in range(3):
        start = time.thread_time()
        tokenizer = Tokenizer.from_gguf(fields)
        tokenizer.encode("A first prompt.")
        took.append(time.thread_time() - start)
        start = time.thread_time()
        assert {token.encode(): id for id, token in enumerate(fields["tokenizer.ggml.tokens"])}
        dicts.append(time.thread_time() - start)
    assert min(took) < OPENED * min(dicts)
    strings = hard_strings(60, seed=8)
    partial = [tokenizer.encode(string) for string in strings]
    assert tokenizer._encoder._whole is None
    tokenizer.encode("x" * build.PARTIAL_CHARS)
    assert tokenizer._encoder._whole is not None
    assert [tokenizer.encode(string) for string in strings] == partial
    assert [tokenizer.decode(ids) for ids in partial] == [string.replace("▁", " ") for string in strings]


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("name", ["spm", "spm without prefix", "smollm", "llama-bpe", "gpt-4o", "deepseek-llm"])
def test_partial_and_whole_models_give_the_oracles_ids(name: str, whole: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "PARTIAL_CHARS", -1 if whole else 1 << 40)
    fields = metadata("spm") if name.startswith("spm") else metadata("bpe", name)
    if name == "spm without prefix":
        fields["tokenizer.ggml.add_space_prefix"] = False
    tokenizer, expected = Tokenizer.from_gguf(fields), FIXTURE["ids"][name]
    strings = hard_strings(FIXTURE["count"], FIXTURE["seed"])
    assert digest([tokenizer.encode(string) for string in strings]) == expected["sha256"]
    if "special" in expected:
        assert digest([tokenizer.encode(string, special=True) for string in strings]) == expected["special"]
    assert (tokenizer._encoder._whole is not None) == whole


def test_user_defined_tokens_in_partial_models() -> None:
    """They are matched first, and the text on either side is normalized by itself."""
    fields = metadata("spm")
    types = [4 if token == "he" else kind for token, kind in zip(fields["tokenizer.ggml.tokens"],
             fields["tokenizer.ggml.token_type"], strict=True)]  # fmt: skip
    tokenizer = Tokenizer.from_gguf({**fields, "tokenizer.ggml.token_type": types})
    strings = ["the", "he", " he he", "whether or the other", "x he", "hehe the"]
    partial = [tokenizer.encode(string) for string in strings]
    tokenizer.encode("x" * build.PARTIAL_CHARS)
    assert [tokenizer.encode(string) for string in strings] == partial
    assert all(tokenizer.token_id("he") in ids for ids in partial)
