"""Tokenizers against llama.cpp's ids, and what a stranger's vocabulary may and may not do."""

from __future__ import annotations

import json
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memfirst.errors import MemfirstError, TokenizerError, UnsupportedError
from memfirst.text import StopStrings, StreamDecoder, Tokenizer
from memfirst.text.bytes_of_tokens import byte_alphabet
from memfirst.text.engine import parts_of
from memfirst.text.pretokenizers import LLAMA3, TABLE, splitting
from memfirst.text.stream import MAX_STOPS
from memfirst.text.vocabulary import from_metadata
from tests.hard_strings import SPECIALS, hard_strings
from tests.make_tokenizer_fixture import DATA, digest, llama_cpp_ids, metadata, write_gguf

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
    ids = [tokenizer.encode(string) for string in STRINGS]
    shown = len(expected["shown"])
    assert ids[:shown] == expected["shown"]
    assert digest(ids) == expected["sha256"]
    if "special" in expected:
        assert digest([tokenizer.encode(string, special=True) for string in STRINGS]) == expected["special"]


def test_the_fixture_has_every_pre_tokenizer_and_tells_them_apart() -> None:
    assert FIXTURE["ids"].keys() >= TABLE.keys()
    by_patterns = {(entry.patterns, entry.whole_words) for entry in TABLE.values()}
    digests = {FIXTURE["ids"][name]["sha256"] for name in TABLE}
    assert len(digests) == len(by_patterns)


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
    types[3] = 4
    tokenizer = Tokenizer.from_gguf({**fields, "tokenizer.ggml.token_type": types})
    assert 3 in tokenizer.encode("a<|im_start|>b")
    assert tokenizer.decode([3]) == "<|im_start|>"


def test_bos_is_added_once_and_only_where_the_model_wants_it() -> None:
    plain = Tokenizer.from_gguf(fields_of("smollm"))
    wanted = Tokenizer.from_gguf({**fields_of("smollm"), "tokenizer.ggml.add_bos_token": True})
    ids = plain.encode("hi")
    assert wanted.encode("hi") == [1, *ids] == plain.encode("hi", bos=True)
    assert wanted.encode("hi", bos=False) == ids
    assert wanted.encode("<s>hi", special=True) == [1, *ids]
    without = {
        key: value for key, value in fields_of("llama-bpe").items() if not key.endswith("add_bos_token")
    }
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


@pytest.mark.parametrize("scores", [None, [0.0], [float("nan")] * 4000, "abc"])
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
        "merges": parts.merges,
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


def test_several_threads_share_a_tokenizer() -> None:
    tokenizer = Tokenizer.from_gguf(fields_of("smollm"))
    text = "a<|im_end|>b" * 20

    def encoded(special: bool) -> set[tuple[int, ...]]:
        return {tuple(tokenizer.encode(text, special=special)) for _ in range(200)}

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(encoded, [False, True] * 4))
    assert found == [encoded(False), encoded(True)] * 4


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


WRONG_JSON: dict[str, Any] = {
    "another engine": ("model", {"type": "Unigram", "vocab": []}),
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
    "a gap": ("added_tokens", [{"id": 9999, "content": "<x>", "special": True}]),
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


def reference_stop(text: str, stops: list[str]) -> tuple[str, bool]:
    """Character by character: end as soon as a stop string is complete."""
    for end in range(1, len(text) + 1):
        ended = [stop for stop in stops if text[:end].endswith(stop)]
        if ended:
            return text[: end - max(map(len, ended))], True
    return text, False


@pytest.mark.parametrize("stops", [[], ["ab"], ["aab", "b"], ["aaaa", "ba"], ["abc", "bcd", "\n\n"]])
def test_stop_strings_in_any_chunks(stops: list[str]) -> None:
    rng = np.random.default_rng(len(stops))
    for _ in range(300):
        text = "".join(rng.choice(list("aabc\n"), rng.integers(0, 20)))
        filter, shown, stopped, at = StopStrings(stops), "", False, 0
        while at < len(text) and not stopped:
            size = int(rng.integers(1, 5))
            emitted, stopped = filter.push(text[at : at + size])
            shown, at = shown + emitted, at + size
        shown += "" if stopped else filter.flush()
        assert (shown, stopped) == reference_stop(text, stops)


def test_stop_strings_hold_back_no_more_than_they_must() -> None:
    filter = StopStrings(["<end>"])
    assert filter.push("text <e") == ("text ", False)
    assert filter.push("x") == ("<ex", False)
    assert filter.push("<end>more") == ("", True)
    assert filter.push("more") == ("", True)
    assert filter.stopped == "<end>"


@pytest.mark.parametrize("stops", [[""], ["a"] * (MAX_STOPS + 1), ["x" * 5000]])
def test_senseless_stop_strings_are_refused(stops: list[str]) -> None:
    with pytest.raises(MemfirstError):
        StopStrings(stops)
