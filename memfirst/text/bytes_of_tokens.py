"""The bytes that one token stands for, by the three spellings that vocabularies use.

Byte-level BPE (GPT-2) writes each byte as a printable character: the 188 printable Latin-1 bytes as
themselves, the other 68 as U+0100 onwards. SentencePiece writes text as it is, a space as U+2581, a
lone byte as `<0x0A>`. RWKV's files write bytes as Python does: `\\n`, `\\xe4`, `\\\\`.
"""

from __future__ import annotations

import re

SPACE = "▁"
"""U+2581, which stands for a space in SentencePiece vocabularies."""
_ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|(.))", re.DOTALL)
_ESCAPED = {b"t": b"\t", b"n": b"\n", b"r": b"\r"}
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>\Z")


def byte_alphabet() -> dict[str, int]:
    """Map characters to bytes, 256 entries (`bytes_to_unicode` of GPT-2's encoder, inverted)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(256 + n): byte for n, byte in enumerate(others)})
    return alphabet


_ALPHABET = byte_alphabet()


def byte_level(text: str) -> bytes:
    """Decode a byte-level token; one that is not spelled in the alphabet stands for itself."""
    try:
        return bytes([_ALPHABET[character] for character in text])
    except KeyError:
        return plain(text)


def sentence_piece(text: str) -> bytes:
    """Decode a SentencePiece token: U+2581 is a space, `<0x0A>` is the byte 10."""
    lone = _BYTE.match(text)
    return bytes([int(lone[1], 16)]) if lone else plain(text.replace(SPACE, " "))


def escaped(text: str) -> bytes:
    """Decode a token written as in a bytes literal of Python; a backslash before any other character is dropped."""
    return _ESCAPE.sub(lambda e: bytes([int(e[1], 16)]) if e[1] else _ESCAPED.get(e[2], e[2]), plain(text))


def plain(text: str) -> bytes:
    """Encode as UTF-8 a token that is not spelled at all (control and user-defined tokens)."""
    return text.encode("utf-8", "replace")
