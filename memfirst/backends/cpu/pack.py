"""Weights as the CPU's kernels read them: from the file into one stretch of memory, by several threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from importlib import import_module
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from memfirst import codecs
from memfirst.backends.cpu.twelve_bits import NOTHING, Found, packing
from memfirst.codecs import Codec, iq4_xs, sketch
from memfirst.codecs.base import ROWS, U8
from memfirst.codecs.block32 import fifth_bits_by_lane
from memfirst.codecs.interleave import Field
from memfirst.codecs.k256 import scales_by_lane
from memfirst.formats.checkpoint import Checkpoint
from memfirst.graph import DISK, Weight
from memfirst.kernels.cpu import arena
from memfirst.kernels.cpu.library import Library
from memfirst.kernels.cpu.sources import Key
from memfirst.kernels.cpu.thread_pool import native
from memfirst.lower.program import Program
from memfirst.progress import Delayed, Progress, Silent

PACK_BYTES = 2 << 20
"""Bytes that one thread packs at a time."""

MOST_THREADS = 16
"""More do not pack faster: copying is bound by memory."""

KEY: Key = ("pack.pack", ())
AS_IT_IS, SCALES, FIFTH_BITS, SIX_BITS, FIELD = 0, 1, 2, 3, 4
"""What the kernel does to a field's bits, and words of a field."""
_BITS: Mapping[Callable[[U8], U8] | None, int] = {
    None: AS_IT_IS, scales_by_lane: SCALES, fifth_bits_by_lane: FIFTH_BITS, iq4_xs.scales_by_lane: SIX_BITS,
}  # fmt: skip

Pack = Callable[[Codec, U8, U8], object]
"""Rows u8 [16 n, blocks, block_bytes] side by side by sixteen into u8 [n, blocks, 16 * block_bytes]."""


def by_numpy(codec: Codec, rows: U8, out: U8) -> None:
    """The definition: `codec.pack`."""
    codec.pack(rows, out=out)


class Compiled:
    """The same by the kernel; the library stays loaded as long as this is there."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._call = native(library.load([KEY])[KEY])

    def __call__(self, codec: Codec, rows: U8, out: U8) -> None:
        """Pack; ValueError for arrays that are not contiguous, or of other shapes."""
        groups, rest = divmod(len(rows), ROWS)
        expected = groups, rows.shape[1], ROWS * codec.block_bytes
        if rest or rows.shape[2] != codec.block_bytes or out.shape != expected:
            raise ValueError(f"rows {rows.shape} of {codec.name} cannot be packed into {out.shape}")
        if not rows.flags.c_contiguous or not out.flags.c_contiguous:
            raise ValueError(f"rows of {codec.name} or their place are not contiguous")
        fields, blocks, width = field_table(codec.name), rows.shape[1], codec.block_bytes
        if fields.size == FIELD:  # floats: a row of blocks is one field as a block is
            at, _, unit, bits = fields.tolist()
            blocks, width = 1, blocks * width
            fields = np.array([at, width, unit, bits], np.int64)
        arrays = ((a.ctypes.data, a.size) for a in (rows, out, fields))
        args = np.array([*(word for pair in arrays for word in pair), blocks, width], np.int64)
        self._call(args.ctypes.data, 0, 0, groups)


@cache
def field_table(codec: str) -> NDArray[np.int64]:
    """A codec's packed layout as the kernel reads it, see `kernels.cpu.pack.pack`."""
    layout: tuple[Field, ...] = import_module(f"memfirst.codecs.{codec}").LAYOUT
    words = [word for f in layout for word in (f.at, f.width, f.unit, _BITS[f.encode])]
    return np.array(words, np.int64)


def places(program: Program) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.uint8]]]:
    """One stretch of memory for all weights that are not on disk, in the order in which a step reads them, and each
    one's part of it."""
    here = {name: w for name, w in program.weights.items() if w.tier != DISK}
    ends = [0, *accumulate(-(-w.nbytes // 64) * 64 for w in here.values())]
    memory = arena.allocate(ends[-1])
    return memory, {name: memory[at : at + w.nbytes] for at, (name, w) in zip(ends[:-1], here.items(), strict=True)}


def pack_weights(
    program: Program,
    checkpoint: Checkpoint,
    places: Mapping[str, NDArray[np.uint8]],
    threads: int,
    progress: Progress | None = None,
    pack: Pack = by_numpy,
    twelve_bits: Found = NOTHING,
) -> None:
    """Pack all weights that have places into them; `twelve_bits` are BF16 matrices as they were measured.

    Each thread takes the next slice of `PACK_BYTES` when it is done with one, and a weight's pages of the file are
    released with its last slice: file and packed form are never both in memory whole.
    """
    work = Slices(program, checkpoint, places, pack, twelve_bits)
    total = sum(place.nbytes for name, place in places.items() if program.weights[name].pack != sketch.PACK)
    shown = Delayed(progress or Silent(), "reading weights", total)
    with ThreadPoolExecutor(MOST_THREADS) as pool:
        others = [pool.submit(work.do) for _ in range(1, min(threads, MOST_THREADS))]
        try:
            work.do(shown.done)
        finally:
            work.stopped = True  # by Ctrl-C, or nothing is left
        for other in others:
            other.result()
    shown.done(total)


class Slices:
    """Slices of weights to pack, for several threads."""

    def __init__(
        self, program: Program, checkpoint: Checkpoint, places: Mapping[str, NDArray[np.uint8]], pack: Pack,
        twelve_bits: Found,
    ) -> None:  # fmt: skip
        self._weights, self._checkpoint, self._places, self._pack = program.weights, checkpoint, places, pack
        self._twelve_bits = twelve_bits
        self._lock = threading.Lock()
        self._next = self._each()
        self._left = dict.fromkeys(places, 0)
        self._done = 0
        self.stopped = False

    def do(self, done: Callable[[int], None] = lambda nbytes: None) -> None:
        """Pack slices until none is left; `done` is told the bytes of the weights that are packed."""
        while not self.stopped:
            with self._lock:
                name, pack = next(self._next, ("", None))
            if pack is None:
                return
            pack()
            with self._lock:
                self._left[name] -= 1
                whole = not self._left[name]
                self._done += self._places[name].nbytes if whole else 0
            if whole:
                self._checkpoint.release(name)
            done(self._done)

    def _each(self) -> Iterator[tuple[str, Callable[[], object]]]:
        for name, place in self._places.items():
            if self._weights[name].pack == sketch.PACK:  # no file has it: it is made of the packed head
                continue
            weight, codec = self._weights[name], self._checkpoint.tensors[name].codec
            raw = self._own(name, codec)
            if weight.twelve_bits:
                slices = [*packing(weight, raw, self._twelve_bits.packed[name], self._twelve_bits.passes, place)]
            else:
                slices = [*_packing(weight, raw, codec, place, self._pack)]
            self._left[name] = len(slices)
            yield from ((name, one) for one in slices)

    def _own(self, name: str, codec: str) -> NDArray[np.uint8]:
        """A weight as the file has it; of one that several processes share, this one's rows."""
        raw, weight = self._checkpoint.read(name), self._weights[name]
        if weight.shard is None:
            return raw
        ((first, n),) = weight.shard.ranges
        row = codecs.sized(codec).matrix_bytes(1, weight.columns if len(weight.shape) > 1 else 1)
        return raw.reshape(-1)[first * row : (first + n) * row]


def _packing(
    weight: Weight, raw: NDArray[np.uint8], codec_name: str, out: NDArray[np.uint8], pack: Pack
) -> Iterator[Callable[[], object]]:
    """What packs a weight, in slices that may be done in any order."""
    codec = codecs.get(codec_name)
    if weight.pack == "plain":
        yield partial(_widen, codec, raw, out)
        return
    if weight.codec != codec_name:  # a convolution's taps, a scan's rates: few, and floats
        widened = codec.dequantize(raw.reshape(-1, codec.block_bytes)).astype(np.float32)
        codec, raw = codecs.get(weight.codec), widened.reshape(-1).view(np.uint8)
    matrices = raw.reshape(weight.matrices, weight.rows, -1, codec.block_bytes)
    for blocks, packed in zip(matrices, out.reshape(weight.matrices, -1), strict=True):
        yield from _packing_matrix(weight, codec, blocks, packed, pack)


def _packing_matrix(
    weight: Weight, codec: Codec, blocks: NDArray[np.uint8], out: NDArray[np.uint8], pack: Pack
) -> Iterator[Callable[[], object]]:
    """The same of one matrix, blocks [rows, blocks, block_bytes]."""
    packed = out.reshape(-1, blocks.shape[1], ROWS * codec.block_bytes)
    step = groups_in(weight, PACK_BYTES)
    for i in range(0, len(packed), step):
        yield partial(pack_rows, codec, blocks[i * ROWS : (i + step) * ROWS], packed[i : i + step], pack)


def groups_in(weight: Weight, nbytes: int) -> int:
    """Groups of rows in about so many bytes, at least one."""
    return max(1, nbytes // (ROWS * weight.row_bytes))


def pack_rows(codec: Codec, rows: NDArray[np.uint8], out: NDArray[np.uint8], pack: Pack = by_numpy) -> None:
    """rows [n, blocks, block_bytes] side by side by sixteen into `out`; zeros for those that the last group lacks."""
    whole, rest = divmod(len(rows), ROWS)
    if whole:
        pack(codec, rows[: whole * ROWS], out[:whole])
    if rest:
        last = np.zeros((ROWS, *rows.shape[1:]), np.uint8)
        last[:rest] = rows[whole * ROWS :]
        pack(codec, last, out[whole : whole + 1])


def _widen(codec: Codec, raw: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    out.view(np.float32)[:] = codec.dequantize(raw.reshape(-1, codec.block_bytes)).reshape(-1)
