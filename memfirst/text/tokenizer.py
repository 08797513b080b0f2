"""Text to ids and back, as the model was trained: from a GGUF file's metadata or from `tokenizer.json`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from memfirst.errors import TokenizerError
from memfirst.formats.checkpoint import Checkpoint
from memfirst.text import vocabulary
from memfirst.text.build import Encoder, Parts, parts_of
from memfirst.text.bytes_of_tokens import byte_alphabet, byte_level, escaped, plain, sentence_piece
from memfirst.text.controls import ControlTokens
from memfirst.text.longest_match import LongestMatch

MAX_TEXT_CHARS = 1 << 26
"""Longest text to encode: 67 M characters, some 16 M tokens."""
MAX_TEMPLATE_CHARS = 1 << 17
_SPELLING = {byte: character for character, byte in byte_alphabet().items()}


@dataclass(frozen=True)
class Rules:
    """What surrounds the vocabulary."""

    special_ids: Mapping[str, int]
    """"bos", "eos", "eot", "eom", "unknown", "padding" -> id, where the model has one."""
    stop_ids: frozenset[int]
    """Ids that end an answer."""
    add_bos: bool = False
    """Put BOS before a text by default."""
    add_eos: bool = False
    """Whether training texts ended with EOS (`encode` adds none: it would end the prompt)."""
    add_space_prefix: bool = False
    """A space is put before the text when encoding, and taken away when decoding."""
    chat_template: str | None = None
    """Jinja source, or None for a model without one."""
    notes: tuple[str, ...] = ()
    """What is in the files and ignored, one sentence each."""


class Tokenizer:
    """Encodes and decodes; safe to use from several threads.

    `decode(encode(text)) == text` for every text without lone surrogates, except that a SentencePiece
    vocabulary can't tell U+2581 from a space, and that a `tokenizer.json` may apply NFC.
    """

    def __init__(self, parts: Parts, rules: Rules) -> None:
        self.rules, self.special_ids, self.stop_ids = rules, rules.special_ids, rules.stop_ids
        self._encoder: Encoder | LongestMatch
        if parts.escaped:
            self._encoder = LongestMatch({escaped(text): id for text, id in parts.ids.items()})
            self._spell = escaped
        else:
            self._encoder = Encoder(parts)
            self._spell = byte_level if parts.byte_level else sentence_piece
        self._tokens, self._ids, self._whole_words = parts.tokens, parts.ids, parts.whole_words
        controls = [token for token in parts.added if token.control]
        self.controls: Mapping[int, str] = {token.id: token.text for token in controls}
        """Control tokens: id -> text. They take effect only with `special`."""
        self._control_tokens = ControlTokens(controls)
        self._added = {token.id: plain(token.text) for token in parts.added}
        self._added_ids = {token.text: token.id for token in parts.added}
        self._pieces: dict[int, bytes] = {}
        self.vocab_size = len(parts.tokens)

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Self:
        """Build from a model's own file or folder; TokenizerError where that cannot be made."""
        if checkpoint.kind == "gguf":
            return cls.from_gguf(checkpoint.metadata)
        return cls.from_file(Path(checkpoint.path) / "tokenizer.json")

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> Self:
        """Build from `tokenizer.*` of a GGUF file; TokenizerError or UnsupportedError if it can't be."""
        found = vocabulary.from_metadata(metadata)
        rules = Rules(
            found.special_ids,
            found.stop_ids,
            found.add_bos,
            found.add_eos,
            found.add_space_prefix,
            checked_template(metadata.get("tokenizer.chat_template")),
            found.notes,
        )
        return cls(parts_of(found), rules)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], config: str | os.PathLike[str] | None = None) -> Self:
        """Build from a `tokenizer.json`; BOS, EOS and template from the JSON files of folder `config`."""
        from memfirst.text import tokenizer_json
        from memfirst.text.model_folder import rules_of

        spec = tokenizer_json.read_json(path)
        parts = tokenizer_json.parts_of_json(spec)
        folder = Path(path).parent if config is None else Path(config)
        return cls(parts, rules_of(spec, parts, folder))

    def encode(self, text: str, special: bool = False, bos: bool | None = None) -> list[int]:
        """Encode a text.

        Args:
            text: At most MAX_TEXT_CHARS characters.
            special: Whether control tokens (`<|im_end|>`) in the text take effect; else they are plain text.
            bos: Whether to put BOS first; None for what the model was trained with, and never twice.

        Raises:
            TokenizerError: The text is not valid Unicode or too long, or the model has no BOS token.
        """
        ids = self._encode(text, b"" if special else None)
        if bos is None:
            bos = self.rules.add_bos and not (special and ids[:1] == [self.special_ids.get("bos")])
        if not bos:
            return ids
        if "bos" not in self.special_ids:
            raise TokenizerError("this model has no BOS token", do="encode without it")
        return [self.special_ids["bos"], *ids]

    def encode_marked(self, text: str, literal: bytes) -> list[int]:
        """Encode a text of mixed origin, without BOS.

        Args:
            text: As for `encode`.
            literal: One byte for each character; a control token takes effect where all of its bytes are 0.
        """
        return self._encode(text, literal)

    def decode(self, ids: Iterable[int], special: bool = False) -> str:
        """Decode a whole sequence; control tokens appear only if `special`, bad bytes as U+FFFD."""
        text = b"".join([self.piece(id, special) for id in ids]).decode("utf-8", "replace")
        return text[1:] if self.rules.add_space_prefix and text[:1] == " " else text

    def piece(self, id: int, special: bool = False) -> bytes:
        """Return the bytes of one token, possibly part of a character; empty for control tokens unless `special`."""
        found = self._pieces.get(id)
        if found is None:
            found = self._pieces[id] = self._look_up(id)
        return b"" if id in self.controls and not special else found

    def token(self, id: int) -> str:
        """Return the token as the vocabulary spells it, or "" where the id is not used."""
        return self._tokens[id] if 0 <= id < self.vocab_size else ""

    def token_id(self, text: str) -> int | None:
        """Return the id of a token spelled as in the vocabulary, or None."""
        return self._ids.get(text, self._added_ids.get(text))

    def _look_up(self, id: int) -> bytes:
        if not 0 <= id < self.vocab_size:
            # Rows beyond the vocabulary are padding of the output matrix; they stand for nothing.
            if id < 0:
                raise TokenizerError(f"the token id {id}", "0 or more")
            return b""
        return self._added[id] if id in self._added else self._spell(self.token(id))

    def prepare(self) -> None:
        """Make ready for many texts: else the first few are encoded with the few merges that they need."""
        if not isinstance(self._encoder, LongestMatch):
            self._encoder.prepare()

    def _encode(self, text: str, literal: bytes | None) -> list[int]:
        """Encode with control tokens where `literal` leaves them; None for nowhere."""
        if not isinstance(text, str):
            raise TokenizerError(f"a prompt of type {type(text).__name__}", "text", "decode bytes as UTF-8 first")
        if len(text) > MAX_TEXT_CHARS:
            raise TokenizerError(f"a text of {len(text)} characters", f"at most {MAX_TEXT_CHARS}")
        parts = [text] if literal is None else self._control_tokens.split(text, literal)
        ids: list[int] = []
        for part in parts:
            ids += [part] if isinstance(part, int) else self._defused(self._encoder.encode(part))
        return ids

    def _defused(self, ids: list[int]) -> list[int]:
        """Replace a word that is spelled like a control token by a token for each of its bytes."""
        if not self._whole_words or self.controls.keys().isdisjoint(ids):
            return ids
        return [part for id in ids for part in (self._bytes_of(id) if id in self.controls else [id])]

    def _bytes_of(self, id: int) -> list[int]:
        spelled = "".join(_SPELLING[byte] for byte in plain(self.controls[id]))
        found = [self.token_id(character) for character in spelled]
        return [part for part in found if part is not None]


def checked_template(found: Any) -> str | None:
    """Check that a chat template's source is text of sensible length."""
    if found is None or (isinstance(found, str) and len(found) <= MAX_TEMPLATE_CHARS):
        return found
    raise TokenizerError("a chat template that is not text, or too long", f"at most {MAX_TEMPLATE_CHARS} characters")
