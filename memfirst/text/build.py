"""Encodes text with the `tokenizers` library, from a vocabulary's parts.

Building the library's BPE model of 262,144 tokens takes over a second: 515,000 merges as Python objects, then
as four hash look-ups each. But a text can only become tokens that are parts of it. So the first texts are encoded
by the same model with only the tokens that are parts of the text (some hundred, 1 ms), which gives the same ids;
the whole model is built when many or long texts come, which pay for it.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from memfirst.errors import TokenizerError
from memfirst.text.bytes_of_tokens import SPACE
from memfirst.text.controls import Added
from memfirst.text.merges import ListedMerges, Merges, ScoredMerges
from memfirst.text.pretokenizers import pre_tokenizer, splitting
from memfirst.text.vocabulary import BYTE, CONTROL, UNKNOWN, UNUSED, USER_DEFINED, Vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PARTIAL_CHARS = 1 << 15
"""Characters that are encoded by partial models before the whole one is built: some 0.2 s of partial models."""
PARTIAL_COST = 256
"""What a text costs besides its characters: a partial model takes about 1 ms to build."""


@dataclass(frozen=True)
class Parts:
    """What an encoder needs."""

    tokens: list[str]
    """Text by id, added tokens included; "" where an id is not used."""
    ids: dict[str, int]
    """Text to id, of the tokens that merges build."""
    merges: Merges
    added: list[Added]
    """In order of id."""
    normalizer: dict[str, Any] | None
    """As in a tokenizer.json."""
    splitter: dict[str, Any] | None
    """Its `pre_tokenizer`; None where text is not split into words."""
    whole_words: bool = False
    """A word that is a token is that token, whatever the merges say."""
    byte_fallback: bool = False
    fuse_unknown: bool = False
    unknown: str | None = None
    escaped: bool = False
    """Tokens are bytes as Python writes them, and text becomes the longest of them from the left (`longest_match`)."""

    def id_of(self, text: str) -> int | None:
        """Return the id of a token, or None."""
        found = self.ids.get(text)
        return next((token.id for token in self.added if token.text == text), None) if found is None else found

    @property
    def byte_level(self) -> bool:
        """True if tokens are spelled in GPT-2's byte alphabet; else in characters, as SentencePiece does."""
        steps = (self.splitter or {}).get("pretokenizers", [])
        return any(step["type"] == "ByteLevel" for step in steps)


class Encoder:
    """Text to ids, where text is only text: control tokens are not looked for. Safe to use from several threads."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._matched = [token for token in parts.added if not token.control]
        self._shell = _shell(parts)
        self._lengths = sorted({*map(len, parts.ids)})
        self._always = _always(parts)
        self._credit = PARTIAL_CHARS
        self._whole: Tokenizer | None = None
        self._lock = threading.Lock()

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; TokenizerError if it is not valid Unicode."""
        try:
            matched = [token for token in self._matched if token.text in text]
            if self._needs_whole(text, matched):
                return self._ids(self._whole_model(), text)
            tokens = [*self._used(text, matched)]
            model = _model(self._parts, self._shell, tokens, matched)
            found = [self._parts.id_of(tokens[id]) for id in self._ids(model, text)]
            return [id for id in found if id is not None]
        except (TypeError, UnicodeError) as error:
            raise TokenizerError("the text is not valid Unicode", do="pass UTF-8 text") from error

    def prepare(self) -> None:
        """Build the whole model now: a server encodes more than the first texts, each of which takes 35 ms without."""
        self._whole_model()

    def _needs_whole(self, text: str, matched: list[Added]) -> bool:
        with self._lock:
            self._credit -= len(text) + PARTIAL_COST
            if self._whole is not None or self._credit < 0:
                return True
        # How such tokens match depends on their neighbours and on the normalizer: the library's business.
        odd = self._matched if self._parts.normalizer else matched
        return any(not token.plain for token in odd)

    def _whole_model(self) -> Tokenizer:
        with self._lock:
            if self._whole is None:
                self._whole = _model(self._parts, self._shell, None, self._matched)
            return self._whole

    def _ids(self, model: Tokenizer, text: str) -> list[int]:
        ids: list[int] = model.encode(text, add_special_tokens=False).ids
        return ids

    def _used(self, text: str, matched: list[Added]) -> set[str]:
        """Collect the tokens that may come out: all that are parts of the text's words, and those that need no text."""
        found = {*self._always, *(token.text for token in matched)}
        known = self._parts.ids.keys()
        for word in {*self._words(text, matched)}:
            for length in self._lengths:
                if length > len(word):
                    break
                found |= {word[i : i + length] for i in range(len(word) - length + 1)} & known
        return found

    def _words(self, text: str, matched: list[Added]) -> Iterator[str]:
        """Split the whole text, and each gap between the added tokens: a gap is normalized by itself."""
        gaps = re.split("|".join(re.escape(token.text) for token in matched), text) if matched else []
        normalizer, splitter = self._shell.normalizer, self._shell.pre_tokenizer
        for part in {text, *gaps}:
            normal = part if normalizer is None else normalizer.normalize_str(part)
            yield from [normal] if splitter is None else (word for word, _ in splitter.pre_tokenize_str(normal))


_SPACES_SPELLED = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}


def parts_of(vocabulary: Vocabulary) -> Parts:
    """Turn a GGUF vocabulary into an encoder's parts."""
    if vocabulary.model == "rwkv":
        return _byte_strings(vocabulary)
    return _sentence_piece(vocabulary) if vocabulary.model == "llama" else _bpe(vocabulary)


def _shell(parts: Parts) -> Tokenizer:
    """Build the library's pipeline with an empty model; TokenizerError where it refuses a step."""
    from tokenizers import Tokenizer

    shell: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": parts.normalizer,
        "pre_tokenizer": parts.splitter,
        "model": {"type": "BPE", "vocab": {}, "merges": []},
    }
    try:
        return Tokenizer.from_str(json.dumps(shell))
    except Exception as error:  # the library raises bare exceptions
        raise TokenizerError(f"the vocabulary does not hold together: {error}"[:300]) from error


def _model(parts: Parts, shell: Tokenizer, tokens: list[str] | None, matched: list[Added]) -> Tokenizer:
    """Build the pipeline with a model of these tokens, numbered from 0; for None of all, under their own ids."""
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.models import BPE

    if tokens is None:
        # Added tokens beside the vocabulary would be numbered anew.
        ids = {**parts.ids, **{token.text: token.id for token in matched}}
        merges = parts.merges.every()
    else:
        ids = dict(zip(tokens, range(len(tokens)), strict=True))
        merges = parts.merges.building(token for token in tokens if token in parts.ids)
    try:
        model = BPE(
            vocab=ids,
            merges=merges,
            ignore_merges=parts.whole_words,
            byte_fallback=parts.byte_fallback,
            fuse_unk=parts.fuse_unknown,
            unk_token=parts.unknown,
        )
        made = Tokenizer(model)
        if shell.normalizer is not None:
            made.normalizer = shell.normalizer
        if shell.pre_tokenizer is not None:
            made.pre_tokenizer = shell.pre_tokenizer
        flags = [{key: getattr(token, key) for key in _FLAGS} for token in matched]
        made.add_tokens([AddedToken(token.text, **how) for token, how in zip(matched, flags, strict=True)])
    except Exception as error:  # the library raises bare exceptions
        raise TokenizerError(f"the vocabulary does not hold together: {error}"[:300]) from error
    return made


_FLAGS = ("single_word", "lstrip", "rstrip", "normalized")


def _always(parts: Parts) -> Collection[str]:
    """List the tokens that stand for characters the vocabulary lacks."""
    fallback = [f"<0x{byte:02X}>" for byte in range(256)] if parts.byte_fallback else []
    return [token for token in [*fallback, parts.unknown] if token is not None and token in parts.ids]


def _added_of(vocabulary: Vocabulary) -> list[Added]:
    ids = vocabulary.ids_of_type(CONTROL, UNKNOWN, USER_DEFINED)
    types = vocabulary.types[ids].tolist()
    return [Added(vocabulary.tokens[id], id, kind != USER_DEFINED) for id, kind in zip(ids, types, strict=True)]


def _bpe(vocabulary: Vocabulary) -> Parts:
    entry = pre_tokenizer(vocabulary.pre)
    added = _added_of(vocabulary)
    controls = frozenset(token.text for token in added if token.control)
    return Parts(
        vocabulary.tokens,
        vocabulary.ids,
        ListedMerges(vocabulary.merges, vocabulary.ids, controls),
        added,
        {"type": "Sequence", "normalizers": [_SPACES_SPELLED]} if entry.characters else None,
        splitting(entry.patterns, entry.characters),
        whole_words=entry.whole_words,
        byte_fallback=entry.characters,
    )


def _sentence_piece(vocabulary: Vocabulary) -> Parts:
    steps: list[dict[str, Any]] = [_SPACES_SPELLED]
    if vocabulary.add_space_prefix:
        steps.insert(0, {"type": "Prepend", "prepend": SPACE})
    unknown = vocabulary.special_ids.get("unknown")
    fixed = frozenset(vocabulary.tokens[id] for id in vocabulary.ids_of_type(CONTROL, UNKNOWN, BYTE))
    return Parts(
        vocabulary.tokens,
        vocabulary.ids,
        ScoredMerges(vocabulary.tokens, vocabulary.ids, vocabulary.scores, fixed),
        _added_of(vocabulary),
        {"type": "Sequence", "normalizers": steps},
        None,
        byte_fallback=True,
        fuse_unknown=True,
        unknown=None if unknown is None else vocabulary.tokens[unknown],
    )


def _byte_strings(vocabulary: Vocabulary) -> Parts:
    """Control tokens and unused ids are nothing that text becomes."""
    fixed = {*vocabulary.ids_of_type(CONTROL, UNKNOWN, UNUSED)}
    ids = {text: id for text, id in vocabulary.ids.items() if id not in fixed}
    controls = [token for token in _added_of(vocabulary) if token.control]
    return Parts(vocabulary.tokens, ids, ListedMerges([], ids, frozenset()), controls, None, None, escaped=True)
