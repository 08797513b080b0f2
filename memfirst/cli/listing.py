"""`memfirst list`: what is in the cache, or in the catalogue."""

from __future__ import annotations

from typing import Annotated

import typer

from memfirst.cli.options import Json
from memfirst.cli.streams import write

Catalogue = Annotated[bool, typer.Option("--catalogue", help="List the names that can be pulled instead.")]


def list_models(catalogue: Catalogue = False, as_json: Json = False) -> None:
    """List the models of the cache: name, size, path."""
    if catalogue:
        _print_catalogue(as_json)
    else:
        _print_pulled(as_json)


def _print_pulled(as_json: bool) -> None:
    from memfirst import hub
    from memfirst.cli.display import print_json, size, table

    found = hub.pulled()
    if as_json:
        keys = ("name", "size", "path", "source")
        print_json({"models": [{k: getattr(m, k) for k in keys} for m in found]})
    elif found:
        rows = [(m.name, size(m.size), str(m.path)) for m in found]
        write(table([("name", "size", "path"), *rows], numbers=[1]))
    else:
        write("no model is in the cache; pull one of: memfirst list --catalogue")


def _print_catalogue(as_json: bool) -> None:
    from memfirst.catalog.models import models
    from memfirst.cli.display import print_json, table

    if as_json:
        keys = ("name", "aliases", "architecture", "repo", "quant", "known")
        rows = [{k: getattr(m, k) for k in keys} | {"license": vars(m.license)} for m in models()]
        print_json({"catalogue": rows})
    else:
        cells = [(m.name, m.architecture, m.quant, f"hf:{m.repo}", m.license.name) for m in models()]
        write(table([("name", "architecture", "default", "from", "license"), *cells]))
