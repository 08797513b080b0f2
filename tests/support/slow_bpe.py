"""Byte-level BPE as it is defined, slowly: another regular-expression engine, and one merge at a time."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from memfirst.text.bytes_of_tokens import byte_alphabet
from memfirst.text.pretokenizers import TABLE


def slow_bpe_ids(fields: dict[str, Any], strings: list[str]) -> list[list[int]]:
    """Ids of the strings under GGUF metadata of a "gpt2" vocabulary. Needs the `regex` package."""
    get = {key.removeprefix("tokenizer.ggml."): value for key, value in fields.items()}
    ids = {token: id for id, token in enumerate(get["tokens"])}
    ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(get["merges"])}
    entry = TABLE[get["pre"]]
    return [
        [
            ids[part]
            for word in split(string, entry.patterns)
            for part in merge(spell(word), ids, ranks, entry.whole_words)
        ]
        for string in strings
    ]


def split(text: str, patterns: tuple[str, ...]) -> list[str]:
    """Matches and the gaps between them, for one pattern after another."""
    import regex

    pieces = [text]
    for pattern in patterns:
        # Oniguruma, which the models' own tokenizers use, counts ² as a part of a word; `regex` does not.
        same = pattern.replace(r"\d{3})*\b", r"\d{3})*(?![\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}²³¹¼-¾])")
        # Intersections of classes (&&) exist in `regex`'s version 1 only.
        known = regex.compile(same, regex.V1 if "&&" in same else regex.V0)
        pieces = [part for piece in pieces for part in _split_once(known, piece)]
    return pieces


def _split_once(pattern: Any, text: str) -> list[str]:
    parts, at = [], 0
    for match in pattern.finditer(text):
        parts += [text[at : match.start()], match[0]]
        at = match.end()
    return [part for part in [*parts, text[at:]] if part]


def spell(word: str) -> list[str]:
    """One character of GPT-2's byte alphabet for each byte of the word."""
    alphabet = {byte: character for character, byte in byte_alphabet().items()}
    return [alphabet[byte] for byte in word.encode()]


def merge(parts: list[str], ids: dict[str, int], ranks: dict[Any, int], whole_words: bool) -> list[str]:
    """The first-ranked pair of neighbours becomes one, from the left, until none is left."""
    if whole_words and "".join(parts) in ids:
        return ["".join(parts)]
    while True:
        pairs = [(ranks.get(pair, len(ranks)), at) for at, pair in enumerate(pairwise(parts))]
        rank, at = min(pairs, default=(len(ranks), 0))
        if rank == len(ranks):
            return parts
        parts = [*parts[:at], parts[at] + parts[at + 1], *parts[at + 2 :]]
