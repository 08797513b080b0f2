"""Vocabularies of the size that current models have, made from a seed."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from memfirst.text.bytes_of_tokens import byte_alphabet


def byte_level_vocabulary(count: int, pre: str = "qwen2", seed: int = 0) -> dict[str, Any]:
    """GGUF metadata of a byte-level BPE vocabulary of `count` tokens; the last one is `<|im_end|>`."""
    tokens, merges = _grown(sorted(byte_alphabet()), count - 1, seed)
    tokens.append("<|im_end|>")
    fields = {
        "model": "gpt2",
        "pre": pre,
        "tokens": tokens,
        "token_type": [1] * (count - 1) + [3],
        "merges": [f"{left} {right}" for left, right in merges],
        "eos_token_id": count - 1,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in fields.items()}


def sentence_piece_vocabulary(count: int, seed: int = 0) -> dict[str, Any]:
    """GGUF metadata of a SentencePiece vocabulary of `count` tokens, 6,000 of them unused as in Gemma 3."""
    fixed = ["<unk>", "<s>", "</s>", *(f"<unused{n}>" for n in range(6000))]
    fixed += [f"<0x{byte:02X}>" for byte in range(256)]
    letters = [chr(code) for code in (*range(0x21, 0x7F), *range(0xC0, 0x180), *range(0x400, 0x460), 0x2581)]
    grown, _ = _grown(letters, count - len(fixed), seed)
    fields = {
        "model": "llama",
        "tokens": fixed + grown,
        "token_type": [2] + [3] * 6002 + [6] * 256 + [1] * len(grown),
        "scores": np.concatenate([np.zeros(len(fixed)), -np.arange(len(grown))]).astype(np.float32),
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in fields.items()}


def _grown(letters: list[str], count: int, seed: int) -> tuple[list[str], list[tuple[str, str]]]:
    """`count` tokens of up to 12 characters that begin with the letters, and the merges that build the others."""
    rng, tokens, known = random.Random(seed), [*letters], {*letters}
    merges: list[tuple[str, str]] = []
    while len(tokens) < count:
        left, right = tokens[int(rng.random() ** 2 * len(tokens))], tokens[int(rng.random() ** 4 * len(tokens))]
        if left + right not in known and len(left + right) <= 12:
            tokens.append(left + right)
            known.add(left + right)
            merges.append((left, right))
    return tokens, merges
