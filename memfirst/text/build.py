"""Builds the `tokenizers` engine that merges: from a vocabulary's parts, directly.

Built at each start rather than read from a cache: 49,152 tokens and 48,900 merges take 50 ms from lists
of Python, and 70 ms from the engine's own JSON: a cache on disk would make the start slower.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from memfirst.errors import TokenizerError
from memfirst.text.bytes_of_tokens import SPACE
from memfirst.text.pretokenizers import pre_tokenizer, splitting
from memfirst.text.vocabulary import BYTE, CONTROL, UNKNOWN, USER_DEFINED, Vocabulary

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

MAX_PIECE_CHARS = 1 << 23
"""All SentencePiece tokens together: each character is one place to split a piece at (0.2 us)."""


Pair = tuple[str, str]


@dataclass(frozen=True)
class Added:
    """A token that is matched in the text before it is cut into words; control tokens only when asked."""

    text: str
    id: int
    control: bool
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False


@dataclass(frozen=True)
class Parts:
    """What the engine needs.

    ids            token -> id
    merges         pairs, in order of priority
    added          in order of id
    normalizer     as in a tokenizer.json, or None
    splitter       its `pre_tokenizer`, or None where text is not cut into words
    """

    ids: dict[str, int]
    merges: list[Pair]
    added: list[Added]
    normalizer: dict[str, Any] | None
    splitter: dict[str, Any] | None
    whole_words: bool = False
    byte_fallback: bool = False
    fuse_unknown: bool = False
    unknown: str | None = None


def build(parts: Parts) -> Tokenizer:
    """The engine for these parts; TokenizerError where it refuses them."""
    import json

    from tokenizers import Tokenizer

    shell: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": parts.normalizer,
        "pre_tokenizer": parts.splitter,
        "model": {"type": "BPE", "vocab": {}, "merges": []},
    }
    try:
        engine = Tokenizer.from_str(json.dumps(shell))
        engine.model = _model(parts)
        engine.add_tokens([_added(token) for token in parts.added])
    except Exception as error:  # the engine raises bare exceptions
        raise TokenizerError(f"the vocabulary does not hold together: {error}"[:300]) from error
    for token in parts.added:
        if engine.token_to_id(token.text) != token.id:
            found = f"the added token {token.text[:40]!r} can't have id {token.id}"
            raise TokenizerError(found, "ids without gaps")
    return engine


def parts_of(vocabulary: Vocabulary) -> Parts:
    """A GGUF vocabulary's parts."""
    return _byte_level(vocabulary) if vocabulary.model == "gpt2" else _sentence_piece(vocabulary)


def without_controls(merges: list[Pair], controls: set[str], known: dict[str, int]) -> list[Pair]:
    """The merges that don't build a control token: text must never become one unasked.

    Looks at the controls' splits first (17 to 1000 tokens), and at all merges only where one could be built.
    """
    splits = {(text[:i], text[i:]) for text in controls for i in range(1, len(text))}
    if any(left in known and right in known for left, right in splits):
        return [pair for pair in merges if pair not in splits]
    return merges


def pairs_of(merges: list[str]) -> list[Pair]:
    """Each "left right" as a pair, cut all at once: 5 ms for 48,900, against 25 ms one by one."""
    text = "\n".join(merges)
    if text.count(" ") != len(merges) or text.count("\n") >= len(merges) or not all(" " in m for m in merges):
        raise TokenizerError("a merge that is not two tokens with a space between", '"left right"')
    parts = iter(text.replace(" ", "\n").split("\n"))
    return list(zip(parts, parts, strict=True))


def _model(parts: Parts) -> Any:
    from tokenizers.models import BPE

    return BPE(
        vocab=parts.ids,
        merges=parts.merges,
        ignore_merges=parts.whole_words,
        byte_fallback=parts.byte_fallback,
        fuse_unk=parts.fuse_unknown,
        unk_token=parts.unknown,
    )


def _added(token: Added) -> AddedToken:
    from tokenizers import AddedToken

    return AddedToken(
        token.text,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized,
        special=token.control,
    )


def _added_of(vocabulary: Vocabulary) -> list[Added]:
    ids = vocabulary.ids_of_type(CONTROL, UNKNOWN, USER_DEFINED)
    return [Added(vocabulary.tokens[id], id, int(vocabulary.types[id]) != USER_DEFINED) for id in ids]


def _byte_level(vocabulary: Vocabulary) -> Parts:
    entry = pre_tokenizer(vocabulary.pre)
    ids = {token: id for id, token in enumerate(vocabulary.tokens)}
    added = _added_of(vocabulary)
    controls = {token.text for token in added if token.control}
    merges = without_controls(pairs_of(vocabulary.merges), controls, ids)
    return Parts(ids, merges, added, None, splitting(entry.patterns), whole_words=entry.whole_words)


def _sentence_piece(vocabulary: Vocabulary) -> Parts:
    """SentencePiece merges the neighbours whose union has the highest score: the same as merges by rank."""
    ids = {token: id for id, token in enumerate(vocabulary.tokens)}
    steps: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]
    if vocabulary.add_space_prefix:
        steps.insert(0, {"type": "Prepend", "prepend": SPACE})
    unknown = vocabulary.special_ids.get("unknown")
    return Parts(
        ids,
        _merges_by_score(vocabulary, ids),
        _added_of(vocabulary),
        {"type": "Sequence", "normalizers": steps},
        None,
        byte_fallback=True,
        fuse_unknown=True,
        unknown=None if unknown is None else vocabulary.tokens[unknown],
    )


def _merges_by_score(vocabulary: Vocabulary, ids: dict[str, int]) -> list[Pair]:
    """Every way to build a piece from two others, best score first, of equal scores the lower id.

    Of one piece's splits that with the longest left part comes first: SentencePiece merges from the left.
    """
    if sum(map(len, vocabulary.tokens)) > MAX_PIECE_CHARS:
        found = "a SentencePiece vocabulary too large to derive its merges"
        raise TokenizerError(found, f"at most {MAX_PIECE_CHARS} characters")
    fixed = set(vocabulary.ids_of_type(CONTROL, UNKNOWN, BYTE))
    merges: list[Pair] = []
    for id in np.argsort(-vocabulary.scores, kind="stable").tolist():
        if id not in fixed:
            piece = vocabulary.tokens[id]
            splits = ((piece[:i], piece[i:]) for i in range(len(piece) - 1, 0, -1))
            merges += [pair for pair in splits if pair[0] in ids and pair[1] in ids]
    return merges
