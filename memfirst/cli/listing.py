"""`memfirst list`: what is in the cache, or in the catalogue."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from memfirst.cli.options import Json
from memfirst.cli.streams import write

Catalogue = Annotated[bool, typer.Option("--catalogue", help="List the models that have a name here instead.")]

REFERENCE_ONLY = frozenset({"deepseek_v3"})
"""`model_type` of rows that the CPU backend does not lower (published in FP8); to lower all of them takes seconds."""


def list_models(catalogue: Catalogue = False, as_json: Json = False) -> None:
    """List pulled models, or those with a name.

    Name, size and path of what is in the cache; with --catalogue all that can be named, and what runs them.
    """
    if catalogue:
        _print_catalogue(as_json)
    else:
        _print_pulled(as_json)


def _print_pulled(as_json: bool) -> None:
    from memfirst import hub
    from memfirst.cli.display import brief, print_json, size, table

    found = hub.pulled()
    if as_json:
        keys = ("name", "size", "path", "source")
        print_json({"models": [{k: getattr(m, k) for k in keys} for m in found]})
    elif found:
        rows = [(m.name, size(m.size), brief(m.path)) for m in found]
        write(table([("name", "size", "path"), *rows], numbers=[1]))
    else:
        write("no model is in the cache; pull one of: memfirst list --catalogue")


def _print_catalogue(as_json: bool) -> None:
    from memfirst.cli.display import print_json, table, width
    from memfirst.cli.wrap import fold

    rows = list(catalogue_rows())
    if as_json:
        print_json({"catalogue": rows})
        return
    head = ("name", "weights", "architecture", "runs on", "codec", "license", "repository")
    write(table([head, *map(_cells, rows)], numbers=[1]))
    note = "Runs on cpu: at the speed of memory; reference: in NumPy, slowly. Every row can be planned."
    write("\n".join(["", *fold(note, width(), rest="")]))


def catalogue_rows() -> Iterator[dict[str, Any]]:
    """Every model that has a name: its architecture, weights, what runs it, and where it is had."""
    from memfirst.catalog.configs import catalog_checkpoint, configs
    from memfirst.catalog.models import models

    entries = {m.name: m for m in models()}
    architectures: dict[str, str] = {}
    for row in configs():
        kind = str(row.config["model_type"])
        if kind not in architectures:
            architectures[kind] = catalog_checkpoint(row.name).architecture
        entry = entries.get(row.name)
        where = {"repo": entry.repo, "quant": entry.quant} if entry else {"repo": "", "quant": ""}
        terms = vars(entry.license) if entry else {"name": "", "url": ""}
        known = {"known": entry.known} if entry else {"known": ""}
        runs = "reference" if kind in REFERENCE_ONLY else "cpu"
        facts = {"name": row.name, "aliases": row.aliases, "parameters": row.parameters}
        yield facts | {"architecture": architectures[kind], "runs": runs} | where | {"license": terms} | known


def _billions(parameters: int | None) -> str:
    if parameters is None:
        return "?"
    return f"{parameters / 1e9:.1f} B" if parameters >= 1e9 else f"{parameters / 1e6:.0f} M"


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    plain = (row["name"], _billions(row["parameters"]), row["architecture"], row["runs"], row["quant"])
    license = re.sub(r" (?:Community )?License\b", "", row["license"]["name"])
    return (*plain, license, row["repo"])
