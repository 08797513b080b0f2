"""A model's vocabulary as its GGUF file gives it, with everything bounded and checked."""

from __future__ import annotations

import re
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

END_MARKERS = frozenset((
    "</s>", "<eos>", "[EOS]", "<EOT>", "_<EOT>", "[EOT]", "<|end|>", "<|return|>", "<|call|>", "<|calls|>", "<|flush|>",
    "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<end_of_turn>", "<turn|>",
    "<end_of_utterance>", "<｜end▁of▁sentence｜>", "<|tool_response>", "[e~[", "<|fim_pad|>", "<|repo_name|>",
    "<|file_sep|>",
))  # fmt: skip
"""Tokens by which models end a turn, an answer or a file."""
_TURN_MARKERS = frozenset({"<start_of_turn>", "[INST]", "[/INST]"})
_TAGS = frozenset({"<s>", "</s>"})
"""Control tokens of most vocabularies, and HTML in others (Gemma's)."""
_NORMAL_TAGS = frozenset({"<|tool_response>", "<|plamo:eos|>"})
"""Vocabularies with one of these have `</s>` as text."""
_FRAMED = re.compile("<[|｜].*[|｜]>")
_END_OF_MESSAGE = (
    frozenset({"<|return|>", "<|call|>", "<|end|>"}),
    frozenset({"<|call|>", "<|flush|>", "<|end|>"}),
    frozenset({"<|calls|>", "<|flush|>", "<|end|>"}),
)
"""Vocabularies with all of one set end a message with `<|end|>`, and an answer with the others."""


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by id and the rules around them."""

    model: str
    """"gpt2" (byte-level BPE), "gemma4" (BPE of characters), "llama" (SentencePiece) or "rwkv" (byte strings)."""
    pre: str
    tokens: list[str]
    ids: dict[str, int]
    types: NDArray[np.int32]  # [n], the numbers above
    scores: NDArray[np.float32]  # [n] for "llama": the higher, the earlier a token is merged; else empty
    merges: list[str]
    """For BPE, in order: "left right"."""
    special_ids: Mapping[str, int]
    stop_ids: frozenset[int]
    add_bos: bool
    add_eos: bool
    add_space_prefix: bool
    notes: tuple[str, ...]
    """What is in the file and ignored, one sentence each."""

    def ids_of_type(self, *types: int) -> list[int]:
        """List the ids of the tokens that have one of the types, ascending."""
        return [int(id) for id in np.flatnonzero(np.isin(self.types, types))]


def from_metadata(metadata: Mapping[str, Any]) -> Vocabulary:
    """Read `tokenizer.ggml.*`; TokenizerError on what is malformed, UnsupportedError on what is not known."""
    model, pre = _name(metadata, "model", ""), _name(metadata, "pre", "default")
    if model not in ("gpt2", "gemma4", "llama", "rwkv"):
        found = f"the file's tokenizer is {model!r}" if model else "the file has no tokenizer"
        raise UnsupportedError(found, "'gpt2' or 'gemma4' (BPE), 'llama' (SentencePiece) or 'rwkv' (byte strings)")
    bpe, scored, pre = model in ("gpt2", "gemma4"), model == "llama", "gemma4" if model == "gemma4" else pre
    tokens = _tokens(metadata)
    ids = check_tokens(tokens)
    special_ids, notes = _special_ids(metadata, len(tokens))
    types = _checked_types(_numbers(metadata, "token_type", len(tokens), np.int32, NORMAL), tokens, ids, special_ids)
    if scored:
        special_ids = {**_usual_ids(types), **special_ids}
    bos_by_default = pre_tokenizer(pre).add_bos if bpe else scored
    return Vocabulary(
        model=model,
        pre=pre,
        tokens=tokens,
        ids=ids,
        types=types,
        scores=_numbers(metadata, "scores", len(tokens) if scored else 0, np.float32, 0),
        merges=_merges(metadata) if bpe else [],
        special_ids=special_ids,
        stop_ids=stop_ids(special_ids, ((tokens[i], int(i)) for i in np.flatnonzero(types == CONTROL))),
        # Gemma 4's files state that it takes no BOS, and without one it generates noise (llama.cpp overrides it too).
        add_bos=model == "gemma4" or _flag(metadata, "add_bos_token", bos_by_default and "bos" in special_ids),
        add_eos=_flag(metadata, "add_eos_token", False),
        add_space_prefix=_flag(metadata, "add_space_prefix", model == "llama"),
        notes=notes,
    )


def stop_ids(special_ids: Mapping[str, int], controls: Iterable[tuple[str, int]]) -> frozenset[int]:
    """Collect EOS, end of turn, end of message, and the control tokens that are known end markers."""
    known = {text: id for text, id in controls if text in END_MARKERS}
    if any(known.keys() >= markers for markers in _END_OF_MESSAGE):
        del known["<|end|>"]
    named = [special_ids[kind] for kind in ("eos", "eot", "eom") if kind in special_ids]
    return frozenset([*named, *known.values()])


def control_texts(tokens: Iterable[str], ids: Mapping[str, int]) -> set[str]:
    """Find tokens that are control tokens whatever type the file gives them: known markers, and any unlearned `<|…|>`.

    llama.cpp's converter and its loader do the same; files of other converters often type them as normal text, and
    a model whose `<|im_end|>` is text never stops.
    """
    framed = {found[0] for found in _FRAMED.finditer("\n".join(tokens)) if found[0] in ids}
    learned = {text for text in framed if any(text[:i] in ids and text[i:] in ids for i in range(1, len(text)))}
    return (framed - learned) | ((END_MARKERS | _TURN_MARKERS) - _TAGS & ids.keys())


def check_tokens(tokens: list[str]) -> dict[str, int]:
    """Map text to index; TokenizerError for more text than MAX_CHARS, and for two tokens alike."""
    ids = dict(zip(tokens, range(len(tokens)), strict=True))
    if len(ids) < len(tokens):
        twice = Counter(tokens).most_common(1)[0][0]
        raise TokenizerError(f"the token {twice[:40]!r} has two ids", "every token once")
    check_sizes(tokens)
    return ids


def check_sizes(tokens: Iterable[str]) -> None:
    """Raise TokenizerError for more text than MAX_CHARS, or a token of more than MAX_TOKEN_CHARS."""
    lengths = list(map(len, tokens))
    if max(lengths, default=0) > MAX_TOKEN_CHARS or sum(lengths) > MAX_CHARS:
        found = f"tokens of up to {max(lengths)} characters, {sum(lengths)} in all"
        raise TokenizerError(found, f"at most {MAX_TOKEN_CHARS} and {MAX_CHARS}")


def _tokens(metadata: Mapping[str, Any]) -> list[str]:
    """Read texts by id. Empty ones get a name of their own, as converters give them, so that ids stay distinct."""
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
    """Read one finite number for each of `count` tokens, or `default` for all where the file has none."""
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


def _checked_types(
    types: NDArray[np.int32], tokens: list[str], ids: Mapping[str, int], special_ids: Mapping[str, int]
) -> NDArray[np.int32]:
    """Correct the types of control tokens."""
    controls = {ids[text] for text in control_texts(tokens, ids)}
    for text in _TAGS & ids.keys():
        named = ids[text] in special_ids.values()
        if named or (types[ids[text]] != USER_DEFINED and not (_NORMAL_TAGS & ids.keys())):
            controls.add(ids[text])
    changed = types.copy()
    fixed = [id for id in controls if types[id] not in (CONTROL, UNKNOWN)]
    changed[fixed] = CONTROL
    return changed


def _special_ids(metadata: Mapping[str, Any], count: int) -> tuple[dict[str, int], tuple[str, ...]]:
    """Read the ids that the file names by kind, and note those that are ignored.

    An end of text that does not exist is an error, since answers would not end; generation reads no padding, and an
    unknown token only where a vocabulary cannot spell all bytes.
    """
    ids: dict[str, int] = {}
    notes: list[str] = []
    for kind in ("bos", "eos", "eot", "eom", "unknown", "padding"):
        found = metadata.get(f"tokenizer.ggml.{kind}_token_id")
        if found is None:
            continue
        if not isinstance(found, bool) and isinstance(found, int | np.integer) and 0 <= found < count:
            ids[kind] = int(found)
        elif kind in ("unknown", "padding"):
            notes.append(f"{kind}_token_id {_describe(found)} is no id of the vocabulary: ignored")
        else:
            raise TokenizerError(f"{kind}_token_id is {_describe(found)}", f"an id below {count}")
    return ids, tuple(notes)


def _usual_ids(types: NDArray[np.int32]) -> dict[str, int]:
    """Return SentencePiece's own ids, for files that name none."""
    usual = {"unknown": 0, "bos": 1, "eos": 2}
    return {kind: id for kind, id in usual.items() if id < len(types) and types[id] in (CONTROL, UNKNOWN)}


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
