"""What `bench` found, as a page: speeds beside their ceiling, each operation, start-up and memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from memfirst.cli.display import printable, size, table
from memfirst.cli.wrap import fold

if TYPE_CHECKING:
    from memfirst.measure.bench import Measured

LABEL = 12
"""Characters of the words at the left."""


def page(found: Measured, within: int) -> str:
    """In lines of at most `within` characters; 0: any."""
    facts = [("prefill", f"{found.prefill_tok_s:7.1f} tok/s  ({found.prompt} tokens)"), ("decode", _decode(found))]
    pattern = f"read fastest with {found.read_pattern}"
    facts.append(("memory", f"{pattern}; {found.peak}" if found.peak else pattern))
    if found.experts:
        facts.append(("experts", f"{found.experts}; a step of the prompt: {found.prompt_experts}"))
    if found.head:
        facts.append(("head", found.head.line()))
    if found.disk:
        facts.append(("disk", found.disk.line(found.decode_tok_s).removeprefix("disk ")))
    said = found.comparison.sentence() if found.comparison else "nothing: run `memfirst machine` once"
    held = f"weights {size(found.memory.weights)} · KV {size(found.memory.kv_held)} held"
    after = [
        ("rates", said),
        ("start-up", " · ".join(f"{stage} {1e3 * seconds:.0f} ms" for stage, seconds in found.startup_s.items())),
        ("memory", f"{held} · peak resident {size(found.peak_rss)}"),
    ]
    rows = [("one token", "MB", "µs", "GB/s", "of ceiling"), *_operations(found)]
    lines = fold(f"{Path(found.model).name}, {found.threads} thread{'s' * (found.threads > 1)}", within)
    lines += [line for label, text in facts for line in _labelled(label, text, within)]
    lines += ["", *(f"  {line}" for line in table(rows, range(1, 5), max(0, within - 2)).split("\n")), ""]
    return printable("\n".join([*lines, *(line for label, text in after for line in _labelled(label, text, within))]))


def explained(head: Sequence[str], rows: Sequence[Sequence[str]], growth: str, within: int) -> str:
    """Rows of other engines beside their bytes, then how a token's time grows."""
    lines = [f"  {line}" for line in table([head, *rows], range(1, len(head)), max(0, within - 2)).split("\n")]
    return printable("\n".join([*lines, *(["", *fold(growth, within, "  ", "    ")] if growth else [])]))


def _decode(found: Measured) -> str:
    rate, read, of = found.decode_rate / 1e9, found.read_bandwidth / 1e9, f"({found.generated} tokens)"
    return (
        f"{found.decode_tok_s:7.1f} tok/s  {of}  {rate:.1f} GB/s, {100 * rate / read:.0f} % of the"
        f" {read:.1f} that memory delivers: the ceiling is {found.ceiling_tok_s:.0f} tok/s"
    )


def _operations(found: Measured) -> list[tuple[str, ...]]:
    """Each with its bytes and time; a rate where it reads anything."""
    return [
        (row.op, f"{row.bytes / 1e6:.2f}", f"{1e6 * row.seconds / row.threads:.0f}",
         *((f"{row.rate / 1e9:.1f}", f"{100 * row.rate / found.read_bandwidth:.0f} %") if row.bytes else ("", "")))
        for row in found.ops
    ]  # fmt: skip


def _labelled(label: str, text: str, within: int) -> list[str]:
    return fold(text, within, f"  {label}".ljust(LABEL), " " * LABEL)
