"""Weights as the CPU's kernels read them: from the file into one stretch of memory, by several threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memfirst import codecs
from memfirst.codecs import Codec
from memfirst.codecs.base import ROWS
from memfirst.formats.checkpoint import Checkpoint
from memfirst.graph import Weight
from memfirst.kernels.cpu import arena
from memfirst.lower.program import Program
from memfirst.progress import Delayed, Progress, Silent

PACK_BYTES = 2 << 20
"""Bytes that one thread packs at a time."""

MOST_THREADS = 16
"""More do not pack faster: copying is bound by memory."""


def pack_weights(
    program: Program, checkpoint: Checkpoint, threads: int, progress: Progress | None = None
) -> tuple[NDArray[np.uint8], dict[str, NDArray[Any]]]:
    """All weights in one stretch of memory, in the order in which a step reads them; the stretch, and each of them.

    Slices of `PACK_BYTES` are packed side by side. A weight's pages of the file are released when it is done, and at
    most two slices a thread, or one weight, are begun before: file and packed form are never both in memory whole.
    """
    total = sum(-(-w.nbytes // 64) * 64 for w in program.weights.values())
    place_of_all, at, out = arena.allocate(total), 0, {}
    begun: deque[tuple[Weight, list[Future[object]]]] = deque()
    shown = Delayed(progress or Silent(), "reading weights", total)

    def finish() -> None:
        weight, slices = begun.popleft()
        for packed in slices:
            packed.result()
        checkpoint.release(weight.name)

    threads = min(threads, MOST_THREADS)
    most = 2 * threads * PACK_BYTES
    with ThreadPoolExecutor(threads) as pool:
        for name, weight in program.weights.items():
            while begun and sum(other.nbytes for other, _ in begun) + weight.nbytes > most:
                finish()
            place = place_of_all[at : at + weight.nbytes]
            work = _packing(weight, checkpoint.read(name), checkpoint.tensors[name].codec, place)
            begun.append((weight, [pool.submit(one) for one in work]))
            out[name] = place.view(np.float32) if len(weight.shape) == 1 else place
            at += -(-weight.nbytes // 64) * 64
            shown.done(at)
        while begun:
            finish()
    shown.done(total)
    return place_of_all, out


def _packing(
    weight: Weight, raw: NDArray[np.uint8], codec_name: str, out: NDArray[np.uint8]
) -> Iterator[Callable[[], object]]:
    """What packs a weight, in slices that may be done in any order."""
    codec = codecs.get(codec_name)
    if len(weight.shape) == 1:
        yield partial(_widen, codec, raw, out)
        return
    blocks = raw.reshape(weight.rows, -1, codec.block_bytes)
    packed = out.reshape(-1, blocks.shape[1], ROWS * codec.block_bytes)
    step = max(1, PACK_BYTES // (ROWS * weight.row_bytes))
    whole = weight.rows // ROWS
    for i in range(0, whole, step):
        j = min(i + step, whole)
        yield partial(codec.pack, blocks[i * ROWS : j * ROWS], out=packed[i:j])
    if weight.padding:
        last = np.zeros((ROWS, *blocks.shape[1:]), np.uint8)
        last[: weight.rows % ROWS] = blocks[whole * ROWS :]
        yield partial(codec.pack, last, out=packed[whole:])


def _widen(codec: Codec, raw: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    out.view(np.float32)[:] = codec.dequantize(raw.reshape(-1, codec.block_bytes)).reshape(-1)
