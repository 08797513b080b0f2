"""Model files with something wrong in them: each must open or raise a MemfirstError, soon and within bounds.

    python -m tests.fuzz_formats --gguf 20000 --safetensors 5000 --seed 0

A case is a small valid model (every architecture in every codec mix), changed in one region: header,
metadata, tensor table, data or length. Case i of a seed is always the same, so `--first i --gguf 1`
repeats it. Cases run in a child under an address-space limit; a child that dies names its case.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from memfirst.errors import MemfirstError
from memfirst.formats.checkpoint import Checkpoint
from memfirst.formats.gguf_header import Cursor, read_counts, read_metadata
from memfirst.formats.gguf_write import encode_header
from memfirst.formats.mixes import MIXES
from memfirst.formats.names import TABLES
from memfirst.formats.open import open_checkpoint
from memfirst.formats.synthetic import SyntheticCheckpoint, synthetic
from memfirst.formats.synthetic_shapes import SyntheticShape

LIMIT_S = 2.0
MEMORY = 1 << 30
"""Bytes of address space that a child may take beyond what it started with."""

Survivor = Callable[[Checkpoint], None]


def survivor(checkpoint: Checkpoint) -> None:
    """What is done with a model that opens: look at everything in it. A hook for running it."""
    for value in checkpoint.metadata.values():
        str(value if isinstance(value, (str, int, float)) else list(value))
    for name, info in checkpoint.tensors.items():
        data = checkpoint.read(name)
        if data.nbytes != info.nbytes:
            raise AssertionError(f"{name} has {data.nbytes} bytes, {info.nbytes} in the table")
        data.max()
        checkpoint.release(name)


@dataclass
class Tally:
    """What became of the cases."""

    opened: int = 0
    refused: int = 0
    slowest_s: float = 0.0
    failures: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Take another tally into this one."""
        self.opened += other.opened
        self.refused += other.refused
        self.slowest_s = max(self.slowest_s, other.slowest_s)
        self.failures += other.failures


# ---- valid models ----------------------------------------------------------------------


@cache
def small_model(architecture: str, mix: str) -> SyntheticCheckpoint:
    """One layer, rows of 256 (a K-quant's block), 260 tokens: 0.1 to 1.2 MB."""
    shape = SyntheticShape(architecture, 256, 1, 2, 1, 256, 260, True, 16, max_position_embeddings=64)
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
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
    sizes = {"hidden_size": 256, "num_hidden_layers": 1, "intermediate_size": 256, "vocab_size": 260}
    config = {"model_type": architecture, "tie_word_embeddings": True, "rms_norm_eps": 1e-5}
    return json.dumps(config | heads | sizes).encode()


# ---- changes ---------------------------------------------------------------------------

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


# ---- one case --------------------------------------------------------------------------


def write_case(kind: str, index: int, seed: int, folder: Path) -> Path:
    """Make case `index` on disk; every architecture and mix comes in turn."""
    chance = random.Random(f"{seed} {kind} {index}")
    architecture = tuple(TABLES)[index % len(TABLES)]
    if kind == "gguf":
        mix = tuple(MIXES)[index // len(TABLES) % len(MIXES)]
        path = folder / "model.gguf"
        path.write_bytes(mutate(gguf_file(architecture, mix), chance))
        return path
    dtype = ("f32", "f16", "bf16")[index // len(TABLES) % 3]
    config, weights = Whole(config_of(architecture), ((0, 200),)), safetensors_file(architecture, dtype)
    broken = chance.random() < 0.15
    (folder / "config.json").write_bytes(mutate(config, chance) if broken else config.data)
    (folder / "model.safetensors").write_bytes(weights.data if broken else mutate(weights, chance))
    return folder


class TooSlowError(Exception):
    """A case went over its time."""


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise TooSlowError in the main thread after that long."""

    def ring(_signal: int, _frame: FrameType | None) -> None:
        raise TooSlowError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def try_case(path: Path, after: Survivor) -> bool:
    """Whether it opened (and survived `after`) or was refused; anything else is raised."""
    try:
        checkpoint = open_checkpoint(path)
    except MemfirstError:
        return False
    try:
        after(checkpoint)
    except MemfirstError:
        return False
    finally:
        checkpoint.close()
    return True


@dataclass(frozen=True)
class Run:
    """What cases share; `folder` is where their files go."""

    kind: str
    seed: int
    after: Survivor
    folder: str


def run_case(run: Run, index: int, tally: Tally) -> None:
    """One case, in a folder of its own; a failure is noted with its traceback."""
    folder = Path(tempfile.mkdtemp(dir=run.folder))
    try:
        path = write_case(run.kind, index, run.seed, folder)
        start = time.perf_counter()
        with deadline(LIMIT_S):
            opened = try_case(path, run.after)
        tally.slowest_s = max(tally.slowest_s, time.perf_counter() - start)
        tally.opened, tally.refused = tally.opened + opened, tally.refused + (not opened)
    except Exception:
        tally.failures.append(f"{run.kind} case {index} of seed {run.seed}:\n{traceback.format_exc()}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# ---- many cases ------------------------------------------------------------------------


def child(run: Run, cases: range, pipe: Any, at: Any) -> None:
    """Run cases under the limit and send the tally; `at` holds the number of the case under way."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    tally = Tally()
    for index in cases:
        at.value = index
        run_case(run, index, tally)
    pipe.send(tally)


def run_cases(kind: str, cases: range, seed: int, after: Survivor = survivor) -> Tally:
    """Run cases in children; one that dies costs its results but not the run, and its case is a failure."""
    tally, first = Tally(), cases.start
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        while first < cases.stop:
            block = range(first, min(first + 500, cases.stop))
            first = run_block(Run(kind, seed, after, folder), block, tally)
    return tally


def run_block(run: Run, block: range, tally: Tally) -> int:
    """Run cases in one child; returns the first that has not run."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    at = context.Value("q", block.start, lock=False)
    process = context.Process(target=child, args=(run, block, sender, at))
    process.start()
    sender.close()
    try:
        tally.add(receiver.recv())
        return block.stop
    except EOFError:
        process.join()
        fate = f"killed its process ({process.exitcode})"
        tally.failures.append(f"{run.kind} case {at.value} of seed {run.seed} {fate}")
        return int(at.value) + 1
    finally:
        process.join()


def main() -> int:
    """Run what the arguments ask for; 1 if anything failed."""
    parser = argparse.ArgumentParser(description="Fuzz the file readers.")
    parser.add_argument("--gguf", type=int, default=0, help="cases")
    parser.add_argument("--safetensors", type=int, default=0, help="cases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the first case's number")
    options = parser.parse_args()
    failed = 0
    for kind, count in (("gguf", options.gguf), ("safetensors", options.safetensors)):
        tally = run_cases(kind, range(options.first, options.first + count), options.seed)
        print(f"{kind}: {tally.opened} opened, {tally.refused} refused, {len(tally.failures)} failed, "
              f"slowest {tally.slowest_s:.3f} s")  # fmt: skip
        print("\n".join(tally.failures[:20]), file=sys.stderr)
        failed += len(tally.failures)
    return 1 if failed else 0


if __name__ == "__main__":
    np.seterr(all="ignore")
    sys.exit(main())
