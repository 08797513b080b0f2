"""BOS, EOS and the chat template of a Hugging Face model folder, from its small JSON files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from memfirst.errors import TokenizerError
from memfirst.text.build import Parts
from memfirst.text.tokenizer import MAX_TEMPLATE_CHARS, Rules, checked_template
from memfirst.text.tokenizer_json import prefixes_space, read_json, starts_with_special
from memfirst.text.vocabulary import stop_ids

_KINDS = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}


def rules_of(spec: dict[str, Any], parts: Parts, folder: Path) -> Rules:
    """Read what the JSON files beside tokenizer.json, and chat_template.jinja, add to the vocabulary."""
    config = _optional(folder / "tokenizer_config.json")
    special, notes = _special_ids(config, parts)
    ends = _eos_ids(folder, parts)
    if "eos" not in special and ends:
        special["eos"] = ends[0]
    controls = [(token.text, token.id) for token in parts.added if token.control]
    stated = config.get("add_bos_token")
    add_bos = stated if isinstance(stated, bool) else starts_with_special(spec)
    return Rules(
        special_ids=special,
        stop_ids=stop_ids(special, controls) | frozenset(ends),
        add_bos=add_bos and "bos" in special,
        add_eos=config.get("add_eos_token") is True,
        add_space_prefix=prefixes_space(parts),
        chat_template=_template(folder, config),
        notes=notes,
    )


def _special_ids(config: dict[str, Any], parts: Parts) -> tuple[dict[str, int], tuple[str, ...]]:
    """Read those that tokenizer_config.json names, as a text or as an object with `content`, and note the ignored."""
    found: dict[str, int] = {}
    notes: list[str] = []
    for kind, key in _KINDS.items():
        text = config.get(key)
        text = text.get("content") if isinstance(text, dict) else text
        id = parts.id_of(text) if isinstance(text, str) else None
        if id is not None:
            found[kind] = id
        elif text is not None and kind in ("unknown", "padding"):
            notes.append(f"{key} {str(text)[:40]!r} is no token of the vocabulary: ignored")
        elif text is not None:
            raise TokenizerError(f"{key} is {str(text)[:40]!r}", "a token of the vocabulary")
    return found, tuple(notes)


def _eos_ids(folder: Path, parts: Parts) -> list[int]:
    """Read `eos_token_id` of generation_config.json and config.json: one id or a list."""
    ends: list[int] = []
    for name in ("generation_config.json", "config.json"):
        found = _optional(folder / name).get("eos_token_id")
        ids = found if isinstance(found, list) else [] if found is None else [found]
        if not all(type(id) is int and 0 <= id < len(parts.tokens) and parts.tokens[id] for id in ids):
            raise TokenizerError(f"eos_token_id of {name} is {str(found)[:40]}", "ids of the vocabulary")
        ends += ids
    return ends


def _template(folder: Path, config: dict[str, Any]) -> str | None:
    """Read chat_template.jinja, else `chat_template`: a text, or a list of named ones (then its "default")."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        with path.open("rb") as file:
            return checked_template(file.read(4 * MAX_TEMPLATE_CHARS + 1).decode("utf-8", "replace"))
    found = config.get("chat_template")
    if isinstance(found, list):
        named = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}
        found = named.get("default")
    return checked_template(found)


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
