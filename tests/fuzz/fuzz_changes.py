"""Small valid model files by region, and the changes that make them invalid."""

from __future__ import annotations

import json
import random
import struct
from dataclasses import dataclass
from functools import cache

from memfirst.convert.gguf_write import encode_header
from memfirst.convert.synthetic import SyntheticCheckpoint, synthetic
from memfirst.convert.synthetic_shapes import SyntheticShape
from memfirst.formats.gguf_header import Cursor, read_counts, read_metadata
from memfirst.formats.names import TABLES


@cache
def small_model(architecture: str, mix: str) -> SyntheticCheckpoint:
    """One layer, rows of 256 (a K-quant's block), 260 tokens: 0.1 to 1.2 MB."""
    shape = SyntheticShape(architecture, 256, 1, 2, 1, 256, 260, True, 32, max_position_embeddings=64)
    return synthetic(shape, mix)


@dataclass(frozen=True)
class Whole:
    """A valid file and the regions, as byte ranges, in which to change it."""

    data: bytes
    regions: tuple[tuple[int, int], ...]


@cache
def gguf_file(architecture: str, mix: str) -> Whole:
    """A valid GGUF with its regions: counts, metadata, tensor table, data."""
    model = small_model(architecture, mix)
    header = encode_header(model.metadata, list(model.tensors.values()), 32)
    bodies = [model.read(name).tobytes() for name in model.tensors]
    data = header + b"".join(body + bytes(-len(body) % 32) for body in bodies)
    cursor = Cursor(memoryview(data))
    read_metadata(cursor, read_counts(cursor)[1])
    return Whole(data, ((0, 24), (24, cursor.at), (cursor.at, len(header)), (len(header), len(data))))


@cache
def safetensors_file(architecture: str, dtype: str) -> Whole:
    """A valid safetensors file of the same small model; regions: length, header, data."""
    model, names = small_model(architecture, dtype), hf_names(architecture)
    header, bodies, at = {}, [], 0
    for name, info in model.tensors.items():
        body = model.read(name).tobytes()
        offsets = [at, at + len(body)]
        header[names[name]] = {"dtype": info.codec.upper(), "shape": info.shape, "data_offsets": offsets}
        bodies.append(body)
        at += len(body)
    text = json.dumps(header).encode()
    data = struct.pack("<Q", len(text)) + text + b"".join(bodies)
    return Whole(data, ((0, 8), (8, 8 + len(text)), (8 + len(text), len(data))))


def hf_names(architecture: str) -> dict[str, str]:
    """GGUF name -> HF name, for layer 0."""
    return {ours.format(0): hf.format(0) for hf, (ours, _) in TABLES[architecture].items()}


def config_of(architecture: str) -> bytes:
    """config.json of the small model."""
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
    sizes = {"hidden_size": 256, "num_hidden_layers": 1, "intermediate_size": 256}
    sizes |= {"vocab_size": 260, "max_position_embeddings": 64}
    config = {"model_type": architecture, "tie_word_embeddings": True, "rms_norm_eps": 1e-5}
    return json.dumps(config | heads | sizes).encode()


NUMBERS = (
    0,
    1,
    2,
    3,
    7,
    8,
    9,
    31,
    32,
    33,
    255,
    1 << 16,
    1 << 31,
    (1 << 32) - 1,
    1 << 40,
    1 << 63,
    (1 << 64) - 1,
)
WORDS = (
    b"-1",
    b"0",
    b"1e999",
    b"NaN",
    b"null",
    b"true",
    b"[]",
    b"{}",
    b'"',
    b"9" * 30,
    b"\\ud800",
    b"\xff",
    b"__metadata__",
)


def flip(data: bytearray, at: int, chance: random.Random) -> None:
    """One bit."""
    data[at] ^= 1 << chance.randrange(8)


def number(data: bytearray, at: int, chance: random.Random) -> None:
    """A number that breaks things, as u32 or u64, little endian."""
    size = chance.choice((4, 8))
    value = chance.choice(NUMBERS) if chance.random() < 0.7 else chance.randrange(1 << 64)
    data[at : at + size] = (value % (1 << 8 * size)).to_bytes(size, "little")


def nudge(data: bytearray, at: int, chance: random.Random) -> None:
    """A byte a little larger or smaller: an id, a dimension, a digit."""
    data[at] = (data[at] + chance.choice((-32, -2, -1, 1, 2, 32))) % 256


def noise(data: bytearray, at: int, chance: random.Random) -> None:
    """A few random bytes."""
    size = chance.randrange(1, 32)
    data[at : at + size] = chance.randbytes(size)


def remove(data: bytearray, at: int, chance: random.Random) -> None:
    """A gap: all after it moves."""
    del data[at : at + chance.choice((1, 4, 8, chance.randrange(1, 200)))]


def repeat(data: bytearray, at: int, chance: random.Random) -> None:
    """A stretch twice."""
    data[at:at] = data[at : at + chance.choice((1, 4, 8, chance.randrange(1, 200)))]


def move(data: bytearray, at: int, chance: random.Random) -> None:
    """A stretch from elsewhere nearby."""
    source = max(0, at + chance.randrange(-300, 300))
    piece = data[source : source + chance.randrange(1, 64)]
    data[at : at + len(piece)] = piece


def word(data: bytearray, at: int, chance: random.Random) -> None:
    """Text that a parser may trip over."""
    data[at : at + chance.randrange(4)] = chance.choice(WORDS)


CHANGES = (flip, number, number, nudge, nudge, noise, remove, repeat, move, word)


def mutate(whole: Whole, chance: random.Random) -> bytes:
    """One to four changes in one region, or the file cut short."""
    data = bytearray(whole.data)
    if chance.random() < 0.1:
        low, high = chance.choice(whole.regions)
        return bytes(data[: chance.randrange(low, high)])
    low, high = chance.choice(whole.regions)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        at = min(chance.randrange(low, high), len(data) - 1)
        chance.choice(CHANGES)(data, at, chance)
    return bytes(data)
