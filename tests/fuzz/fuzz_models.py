"""Small models of every architecture in every codec mix, with something changed: each is refused or runs.

    python -m tests.fuzz.fuzz_models --cases 20000 --seed 0 [--compile]

A case changes what a GGUF file means (a hyperparameter, a tensor's codec, shape, name or numbers) or its bytes. What
opens runs a prompt and two steps on the CPU backend, where the bytes that its kernels count must be those predicted;
a quarter of the cases runs on the reference as well. Numbers may be anything: NaN is an answer.

--compile  also runs models that need kernels of their own, as other head counts do: seconds for each new kernel
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memfirst import models
from memfirst.backends.cpu.backend import CpuBackend, CpuOptions
from memfirst.backends.reference.backend import ReferenceBackend
from memfirst.codecs import BLOCK_TYPES
from memfirst.convert.gguf_write import encode_header
from memfirst.convert.mixes import MIXES
from memfirst.errors import UnsupportedError
from memfirst.formats.checkpoint import Checkpoint, TensorInfo
from memfirst.formats.gguf import open_gguf
from memfirst.graph import Graph, Sequence, Step
from memfirst.kernels.cpu.library import Library
from memfirst.lower.cpu import lower
from tests.fuzz import runner
from tests.fuzz.fuzz_changes import CHANGES, NUMBERS, Whole
from tests.fuzz.fuzz_formats import ALWAYS
from tests.fuzz.runner import Tally
from tests.support import recurrent_files
from tests.support.tiny_files import FILES, tiny_file

CONTEXT = 64
PROMPT = 5
SMALL_FILES = tuple(name for name in FILES if name != "EXAONE-4.0-32B")
"""Its 64 layers are EXAONE-4.0-1.2B's."""
SCANS = (
    "mamba", "falcon_mamba", "mamba2", "jamba", "granite_tiny", "granite_1b",
    "lfm2", "lfm2moe", "nemotron_h", "nemotron_h_moe", "falcon_h1", "falcon_h1_normed",
)  # fmt: skip
"""Models whose files are written by `recurrent_files`."""
KINDS = ("f32", "f16", "q8_0")
"""What `recurrent_files` writes them in."""

Bytes = NDArray[np.uint8]


@dataclass
class Parts:
    """A file to be: what a case changes."""

    metadata: dict[str, Any]
    tensors: list[TensorInfo]
    bodies: dict[str, bytes]
    prefix: str = field(default="")

    def encoded(self) -> bytes:
        """The GGUF file."""
        header = encode_header(self.metadata, self.tensors, 32)
        return header + b"".join(body + bytes(-len(body) % 32) for body in map(self._body, self.tensors))

    def _body(self, info: TensorInfo) -> bytes:
        """As many bytes as the table says: those that there are, again and again."""
        have = self.bodies[info.name] or b"\0"
        return (have * (info.nbytes // len(have) + 1))[: info.nbytes]


def cases() -> list[tuple[str, str]]:
    """(model, mix), all of them."""
    written = [(name, mix) for mix in MIXES for name in SMALL_FILES]
    return written + [(name, kind) for kind in KINDS for name in SCANS]


@cache
def parts(name: str, mix: str) -> Parts:
    """The unbroken model."""
    model: Checkpoint = _scan(name, mix) if name in SCANS else tiny_file(name, mix)
    infos = list(model.tensors.values())
    bodies = {info.name: model.read(info.name).tobytes() for info in infos}
    found = Parts(dict(model.metadata), infos, bodies, f"{model.architecture}.")
    model.close()
    return found


def _scan(name: str, kind: str) -> Checkpoint:
    import tempfile

    spec = recurrent_files.SPECS[name]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.gguf")
        recurrent_files.write(path, spec, recurrent_files.random_arrays(spec), kind)
        return open_gguf(path)  # mapped: it may be read after its folder is gone


# --- changes of what a file means

Change = Callable[[Parts, random.Random], None]


def _own(p: Parts, chance: random.Random) -> str:
    """One of the architecture's own keys."""
    return chance.choice([key for key in p.metadata if key.startswith(p.prefix)])


def set_key(p: Parts, chance: random.Random) -> None:
    """A hyperparameter near its value, or far off, or of another type."""
    key = _own(p, chance)
    p.metadata[key] = _other(p.metadata[key], chance)


def _other(value: Any, chance: random.Random) -> Any:
    if isinstance(value, np.ndarray):
        changed = value.copy()
        changed[chance.randrange(len(changed))] = chance.choice((0, 1, 3))
        return chance.choice((changed, value[: len(value) // 2], int(value[0])))
    if isinstance(value, (bool, np.bool_)):
        return chance.choice((not value, int(value), "true"))
    if isinstance(value, (int, np.integer)):
        near = [max(0, int(value) + d) for d in (-16, -2, -1, 1, 2, 16)] + [int(value) * 2, int(value) // 2]
        far = [chance.choice(NUMBERS), float(value), str(value), True, np.array([int(value)] * 2, np.int32)]
        return chance.choice(near if chance.random() < 0.75 else far)
    if isinstance(value, (float, np.floating)):
        numbers = (0.0, -1.0, 1e-30, 1e30, float("inf"), float("nan"), float(value) * 2)
        return chance.choice((*numbers, int(chance.choice((0, 1, 100))), "1"))
    return chance.choice(("", "yarn", "linear", "longrope", 1, "none"))


def add_key(p: Parts, chance: random.Random) -> None:
    """A key of some other architecture, or one that nobody knows."""
    name, mix = chance.choice(cases())
    other = parts(name, "f32" if name in SCANS else mix)
    key = _own(other, chance)
    p.metadata[p.prefix + key.removeprefix(other.prefix)] = other.metadata[key]


def drop_key(p: Parts, chance: random.Random) -> None:
    """A hyperparameter missing."""
    del p.metadata[_own(p, chance)]


def rename_model(p: Parts, chance: random.Random) -> None:
    """Another architecture's name before all keys: one reader gets the other's file."""
    other = parts(chance.choice(SMALL_FILES), "f32").prefix
    p.metadata = {key.replace(p.prefix, other, 1) if key.startswith(p.prefix) else key: value
                  for key, value in p.metadata.items()}  # fmt: skip
    p.metadata["general.architecture"], p.prefix = other.removesuffix("."), other


def _put(p: Parts, at: int, shape: tuple[int, ...], codec: str) -> None:
    """A tensor of that shape and codec, where whole blocks fill its rows."""
    kind, count = BLOCK_TYPES[codec], int(np.prod(shape, dtype=np.int64))
    if shape[-1] % kind.block == 0 and count < 1 << 20:
        info = p.tensors[at]
        p.tensors[at] = replace(info, shape=shape, codec=codec, nbytes=count // kind.block * kind.block_bytes)


def set_codec(p: Parts, chance: random.Random) -> None:
    """A tensor in another codec, of those that run or of those that are only sized."""
    at = chance.randrange(len(p.tensors))
    _put(p, at, p.tensors[at].shape, chance.choice([n for n, t in BLOCK_TYPES.items() if t.ggml_type >= 0]))


def set_shape(p: Parts, chance: random.Random) -> None:
    """A dimension larger, smaller, swapped with another, or one more."""
    at = chance.randrange(len(p.tensors))
    info = p.tensors[at]
    shape, axis = list(info.shape), chance.randrange(len(info.shape))
    to = chance.choice((1, 16, 32, shape[axis] + 1, shape[axis] * 2, max(1, shape[axis] // 2), shape[axis] + 32))
    changed = [*shape[:axis], to, *shape[axis + 1 :]]
    _put(p, at, tuple(chance.choice((changed, changed, shape[::-1], [1, *shape], shape[1:] or [1]))), info.codec)


def set_all_shapes(p: Parts, chance: random.Random) -> None:
    """One dimension of all tensors that have it: a model that is consistent, but for its hyperparameters."""
    sizes = sorted({n for info in p.tensors for n in info.shape})
    old, new = chance.choice(sizes), chance.choice((1, 8, 16, 32, 48, 64, 96, 128, 256, 320))
    for at, info in enumerate(p.tensors):
        _put(p, at, tuple(new if n == old else n for n in info.shape), info.codec)
    for key, value in p.metadata.items():
        if key.startswith(p.prefix) and isinstance(value, int) and value == old and chance.random() < 0.8:
            p.metadata[key] = new


def drop_tensor(p: Parts, chance: random.Random) -> None:
    """A tensor missing."""
    del p.tensors[chance.randrange(len(p.tensors))]


def rename_tensor(p: Parts, chance: random.Random) -> None:
    """A tensor under another one's name, or under one of another architecture."""
    at = chance.randrange(len(p.tensors))
    old = p.tensors[at].name
    new = chance.choice(
        [t.name for t in (p if chance.random() < 0.5 else parts(chance.choice(SMALL_FILES), "f32")).tensors]
    )
    p.tensors[at] = replace(p.tensors[at], name=new)
    p.bodies[new] = p.bodies[old]


def set_numbers(p: Parts, chance: random.Random) -> None:
    """A tensor of noise, of ones in all bits (NaN), of zeros, or of infinities."""
    info = p.tensors[chance.randrange(len(p.tensors))]
    whole = (b"\xff", b"\0", b"\x00\x7c", b"\x00\x00\x80\x7f", chance.randbytes(97))
    p.bodies[info.name] = chance.choice(whole)


def cut_vocabulary(p: Parts, chance: random.Random) -> None:
    """Fewer tokens than rows, or none."""
    for key in [key for key in p.metadata if key.startswith("tokenizer.ggml.") and chance.random() < 0.5]:
        value = p.metadata[key]
        if hasattr(value, "__len__") and not isinstance(value, str):
            p.metadata[key] = list(value)[: len(value) // 2] or [0]


MEANINGS: tuple[Change, ...] = (
    set_key, set_key, set_key, add_key, drop_key, rename_model, set_codec, set_codec, set_shape, set_all_shapes,
    set_all_shapes, drop_tensor, rename_tensor, set_numbers, set_numbers, cut_vocabulary,
)  # fmt: skip


def case_of(index: int, seed: int) -> tuple[str, str, random.Random]:
    """(model, mix, chance): all models and mixes come in turn."""
    name, mix = cases()[index % len(cases())]
    return name, mix, random.Random(f"{seed} models {index}")


def write_case(index: int, seed: int, folder: Path) -> Path:
    """Make a case on disk: mostly other meanings, else other bytes."""
    name, mix, chance = case_of(index, seed)
    whole = parts(name, mix)
    made = Parts(dict(whole.metadata), list(whole.tensors), dict(whole.bodies), whole.prefix)
    if chance.random() < 0.75:
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            chance.choice(MEANINGS)(made, chance)
        data = made.encoded()
    else:
        data = _other_bytes(made, chance)
    path = folder / "model.gguf"
    path.write_bytes(data)
    return path


def _other_bytes(made: Parts, chance: random.Random) -> bytes:
    """Changes of bytes in the keys that come before the vocabulary, in the tensor table, or in the data."""
    data = made.encoded()
    vocabulary = data.index(b"tokenizer.ggml.")
    header = len(encode_header(made.metadata, made.tensors, 32))
    table = header - 80 * len(made.tensors)
    whole = Whole(data, ((24, vocabulary), (24, vocabulary), (max(24, table), header), (header, len(data))))
    changed = bytearray(data)
    low, high = chance.choice(whole.regions)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        chance.choice(CHANGES)(changed, min(chance.randrange(low, high), len(changed) - 1), chance)
    return bytes(changed)


# --- what is done with what opens


@cache
def library() -> Library:
    """The kernels of this process."""
    return Library()


def load_kernels(chosen: list[tuple[str, str]]) -> None:
    """Compile or load what the unbroken models need, before any case is timed."""
    wanted = set[Any](ALWAYS)
    for name, mix in chosen:
        with suppress(UnsupportedError):
            wanted |= kernels(models.build(_scan(name, mix) if name in SCANS else tiny_file(name, mix)))
    library().load(wanted)


def kernels(graph: Graph) -> frozenset[Any]:
    """What a prompt and a step need."""
    return lower(graph, 1, CONTEXT, 1).kernels | lower(graph, 2 * PROMPT, CONTEXT, 1).kernels


class Loaded(CpuBackend):
    """The CPU backend with the kernels of this process."""

    make_library = staticmethod(library)


def run_steps(compiles: bool, reference: bool, checkpoint: Checkpoint) -> None:
    """A prompt and two steps; AssertionError where the recorded bytes are not those predicted."""
    graph = models.build(checkpoint)
    if reference:
        slow = ReferenceBackend(graph, checkpoint, context=CONTEXT)
        with np.errstate(all="ignore"):
            for step, tokens in _steps(graph, graph.own_tables(0, CONTEXT, PROMPT)):
                slow.step(step, tokens)
    wanted = kernels(graph)
    if compiles:
        _compile(wanted)
    if not library().has(wanted):
        return
    backend = Loaded(graph, checkpoint, CpuOptions(1, CONTEXT))
    try:
        for step, tokens in _steps(graph, backend.own_tables(0)):
            result = backend.step(step, tokens)
            if result.logits.shape != (1, graph.vocab_size):
                raise AssertionError(f"logits {result.logits.shape}, vocabulary {graph.vocab_size}")
            known = replace(step, routing=backend.routing(result))
            recorded, predicted = (
                {k: int(v) for k, v in ledger.by_purpose().items() if k != "activations"}
                for ledger in (backend.recorded(step, result), backend.predicted(known))
            )
            if recorded != predicted:
                raise AssertionError(f"recorded {recorded}, predicted {predicted}")
    finally:
        backend.close()


def _steps(graph: Graph, tables: tuple[tuple[int, ...], ...]) -> list[tuple[Step, NDArray[np.int32]]]:
    """A prompt and two single tokens, over the vocabulary."""
    found = []
    for past, new in ((0, PROMPT), (PROMPT, 1), (PROMPT + 1, 1)):
        tokens = np.array([(past + i) * 7919 % graph.vocab_size for i in range(new)], np.int32)
        found.append((Step((Sequence(past, new, tables),)), tokens))
    return found


def _compile(wanted: frozenset[Any]) -> None:
    """Kernels that are missing, whose time is not the case's."""
    left, _ = signal.setitimer(signal.ITIMER_PROF, 0)
    library().load(wanted)
    signal.setitimer(signal.ITIMER_PROF, max(left, 1e-3))


def run_cases(chosen: range, seed: int, compiles: bool = False, after: runner.Survivor | None = None) -> Tally:
    """Cases of all models; of 2,000 the first 500 run on the reference too."""
    load_kernels([cases()[i % len(cases())] for i in chosen][: len(cases())])
    tally = Tally()
    if after is not None:
        return runner.run_cases("models", chosen, seed, write_case, after)
    for first in range(chosen.start, chosen.stop, 500):
        block = range(first, min(first + 500, chosen.stop))
        with_reference = first // 500 % 4 == 0
        tally.add(runner.run_cases("models", block, seed, write_case, partial(run_steps, compiles, with_reference)))
    return tally


def main() -> int:
    """Run what the arguments ask for; 1 if anything failed."""
    parser = argparse.ArgumentParser(description="Fuzz small models of every architecture.")
    parser.add_argument("--cases", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the first case's number")
    parser.add_argument("--compile", action="store_true", help="compile kernels that only a changed model needs")
    options = parser.parse_args()
    chosen = range(options.first, options.first + options.cases)
    return 1 if runner.report("models", run_cases(chosen, options.seed, options.compile)) else 0


if __name__ == "__main__":
    sys.exit(main())
