"""Run another program for a measurement, and fail with its own words when it fails."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from typing import Any

from memfirst.errors import MemfirstError


class BenchmarkError(MemfirstError):
    """A measurement could not be made: a program is missing, failed, or printed something else."""


def run(command: Sequence[str], timeout_s: float = 900.0) -> str:
    """The program's standard output; its standard error becomes the message where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except OSError as error:
        raise BenchmarkError(f"cannot run {command[0]}: {error.strerror}", do="check the path") from error
    except subprocess.TimeoutExpired as error:
        raise BenchmarkError(f"{command[0]} ran longer than {timeout_s:.0f} s") from error
    if done.returncode:
        last = "\n".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-8:])
        raise BenchmarkError(f"{' '.join(command)} ended with code {done.returncode}:\n{last}")
    return done.stdout


def parse_json(text: str, source: str) -> Any:
    """The JSON value in a program's output; some engines print a line of notes before it."""
    starts = [i for i in (text.find("{"), text.find("[")) if i >= 0]
    if starts:
        try:
            return json.JSONDecoder().raw_decode(text[min(starts) :])[0]
        except json.JSONDecodeError:
            pass
    raise BenchmarkError(f"{source} printed {text[:80]!r}", "JSON")
