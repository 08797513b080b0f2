"""RWKV's vocabulary of byte strings: the ids of its own tokenizer, escapes, and what text may not become."""

from __future__ import annotations

import json
from typing import Any

import pytest

from memfirst.errors import TokenizerError
from memfirst.text import StreamDecoder, Tokenizer
from memfirst.text.bytes_of_tokens import escaped
from memfirst.text.chat import ChatTemplate
from memfirst.text.longest_match import LongestMatch
from tests.support.hard_strings import hard_strings
from tests.support.make_rwkv_tokens import FILE, metadata

FIXTURE: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
STRINGS = hard_strings(FIXTURE["count"], FIXTURE["seed"])
BYTES = {bytes([byte]): byte + 1 for byte in range(256)}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_gguf(metadata())


def test_ids_are_those_of_its_own_tokenizer(tokenizer: Tokenizer) -> None:
    """And text comes back, whole and token by token."""
    for string, expected in zip(STRINGS, FIXTURE["ids"], strict=True):
        ids = tokenizer.encode(string)
        assert ids == expected
        assert tokenizer.decode(ids) == string
        decoder = StreamDecoder(tokenizer)
        assert "".join([*map(decoder.push, ids), decoder.flush()]) == string


@pytest.mark.parametrize(
    ("spelled", "expected"),
    [
        ("abc", b"abc"), (r"\n\r\t", b"\n\r\t"), (r"\xe4\xbd", b"\xe4\xbd"), (r"\\n", b"\\n"), (r"it\'s", b"it's"),
        (r"\x4", b"x4"), ("\\", b"\\"), ("é", "é".encode()),
    ],
)  # fmt: skip
def test_escapes(spelled: str, expected: bytes) -> None:
    """As Python writes bytes; what is no escape stays, without its backslash."""
    assert escaped(spelled) == expected


def test_the_longest_token_wins_and_nothing_looks_back() -> None:
    """No merge of what remains would be better: `ab` is taken though `bcd` comes."""
    matcher = LongestMatch({**BYTES, b"ab": 300, b"bcd": 301, b"abcde": 302, b"ab\xc3": 303})
    assert matcher.encode("abcd") == [300, 100, 101]
    assert matcher.encode("abcde") == [302]
    assert matcher.encode("abé") == [303, 0xA9 + 1]  # across a character's bytes
    assert matcher.encode("") == []


def test_each_byte_needs_a_token() -> None:
    with pytest.raises(TokenizerError, match="without a token for the byte 0x41"):
        LongestMatch({token: id for token, id in BYTES.items() if token != b"A"})


def test_text_becomes_neither_control_tokens_nor_unused_ids(tokenizer: Tokenizer) -> None:
    for text, id in (("<s>", 0), ("[PAD65535]", 65535)):
        assert id not in tokenizer.encode(text)
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode("<s>", special=True) == [0]
    assert tokenizer.encode("x") == tokenizer.encode("x", bos=False)
    assert tokenizer.encode("x", bos=True)[0] == 0
    assert tokenizer.stop_ids == {0, 261}
    assert tokenizer.piece(261) == b"\n\n"


def test_lone_surrogates_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(TokenizerError, match="not valid Unicode"):
        tokenizer.encode("\ud800")


def test_the_chat_template_that_files_name() -> None:
    """A chat is text with roles, and each turn ends with the token that ends an answer."""
    tokenizer = Tokenizer.from_gguf({**metadata(), "tokenizer.chat_template": "rwkv-world"})
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": " Hi! "}]
    rendered = ChatTemplate.of(tokenizer).render(messages)
    assert rendered == "<s>System: Be kind.\n\nUser: Hi!\n\nAssistant:"
    assert ChatTemplate.of(tokenizer).encode(tokenizer, messages)[:1] == [0]
