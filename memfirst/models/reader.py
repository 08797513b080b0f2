"""Strict reading of hyperparameters: every key is read, or known to be harmless, or refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Any

import numpy as np

from memfirst.errors import ConfigError, UnsupportedError

MAX_WIDTH, MAX_LAYERS, MAX_HEADS, MAX_HEAD_DIM = 1 << 18, 1 << 10, 1 << 10, 1 << 12
MAX_VOCAB, MAX_CONTEXT = 1 << 22, 1 << 28
"""Larger than any model's; what is built and allocated from a stranger's numbers stays bounded."""


class ConfigReader:
    """Typed look-ups under a prefix ("llama." in GGUF, none in config.json); a JSON null is as absent."""

    def __init__(self, metadata: Mapping[str, Any], prefix: str = "") -> None:
        self._metadata, self._prefix = metadata, prefix
        self._read: set[str] = set()

    def raw(self, key: str, default: Any = None) -> Any:
        """The value as it stands, marked as read."""
        self._read.add(key)
        value = self._metadata.get(self._prefix + key)
        return default if value is None else value

    def integer(self, key: str, high: int, default: int | None = None, low: int = 1) -> int:
        """An integer in low..high; ConfigError otherwise, or where it is missing without a default."""
        value = self.raw(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self._wrong(key, value, f"an integer in {low}..{high}")
        return value

    def number(self, key: str, default: float | None = None, low: float = 0.0, high: float = 1e12) -> float:
        """A finite number above `low`, at most `high`."""
        value = self.raw(key, default)
        good = isinstance(value, int) or (isinstance(value, float) and isfinite(value))
        if not good or isinstance(value, bool) or not low < value <= high:  # a huge int fits no float
            raise self._wrong(key, value, f"a number above {low:g}, at most {high:g}")
        return float(value)

    def single(self, key: str, default: float | None = None, low: float = 0.0, high: float = 1e12) -> float:
        """`number` rounded to float32: what GGUF stores and engines compute with, so both forms agree."""
        value = float(np.float32(self.number(key, default, low, high)))
        if value <= low:
            raise self._wrong(key, self.raw(key, default), f"a number that float32 holds, above {low:g}")
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        """True or false."""
        value = self.raw(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return value

    def require(self, *keys: str) -> None:
        """ConfigError for the first key that is absent (null is an answer): other readers' defaults for it differ."""
        for key in keys:
            if self._prefix + key not in self._metadata:
                raise self._wrong(key, None, "a value, or null: what its absence means differs by reader")

    def only(self, key: str, allowed: tuple[Any, ...]) -> None:
        """Refuse a value that would change the arithmetic: absent or one of `allowed`."""
        value = self.raw(key)
        if value is not None and value not in allowed:
            found = f"{self._prefix}{key} is {str(value)[:60]!r}"
            raise UnsupportedError(found, f"{' or '.join(map(repr, allowed)) or 'no such key'}")

    def check_unknown(self, harmless: Iterable[str], allow_unknown: bool) -> None:
        """ConfigError naming the keys under the prefix that nobody read."""
        keys = {str(k)[len(self._prefix) :] for k in self._metadata if str(k).startswith(self._prefix)}
        unknown = sorted(keys - self._read - set(harmless))
        if unknown and not allow_unknown:
            names = ", ".join(f"{self._prefix}{key}"[:60] for key in unknown[:8])
            raise ConfigError(
                f"hyperparameters that memfirst does not know: {names}",
                "known ones, since an ignored one can change every answer",
                "pass --allow-unknown to ignore them",
            )

    def _wrong(self, key: str, value: Any, expected: str) -> ConfigError:
        found = "is missing" if value is None else f"is {str(value)[:60]!r}"
        return ConfigError(f"{self._prefix}{key} {found}", expected)
