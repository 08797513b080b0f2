"""Binding a Program to memory: operands become addresses, calls become records, phases become the walk's tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memfirst.codecs.base import F32, ROWS
from memfirst.errors import CapacityError
from memfirst.kernels.cpu import arena
from memfirst.kernels.cpu.lang import ARRAYS
from memfirst.kernels.cpu.library import Entry
from memfirst.kernels.cpu.sources import Key
from memfirst.kernels.cpu.thread_pool import ThreadPool, bits
from memfirst.lower.program import Call, Exchange, Operand, Phase, Program, Ref, Rows, Task
from memfirst.lower.step_fields import count_of
from memfirst.lower.streaming import stretches

COUNTERS, PHASE = 16, 8  # words of a phase's counters, and of its row, as in `walk`

PHASES, PHASE_COUNTERS, LOG, FIRST = 2, 8, 14, 18
"""The words of the walk's arguments that are the address and size of its phases, of their counters, and of its log; and
the number of its first phase."""

ROOM = 16
"""Times the first program's counters that there is room for: those of three rooms have about as many calls each."""

Arrays = Mapping[tuple[str, str], NDArray[Any]]
"""Arrays by (space, name) of the operands that name them."""


class Counts:
    """Bytes that workers counted, of all programs in one stretch: a snapshot is one copy."""

    def __init__(self, items: int) -> None:
        self._all: NDArray[np.int64] = arena.allocate(8 * items, huge=False).view(np.int64)  # free until touched
        self._used = self._all[:0]
        self._shapes: list[tuple[int, int]] = []

    def take(self, workers: int, calls: int) -> NDArray[np.int64]:
        """Counters [workers, calls] of one more program; CapacityError where none are left."""
        start, end = len(self._used), len(self._used) + workers * calls
        if end > len(self._all):
            raise CapacityError(f"{end} counters", f"at most {len(self._all)}", "use fewer threads")
        self._used = self._all[:end]
        self._shapes.append((workers, calls))
        return self._all[start:end].reshape(workers, calls)

    def copy(self) -> NDArray[np.int64]:
        """All counters as they are now."""
        return self._used.copy()

    def between(self, before: NDArray[np.int64], after: NDArray[np.int64]) -> NDArray[np.int64]:
        """Bytes of each call of each program between two copies, all workers together."""
        moved, at, sums = after.copy(), 0, [np.zeros(0, np.int64)]
        moved[: len(before)] -= before  # a program made in between starts at 0
        for workers, calls in self._shapes:
            part = moved[at : at + workers * calls]  # none of a program that was made later
            sums.append(part.reshape(-1, calls).sum(0) if len(part) else np.zeros(calls, np.int64))
            at += workers * calls
        return np.concatenate(sums)


class Operands:
    """What the programs of one room share: buffers, logits, each call's operands, and what the workers counted.

    They differ in the kernels that they call and in how much is claimed at a time: binding another one takes a tenth
    of the first one's time (2 instead of 13 ms for 604 calls).
    """

    def __init__(
        self, program: Program, arrays: Arrays, entries: Mapping[Key, Entry], pool: ThreadPool, counts: Counts
    ) -> None:
        self.arrays = dict(arrays)
        for b in program.buffers:
            self.arrays["buffer", b.name] = arena.array(b.kind, b.items(program.room, pool.threads))
        self._places = {key: (array.dtype.name, [array.ctypes.data, array.size]) for key, array in self.arrays.items()}
        # Logits alternate between two arrays, so that those of a step outlive the next one without a copy (20 us).
        self._output = program.output
        first = self.arrays["buffer", self._output.buffer]
        self._outputs: tuple[F32, F32] = (first, arena.array("f32", first.size))
        self._output_addresses = tuple(array.ctypes.data for array in self._outputs)
        self._turn = 0
        self._output_words: list[tuple[Any, int, int]] = []  # a record, the word of an address, its offset
        self._logits: dict[tuple[int, int], F32] = {}
        self._records = [self._record(call, entries[call.key]) for call in program.calls]
        self.addresses = [record.__array_interface__["data"][0] for record in self._records]
        """Where each call's operands are."""
        self.calls = program.calls
        """Of the first program; those of another have the same operations and purposes."""
        self.read = counts.take(pool.threads, len(self._records))
        self.counters = arena.array("i64", len(program.phases) * COUNTERS)
        self.phases = self._phases(program)
        """The walk's table of them."""

    def alternate(self) -> None:
        """The next step writes its logits into the other array; before the step begins."""
        self._turn ^= 1
        address = self._output_addresses[self._turn]
        for words, at, offset in self._output_words:
            words[at] = address + offset

    def rows(self, place: Rows, rows: int) -> F32:
        """A value f32 [rows, width] in its buffer, in the step that is being done."""
        if place.buffer == self._output.buffer:
            memory = self._outputs[self._turn]
        else:
            memory = self.arrays["buffer", place.buffer]
        whole: F32 = memory[: rows * place.stride].reshape(rows, place.stride)
        return whole[:, place.at : place.at + place.width]

    def logits(self, rows: int, vocab: int) -> F32:
        """The last step's logits [rows, vocab]: of two arrays, each the same object whenever it comes again."""
        key = self._turn, rows
        if key not in self._logits:
            stride = self._output.stride  # padding is computed too
            output: F32 = self._outputs[self._turn][: rows * stride].reshape(rows, stride)
            self._logits[key] = output[:, :vocab]
        return self._logits[key]

    def _record(self, call: Call, entry: Entry) -> NDArray[np.int64]:
        """A call's operands as its kernel takes them."""
        operands = dict(call.args)
        words: list[int] = []
        outputs = []
        for name, kind in entry.params:
            operand = operands[name]
            if isinstance(operand, Ref) and (operand.space, operand.name) == ("buffer", self._output.buffer):
                outputs.append((len(words), operand.offset * self._outputs[0].itemsize))
            words += self._words(operand, kind)
        record = np.array(words, np.int64)
        self._output_words += [(record.data, at, offset) for at, offset in outputs]
        return record

    def _words(self, operand: Operand, kind: str) -> list[int]:
        if kind not in ARRAYS:
            return [bits(float(operand) if kind == "float" else operand)]  # type: ignore[arg-type]
        if not isinstance(operand, Ref):
            raise TypeError(f"a kernel wants an array of {kind}, the program gives {operand!r}")
        dtype, place = self._places[operand.space, operand.name]
        if dtype != ARRAYS[kind]:
            raise TypeError(f"a kernel wants an array of {kind}, {operand.name} has {dtype}")
        if not operand.offset:
            return place
        address, size = place
        if not 0 <= operand.offset <= size:
            raise TypeError(f"{operand.name} has {size} items, the program wants those from {operand.offset} on")
        return [address + operand.offset * np.dtype(dtype).itemsize, size - operand.offset]

    def _phases(self, program: Program) -> NDArray[np.int64]:
        rows: list[list[int]] = []
        task = call = 0
        for phase in program.phases:
            row = [task, task + len(phase.tasks), call, call + len(phase.prologue), count_of(phase.prologue_per)]
            rows.append([*row, *self._matrices(phase), phase.prologue_units])
            task, call = row[1], row[3] + sum(len(t.calls) for t in phase.tasks)
        for i in range(len(rows) - 2, -1, -1):  # attention asks for what comes after it; which experts is not known
            if not rows[i][6] and not any(c.kernel.startswith("routed.") for c in program.phases[i].tasks[0].calls):
                rows[i][5:7] = rows[i + 1][5:7]
        return np.array(rows, np.int64).reshape(-1)

    def _matrices(self, phase: Phase) -> list[int]:
        """Address and bytes of the matrices that the tasks of a phase begin with; they lie one behind the other."""
        firsts = [
            call for task in phase.tasks for call in task.calls[:1] if call.kernel.startswith(("matmul.", "heads."))
        ]
        refs = {ref.name: ref for call in firsts if isinstance(ref := dict(call.args)["w"], Ref)}
        found = [self.arrays[ref.space, ref.name] for ref in refs.values()]
        return [found[0].ctypes.data if found else 0, sum(array.nbytes for array in found)]


def _tasks(program: Program) -> list[list[int]]:
    """Rows of the walk's table of tasks."""
    rows, call = [], 0
    for phase in program.phases:
        call += len(phase.prologue)
        for task in phase.tasks:
            first, call = call, call + len(task.calls)
            per = count_of(task.per) if task.per else -1
            rows.append([first, call, task.units, per, task.chunk, int(_is_head(program, task))])
    return rows


def _is_head(program: Program, task: Task) -> bool:
    """Whether a task computes columns of the logits: with the padding of its matrix, or without."""
    return task.per == "any_logits" and 0 <= task.units - program.graph.vocab_size < ROWS


class Bound:
    """A program ready to walk: its tables, and the operands that it shares with others of its room."""

    def __init__(self, program: Program, operands: Operands, entries: Mapping[Key, Entry], pool: ThreadPool) -> None:
        self.program, self.operands = program, operands
        self.calls, self.phases = program.calls, operands.phases
        addresses = zip([entries[call.key].address for call in self.calls], operands.addresses, strict=True)
        self.addresses, self.tasks = (
            np.array(list(table), np.int64).reshape(-1) for table in (addresses, _tasks(program))
        )
        step, no_log = operands.arrays["step", "step"], np.zeros(0, np.int64)
        parts = (pool.control, self.phases, self.tasks, self.addresses, operands.counters, step,
                 operands.read.reshape(-1), no_log)  # fmt: skip
        words = [word for part in parts for word in (part.ctypes.data, part.size)]
        self._keep = parts  # the walk has their addresses
        self._walk = np.array([*words, pool.patience, pool.threads, 0], np.int64)
        self.stretches = stretches(program)
        """Phases that are walked without a stop."""
        self.exchanges: dict[int, list[Exchange]] = {}
        """What is exchanged with other processes, by the phase before which it is."""
        for exchange in program.exchanges:
            self.exchanges.setdefault(exchange.phase, []).append(exchange)
        self.walks = self._walks(self._walk)
        """The walk's arguments for each stretch."""

    def logging(self, log: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """The arguments of walks that write `log`, one for each stretch."""
        words = self._walk.copy()
        words[LOG : LOG + 2] = log.ctypes.data, log.size
        return self._walks(words)

    def _walks(self, whole: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Of the arguments of a walk over all phases those of its stretches."""
        found = []
        for stretch in self.stretches:
            words, phases = whole.copy(), stretch.end - stretch.start
            for at, width in ((PHASES, PHASE), (PHASE_COUNTERS, COUNTERS)):
                words[at] += stretch.start * width * words.itemsize
                words[at + 1] = phases * width
            words[FIRST] = stretch.start
            found.append(words)
        return found

    def logits(self, rows: int) -> F32:
        """The last step's logits [rows, vocab]."""
        return self.operands.logits(rows, self.program.graph.vocab_size)
