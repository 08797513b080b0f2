"""Peak resident memory of `memfirst run`, read from outside, with a cold and with a warm page cache.

    python -m benchmarks.memory MODEL.gguf --threads 2

The bar is packed weights + KV allocated + 300 MB. The peak is VmHWM of /proc/<pid>/status, read every
5 ms until the process ends: the rusage of a child would start from what its parent held before exec.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.engines import Memfirst, number
from benchmarks.process import BenchmarkError, parse_json
from memfirst.errors import MemfirstError

ALLOWANCE = 300_000_000  # bytes: interpreter, NumPy, tokenizer, activations
POLL_S = 0.005


def vm_hwm(status: str) -> int | None:
    """VmHWM in bytes from /proc/<pid>/status; None once the process has let go of its memory."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def peak_of(command: Sequence[str]) -> tuple[int, str]:
    """Run a command to its end: its peak in bytes, and what it printed."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=errors) as process:
            peak = _watch(process)
        out.seek(0)
        errors.seek(0)
        if process.returncode:
            raise BenchmarkError(f"{command[0]} ended with code {process.returncode}: {errors.read()[-500:]}")
        return peak, out.read()


def _watch(process: subprocess.Popen[bytes]) -> int:
    peak, status = 0, Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        peak = max(peak, vm_hwm(status.read_text()) or 0)
        time.sleep(POLL_S)
    return peak


def evict(path: Path) -> None:
    """Drop a file from the page cache (its pages are clean, so no privilege is needed)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def warm(path: Path) -> None:
    """Read a file into the page cache, 16 MiB at a time."""
    with path.open("rb", buffering=0) as file:
        while file.read(16 << 20):
            pass


def limit(report: Mapping[str, Any]) -> int:
    """Bytes that the run may hold at most, from its own account of weights and KV."""
    parts = [number(report, key, "memfirst run") for key in ("packed_weight_bytes", "kv_allocated_bytes")]
    return int(sum(parts)) + ALLOWANCE


def measure(model: Path, threads: int, program: Sequence[str]) -> dict[str, Any]:
    """Peak and limit, cold and warm; `model` is a file."""
    options = ["-p", "Count the bytes.", "-n", "64", "--threads", str(threads), "--json"]
    found = {}
    for name, prepare in (("cold", evict), ("warm", warm)):
        prepare(model)
        peak, output = peak_of([*program, "run", str(model), *options])
        bound = limit(parse_json(output, "memfirst run"))
        found[name] = {"peak_bytes": peak, "limit_bytes": bound, "ok": peak <= bound}
    return found


def main(arguments: list[str] | None = None) -> int:
    """Print both peaks as JSON; exit code 1 where one is above its limit."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args(arguments)
    try:
        found = measure(chosen.model, chosen.threads, Memfirst().program)
    except (MemfirstError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(found, indent=1))
    return 0 if all(run["ok"] for run in found.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
