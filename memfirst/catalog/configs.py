"""Published models as configurations: what is needed to price one before anything is downloaded.

Rows of configs.json, then those of a user's own models.json in the same form:

    {"models": [{"name": "mine:3b", "config": {"model_type": "llama", "hidden_size": 2048, ...}},
                {"name": "mine:deep", "like": "llama-3:8b", "config": {"num_hidden_layers": 48}}]}

A row that is `like` another starts from that one's config; a key set to null is as absent.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memfirst.catalog import shipped
from memfirst.catalog.spelling import key, spelled
from memfirst.errors import ConfigError, FormatError, MemfirstError, ModelNotFoundError
from memfirst.formats.json_file import parse_object

if TYPE_CHECKING:
    from memfirst.formats.checkpoint import Checkpoint

KNOWN = ("opened", "excerpt", "memory", "")
"""The source was read; a part of it was; neither: to be checked again; or nobody says (a user's own)."""

_KEYS = {"name", "aliases", "like", "config", "parameters", "published", "source", "known"}
_LARGEST_FILE = 1 << 20  # bytes of a user's own file
_LONGEST_CHAIN = 8  # rows that are like one another


@dataclass(frozen=True)
class ModelConfig:
    """One published model.

    config      as config.json has it
    parameters  in all, a tied head counted once; None where nobody has said
    published   whether that number is the publisher's; else it is computed from the config
    source      where the row comes from, and `known` how: see KNOWN
    """

    name: str
    aliases: tuple[str, ...]
    config: Mapping[str, Any]
    parameters: int | None = None
    published: bool = False
    source: str = ""
    known: str = ""


@dataclass(frozen=True)
class Unpriced:
    """A model known by name alone: `what` it is said to be, and which of its sizes are `missing`."""

    names: tuple[str, ...]
    what: str
    missing: str


def user_file() -> Path:
    """Where a user's own rows are: models.json in MEMFIRST_CONFIG_DIR, or in the user's config folder."""
    if folder := os.environ.get("MEMFIRST_CONFIG_DIR"):
        return Path(folder).expanduser().absolute() / "models.json"
    from platformdirs import user_config_dir

    return Path(user_config_dir("memfirst", appauthor=False)) / "models.json"


def configs() -> tuple[ModelConfig, ...]:
    """A user's own rows, then the catalogue's that they do not replace by name.

    Raises FormatError or ConfigError, naming the file and the row, where the user's file is wrong.
    """
    shipped, own = _shipped(), _own()
    names = {key(m.name) for m in own}
    return own + tuple(m for m in shipped if key(m.name) not in names) if own else shipped


def find_config(name: str) -> ModelConfig:
    """The row that `name` means, as people write it: an address or a publisher's name too.

    Raises ModelNotFoundError with near names where there is none.
    """
    found = look_up(name)
    if found is None:
        if refused := refusal(name):
            raise refused
        rows = (*configs(), *priced())
        near = get_close_matches(name.rpartition("/")[2].lower(), [m.name for m in rows], n=4, cutoff=0.5)
        expected = f"something like {', '.join(near)}" if near else "a name of the catalogue"
        raise ModelNotFoundError(f"no model is called {name!r}", expected, f"or add it to {user_file()}")
    return found[0]


def look_up(name: str) -> tuple[ModelConfig, str] | None:
    """The row that `name` means, and the quantization that it states ("": none); None where there is no such row."""
    by_key = _by_key((*configs(), *priced())) if _own() else _shipped_by_key()
    for asked in spelled(name):
        for one in asked.forms():
            if found := by_key.get(one):
                return found, asked.mix
    return None


def catalog_checkpoint(name: str) -> Checkpoint:
    """The model called `name` as a bare config: hyperparameters and no tensors. Nothing is downloaded."""
    from memfirst.formats.hf import HFCheckpoint

    return HFCheckpoint("", dict(find_config(name).config), [])


@cache
def priced() -> tuple[ModelConfig, ...]:
    """Models of architectures that memfirst does not know: priced by what their configs say, and not run."""
    data = shipped("priced.json")
    return tuple(_rows(data, "priced.json", {}))


@cache
def unpriced() -> tuple[Unpriced, ...]:
    """Models that people name, and of which too little is public."""
    data = shipped("unpriced.json")
    rows = parse_object(data, "unpriced.json")["models"]
    return tuple(Unpriced(tuple(row["names"]), row["what"], row["missing"]) for row in rows)


def refusal(name: str) -> ModelNotFoundError | None:
    """Where `name` means one of those: what it is, what is missing, and what to give instead."""
    by_key = {key(one): row for row in unpriced() for one in row.names}
    for form in (form for asked in spelled(name) for form in asked.forms()):
        if row := by_key.get(form):
            found = f"{name!r} is {row.what}, and {row.missing} could not be read anywhere"
            do = "name its config.json or a GGUF file of it"
            return ModelNotFoundError(found, "a model whose sizes are public", do)
    return None


@cache
def _shipped() -> tuple[ModelConfig, ...]:
    data = shipped("configs.json")
    return tuple(_rows(data, "configs.json", {}))


@cache
def _shipped_by_key() -> Mapping[str, ModelConfig]:
    return _by_key((*_shipped(), *priced()))


def _by_key(rows: Sequence[ModelConfig]) -> Mapping[str, ModelConfig]:
    """Rows by each name as it compares, an earlier row's first."""
    return {key(n): m for m in reversed(rows) for n in (*m.aliases, m.name)}


def _own() -> tuple[ModelConfig, ...]:
    """A user's own rows."""
    data = _own_bytes()
    return tuple(_rows(data, str(user_file()), {m.name: m for m in _shipped()})) if data else ()


def _own_bytes() -> bytes:
    path = user_file()
    try:
        with open(path, "rb") as file:
            data = file.read(_LARGEST_FILE + 1)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise MemfirstError(f"cannot read {path}: {error.strerror}", do="fix or remove it") from error
    if len(data) > _LARGEST_FILE:
        raise FormatError(f"{path} is larger than {_LARGEST_FILE} bytes", "a short list of models")
    return data


def _rows(data: bytes, where: str, known: Mapping[str, ModelConfig]) -> Iterator[ModelConfig]:
    """The rows of a file; `known` are rows of other files that they may be like."""
    rows = parse_object(data, where).get("models")
    if not isinstance(rows, list):
        raise FormatError(f"{where}: no list of models", '{"models": [...]}')
    raw: dict[str, dict[str, Any]] = {}
    for row in rows:
        checked = _checked(row, where)
        if raw.setdefault(checked["name"].lower(), checked) is not checked:
            raise FormatError(f"{where}: {checked['name']} is there twice", "each name once")
    return (_model(row, raw, known, where) for row in raw.values())


def _checked(row: Any, where: str) -> dict[str, Any]:
    """The row, with fields of the right types; FormatError says which is not."""
    if not isinstance(row, dict) or not isinstance(row.get("name"), str) or not key(row["name"]):
        raise FormatError(f"{where}: a model without a name", 'an object with "name"')
    where = f"{where}: {row['name'][:60]}"
    if strange := sorted(set(row) - _KEYS):
        raise FormatError(f"{where} says {', '.join(strange)[:200]}", f"some of {', '.join(sorted(_KEYS))}")
    types = {"aliases": list, "like": str, "config": dict, "parameters": int, "published": bool}
    for field, kind in (types | {"source": str, "known": str}).items():
        if field in row and (not isinstance(row[field], kind) or (kind is int and isinstance(row[field], bool))):
            raise FormatError(f"{where}: {field} is {str(row[field])[:60]!r}", f"a JSON {kind.__name__}")
    if not all(isinstance(alias, str) for alias in row.get("aliases", [])):
        raise FormatError(f"{where}: aliases are not names", "a list of names")
    if row.get("known", "") not in KNOWN:
        raise FormatError(f"{where}: known is {row['known'][:60]!r}", f"one of {', '.join(KNOWN[:-1])}")
    return row


def _model(
    row: Mapping[str, Any], raw: Mapping[str, dict[str, Any]], known: Mapping[str, ModelConfig], where: str
) -> ModelConfig:
    config = _config(row, raw, known, where, _LONGEST_CHAIN)
    if not isinstance(config.get("model_type"), str):
        raise ConfigError(f"{where}: {row['name']} has no model_type", "one in its config or in what it is like")
    aliases = tuple(alias.lower() for alias in row.get("aliases", []))
    text = {field: row.get(field, "") for field in ("source", "known")}
    parameters, published = row.get("parameters"), row.get("published", False)
    return ModelConfig(row["name"].lower(), aliases, config, parameters, published, **text)


def _config(
    row: Mapping[str, Any], raw: Mapping[str, Any], known: Mapping[str, ModelConfig], where: str, left: int
) -> dict[str, Any]:
    """The row's keys over those of what it is like; a row may replace the very row that it is like."""
    own, base = row.get("config", {}), row.get("like", "").lower()
    if not base:
        return dict(own)
    if base in raw and base != row["name"].lower() and left:
        return {**_config(raw[base], raw, known, where, left - 1), **own}
    if base in known:
        return {**known[base].config, **own}
    raise ConfigError(f"{where}: {row['name']} is like {base[:60]!r}", "a model of the catalogue or of this file")
