"""Strict reading of hyperparameters: every key is read, or known to be harmless, or refused."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from math import isfinite
from typing import Any

import numpy as np

from memfirst.errors import ConfigError, UnsupportedError

MAX_WIDTH, MAX_LAYERS, MAX_HEADS, MAX_HEAD_DIM = 1 << 18, 1 << 10, 1 << 10, 1 << 12
MAX_VOCAB, MAX_CONTEXT = 1 << 22, 1 << 28
"""Larger than any model's; what is built and allocated from untrusted numbers stays bounded."""

Keys = dict[str, str]
"""By the name of a hyperparameter in config.json its name in GGUF, without the architecture."""


class ConfigReader:
    """Typed look-ups in config.json, or in GGUF metadata under a prefix ("llama."); a JSON null is as absent.

    With `keys` both forms are read by config.json's names: one that GGUF has no name for is absent there.
    """

    def __init__(
        self,
        metadata: Mapping[str, Any],
        prefix: str = "",
        keys: Keys | None = None,
        tensors: Container[str] = (),
    ) -> None:
        self._metadata, self._prefix, self._keys = metadata, prefix, keys
        self._read: set[str] = set()
        self.tensors = tensors
        """Names of the file's tensors: in GGUF they say what has no key (biases, a tied head)."""

    @property
    def gguf(self) -> bool:
        """Whether this is GGUF metadata."""
        return bool(self._prefix)

    @property
    def plain(self) -> ConfigReader:
        """The same keys by the names that the file has: for what the two forms store differently."""
        found = ConfigReader(self._metadata, self._prefix, tensors=self.tensors)
        found._read = self._read
        return found

    def given(self, values: Mapping[str, Any]) -> ConfigReader:
        """The same with other values for some of its keys."""
        stored = {self._prefix + (self._stored(key) or key): value for key, value in values.items()}
        found = ConfigReader({**self._metadata, **stored}, self._prefix, self._keys, self.tensors)
        found._read = self._read
        return found

    def raw(self, key: str, default: Any = None) -> Any:
        """The value as it stands, marked as read."""
        stored = self._stored(key)
        if stored is None:
            return default
        self._read.add(stored)
        value = self._metadata.get(self._prefix + stored)
        return default if value is None else value

    def shared(self, key: str) -> Any:
        """A value that belongs to no architecture (`tokenizer.*`)."""
        return self._metadata.get(key)

    def _stored(self, key: str) -> str | None:
        return key if self._keys is None or not self.gguf else self._keys.get(key)

    def context(self, key: str) -> int:
        """The positions that a model was trained for; numbers beyond MAX_CONTEXT are how some files say "no limit"."""
        return min(self.integer(key, 2**32 - 1), MAX_CONTEXT)

    def integer(self, key: str, high: int, default: int | None = None, low: int = 1) -> int:
        """An integer in low..high; ConfigError otherwise, or where it is missing without a default."""
        value = self.raw(key, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # some writers of JSON have no integers: 131072.0
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self._wrong(key, value, f"an integer in {low}..{high}")
        return value

    def by_layer(self, key: str, layers: int, high: int, default: int | None = None, low: int = 1) -> tuple[int, ...]:
        """An integer in low..high for each layer, from a list of them or from one for all."""
        value = self.raw(key)
        if not isinstance(value, np.ndarray | list | tuple):
            return (self.integer(key, high, default, low),) * layers
        found = [int(v) for v in value] if np.asarray(value, dtype=object).ndim == 1 and _integers(value) else []
        if len(found) != layers or not all(low <= v <= high for v in found):
            raise self._wrong(key, value, f"{layers} integers in {low}..{high}, one a layer")
        return tuple(found)

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
            if self._prefix + (self._stored(key) or key) not in self._metadata:
                raise self._wrong(key, None, "a value, or null: what its absence means differs by reader")

    def only(self, key: str, allowed: tuple[Any, ...]) -> None:
        """Refuse a value that would change the arithmetic: absent or one of `allowed`."""
        value = self.raw(key)
        if isinstance(value, np.ndarray):
            value = value.tolist()
        if value is not None and value not in allowed:
            found = f"{self._prefix}{self._stored(key)} is {str(value)[:60]!r}"
            raise UnsupportedError(found, f"{' or '.join(map(repr, allowed)) or 'no such key'}")

    def check_unknown(self, harmless: Iterable[str], allow_unknown: bool) -> None:
        """ConfigError naming the keys under the prefix that nobody read and that say something."""
        stored = {str(k)[len(self._prefix) :]: v for k, v in self._metadata.items() if str(k).startswith(self._prefix)}
        keys = {key for key, value in stored.items() if value is not None}
        unknown = sorted(keys - self._read - set(harmless))
        if unknown and not allow_unknown:
            names = ", ".join(f"{self._prefix}{key}"[:60] for key in unknown[:8])
            raise ConfigError(
                f"hyperparameters that memfirst does not know: {names}",
                "known ones, since an ignored one can change every answer",
                "`memfirst plan --allow-unknown` prices it without them",
            )

    def _wrong(self, key: str, value: Any, expected: str) -> ConfigError:
        found = "is missing" if value is None else f"is {str(value)[:60]!r}"
        return ConfigError(f"{self._prefix}{self._stored(key) or key} {found}", expected)


def _integers(values: Iterable[Any]) -> bool:
    return all(isinstance(v, int | np.integer) and not isinstance(v, bool) for v in values)
