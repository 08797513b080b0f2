"""Tokenizers against llama.cpp's ids, and what an untrusted vocabulary may and may not do."""

from __future__ import annotations

import json
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memfirst.errors import MemfirstError, TokenizerError, UnsupportedError
from memfirst.text import StreamDecoder, Tokenizer
from memfirst.text.bytes_of_tokens import byte_alphabet
from memfirst.text.pretokenizers import TABLE
from tests.support.hard_strings import SPECIALS, hard_strings
from tests.support.make_tokenizer_fixture import DATA, digest, llama_cpp_ids, metadata, write_gguf

FIXTURE: dict[str, Any] = json.loads((DATA / "tokenizer_ids.json").read_text())
STRINGS = hard_strings(FIXTURE["count"], FIXTURE["seed"])


def fields_of(name: str) -> dict[str, Any]:
    """The metadata of one entry of the fixture."""
    fields = metadata("spm") if name.startswith("spm") else metadata("bpe", name)
    bare = {"tokenizer.ggml.add_space_prefix": False} if name == "spm without prefix" else {}
    return {**fields, **bare}


@pytest.mark.parametrize("name", sorted(FIXTURE["ids"].keys() - {"smollm2:135m"}))
def test_ids_of_1000_hard_strings_are_the_oracles(name: str) -> None:
    tokenizer, expected = Tokenizer.from_gguf(fields_of(name)), FIXTURE["ids"][name]
    ids = [tokenizer.encode(string, bos=False) for string in STRINGS]
    shown = len(expected["shown"])
    assert ids[:shown] == expected["shown"]
    assert digest(ids) == expected["sha256"]
    if "special" in expected:
        assert digest([tokenizer.encode(string, True, bos=False) for string in STRINGS]) == expected["special"]


def test_the_fixture_has_every_pre_tokenizer_and_tells_them_apart() -> None:
    assert FIXTURE["ids"].keys() >= TABLE.keys()
    by_patterns = {(entry.patterns, entry.whole_words, entry.characters) for entry in TABLE.values()}
    digests = {FIXTURE["ids"][name]["sha256"] for name in TABLE}
    assert len(digests) == len(by_patterns) - 1  # qwen2 and bailingmoe differ in runs of line breaks only


@pytest.mark.parametrize("name", ["spm", "smollm", "qwen2", "deepseek-v3"])
def test_live_against_llama_cpp(name: str) -> None:
    pytest.importorskip("llama_cpp")
    strings = hard_strings(300, seed=77)
    with tempfile.TemporaryDirectory() as folder:
        write_gguf(Path(folder) / "vocab.gguf", fields_of(name))
        expected = llama_cpp_ids(Path(folder) / "vocab.gguf", strings)
    tokenizer = Tokenizer.from_gguf(fields_of(name))
    assert [tokenizer.encode(string) for string in strings] == expected


@pytest.mark.parametrize(
    "name", ["spm", "spm without prefix", "llama-bpe", "smollm", "qwen2", "gpt-4o", "bloom", "default"]
)
def test_decoding_gives_the_text_back(name: str) -> None:
    tokenizer = Tokenizer.from_gguf(fields_of(name))
    for string in [*STRINGS, *hard_strings(300, seed=3), "", " ", "  leading", "\x00", "🦙" * 50]:
        for special in (False, True):
            ids = tokenizer.encode(string, special=special)
            # With a space prefix a control token is followed by one of its own, as the model was trained.
            if not (special and name == "spm" and any(part in string for part in SPECIALS)):
                assert tokenizer.decode(ids, special=True) == string


@pytest.mark.parametrize("name", ["spm without prefix", "smollm", "qwen2"])
def test_streaming_gives_the_same_text_and_never_half_a_character(name: str) -> None:
    tokenizer = Tokenizer.from_gguf(fields_of(name))
    for string in STRINGS[::5]:
        stream = StreamDecoder(tokenizer, special=True)
        pushed = [stream.push(id) for id in tokenizer.encode(string)]
        assert "".join(pushed) == string
        assert "\ufffd" in string or not any("\ufffd" in part for part in pushed)
        assert stream.flush() == ""


def test_streaming_holds_an_incomplete_character_back_until_the_flush() -> None:
    tokenizer = Tokenizer.from_gguf(fields_of("smollm"))
    spelling = {byte: character for character, byte in byte_alphabet().items()}
    llama = [tokenizer.token_id(spelling[byte]) or 0 for byte in "🦙".encode()]
    stream = StreamDecoder(tokenizer)
    assert [stream.push(id) for id in llama] == ["", "", "", "🦙"]
    assert [stream.push(id) for id in llama[:2]] == ["", ""]
    assert stream.flush() == "\ufffd"
    assert stream.push(tokenizer.encode("a")[0]) == "a"
    assert tokenizer.decode(llama[:2]) == "\ufffd"


@pytest.mark.parametrize("name", ["spm", "smollm", "llama-bpe", "gpt-2"])
def test_text_never_becomes_a_control_token_unasked(name: str) -> None:
    tokenizer = Tokenizer.from_gguf(fields_of(name))
    for id, text in tokenizer.controls.items():
        assert tokenizer.encode(text, special=True)[-1] == id
        for string in (text, f"a{text}b", f" {text} ", text * 3):
            assert tokenizer.controls.keys().isdisjoint(tokenizer.encode(string))
            assert tokenizer.decode(tokenizer.encode(string)) == string


def test_neither_merges_nor_whole_words_build_a_control_token() -> None:
    fields = metadata("bpe", "llama-bpe")
    alphabet = sorted(byte_alphabet())
    fields["tokenizer.ggml.tokens"] = [*alphabet, "st", "stop", "op"]
    fields["tokenizer.ggml.token_type"] = [1] * 257 + [3, 1]
    fields["tokenizer.ggml.merges"] = ["s t", "o p", "st op"]
    tokenizer = Tokenizer.from_gguf(fields)
    assert tokenizer.encode("stop", special=True) == [257]
    assert [tokenizer.token(id) for id in tokenizer.encode("stop")] == ["s", "t", "o", "p"]
    assert Tokenizer.from_gguf({**fields, "tokenizer.ggml.pre": "qwen2"}).encode("stop") == [256, 258]


def test_user_defined_tokens_are_always_matched() -> None:
    fields = fields_of("smollm")
    types = [*fields["tokenizer.ggml.token_type"]]
    tokens = [*fields["tokenizer.ggml.tokens"], "<tool_call>"]
    changed = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": [*types, 4]}
    tokenizer = Tokenizer.from_gguf({**fields, **changed})
    assert tokenizer.encode("a<tool_call>b")[1] == len(types)
    assert tokenizer.decode([len(types)]) == "<tool_call>"


def test_bos_is_added_once_and_only_where_the_model_wants_it() -> None:
    plain = Tokenizer.from_gguf(fields_of("smollm"))
    wanted = Tokenizer.from_gguf({**fields_of("smollm"), "tokenizer.ggml.add_bos_token": True})
    ids = plain.encode("hi")
    assert wanted.encode("hi") == [1, *ids] == plain.encode("hi", bos=True)
    assert wanted.encode("hi", bos=False) == ids
    assert wanted.encode("<s>hi", special=True) == [1, *ids]
    without = {key: value for key, value in fields_of("llama-bpe").items() if not key.endswith("add_bos_token")}
    assert Tokenizer.from_gguf(without).encode("hi")[0] == 1
    del without["tokenizer.ggml.bos_token_id"]
    with pytest.raises(TokenizerError, match="no BOS"):
        Tokenizer.from_gguf(without).encode("hi", bos=True)


def test_every_end_of_the_file_stops() -> None:
    tokenizer = Tokenizer.from_gguf({**fields_of("smollm"), "tokenizer.ggml.eot_token_id": 3})
    ends = {"</s>", "<|im_end|>", "<|endoftext|>"}
    assert tokenizer.stop_ids == {3} | {id for id, text in tokenizer.controls.items() if text in ends}


def test_the_real_model(smollm2: Path) -> None:
    from memfirst.formats.gguf import open_gguf

    tokenizer = Tokenizer.from_gguf(open_gguf(smollm2).metadata)
    assert tokenizer.vocab_size == 49152
    assert tokenizer.stop_ids == {0, 2}
    ids = [tokenizer.encode(string) for string in STRINGS]
    assert ids[:40] == FIXTURE["ids"]["smollm2:135m"]["shown"]
    assert digest(ids) == FIXTURE["ids"]["smollm2:135m"]["sha256"]
    assert all(tokenizer.decode(tokenizer.encode(string)) == string for string in STRINGS)


BROKEN: dict[str, dict[str, Any]] = {
    "no model": {"model": None},
    "other model": {"model": "t5"},
    "unknown pre": {"pre": "mystery"},
    "no tokens": {"tokens": []},
    "twice": {"tokens": ["a", "a"]},
    "not text": {"tokens": ["a", 1]},
    "too long": {"tokens": ["a" * 3000]},
    "short types": {"token_type": [1, 2]},
    "types of text": {"token_type": ["x"] * 3000},
    "huge types": {"token_type": [1 << 70] * 3000},
    "no merges": {"merges": []},
    "one-part merge": {"merges": ["ab"]},
    "three-part merge": {"merges": ["a b c", "ab"]},
    "missing token": {"merges": ["zz yy"]},
    "missing result": {"merges": ["! ~"]},
    "eos out of range": {"eos_token_id": 3000},
    "negative bos": {"bos_token_id": -1},
    "bos of text": {"bos_token_id": "<s>"},
    "flag of text": {"add_bos_token": "yes"},
    "merges of numbers": {"merges": np.zeros(4)},
}


@pytest.mark.parametrize("how", BROKEN)
def test_broken_vocabularies_are_refused(how: str) -> None:
    changed = {f"tokenizer.ggml.{key}": value for key, value in BROKEN[how].items()}
    fields = {**fields_of("smollm"), **changed}
    with pytest.raises(MemfirstError):
        Tokenizer.from_gguf({key: value for key, value in fields.items() if value is not None})


@pytest.mark.parametrize("kind", [1, 4, 0, None])
def test_end_markers_and_framed_tokens_are_control_tokens_of_any_type(kind: int | None) -> None:
    """As llama.cpp's loader and its converter have it; None: a file without types."""
    fields = fields_of("smollm")
    kinds = [kind] * 6 + fields["tokenizer.ggml.token_type"][6:]
    fields = {**fields, "tokenizer.ggml.token_type": kinds if kind is not None else None}
    tokenizer = Tokenizer.from_gguf({key: value for key, value in fields.items() if value is not None})
    tokens = {text: id for id, text in enumerate(fields["tokenizer.ggml.tokens"][:6])}
    assert tokenizer.stop_ids == {tokens[text] for text in ("</s>", "<|im_end|>", "<|endoftext|>")}
    assert tokenizer.decode(tokenizer.encode("ok<|im_end|>")) == "ok<|im_end|>"
    assert tokenizer.encode("<|im_start|>ok<|im_end|>", special=True)[
        :: 2 if len(tokenizer.encode("ok")) == 1 else 3
    ] == [3, 4]
    assert tokenizer.piece(tokens["<|im_end|>"]) == b""


def test_a_token_that_looks_special_but_was_learned_from_text_is_text() -> None:
    tokenizer = Tokenizer.from_gguf(fields_of("smollm"))
    id = tokenizer.token_id("<|IM_END|>")
    assert id is not None and id not in tokenizer.controls
    assert tokenizer.piece(id) == b"<|IM_END|>"


def test_html_tags_are_text_where_the_vocabulary_has_them_as_such() -> None:
    """Gemma's `</s>` is user-defined and not its end; Gemma 4's is normal."""
    fields = fields_of("smollm")
    types, tokens = [*fields["tokenizer.ggml.token_type"]], [*fields["tokenizer.ggml.tokens"]]
    types[1:3] = [4, 4]
    plain = {"tokenizer.ggml.bos_token_id": 5, "tokenizer.ggml.eos_token_id": 5}
    gemma = Tokenizer.from_gguf({**fields, **plain, "tokenizer.ggml.token_type": types})
    assert {1, 2}.isdisjoint(gemma.controls) and gemma.stop_ids == {4, 5}
    assert gemma.encode("<s>x</s>")[0] == 1
    named = Tokenizer.from_gguf({**fields, "tokenizer.ggml.token_type": types})
    assert {1, 2} <= named.controls.keys() and 2 in named.stop_ids
    types[1:3], tokens[3] = [1, 1], "<|tool_response>"
    gemma4 = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types}
    assert Tokenizer.from_gguf({**fields, **plain, **gemma4}).stop_ids == {3, 4, 5}


def test_an_end_of_message_does_not_end_the_answer() -> None:
    fields = fields_of("smollm")
    for others in (["<|return|>", "<|call|>"], ["<|calls|>", "<|flush|>"]):
        tokens = [*fields["tokenizer.ggml.tokens"], "<|end|>", *others]
        types = [*fields["tokenizer.ggml.token_type"], 3, 3, 3]
        changed = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types}
        tokenizer = Tokenizer.from_gguf({**fields, **changed})
        ends = {tokenizer.token(id) for id in tokenizer.stop_ids}
        assert ends >= set(others) and "<|end|>" not in ends


@pytest.mark.parametrize("id", [3000, 1 << 31, -1, "x"])
def test_special_ids_that_generation_does_not_read_are_ignored(id: Any) -> None:
    wrong = {"tokenizer.ggml.padding_token_id": id, "tokenizer.ggml.unknown_token_id": id}
    tokenizer = Tokenizer.from_gguf({**fields_of("smollm"), **wrong})
    assert "padding" not in tokenizer.special_ids
    assert [note.split()[0] for note in tokenizer.rules.notes] == ["unknown_token_id", "padding_token_id"]
    plain = Tokenizer.from_gguf(fields_of("smollm"))
    assert tokenizer.encode("some text") == plain.encode("some text")


def test_sentence_piece_without_scores_merges_by_id() -> None:
    fields = fields_of("spm")
    equal = Tokenizer.from_gguf({**fields, "tokenizer.ggml.scores": [0.0] * len(fields["tokenizer.ggml.tokens"])})
    del fields["tokenizer.ggml.scores"]
    without = Tokenizer.from_gguf(fields)
    assert [without.encode(string) for string in STRINGS[:200]] == [equal.encode(string) for string in STRINGS[:200]]


def test_sentence_piece_without_special_ids_has_the_usual_ones() -> None:
    fields = {key: value for key, value in fields_of("spm").items() if not key.endswith(("_token_id", "add_bos_token"))}
    tokenizer = Tokenizer.from_gguf(fields)
    assert tokenizer.special_ids == {"unknown": 0, "bos": 1, "eos": 2}
    assert tokenizer.encode("hi")[0] == 1


@pytest.mark.parametrize("prompt", [b"hi", None, 7, ["hi"]])
def test_prompts_are_text(prompt: Any) -> None:
    with pytest.raises(TokenizerError, match="expected text"):
        Tokenizer.from_gguf(fields_of("smollm")).encode(prompt)


@pytest.mark.parametrize("scores", [[0.0], [float("nan")] * 4000, "abc"])
def test_sentence_piece_needs_a_score_for_each_token(scores: Any) -> None:
    with pytest.raises(TokenizerError, match="scores"):
        Tokenizer.from_gguf({**fields_of("spm"), "tokenizer.ggml.scores": scores})


def test_an_unknown_pre_tokenizer_is_refused_with_the_list() -> None:
    with pytest.raises(UnsupportedError, match=r"mystery.*llama-bpe.*qwen2.*smollm"):
        Tokenizer.from_gguf(metadata("bpe", "mystery"))


@pytest.mark.parametrize("id", [-1, -(1 << 40)])
def test_negative_ids_are_refused_and_padding_ids_are_empty(id: int) -> None:
    tokenizer = Tokenizer.from_gguf(fields_of("smollm"))
    with pytest.raises(TokenizerError):
        tokenizer.decode([id])
    assert tokenizer.decode([tokenizer.vocab_size, 1 << 40]) == ""


def test_lone_surrogates_are_refused() -> None:
    with pytest.raises(TokenizerError, match="Unicode"):
        Tokenizer.from_gguf(fields_of("smollm")).encode("a\ud800b")


def test_several_threads_share_a_tokenizer() -> None:
    tokenizer = Tokenizer.from_gguf(fields_of("smollm"))
    text = "a<|im_end|>b" * 20

    def encoded(special: bool) -> set[tuple[int, ...]]:
        return {tuple(tokenizer.encode(text, special=special)) for _ in range(200)}

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(encoded, [False, True] * 4))
    assert found == [encoded(False), encoded(True)] * 4


def test_a_tokenizer_that_is_prepared_gives_the_same_ids(smollm2: Path) -> None:
    """Whole from the start, as in a server, or of the merges that the first texts need."""
    from memfirst.formats.gguf import open_gguf

    metadata = open_gguf(smollm2).metadata
    whole, partial = Tokenizer.from_gguf(metadata), Tokenizer.from_gguf(metadata)
    whole.prepare()
    for text in ("The harbour wakes before the town does.", "naïve 漢字 \t 12345", " lead and trail ", "x" * 300):
        assert whole.encode(text) == partial.encode(text)
