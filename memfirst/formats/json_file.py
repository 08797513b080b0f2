"""Untrusted JSON: bounded, no key twice."""

from __future__ import annotations

import json
from typing import Any

from memfirst.errors import FormatError


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice")
    return found


def parse(data: bytes, what: str) -> Any:
    """A JSON value from UTF-8 bytes; FormatError for anything else (bad UTF-8, bottomless nesting...)."""
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what} is not valid JSON: {error}", "a JSON object") from error


def parse_object(data: bytes, what: str) -> dict[str, Any]:
    """A JSON object from UTF-8 bytes; FormatError for any other value, and for what `parse` refuses."""
    value = parse(data, what)
    if not isinstance(value, dict):
        raise FormatError(f"{what} holds a {type(value).__name__}", "a JSON object")
    return value
