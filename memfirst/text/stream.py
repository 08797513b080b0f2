"""Streaming: tokens to whole characters, and an end before the first stop string."""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from typing import Protocol

from memfirst.errors import ConfigError

MAX_STOPS, MAX_STOP_CHARS = 64, 4096


class Pieces(Protocol):
    """Decodes one id to its bytes: a Tokenizer."""

    def piece(self, id: int, special: bool = False) -> bytes:
        """Return the bytes of one token; control tokens are empty unless `special`."""


class StreamDecoder:
    """Decodes a sequence's tokens one by one; a UTF-8 character appears when its last byte has come.

    Bytes that can't begin or continue a character become U+FFFD. Costs one table look-up and one
    incremental decode a token, about 0.5 us.
    """

    def __init__(self, tokenizer: Pieces, special: bool = False) -> None:
        self._piece, self._special = tokenizer.piece, special
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._pending = False
        """Whether a character is incomplete."""

    def push(self, id: int) -> str:
        """Return the characters that this token completes, possibly none."""
        piece = self._piece(id, self._special)
        if not self._pending and piece.isascii():  # as most are, and this is less code
            return piece.decode("ascii")
        text = self._decoder.decode(piece)
        self._pending = bool(self._decoder.getstate()[0])
        return text

    def flush(self) -> str:
        """Return what was held back at the end of the answer, U+FFFD for an incomplete character, and start anew."""
        rest = self._decoder.decode(b"", True)
        self._decoder.reset()
        self._pending = False
        return rest


class StopStrings:
    """Ends an answer before the first stop string, even where it spans several pushes.

    Text that may be the beginning of a stop string is held back until the next push decides.
    """

    def __init__(self, stops: Iterable[str] = ()) -> None:
        self._stops = [stops] if isinstance(stops, str) else list(stops)
        if len(self._stops) > MAX_STOPS or not all(0 < len(stop) <= MAX_STOP_CHARS for stop in self._stops):
            do = "leave out empty ones, and the longest"
            raise ConfigError("stop strings", f"at most {MAX_STOPS}, of 1 to {MAX_STOP_CHARS} characters", do)
        self._held = ""
        self.stopped: str | None = None
        """The stop string that was found."""

    def push(self, text: str) -> tuple[str, bool]:
        """Return (text to show now, whether a stop string was found); after a stop nothing is shown."""
        if self.stopped is not None:
            return "", True
        if not self._stops:
            return text, False
        self._held += text
        return self._ended() or self._release()

    def flush(self) -> str:
        """Return what was held back, at the end of an answer without a stop string."""
        rest, self._held = self._held, ""
        return rest

    def _ended(self) -> tuple[str, bool] | None:
        """End at the stop string that is complete first, of two at the longer: so chunks don't change the answer."""
        hits = [(self._held.find(stop), stop) for stop in self._stops if stop in self._held]
        if not hits:
            return None
        at, self.stopped = min(hits, key=lambda hit: (hit[0] + len(hit[1]), hit[0]))
        shown, self._held = self._held[:at], ""
        return shown, True

    def _release(self) -> tuple[str, bool]:
        keep = max(self._overlap(stop) for stop in self._stops)
        at = len(self._held) - keep
        shown, self._held = self._held[:at], self._held[at:]
        return shown, False

    def _overlap(self, stop: str) -> int:
        """Return the length of the longest suffix of the held text that is a prefix of `stop`."""
        longest = min(len(stop) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if self._held.endswith(stop[:n])), 0)
