"""Rows as llama.cpp's `llama-bench -o json` (or `-o jsonl`) writes them: read strictly, and written in the same shape.

One row is one test: `n_prompt` tokens of a prompt, or `n_gen` tokens of an answer, after `n_depth` tokens of context.
Speeds are tokens per second of `n_prompt + n_gen` tokens. The names are llama.cpp's.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from statistics import mean, stdev
from typing import Any

from memfirst.errors import FormatError

MOST_BYTES = 16 << 20
"""Of a file: a row takes 1.2 kB, so about 13 000 rows."""

MOST_ROWS, MOST_SAMPLES, MOST_TEXT = 10_000, 10_000, 4096
_MOST_COUNT = 10**15
_AGREE = 0.01
"""Of a speed: how far avg_ts may be from its own samples; llama-bench writes six digits of each."""

_WANTED = "what llama-bench -o json prints"


@dataclass(frozen=True)
class Row:
    """One test of one model.

    model_size      bytes of its tensors; model_n_params: how many weights
    type_k, type_v  codecs of the KV cache
    samples_ns      nanoseconds of each repetition; samples_ts: tokens per second of each
    other           everything else that the file says, unread (flags, devices, versions, build)
    """

    model_type: str
    model_size: int
    model_n_params: int
    n_prompt: int
    n_gen: int
    avg_ts: float
    n_depth: int = 0
    n_threads: int = 0
    stddev_ts: float = 0.0
    model_filename: str = ""
    backends: str = ""
    cpu_info: str = ""
    gpu_info: str = ""
    type_k: str = "f16"
    type_v: str = "f16"
    n_batch: int = 0
    n_ubatch: int = 0
    n_gpu_layers: int = 0
    test_time: str = ""
    avg_ns: int = 0
    stddev_ns: int = 0
    samples_ns: tuple[int, ...] = ()
    samples_ts: tuple[float, ...] = ()
    other: Mapping[str, Any] = field(default_factory=dict)

    @property
    def decodes(self) -> bool:
        """True for a test that only generates, one token a step."""
        return self.n_gen > 0 and self.n_prompt == 0

    @property
    def seconds_per_token(self) -> float:
        """Of the average speed."""
        return 1 / self.avg_ts


_REQUIRED = ("model_type", "model_size", "model_n_params", "n_prompt", "n_gen", "avg_ts")
_TYPES = {f.name: str(f.type) for f in fields(Row) if f.name != "other"}
_MAY_BE_NEGATIVE = ("n_gpu_layers",)  # -1: all of them


def read_rows(path: str | os.PathLike[str]) -> list[Row]:
    """The rows of a file. FormatError for anything that llama-bench does not write."""
    try:
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise FormatError(f"{os.fspath(path)} cannot be read: {error.strerror}", _WANTED) from error
    return parse_rows(data, os.fspath(path))


def parse_rows(data: bytes, what: str) -> list[Row]:
    """The rows of a JSON array, or of one JSON object a line; `what` names the source in errors."""
    if len(data) > MOST_BYTES:
        raise FormatError(f"{what} is longer than {MOST_BYTES >> 20} MiB", _WANTED)
    text = _decoded(data, what)
    found = _json(text, what) if text.lstrip()[:1] == "[" else _lines(text, what)
    if not isinstance(found, list) or not found or len(found) > MOST_ROWS:
        count = len(found) if isinstance(found, list) else 0
        raise FormatError(f"{what} holds {count} rows", f"1 to {MOST_ROWS} of {_WANTED}")
    return [_row(item, f"{what}: row {i}") for i, item in enumerate(found, 1)]


def _decoded(data: bytes, what: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{what} is not UTF-8 at byte {error.start}", _WANTED) from error


def _lines(text: str, what: str) -> list[Any]:
    lines = [(i, line) for i, line in enumerate(text.splitlines(), 1) if line.strip()]
    if len(lines) > MOST_ROWS:
        raise FormatError(f"{what} holds {len(lines)} lines", f"1 to {MOST_ROWS} of {_WANTED}")
    return [_json(line, f"{what}: line {i}") for i, line in lines]


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what} is not valid JSON: {str(error)[:120]}", _WANTED) from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice")
    return found


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _row(item: object, where: str) -> Row:
    """One object as a Row, every field checked."""
    if not isinstance(item, dict):
        raise FormatError(f"{where} is a {type(item).__name__}", "an object")
    missing = [name for name in _REQUIRED if name not in item]
    if missing:
        raise FormatError(f"{where} has no {', '.join(missing)}", _WANTED)
    known = {name: _value(name, item[name], f"{where}: {name}") for name in _TYPES if name in item}
    other = {name: _scalar(value, f"{where}: {name[:60]}") for name, value in item.items() if name not in _TYPES}
    return _consistent(Row(**known, other=other), where)


def _value(name: str, value: object, where: str) -> Any:
    kind = _TYPES[name]
    if kind.startswith("tuple"):
        if not isinstance(value, list) or len(value) > MOST_SAMPLES:
            raise FormatError(f"{where} is {str(value)[:40]!r}", f"a list of at most {MOST_SAMPLES} numbers")
        return tuple(_number(v, "int" in kind, 0, where) for v in value)
    if kind == "str":
        return _scalar(value, where) if isinstance(value, str) else _refuse(value, "text", where)
    return _number(value, kind == "int", -1 if name in _MAY_BE_NEGATIVE else 0, where)


def _number(value: object, whole: bool, least: int, where: str) -> int | float:
    kinds = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= _MOST_COUNT:
        return int(_refuse(value, f"{'a whole' if whole else 'a'} number from {least} to 1e15", where))
    return value if whole else float(value)


def _scalar(value: object, where: str) -> Any:
    if isinstance(value, str) and len(value) <= MOST_TEXT:
        return value
    if value is None or (isinstance(value, int | float) and abs(value or 0) <= _MOST_COUNT):
        return value
    return _refuse(value, f"a number, or text of at most {MOST_TEXT} characters", where)


def _refuse(value: object, expected: str, where: str) -> Any:
    raise FormatError(f"{where} is {str(value)[:40]!r}", expected)


def _consistent(row: Row, where: str) -> Row:
    """The row, if it measures something and its average is that of its samples."""
    tokens = row.n_prompt + row.n_gen
    if not tokens or row.avg_ts <= 0:
        raise FormatError(f"{where} measures {tokens} tokens at {row.avg_ts} tok/s", "some of both")
    if row.samples_ns:
        told = mean(1e9 * tokens / ns if ns else math.inf for ns in row.samples_ns)
        if abs(told - row.avg_ts) > _AGREE * row.avg_ts:
            found = f"{where}: avg_ts is {row.avg_ts}, but its samples_ns come to {told:.6g}"
            raise FormatError(found, f"an average within {_AGREE:.0%} of its samples")
    return row


def measured_row(seconds: Sequence[float], **about: Any) -> Row:
    """A Row from the seconds of each repetition; `about` gives the other fields, n_prompt and n_gen among them."""
    tokens = about["n_prompt"] + about["n_gen"]
    samples = tuple(max(1, round(1e9 * s)) for s in seconds)
    speeds = tuple(1e9 * tokens / ns for ns in samples)
    deviation = stdev(speeds) if len(speeds) > 1 else 0.0
    spread = round(stdev(samples)) if len(samples) > 1 else 0
    return Row(
        avg_ts=mean(speeds), stddev_ts=deviation, avg_ns=round(mean(samples)), stddev_ns=spread,
        samples_ns=samples, samples_ts=speeds, **about,
    )  # fmt: skip


def write_rows(rows: Sequence[Row]) -> str:
    """A JSON array in llama-bench's shape."""
    return json.dumps([_object(row) for row in rows], indent=2, ensure_ascii=False)


def _object(row: Row) -> dict[str, Any]:
    """Every field; the samples last, as llama-bench has them."""
    said = {name: getattr(row, name) for name in _TYPES if not name.startswith("samples")}
    return said | dict(row.other) | {"samples_ns": list(row.samples_ns), "samples_ts": list(row.samples_ts)}
