"""Encodes text as RWKV's vocabularies do: from the left, always the longest token that the text's bytes begin with.

Tokens are byte strings, not text: `\\xe4\\xbd` may be one. GGUF files spell them as Python's `repr` writes bytes.
"""

from __future__ import annotations

from collections.abc import Mapping

from memfirst.errors import TokenizerError


class LongestMatch:
    """Text to ids by a table of all tokens: a look-up for each length that tokens of the same first two bytes have.

    Args:
        ids: Id by the token's bytes, of the tokens that text may become.

    Raises:
        TokenizerError: One of the 256 bytes is no token, so that not every text could be encoded.
    """

    def __init__(self, ids: Mapping[bytes, int]) -> None:
        self._ids = ids
        missing = [byte for byte in range(256) if bytes([byte]) not in ids]
        if missing:
            raise TokenizerError(f"a vocabulary without a token for the byte {missing[0]:#04x}", "one for each byte")
        lengths: dict[bytes, set[int]] = {}
        for piece in ids:
            if len(piece) > 1:
                lengths.setdefault(piece[:2], set()).add(len(piece))
        self._lengths = {start: (*sorted(found, reverse=True), 1) for start, found in lengths.items()}

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; TokenizerError if it is not valid Unicode."""
        try:
            data = text.encode("utf-8")
        except UnicodeError as error:
            raise TokenizerError("the text is not valid Unicode", do="pass UTF-8 text") from error
        ids, lengths, found, at = self._ids, self._lengths, list[int](), 0
        while at < len(data):
            for length in lengths.get(data[at : at + 2], (1,)):
                id = ids.get(data[at : at + length])
                if id is not None:
                    found.append(id)
                    at += length
                    break
        return found
