"""A model's vocabulary as its GGUF file gives it, with everything bounded and checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memfirst.errors import TokenizerError, UnsupportedError
from memfirst.text.pretokenizers import pre_tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""`tokenizer.ggml.token_type`, numbered as SentencePiece numbers the types of its pieces."""

MAX_TOKENS, MAX_MERGES = 1 << 20, 1 << 22
MAX_TOKEN_CHARS = 2048
MAX_CHARS = 1 << 25
"""All tokens together: 33.5 M characters; a vocabulary of 262,144 tokens has 2 M."""

END_MARKERS = frozenset(
    [
        *("</s>", "<eos>", "[EOS]", "<EOT>", "[EOT]", "<|end|>", "<|return|>", "<|call|>", "<|endoftext|>"),
        *("<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<end_of_turn>", "<end_of_utterance>"),
        *("<｜end▁of▁sentence｜>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"),
    ]
)
"""Texts by which models end a turn, an answer or a file; they count only as control tokens."""
_HARMONY = frozenset({"<|return|>", "<|call|>", "<|end|>"})


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by id and the rules around them.

    model             "gpt2" (byte-level BPE) or "llama" (SentencePiece)
    types             i32 [n], the numbers above
    scores            f32 [n] for "llama": the higher, the earlier a piece is merged; else empty
    merges            for "gpt2", in order: "left right"
    stop_ids          ids that end an answer
    """

    model: str
    pre: str
    tokens: list[str]
    ids: dict[str, int]
    types: NDArray[np.int32]
    scores: NDArray[np.float32]
    merges: list[str]
    special_ids: Mapping[str, int]
    stop_ids: frozenset[int]
    add_bos: bool
    add_eos: bool
    add_space_prefix: bool

    def ids_of_type(self, *types: int) -> list[int]:
        """Ids of the tokens that have one of the types, ascending."""
        return [int(id) for id in np.flatnonzero(np.isin(self.types, types))]


def from_metadata(metadata: Mapping[str, Any]) -> Vocabulary:
    """Read `tokenizer.ggml.*`; TokenizerError on what is malformed, UnsupportedError on what is not known."""
    model, pre = _name(metadata, "model", ""), _name(metadata, "pre", "default")
    if model not in ("gpt2", "llama"):
        found = f"the file's tokenizer is {model!r}" if model else "the file has no tokenizer"
        raise UnsupportedError(found, "'gpt2' (byte-level BPE) or 'llama' (SentencePiece)")
    bos_by_default = pre_tokenizer(pre).add_bos if model == "gpt2" else True
    tokens = _tokens(metadata)
    ids = check_tokens(tokens)
    types = _numbers(metadata, "token_type", len(tokens), np.int32, NORMAL)
    special_ids = _special_ids(metadata, len(tokens))
    return Vocabulary(
        model=model,
        pre=pre,
        tokens=tokens,
        ids=ids,
        types=types,
        scores=_numbers(metadata, "scores", len(tokens) if model == "llama" else 0, np.float32),
        merges=_merges(metadata) if model == "gpt2" else [],
        special_ids=special_ids,
        stop_ids=stop_ids(special_ids, ((tokens[i], int(i)) for i in np.flatnonzero(types == CONTROL))),
        add_bos=_flag(metadata, "add_bos_token", bos_by_default and "bos" in special_ids),
        add_eos=_flag(metadata, "add_eos_token", False),
        add_space_prefix=_flag(metadata, "add_space_prefix", model == "llama"),
    )


def stop_ids(special_ids: Mapping[str, int], controls: Iterable[tuple[str, int]]) -> frozenset[int]:
    """EOS, end of turn, end of message, and the control tokens that are known end markers."""
    known = {text: id for text, id in controls if text in END_MARKERS}
    if known.keys() >= _HARMONY:  # there <|end|> ends one message of several, not the answer
        del known["<|end|>"]
    named = [special_ids[kind] for kind in ("eos", "eot", "eom") if kind in special_ids]
    return frozenset([*named, *known.values()])


def check_tokens(tokens: list[str]) -> dict[str, int]:
    """Text -> index; TokenizerError for more text than MAX_CHARS, and for two tokens alike."""
    ids = dict(zip(tokens, range(len(tokens)), strict=True))
    if len(ids) < len(tokens):
        twice = Counter(tokens).most_common(1)[0][0]
        raise TokenizerError(f"the token {twice[:40]!r} has two ids", "every token once")
    lengths = list(map(len, tokens))
    if max(lengths, default=0) > MAX_TOKEN_CHARS or sum(lengths) > MAX_CHARS:
        found = f"tokens of up to {max(lengths)} characters, {sum(lengths)} in all"
        raise TokenizerError(found, f"at most {MAX_TOKEN_CHARS} and {MAX_CHARS}")
    return ids


def _tokens(metadata: Mapping[str, Any]) -> list[str]:
    """Texts by id. Empty ones get a name of their own, as converters give them, so that ids stay distinct."""
    tokens = _strings(metadata, "tokens", MAX_TOKENS)
    if not tokens:
        raise TokenizerError("a vocabulary without tokens", "tokenizer.ggml.tokens")
    if "" in tokens:
        tokens = [token or f"[EMPTY_{id}]" for id, token in enumerate(tokens)]
    return tokens


def _merges(metadata: Mapping[str, Any]) -> list[str]:
    merges = _strings(metadata, "merges", MAX_MERGES)
    if not merges:
        raise TokenizerError("a BPE vocabulary without merges", "tokenizer.ggml.merges")
    return merges


def _strings(metadata: Mapping[str, Any], key: str, limit: int) -> list[str]:
    found = metadata.get(f"tokenizer.ggml.{key}", ())
    if isinstance(found, str) or not isinstance(found, Sequence) or len(found) > limit:
        raise TokenizerError(f"tokenizer.ggml.{key} is {_describe(found)}", f"at most {limit} strings")
    strings = list(found)
    if not {*map(type, strings)} <= {str}:
        raise TokenizerError(f"tokenizer.ggml.{key} holds other things than strings", "strings")
    return strings


def _numbers(
    metadata: Mapping[str, Any], key: str, count: int, dtype: type[Any], default: int | None = None
) -> NDArray[Any]:
    """One finite number for each of `count` tokens, or `default` for all where the file has none."""
    found = metadata.get(f"tokenizer.ggml.{key}") if count else ()
    if found is None and default is not None:
        return np.full(count, default, dtype)
    try:
        numbers = np.asarray(found, dtype)
    except (TypeError, ValueError, OverflowError):
        numbers = np.empty(0, dtype)
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        expected = f"{count} finite numbers, one per token"
        raise TokenizerError(f"tokenizer.ggml.{key} is {_describe(found)}", expected)
    return numbers


def _special_ids(metadata: Mapping[str, Any], count: int) -> dict[str, int]:
    """Kind ("bos", "eos", "eot", "eom", "unknown", "padding") -> id, for those that the file names."""
    ids: dict[str, int] = {}
    for kind in ("bos", "eos", "eot", "eom", "unknown", "padding"):
        found = metadata.get(f"tokenizer.ggml.{kind}_token_id")
        if found is None:
            continue
        if isinstance(found, bool) or not isinstance(found, int | np.integer) or not 0 <= found < count:
            raise TokenizerError(f"{kind}_token_id is {_describe(found)}", f"an id below {count}")
        ids[kind] = int(found)
    return ids


def _name(metadata: Mapping[str, Any], key: str, default: str) -> str:
    found = metadata.get(f"tokenizer.ggml.{key}", default)
    if not isinstance(found, str):
        raise TokenizerError(f"tokenizer.ggml.{key} is {_describe(found)}", "a name")
    return found


def _flag(metadata: Mapping[str, Any], key: str, default: bool) -> bool:
    found = metadata.get(f"tokenizer.ggml.{key}", default)
    if not isinstance(found, bool | np.bool_):
        raise TokenizerError(f"tokenizer.ggml.{key} is {_describe(found)}", "true or false")
    return bool(found)


def _describe(found: object) -> str:
    if isinstance(found, Sequence | np.ndarray) and not isinstance(found, str):
        return f"{len(found)} values"
    return "missing" if found is None else repr(found)[:40]
