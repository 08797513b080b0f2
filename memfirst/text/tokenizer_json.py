"""Reads a Hugging Face `tokenizer.json` strictly: known parts only, everything bounded."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memfirst.errors import ModelNotFoundError, TokenizerError, UnsupportedError
from memfirst.text.build import Parts
from memfirst.text.bytes_of_tokens import SPACE
from memfirst.text.controls import Added
from memfirst.text.merges import ListedMerges, gap_for
from memfirst.text.pretokenizers import KNOWN_PATTERNS
from memfirst.text.vocabulary import MAX_MERGES, MAX_TOKENS, check_sizes, check_tokens, control_texts

MAX_FILE_BYTES = 1 << 26
"""67 MB; the largest published ones (262,144 tokens) have 33 MB."""
MAX_STEPS = 16

_FLAGS = ("single_word", "lstrip", "rstrip", "normalized")
_NORMALIZERS = {"NFC": set(), "Prepend": {"prepend"}, "Replace": {"pattern", "content"}}
_SPLITTERS = {
    "Split": {"pattern", "behavior", "invert"},
    "Digits": {"individual_digits"},
    "ByteLevel": {"add_prefix_space", "trim_offsets", "use_regex"},
    "Metaspace": {"replacement", "prepend_scheme", "split", "add_prefix_space"},
}


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a JSON object from a file of at most MAX_FILE_BYTES; TokenizerError if it is anything else."""
    try:
        size = Path(path).stat().st_size
        data = Path(path).read_bytes() if size <= MAX_FILE_BYTES else b""
    except OSError as error:
        raise ModelNotFoundError(f"can't read {Path(path).name}: {error.strerror}") from error
    if size > MAX_FILE_BYTES:
        raise TokenizerError(f"{Path(path).name} has {size} bytes", f"at most {MAX_FILE_BYTES}")
    return parse(data, Path(path).name)


def parse(data: bytes, name: str = "tokenizer.json") -> dict[str, Any]:
    """Parse a JSON object; TokenizerError if it is anything else."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{name} is not JSON: {error}"[:200]) from error
    return _object(found, name)


def parts_of_json(spec: Mapping[str, Any]) -> Parts:
    """Read an encoder's parts; UnsupportedError for what is not supported, TokenizerError for what is malformed."""
    model = _object(spec.get("model"), "model")
    if model.get("type", "BPE") != "BPE" or model.get("dropout") or model.get("continuing_subword_prefix"):
        raise UnsupportedError(f"a tokenizer.json of type {str(model.get('type'))[:40]!r}", "plain 'BPE'")
    ids = _vocabulary(_object(model.get("vocab"), "model.vocab"))
    added = _controls_among(_added_tokens(spec.get("added_tokens") or []), ids)
    controls = frozenset(token.text for token in added if token.control)
    unknown = model.get("unk_token")
    if unknown is not None and not (isinstance(unknown, str) and unknown in ids):
        raise TokenizerError(f"unk_token is {str(unknown)[:40]!r}", "a token of the vocabulary")
    return Parts(
        tokens=_by_id(ids, added),
        ids=ids,
        merges=_merges(model.get("merges"), ids, controls),
        added=added,
        normalizer=_steps(spec.get("normalizer"), "normalizers", _NORMALIZERS),
        splitter=_steps(spec.get("pre_tokenizer"), "pretokenizers", _SPLITTERS),
        whole_words=model.get("ignore_merges") is True,
        byte_fallback=model.get("byte_fallback") is True,
        fuse_unknown=model.get("fuse_unk") is True,
        unknown=unknown,
    )


def prefixes_space(parts: Parts) -> bool:
    """Return whether encoding puts a space before the text, which decoding removes."""
    steps = (parts.splitter or {}).get("pretokenizers", []) + (parts.normalizer or {}).get("normalizers", [])
    return any(
        step["type"] == "Prepend"
        or step.get("prepend_scheme", "never") != "never"
        or (step["type"] == "ByteLevel" and step.get("add_prefix_space") is True)
        for step in steps
    )


def starts_with_special(spec: Mapping[str, Any]) -> bool:
    """Return whether the post-processor puts a special token (BOS) before a text."""
    found = spec.get("post_processor")
    steps = [found, *(found.get("processors") or [])] if isinstance(found, dict) else []
    for step in steps[:MAX_STEPS]:
        single = step.get("single") if isinstance(step, dict) else None
        if isinstance(single, list) and single and isinstance(single[0], dict):
            return "SpecialToken" in single[0]
    return False


def _vocabulary(found: dict[str, Any]) -> dict[str, int]:
    if len(found) > MAX_TOKENS or not found:
        raise TokenizerError(f"a vocabulary of {len(found)} tokens", f"1 to {MAX_TOKENS}")
    if {*map(type, found.values())} != {int} or min(found.values()) < 0 or max(found.values()) >= MAX_TOKENS:
        raise TokenizerError("a vocabulary with ids out of range", f"integers below {MAX_TOKENS}")
    if len({*found.values()}) < len(found):
        raise TokenizerError("two tokens share an id", "an id for each")
    check_sizes(found)
    return found


def _by_id(ids: dict[str, int], added: list[Added]) -> list[str]:
    """List texts by id, "" where an id is not used; TokenizerError if an added token has another's id."""
    last = max([max(ids.values()), *(token.id for token in added)])
    tokens = [""] * (last + 1)
    for text, id in ids.items():
        tokens[id] = text
    for token in added:
        if tokens[token.id] not in ("", token.text) or ids.get(token.text, token.id) != token.id:
            found = f"the token {token.text[:40]!r} can't have id {token.id}"
            raise TokenizerError(found, "one id for each token")
        tokens[token.id] = token.text
    return tokens


def _merges(found: Any, ids: dict[str, int], controls: frozenset[str]) -> ListedMerges:
    """Read merges, written as "left right" or as ["left", "right"]."""
    if not isinstance(found, list) or len(found) > MAX_MERGES:
        raise TokenizerError("model.merges is not a list of pairs", f"at most {MAX_MERGES}")
    kinds, gap = {*map(type, found)}, " "
    try:
        if kinds == {list}:
            gap = gap_for(ids)
            found = [left + gap + right for left, right in found]
        elif not kinds <= {str}:
            raise TypeError
    except (TypeError, ValueError):
        raise TokenizerError("a merge that is not a pair", '"left right" or ["left", "right"]') from None
    return ListedMerges(found, ids, controls, gap)


def _added_tokens(found: Any) -> list[Added]:
    if not isinstance(found, list) or len(found) > MAX_TOKENS:
        raise TokenizerError("added_tokens is not a list of tokens", f"at most {MAX_TOKENS}")
    added = [_added_token(_object(token, "added_tokens")) for token in found]
    check_tokens([token.text for token in added])
    return sorted(added, key=lambda token: token.id)


def _controls_among(added: list[Added], ids: dict[str, int]) -> list[Added]:
    """List the added tokens, and of the vocabulary those that are control tokens by their text."""
    every = {**ids, **{token.text: token.id for token in added}}
    controls = control_texts(every, every)
    known = [token._replace(control=token.control or token.text in controls) for token in added]
    missing = controls - {token.text for token in added}
    return sorted([*known, *(Added(text, every[text], True) for text in missing)], key=lambda token: token.id)


def _added_token(found: dict[str, Any]) -> Added:
    id, text = found.get("id"), found.get("content")
    if type(id) is not int or not 0 <= id < MAX_TOKENS or type(text) is not str or not text:
        what = f"the added token {str(text)[:40]!r} with id {str(id)[:20]}"
        raise TokenizerError(what, "a text, and an id in range")
    flags = {key: found.get(key) is True for key in _FLAGS}
    return Added(text, id, found.get("special") is True, **flags)


def _steps(found: Any, key: str, known: Mapping[str, set[str]]) -> dict[str, Any] | None:
    """Read a normalizer or splitter as a sequence of known steps with their known settings."""
    if found is None:
        return None
    found = _object(found, key)
    steps = found.get(key) if found.get("type") == "Sequence" else [found]
    if not isinstance(steps, list) or len(steps) > MAX_STEPS:
        raise TokenizerError(f"{key} is not a sequence of steps", f"at most {MAX_STEPS}")
    return {"type": "Sequence", key: [_step(_object(step, key), known) for step in steps]}


def _step(step: dict[str, Any], known: Mapping[str, set[str]]) -> dict[str, Any]:
    kind = str(step.get("type"))
    unknown = step.keys() - known.get(kind, set()) - {"type"}
    if kind not in known or unknown:
        found = f"a tokenizer.json with the step {kind[:40]!r} {sorted(unknown)}"
        raise UnsupportedError(found[:200], "one of " + ", ".join(known) + " with its known settings")
    if "pattern" in step:
        _check_pattern(_object(step["pattern"], "pattern"))
    if kind == "Prepend" and step.get("prepend") != SPACE:
        raise UnsupportedError("a normalizer that puts text before the prompt", f"only {SPACE!r}")
    return step


def _check_pattern(pattern: dict[str, Any]) -> None:
    """Accept a literal of a few characters, or a regular expression that memfirst knows: others may never end."""
    literal, regex = pattern.get("String"), pattern.get("Regex")
    if (type(literal) is str and 0 < len(literal) <= 16) or (type(regex) is str and regex in KNOWN_PATTERNS):
        return
    found = f"a tokenizer.json that splits text by {str(regex or literal)[:80]!r}"
    raise UnsupportedError(found, "a pattern of a known pre-tokenizer", "use a GGUF file of the model")


def _object(found: Any, name: str) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise TokenizerError(f"{name} is not an object", "a JSON object")
    return found
