"""The comparison as a Markdown table with the commands that made it, written between two markers.

python -m benchmarks.table results.json more.json --write README.md
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.process import BenchmarkError
from memfirst.errors import MemfirstError

BEGIN, END = "<!-- peers -->", "<!-- /peers -->"
OURS = "memfirst"


def peers_of(cases: Sequence[Mapping[str, Any]]) -> list[str]:
    """The engines that any case compares with, in order of appearance."""
    return list(dict.fromkeys(name for case in cases for name in case["ratios"]))


def row(case: Mapping[str, Any], peers: Sequence[str]) -> list[str]:
    """One case: speeds, ratios with their quartiles, clean and discarded pairs."""
    share = case["probe_share"]
    cells = [case["model"], case["case"], str(case["threads"]), f"{case['probe_gbps']:.1f}"]
    cells += [f"{case['tok_s'][OURS]:.1f}", f"{share:.0%}" if share is not None else ""]
    for peer in peers:
        found = case["ratios"].get(peer)
        cells += [f"{case['tok_s'][peer]:.1f}", ratio_cell(found)] if found else ["", ""]
    found_pairs = case["ratios"].values()
    kept = min((len(found["values"]) for found in found_pairs), default=0)
    lost = max((found["discarded"] for found in found_pairs), default=0)
    disturbed = max((found.get("disturbed", 0) for found in found_pairs), default=0)
    return [*cells, f"{kept} ({lost})" + (f", {disturbed} disturbed" if disturbed else "")]


def ratio_cell(found: Mapping[str, Any]) -> str:
    """ "**2.10** (2.05–2.14)": the median, and the quartiles."""
    return f"**{found['median']:.2f}** ({found['q1']:.2f}–{found['q3']:.2f})"


def markdown(cases: Sequence[Mapping[str, Any]]) -> str:
    """The table, how to read it, and the commands."""
    peers = peers_of(cases)
    head = ["file", "what", "threads", "probe GB/s", "memfirst tok/s", "of the probe"]
    for peer in peers:
        head += [f"{peer} tok/s", f"memfirst ÷ {peer}"]
    rows = [[*head, "pairs (discarded)"], ["---"] * (len(head) + 1)]
    rows += [row(case, peers) for case in cases]
    lines = ["| " + " | ".join(cells) + " |" for cells in rows]
    return "\n".join([*lines, "", LEGEND, "", *commands(cases)])


LEGEND = """\
Medians of interleaved runs on the same file and threads; ratios are medians over pairs, with their quartiles.
*Of the probe*: the bytes that the ledger counts per second, over what a read loop in C gets from this memory
in the same minute. A pair is disturbed when other processes used more than 2 % of a core, or the hypervisor
took time: discarded, unless `--unquiet` counts it. Each peer runs with the switches that were fastest for it
on that case."""


def commands(cases: Sequence[Mapping[str, Any]]) -> list[str]:
    """A shell block with every command, once."""
    seen = dict.fromkeys(line for case in cases for line in case["commands"].values())
    return ["```sh", *seen, "```"]


def write_between_markers(path: Path, text: str) -> None:
    """Replace what stands between the markers, in one step; an error where they are missing or doubled."""
    try:
        old = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BenchmarkError(f"cannot read {path}: {error.strerror}") from error
    if old.count(BEGIN) != 1 or old.count(END) != 1 or old.index(BEGIN) > old.index(END):
        raise BenchmarkError(f"{path} has no single pair of markers", f"{BEGIN} and, after it, {END}", "add them")
    before, after = old.split(BEGIN)[0], old.split(END)[1]
    made = path.with_name(path.name + ".part")
    made.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
    os.replace(made, path)


def main(arguments: list[str] | None = None) -> int:
    """Print the table of results measured earlier, or write it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.table", description=__doc__)
    parser.add_argument("results", nargs="+", type=Path, help="files written by benchmarks.peers --json")
    parser.add_argument("--write", type=Path, help="a Markdown file with the markers")
    chosen = parser.parse_args(arguments)
    try:
        cases = [case for path in chosen.results for case in json.loads(path.read_text())["cases"]]
        text = markdown(cases)
        if chosen.write:
            write_between_markers(chosen.write, text)
    except (MemfirstError, OSError, ValueError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
