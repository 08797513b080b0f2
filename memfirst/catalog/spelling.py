"""A model's name as people write it: "meta-llama/Llama-3.1-8B-Instruct", "gemma3:27b", "hf.co/o/r-GGUF:Q4_K_M"."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

_ADDRESS = re.compile(r"^(?:hf:|(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co|ollama\.com(?:/library)?)/)")
_TAIL = re.compile(r"(?:[?#].*|/+)$|/(?:tree|blob|resolve)/[^/]+/?(?=[^/]*$)")
_MIX = re.compile(
    r"(?:^|[-_.:/ ])(?P<mix>(?:ud-)?(?:i?q\d(?:_(?:k|0|1|nl|xl|xxs|xs|s|m|l))*|bf16|f?p?16|fp32|f32|mxfp4|tq[12]_0))$"
)
"""The quantization at the end of a name."""
_SAME_MIX = {"fp16": "f16", "p16": "f16", "16": "", "fp32": "f32"}
_APART = re.compile(r"(?!\.)[\W_]+")
_ASCII_APART = {code: None for code in range(128) if _APART.match(chr(code))}
"""The same by character, for `str.translate`: a start compares a thousand names."""

_ZERO = re.compile(r"(?<=\d)\.0(?![\d.])")
"""exaone4 is exaone-4.0."""

_TAGGED = re.compile(r"^[a-z][a-z-]*_(?=[a-z])")
"""A publisher before the name, as in bartowski's repositories: google_gemma-3-27b-it."""

_DATE = re.compile(r"2[3-6](?:0[1-9]|1[0-2])|20\d{6}|(?:0[1-9]|1[0-2])(?:[0-2]\d|3[01])")
"""2507, 20250428, 0528."""

_TUNED = {"instruct", "it", "chat", "base", "pt", "qat", "preview", "text", "hf", "latest", "think", "thinking",
          "reasoning", "sft", "dpo"}  # fmt: skip
_NOISE = _TUNED | {"gguf", "imatrix", "i1", "quantized", "meta", "model", "nvidia"}
"""Words that change neither the shape of a model nor which of a catalogue it is."""


@dataclass(frozen=True)
class Spelling:
    """A name in parts that compare: its telling words, and the quantization that it states ("" or "q4_k_m")."""

    words: tuple[str, ...]
    mix: str = ""

    def forms(self) -> Iterator[str]:
        """What a catalogue may call it, the most telling first."""
        plain = tuple(word for word in self.words if word not in _NOISE)
        undated = tuple(word for word in plain if not _DATE.fullmatch(word))
        return iter(dict.fromkeys("".join(words) for words in (self.words, plain, undated)))


@lru_cache(1 << 12)
def key(name: str) -> str:
    """Names compare without case and separators: "Llama3-70B" is "llama-3:70b", "Command R+" is "command-r-plus"."""
    text = name.lower().replace("+", "plus")
    text = _ZERO.sub("", text) if ".0" in text else text
    return text.translate(_ASCII_APART) if text.isascii() else _APART.sub("", text)


def spelled(name: str) -> Iterator[Spelling]:
    """What a name may say: first with what looks like a quantization as a part of the name, then apart.

    Nothing of what can only be a path.
    """
    text = name.strip().lower()
    if text.startswith((".", "/", "~")) or text.endswith((".gguf", ".json", ".safetensors")):
        return
    text = _ADDRESS.sub("", text)
    text = _TAIL.sub("", _TAIL.sub("", text))
    text = text.rpartition("/")[2]  # the publisher
    yield from _parts(text)
    if tagged := _TAGGED.match(text):
        yield from _parts(text[tagged.end() :])


def _parts(text: str) -> Iterator[Spelling]:
    yield Spelling(_words(text))
    bare = re.sub(r"[-_.]gguf$", "", text)
    if found := _MIX.search(bare):
        mix = found["mix"]
        yield Spelling(_words(re.sub(r"[-_.]gguf$", "", bare[: found.start()])), _SAME_MIX.get(mix, mix))


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for part in re.split(r"[\s_:/-]+", text) if (word := key(part)))
