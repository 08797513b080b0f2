"""Synthetic vocabularies of any size, byte-level BPE or byte strings: they mean nothing, but load elsewhere too."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, product
from typing import Any

import numpy as np

CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
FIRST_MERGE = len(CONTROL) + 256
"""Tokens before the first merged one: the least vocabulary."""

NORMAL_TYPE, CONTROL_TYPE = 1, 3


def byte_letters() -> list[str]:
    """GPT-2's letter for each byte 0..255: itself where it prints, else the next of U+0100 onwards."""
    prints = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in prints else next(others)) for byte in range(256)]


def merges() -> Iterator[tuple[str, str]]:
    """Pairs of letters, then a pair and a letter: 65,536 + 16.8 million, each with its own result."""
    letters = byte_letters()
    yield from product(letters, letters)
    for pair in product(letters, letters):
        yield from product(("".join(pair),), letters)


def tokenizer_metadata(size: int, pre: str) -> dict[str, Any]:
    """`tokenizer.ggml.*` keys for a vocabulary of `size` tokens; `pre` names the pre-tokenizer."""
    pairs = list(islice(merges(), size - FIRST_MERGE))
    tokens = [*CONTROL, *byte_letters(), *(left + right for left, right in pairs)]
    types = np.full(size, NORMAL_TYPE, np.int32)
    types[: len(CONTROL)] = CONTROL_TYPE
    keys: dict[str, Any] = {"model": "gpt2", "pre": pre, "tokens": tokens, "token_type": types}
    keys["merges"] = [f"{left} {right}" for left, right in pairs] or ["! !"]
    keys |= {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0, "padding_token_id": 2}
    keys |= {"add_bos_token": False, "add_space_prefix": False}
    return {f"tokenizer.ggml.{key}": value for key, value in keys.items()}


def byte_strings() -> Iterator[bytes]:
    """Each byte, a paragraph's end, all other pairs of bytes, and triples: RWKV's tokens are byte strings."""
    letters, end = [bytes([byte]) for byte in range(256)], b"\n\n"
    yield from letters
    yield end
    yield from (first + second for first, second in product(letters, letters) if first + second != end)
    yield from map(b"".join, product(letters, letters, letters))


def byte_strings_metadata(size: int) -> dict[str, Any]:
    """`tokenizer.ggml.*` keys of RWKV's kind for a vocabulary of `size` tokens; a paragraph's end ends an answer."""
    tokens = ["<s>", *(repr(token)[2:-1] for token in islice(byte_strings(), size - 1))]
    types = np.full(size, NORMAL_TYPE, np.int32)
    types[0] = CONTROL_TYPE
    keys: dict[str, Any] = {"model": "rwkv", "tokens": tokens, "token_type": types}
    keys |= {"bos_token_id": 0, "eos_token_id": 0, "eot_token_id": 257}
    stated = {f"tokenizer.ggml.{key}": value for key, value in keys.items()}
    return stated | {"tokenizer.chat_template": "rwkv-world"}
