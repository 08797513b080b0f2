"""The engines that are compared: each is a command line, and how to read what it prints.

An engine may have switches (flash attention, repacking). A comparison tries them first and keeps what
is fastest for that case, so that every engine runs at its best; the settings are part of the result.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from benchmarks.process import BenchmarkError, parse_json

RUNNER = Path(__file__).with_name("llama_runner.py")
Settings = Mapping[str, int]


@dataclass(frozen=True)
class Case:
    """What is timed: `generate` single tokens after `prompt` tokens, or (generate = 0) the prompt itself."""

    threads: int
    prompt: int
    generate: int

    @property
    def label(self) -> str:
        """As in the table."""
        if not self.generate:
            return f"prefill of {self.prompt}"
        after = f"after {self.prompt}" if self.prompt else "from an empty context"
        return f"decode {self.generate} {after}"


@dataclass(frozen=True)
class Sample:
    """One run's tokens/s, and GB/s of weights and cache where the engine counts them."""

    tok_s: float
    gbps: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


class Engine(Protocol):
    """A program that can run a case on a GGUF file."""

    @property
    def name(self) -> str:
        """As in the table."""

    @property
    def switches(self) -> Mapping[str, tuple[int, ...]]:
        """Settings to try, the engine's own default first."""

    def command(self, model: str, case: Case, settings: Settings) -> list[str]:
        """The command line of one run."""

    def parse(self, output: str, case: Case) -> Sample:
        """Read one run's output; raises BenchmarkError."""


def number(found: Mapping[str, Any], key: str, source: str) -> float:
    """A positive number of an engine's JSON."""
    value = found.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise BenchmarkError(f"{source}: {key} is {value!r}", "a positive number")
    return float(value)


@dataclass(frozen=True)
class Memfirst:
    """`memfirst bench`; an empty context is a prompt of one token."""

    program: tuple[str, ...] = (sys.executable, "-m", "memfirst")
    name: str = "memfirst"

    @property
    def switches(self) -> Mapping[str, tuple[int, ...]]:
        """memfirst chooses for itself."""
        return {}

    def command(self, model: str, case: Case, settings: Settings) -> list[str]:
        """`--generate 1` where only the prompt is timed."""
        counts = ["--prompt", str(max(1, case.prompt)), "--generate", str(max(1, case.generate))]
        return [*self.program, "bench", model, "--threads", str(case.threads), *counts, "--json"]

    def parse(self, output: str, case: Case) -> Sample:
        """`decode_GBps` counts the ledger's bytes, so its share of the probe is honest."""
        found = parse_json(output, self.name)
        if not case.generate:
            return Sample(number(found, "prefill_tok_s", self.name))
        kept = {key: found[key] for key in ("bytes_per_token", "peak_rss_bytes") if key in found}
        speed, rate = number(found, "decode_tok_s", self.name), number(found, "decode_GBps", self.name)
        return Sample(speed, rate, kept)


@dataclass(frozen=True)
class LlamaBench:
    """`llama-bench` of llama.cpp, or of ik_llama.cpp (`ik=True`), whose flags differ."""

    program: str
    ik: bool = False
    reps: int = 3

    @property
    def name(self) -> str:
        """As in the table."""
        return "ik_llama.cpp" if self.ik else "llama.cpp"

    @property
    def switches(self) -> Mapping[str, tuple[int, ...]]:
        """Flash attention, repacked weights; ik also merges Q, K, V and asks for huge pages."""
        if self.ik:
            return {"-fa": (1, 0), "-rtr": (0, 1), "-thp": (0, 1), "-mqkv": (0, 1)}
        return {"-fa": (0, 1), "--repack": (1, 0)}

    def command(self, model: str, case: Case, settings: Settings) -> list[str]:
        """Prefill in batches of 512, the size that both default to; only what is asked for is timed."""
        flags = [text for key, value in settings.items() for text in (key, str(value))]
        base = [
            self.program,
            "-m",
            model,
            "-t",
            str(case.threads),
            "-r",
            str(self.reps),
            "-o",
            "json",
            *flags,
        ]
        return [*base, "-b", "512", "-ub", "512", *self._counts(case)]

    def _counts(self, case: Case) -> list[str]:
        if case.generate and case.prompt and self.ik:
            return ["-p", "0", "-n", "0", "-gp", f"{case.prompt},{case.generate}"]
        if case.generate and case.prompt:
            return ["-p", "0", "-n", str(case.generate), "-d", str(case.prompt)]
        return ["-p", str(0 if case.generate else case.prompt), "-n", str(case.generate)]

    def parse(self, output: str, case: Case) -> Sample:
        """The median repetition of the one test that was asked for."""
        tests = parse_json(output, self.name)
        if not isinstance(tests, list) or len(tests) != 1 or not isinstance(tests[0], dict):
            raise BenchmarkError(f"{self.name} printed {output[:80]!r}", "one test in a list")
        test = tests[0]
        if test.get("n_gen") != case.generate or test.get("n_threads") != case.threads:
            ran = {key: test.get(key) for key in ("n_prompt", "n_gen", "n_threads")}
            raise BenchmarkError(f"{self.name} ran {ran}", f"{case.label} on {case.threads} threads")
        samples = test.get("samples_ts") or [number(test, "avg_ts", self.name)]
        return Sample(number({"samples_ts": statistics.median(samples)}, "samples_ts", self.name))


@dataclass(frozen=True)
class Binding:
    """llama-cpp-python or ik-llama-cpp-python, run by its own Python through `llama_runner.py`."""

    python: str
    ik: bool = False
    path: str = ""
    reps: int = 3

    @property
    def name(self) -> str:
        """As in the table."""
        return "ik_llama.cpp" if self.ik else "llama.cpp"

    @property
    def switches(self) -> Mapping[str, tuple[int, ...]]:
        """The same switches as llama-bench, by the names of the C structs."""
        if self.ik:
            return {"flash_attn": (1, 0), "repack_tensors": (0, 1), "use_thp": (0, 1), "merge_qkv": (0, 1)}
        return {"flash_attn_type": (0, 1), "use_extra_bufts": (1, 0)}

    def command(self, model: str, case: Case, settings: Settings) -> list[str]:
        """One run in the peer's Python."""
        counts = ["--threads", case.threads, "--prompt", case.prompt, "--generate", case.generate]
        chosen = [f"--set={key}={value}" for key, value in settings.items()]
        where = ["--path", self.path] if self.path else []
        package = "ik_llama_cpp" if self.ik else "llama_cpp"
        base = [self.python, str(RUNNER), "--package", package, "--model", model, "--reps", str(self.reps)]
        return base + [str(word) for word in counts] + where + chosen

    def parse(self, output: str, case: Case) -> Sample:
        """The median repetition; the library's own build line is kept."""
        found = parse_json(output, self.name)
        samples = found.get("samples_tok_s") or [0]
        speed = number({"tok_s": statistics.median(samples)}, "tok_s", self.name)
        return Sample(speed, details={"system_info": found.get("system_info", "")})
