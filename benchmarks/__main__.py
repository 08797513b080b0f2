"""`python -m benchmarks`: every measurement in order, and the peers whose paths are known.

    MEMFIRST_LLAMA_BENCH=PATH MEMFIRST_IK_BENCH=PATH make bench

Paths come from flags (as in benchmarks.peers) or from the environment: MEMFIRST_LLAMA_BENCH,
MEMFIRST_LLAMA_PYTHON, MEMFIRST_IK_BENCH, MEMFIRST_IK_PYTHON, MEMFIRST_IK_PATH. MODEL may be any name
that memfirst knows; the peers need a file.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks import batch, depth, memory, peers, probe, quality, rounds, share
from benchmarks.engines import Memfirst
from memfirst.errors import MemfirstError

PEERS = ("llama_bench", "llama_python", "ik_bench", "ik_python", "ik_path")


def parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    """Flags, with what the environment says as their defaults."""
    made = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    made.add_argument("model", nargs="?", default="smollm2:135m")
    made.add_argument("--threads", type=probe.thread_list, default=[1, 2])
    rounds.add_unquiet(made)
    for name in PEERS:
        default = environment.get(f"MEMFIRST_{name.upper()}", "")
        made.add_argument("--" + name.replace("_", "-"), default=default)
    return made


def alone(model: str, threads: int) -> int:
    """The probe and `memfirst bench`, which prints its own table; its exit code."""
    read = probe.measure(threads)
    print(f"{threads} threads: read loops in C get at most {read.gbps:.1f} GB/s ({read.pattern})", flush=True)
    command = [*Memfirst().program, "bench", model, "--threads", str(threads)]
    return subprocess.run(command, check=False).returncode


Runs = list[tuple[Callable[[list[str]], int], list[str]]]
"""A command's `main` and its arguments."""


def bars(chosen: argparse.Namespace) -> Runs:
    """Share, depth, batch, memory and quality on the largest number of threads; the last two need a model file."""
    threads = ["--threads", str(max(chosen.threads))]
    watched = [*threads, *unquiet(chosen)]
    runs: Runs = [
        (share.main, [chosen.model, *watched]),
        (depth.main, [chosen.model, "llama-1b:q4_0", *watched]),
        (batch.main, watched),
    ]
    if Path(chosen.model).is_file():
        runs.append((memory.main, [chosen.model, *threads]))
        if chosen.llama_python:
            runs.append((quality.main, [chosen.model, "--llama-python", chosen.llama_python, *threads]))
    return runs


def unquiet(chosen: argparse.Namespace) -> list[str]:
    """The flag, where it was given."""
    return ["--unquiet"] if chosen.unquiet else []


def peer_arguments(chosen: argparse.Namespace) -> list[str]:
    """The command line of benchmarks.peers; empty where no peer is known or the model is no file."""
    known = [name for name in PEERS if getattr(chosen, name) and name != "ik_path"]
    if not known or not Path(chosen.model).is_file():
        return []
    paths = [word for name in PEERS for word in ("--" + name.replace("_", "-"), getattr(chosen, name))]
    return [chosen.model, "--threads", ",".join(map(str, chosen.threads)), *paths, *unquiet(chosen)]


def main(arguments: list[str] | None = None) -> int:
    """Each thread count alone, each bar, then beside the peers; the first exit code that is not 0."""
    chosen = parser(os.environ).parse_args(arguments)
    try:
        codes = [alone(chosen.model, threads) for threads in chosen.threads]
    except MemfirstError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for run, words in bars(chosen):
        print(f"{run.__module__} {' '.join(words)}", file=sys.stderr, flush=True)
        codes.append(run(words))
    beside = peer_arguments(chosen)
    if beside:
        codes.append(peers.main(beside))
    else:
        print("no comparison: it needs a model file and a peer (see benchmarks/README.md)", file=sys.stderr)
    return next((code for code in codes if code), 0)


if __name__ == "__main__":
    raise SystemExit(main())
