"""`memfirst inspect`: what is in a model file, and what of it a token reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from memfirst.cli.options import Json, Model, Offline
from memfirst.cli.streams import write

PURPOSES = {"kv_read": "KV", "state_read": "state"}
"""What the ledger's purposes are called, where their names are no words."""

Tensors = Annotated[bool, typer.Option("--tensors", help="List every tensor too.")]


def inspect(model: Model, tensors: Tensors = False, offline: Offline = False, as_json: Json = False) -> None:
    """Show a model file: tensors, codecs, bytes.

    Tensors by group and by codec, bits per weight, bytes on disk, bytes read per token, hyperparameters;
    also of models that cannot be run here, with the reason.
    """
    from memfirst import hub
    from memfirst.cli.contents import describe
    from memfirst.cli.display import print_json, progress
    from memfirst.formats.open import open_checkpoint

    with progress(quiet=as_json) as report:
        path = hub.resolve(model, offline=offline, progress=report)
    checkpoint = open_checkpoint(path)
    try:
        facts = describe(checkpoint, tensors)
        if as_json:
            print_json(facts)
        else:
            write(page(facts))
    finally:
        checkpoint.close()


def page(facts: Mapping[str, Any]) -> str:
    """The facts as text, safe for a terminal."""
    from memfirst.cli.display import pairs, printable, table

    parts = [pairs(_head(facts))]
    parts += [_share_table(what, facts[f"by_{what}"]) for what in ("group", "codec")]
    parts.append(pairs([(k, str(v)) for k, v in facts["hyperparameters"].items()]))
    if facts.get("tensors"):
        rows = [_tensor_row(t) for t in facts["tensors"]]
        parts.append(table([("tensor", "shape", "codec", "bytes"), *rows], numbers=[3]))
    return printable("\n\n".join(p for p in parts if p))


def _head(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The answers, before the tables."""
    from memfirst.cli.bar import bar
    from memfirst.cli.display import brief, size, width

    room = width() and width() - len("a token reads") - 2
    bits = facts["bits_per_weight"]
    rows = [
        ("model", f"{facts['kind']}, architecture {facts['architecture']}"),
        ("file", brief(facts["path"])),
        ("on disk", f"{size(facts['file_bytes'])} ({facts['file_bytes']:,} bytes)"),
        ("weights", f"{facts['weights']:,} in {size(facts['tensor_bytes'])}: {bits:.2f} bits each"),
        ("a token reads", _reads(facts)),
        *([("", "\n".join(drawn))] if (drawn := bar(facts["bytes_per_token"], room)) else []),
        *([("left out", facts["left_out"])] if facts["left_out"] else []),
    ]
    if parts := facts["unread"]:
        named = ", ".join(f"{count} of {name}" for name, count in parts.items())
        rows.append(("never read", f"{named}: decoding has no use for them"))
    return rows if facts["runs"] else [*rows, ("does not run", facts["why_not"])]


def _reads(facts: Mapping[str, Any]) -> str:
    """Bytes per token by purpose, in one line."""
    from memfirst.cli.display import size

    read, grows = facts["bytes_per_token"], facts["bytes_per_token_of_context"]
    if not read:
        return "unknown"
    by_purpose = ", ".join(f"{PURPOSES.get(purpose, purpose)} {size(n)}" for purpose, n in read.items())
    line = f"{size(sum(read.values()))} ({sum(read.values()):,} bytes): {by_purpose}"
    return f"{'about ' if facts['estimated'] else ''}{line}; {size(grows)} more for each token of context"


def _share_table(title: str, rows: list[dict[str, Any]]) -> str:
    from memfirst.cli.display import size, table

    def cells(r: dict[str, Any]) -> tuple[str, ...]:
        numbers = (str(r["tensors"]), f"{r['weights']:,}", size(r["nbytes"]), f"{r['bits_per_weight']:.2f}")
        return (str(r["name"]), *numbers, *([", ".join(r["codecs"])] * grouped))

    grouped = title != "codec"
    head = (title, "tensors", "weights", "bytes", "bits/weight", *(["codecs"] * grouped))
    return table([head, *(cells(r) for r in rows)], numbers=[1, 2, 3, 4]) if rows else ""


def _tensor_row(tensor: Mapping[str, Any]) -> tuple[str, str, str, str]:
    shape = "×".join(map(str, tensor["shape"]))
    return tensor["name"], shape, tensor["codec"], f"{tensor['nbytes']:,}"
