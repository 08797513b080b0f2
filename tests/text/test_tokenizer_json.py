"""tokenizer.json and the small files beside it: the same ids, and only what is known and bounded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from memfirst.errors import MemfirstError, TokenizerError
from memfirst.text import Tokenizer
from memfirst.text.build import parts_of
from memfirst.text.pretokenizers import LLAMA3, TABLE, splitting
from memfirst.text.vocabulary import from_metadata
from tests.support.hard_strings import hard_strings
from tests.support.make_tokenizer_fixture import DATA, digest, metadata

FIXTURE: dict[str, Any] = json.loads((DATA / "tokenizer_ids.json").read_text())
STRINGS = hard_strings(FIXTURE["count"], FIXTURE["seed"])


def json_spec(pre: str) -> dict[str, Any]:
    """The BPE vocabulary as a tokenizer.json."""
    fields = {key.removeprefix("tokenizer.ggml."): value for key, value in metadata("bpe", pre).items()}
    added = [
        {"id": id, "content": token, "special": True, "normalized": False, "lstrip": False, "rstrip": False}
        for id, token in enumerate(fields["tokens"][:6])
    ]
    model = {"type": "BPE", "vocab": {token: id for id, token in enumerate(fields["tokens"])}}
    whole = TABLE[pre].whole_words
    model |= {"merges": [merge.split(" ") for merge in fields["merges"]], "ignore_merges": whole}
    return {
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": splitting(TABLE[pre].patterns),
        "model": model,
    }


def write_folder(folder: Path, spec: dict[str, Any], **files: Any) -> Path:
    """A model folder with a tokenizer.json and the files named."""
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder / "tokenizer.json"


@pytest.mark.parametrize("pre", ["llama-bpe", "qwen2", "smollm", "deepseek-v3"])
def test_tokenizer_json_gives_the_same_ids(pre: str, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(write_folder(tmp_path, json_spec(pre)))
    assert digest([tokenizer.encode(string) for string in STRINGS]) == FIXTURE["ids"][pre]["sha256"]


def sentence_piece_spec() -> dict[str, Any]:
    """The SentencePiece vocabulary as the tokenizer.json that converters write for Llama 2."""
    parts = parts_of(from_metadata(metadata("spm")))
    added = [{"id": token.id, "content": token.text, "special": token.control} for token in parts.added]
    model = {
        "type": "BPE",
        "vocab": parts.ids,
        "merges": parts.merges.every(),
        "byte_fallback": True,
        "unk_token": "<unk>",
    }
    return {"added_tokens": added, "normalizer": parts.normalizer, "pre_tokenizer": None, "model": model}


def test_tokenizer_json_of_a_sentence_piece_model(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(write_folder(tmp_path, sentence_piece_spec()))
    ids = [tokenizer.encode(string) for string in STRINGS]
    assert digest(ids) == FIXTURE["ids"]["spm"]["sha256"]
    assert [tokenizer.decode(part) for part in ids] == STRINGS


def test_a_template_of_its_own_file_and_one_of_several(tmp_path: Path) -> None:
    several = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    path = write_folder(tmp_path, json_spec("qwen2"), tokenizer_config={"chat_template": several})
    assert Tokenizer.from_file(path).rules.chat_template == "plain"
    (tmp_path / "chat_template.jinja").write_text("file")
    assert Tokenizer.from_file(path).rules.chat_template == "file"
    (tmp_path / "chat_template.jinja").write_text("x" * 1_000_000)
    with pytest.raises(TokenizerError, match="template"):
        Tokenizer.from_file(path)


@pytest.mark.parametrize("config", [{"eos_token": "<nope>"}, {"bos_token": 7}, {"chat_template": 7}])
def test_a_folder_that_contradicts_its_vocabulary(config: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(TokenizerError):
        Tokenizer.from_file(write_folder(tmp_path, json_spec("qwen2"), tokenizer_config=config))


def test_the_folder_says_bos_eos_and_template(tmp_path: Path) -> None:
    spec = json_spec("llama-bpe")
    spec["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}],
    }
    config = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "chat_template": "{{ messages }}"}
    path = write_folder(tmp_path, spec, tokenizer_config=config, generation_config={"eos_token_id": [2, 3]})
    tokenizer = Tokenizer.from_file(path)
    assert tokenizer.encode("hi")[0] == 1
    assert tokenizer.stop_ids == {2, 3, 4, 5}
    assert tokenizer.rules.chat_template == "{{ messages }}"


def test_merges_of_tokens_with_spaces_and_line_breaks(tmp_path: Path) -> None:
    """As pairs they may hold any character; nothing spells it."""
    vocab = {token: id for id, token in enumerate(["a", " ", "\n", "a ", "\n\n", "a \n\n"])}
    merges = [["a", " "], ["\n", "\n"], ["a ", "\n\n"]]
    model = {"type": "BPE", "vocab": vocab, "merges": merges}
    tokenizer = Tokenizer.from_file(write_folder(tmp_path, {"model": model}))
    assert tokenizer.encode("a \n\na\n") == [5, 0, 2]
    model["merges"] = [["a", "\n"]]
    with pytest.raises(TokenizerError, match="a merge of"):
        Tokenizer.from_file(write_folder(tmp_path, {"model": model}))


def test_padding_and_unknown_tokens_that_do_not_exist_are_ignored(tmp_path: Path) -> None:
    config = {"eos_token": "</s>", "pad_token": "[PAD]", "unk_token": {"content": "<none>"}}
    tokenizer = Tokenizer.from_file(write_folder(tmp_path, json_spec("qwen2"), tokenizer_config=config))
    assert tokenizer.special_ids == {"eos": 2}
    assert [note.split()[0] for note in tokenizer.rules.notes] == ["unk_token", "pad_token"]


@pytest.mark.parametrize("kept", [0, 3])
def test_end_markers_of_a_json_are_control_tokens_whatever_it_says(kept: int, tmp_path: Path) -> None:
    """Not special, or not among the added tokens."""
    spec = json_spec("qwen2")
    for token in spec["added_tokens"][3:]:
        token["special"] = False
    spec["added_tokens"] = spec["added_tokens"][: 3 + kept]
    tokenizer = Tokenizer.from_file(write_folder(tmp_path, spec))
    assert {3, 4, 5} <= tokenizer.controls.keys()
    assert tokenizer.stop_ids >= {4, 5}
    assert {3, 4, 5}.isdisjoint(tokenizer.encode("<|im_start|>a<|im_end|>"))
    assert tokenizer.encode("<|im_start|>", special=True) == [3]


WRONG_JSON: dict[str, Any] = {
    "another model": ("model", {"type": "Unigram", "vocab": []}),
    "a regular expression of its own": (
        "pre_tokenizer",
        {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False},
    ),
    "a long literal": (
        "pre_tokenizer",
        {"type": "Split", "pattern": {"String": "a" * 100}, "behavior": "Isolated"},
    ),
    "a normalizer with data": ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
    "a huge id": ("added_tokens", [{"id": 1 << 40, "content": "<x>", "special": True}]),
    "another token's id": ("added_tokens", [{"id": 2999, "content": "<x>", "special": True}]),
    "two ids": ("added_tokens", [{"id": 9999, "content": "<s>", "special": True}]),
    "a bad behaviour": (
        "pre_tokenizer",
        {"type": "Split", "pattern": {"Regex": LLAMA3}, "behavior": "Explode"},
    ),
}


@pytest.mark.parametrize("how", WRONG_JSON)
def test_what_a_tokenizer_json_may_not_ask_for(how: str, tmp_path: Path) -> None:
    key, value = WRONG_JSON[how]
    with pytest.raises(MemfirstError):
        Tokenizer.from_file(write_folder(tmp_path, {**json_spec("llama-bpe"), key: value}))


@pytest.mark.parametrize("text", ["", "[]", "{", "\x00", "[" * 100_000, '{"model": {"vocab": {"a": 1e999}}}'])
def test_a_tokenizer_json_that_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(TokenizerError):
        Tokenizer.from_file(tmp_path / "tokenizer.json")
