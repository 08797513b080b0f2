"""The CPU's programs run by Python: the same packing, records and walk, no compiled code, every load logged.

Under NUMBA_DISABLE_JIT=1 kernels are plain Python functions over NumPy arrays. This backend binds them as the CPU
backend binds machine code, walks the same tables, and counts the bytes that were loaded from weights and from the KV
cache. It exists to check the ledger and the memory safety of kernels, on models of toy size.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Iterable, Sequence
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memfirst import codecs
from memfirst.backends.base import StepResult
from memfirst.backends.cpu.backend import CpuBackend, CpuOptions
from memfirst.backends.cpu.bind import Bound
from memfirst.backends.cpu.pack import by_numpy
from memfirst.backends.cpu.step_log import StepLog
from memfirst.backends.cpu.twelve_bits import NOTHING, Found
from memfirst.codecs import sketch
from memfirst.codecs.base import ROWS
from memfirst.errors import BackendError
from memfirst.formats.checkpoint import Checkpoint
from memfirst.graph import Graph, Step, Weight
from memfirst.kernels.cpu import build, lang
from memfirst.kernels.cpu.library import Entry
from memfirst.kernels.cpu.sources import Key
from memfirst.kernels.cpu.spans import Block, Span, SpanLog, by_line, by_rows
from memfirst.kernels.cpu.thread_pool import CURRENT, EPOCHS, LOGGING_WALK, RING, SLOT, STOP, WALK, Native
from memfirst.kernels.cpu.threads import interpreted_kernels
from memfirst.lower.program import Program

_DTYPES = {kind: np.dtype(name) for kind, name in lang.ARRAYS.items()}
PATIENCE = 1 << 62
"""Interpreted, the cycle counter stands still: a barrier is waited for without end."""


def nothing_compiled() -> None:
    """BackendError where kernels are compiled, or could be."""
    if not lang.INTERPRETED or "numba" in sys.modules:
        raise BackendError("kernels are compiled in this process", "NUMBA_DISABLE_JIT=1 in its environment")


class Kernels:
    """In place of `library.Library`: kernels as Python functions, with numbers for addresses."""

    def __init__(self, log: SpanLog) -> None:
        self.log = log
        self.loaded: dict[Key, Entry] = {}
        self.owners: dict[int, tuple[str, str]] = {}

    def has(self, keys: Iterable[Key]) -> bool:
        """Nothing is ever compiled."""
        return True

    def load(self, keys: Iterable[Key], progress: object = None) -> dict[Key, Entry]:
        """Entries of all `keys`."""
        for key in keys:
            if key not in self.loaded:
                module, name = key[0].split(".")
                function = getattr(import_module(f"memfirst.kernels.cpu.{module}"), name)
                number = len(interpreted_kernels) + 1
                params, body = build.params(function), partial(function, **build.resolve(dict(key[1])))
                interpreted_kernels[number] = partial(self._run, body, params)
                self.loaded[key] = Entry(number, params)
        return {key: self.loaded[key] for key in keys}

    def _run(self, body: Any, params: tuple[tuple[str, str], ...], args: int, worker: int, lo: int, hi: int) -> int:
        """What a compiled entry does: unpacks the record at `args`, runs the kernel."""
        with self.log.owned_by(self.owners.get(args)), np.errstate(all="ignore"):
            return int(body(*self._operands(args, params), worker, lo, hi))

    def _operands(self, args: int, params: tuple[tuple[str, str], ...]) -> list[Any]:
        size = sum(2 if kind in _DTYPES else 1 for _, kind in params)
        words = iter(_memory(args, size, np.dtype(np.int64)).tolist())
        return [self._operand(words, kind) for _, kind in params]

    def _operand(self, words: Any, kind: str) -> Any:
        if kind in _DTYPES:
            return Span.over(_memory(next(words), next(words), _DTYPES[kind]), self.log)
        word = next(words)
        return np.int32(word).view(np.float32) if kind == "float" else word


def _memory(address: int, items: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The array of `items` at an address."""
    nbytes = items * dtype.itemsize
    memory = memoryview((ctypes.c_char * nbytes).from_address(address)).cast("B")
    return np.frombuffer(memory, np.uint8).view(dtype)


class Workers:
    """In place of `thread_pool.ThreadPool`: Python threads that walk a step together, made anew for each step."""

    def __init__(self, threads: int, kernels: Kernels) -> None:
        self.threads, self.patience = threads, PATIENCE
        self.control: NDArray[np.int64] = np.zeros(RING + SLOT * EPOCHS, np.int64)
        entries = kernels.load([WALK, LOGGING_WALK])
        self._walks = [interpreted_kernels[entries[key].address] for key in (WALK, LOGGING_WALK)]
        self._epoch = 0

    def begin(self) -> None:
        """Before a step's arrays are written."""
        self.control[CURRENT] = self._epoch + 1

    def run(self, walk_args: int, phases: int, log: bool = False) -> None:
        """Do one step; what a kernel raised is raised here."""
        self._epoch += 1
        walk = self._walks[log]
        if self.threads == 1:
            walk(walk_args, 0, 0, self._epoch)
            return
        failed: list[BaseException] = []
        threads = [threading.Thread(target=self._work, args=(walk, walk_args, w, failed)) for w in range(self.threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failed:
            raise failed[0]

    def _work(self, walk: Native, walk_args: int, worker: int, failed: list[BaseException]) -> None:
        try:
            walk(walk_args, worker, 0, self._epoch)
        except BaseException as error:
            failed.append(error)
            self.control[STOP] = 1  # the others must not wait for this worker's chunk

    def quiesce(self) -> None:
        """A step's threads end with it."""

    def close(self) -> None:
        """Nothing to end."""


class InterpretedBackend(CpuBackend):
    """The CPU backend without compiled code; `log` has what the last step loaded and stored."""

    make_pool = Workers
    make_native = staticmethod(lambda entry: interpreted_kernels[entry.address])
    make_pack = staticmethod(lambda library: by_numpy)

    def __init__(
        self, graph: Graph, checkpoint: Checkpoint, options: CpuOptions, twelve_bits: Found = NOTHING
    ) -> None:  # fmt: skip
        nothing_compiled()
        self.log = SpanLog()
        self.make_library = partial(Kernels, self.log)
        super().__init__(graph, checkpoint, options, twelve_bits=twelve_bits)
        for name, array in self._weights.items():
            self.log.watch(name, array, _blocks(self.program(1).program.weights[name]))
        for name, storage in self._caches.items():
            self.log.watch(name, storage, by_line)

    def _bind(self, program: Program) -> Bound:
        bound = super()._bind(program)
        records = bound.addresses.reshape(-1, 2)[:, 1].tolist()
        self.library.owners |= {
            record: (call.op, call.purpose) for record, call in zip(records, bound.calls, strict=True)
        }
        return bound

    def step(
        self, step: Step, tokens: Sequence[int] | NDArray[np.int32], log: StepLog | None = None
    ) -> StepResult:  # fmt: skip
        self.log.clear()
        result = super().step(step, tokens, log)
        nothing_compiled()
        return result


def _blocks(weight: Weight) -> Block | None:
    """Blocks of a packed matrix; a vector has none."""
    if weight.pack in ("plain", sketch.PACK) or weight.twelve_bits:
        return None
    codec = codecs.get(weight.codec)
    return by_rows(ROWS * weight.row_bytes, ROWS * codec.block_bytes)
