"""The external read probe: what this machine's memory gives to plain C, in GB/s (1e9 bytes).

    python -m benchmarks.probe --threads 1,2 --seconds 1

Every speed of a comparison stands beside the probe of the same minute: the fastest of several access patterns, which
it names. It is compiled on first use for this very processor, and kept under build/benchmarks.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import statistics
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.process import BenchmarkError, parse_json, run

SOURCE = Path(__file__).with_name("read_probe.c")
BUILD = Path(__file__).resolve().parent.parent / "build" / "benchmarks"
FLAGS = ("-O3", "-pthread")
NATIVE_FLAGS = ("-march=native", "-mcpu=native")  # some ARM compilers know only the second


@dataclass(frozen=True)
class Probe:
    """One run of the probe: `bytes` in the buffer, GB/s of each round of the fastest pattern.

    pattern   how each thread read: streams, prefetch, own regions or claimed chunks
    screened  best of two rounds of every pattern, GB/s
    """

    threads: int
    bytes: int
    register_bits: int
    pattern: str
    rounds_gbps: tuple[float, ...]
    screened: dict[str, float]

    @property
    def gbps(self) -> float:
        """The median round."""
        return statistics.median(self.rounds_gbps)


def cpu_identity() -> str:
    """What `-march=native` depends on: the first processor's entry, else the architecture's name."""
    try:
        entry = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return platform.machine()
    kept = [line for line in entry.splitlines() if line.startswith(("model name", "flags", "Features", "CPU"))]
    return "\n".join(kept) or platform.machine()


def compiler() -> str:
    """Path of the C compiler."""
    found = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if found is None:
        raise BenchmarkError("no C compiler (cc, gcc or clang) found", do="install one, it builds the read probe")
    return found


def compile_probe(build: Path = BUILD) -> Path:
    """The probe's binary, compiled unless this source was already compiled for this processor."""
    command = compiler()
    digest = hashlib.sha256(SOURCE.read_bytes() + cpu_identity().encode()).hexdigest()[:16]
    binary = build / f"read_probe-{digest}"
    if not binary.exists():
        build.mkdir(parents=True, exist_ok=True)
        _compile_to(command, binary)
    return binary


def _compile_to(command: str, binary: Path) -> None:
    """Compile beside the target and rename, so that a half-written file never has the final name."""
    with tempfile.TemporaryDirectory(dir=binary.parent) as folder:
        made = Path(folder) / "read_probe"
        for flag in NATIVE_FLAGS:
            try:
                run([command, *FLAGS, flag, "-o", str(made), str(SOURCE)])
            except BenchmarkError:
                if flag == NATIVE_FLAGS[-1]:
                    raise
            else:
                break
        os.replace(made, binary)


def measure(threads: int, seconds: float = 0.5, mebibytes: int = 512) -> Probe:
    """Screen every pattern over `mebibytes`, then repeat the fastest three for `seconds` (at least 5 rounds)."""
    command = [str(compile_probe()), str(threads), str(mebibytes), str(seconds)]
    found = parse_json(run(command), "read_probe")
    return Probe(
        found["threads"], found["bytes"], found["register_bits"], found["pattern"], tuple(found["rounds_GBps"]),
        found["screened_GBps"],
    )  # fmt: skip


def probe(threads: int, seconds: float = 0.5) -> float:
    """GB/s that `threads` threads read from memory: median of the fastest pattern's rounds."""
    return measure(threads, seconds).gbps


def thread_list(text: str) -> list[int]:
    """ "1,2" -> [1, 2], for command lines."""
    counts = [int(part) for part in text.split(",")]
    if min(counts) < 1:
        raise ValueError(text)
    return counts


def main(arguments: list[str] | None = None) -> int:
    """Print one JSON object per thread count."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.probe", description=__doc__)
    parser.add_argument("--threads", type=thread_list, default=[os.cpu_count() or 1])
    parser.add_argument("--seconds", type=float, default=1.0)
    chosen = parser.parse_args(arguments)
    for threads in chosen.threads:
        found = measure(threads, chosen.seconds)
        print(json.dumps({"gbps": found.gbps, **asdict(found)}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
