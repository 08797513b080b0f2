"""Where a step's time goes: every phase and every call of each worker, as the walk logged them.

A step's wall time is shared out without a rest. Outside the walk is Python. Inside, each worker is in a kernel, takes
chunks, waits at a barrier, or is away (the system runs something else, or it was asleep when the step began). Times of
workers are averaged, so kernels, claims, waiting and away add up to the walk, and with Python to the step.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memfirst.backends.cpu.backend import CpuBackend, ledger_of
from memfirst.backends.cpu.peak import FLOAT32, INT8
from memfirst.backends.cpu.step_log import StepLog
from memfirst.graph import Step
from memfirst.graph.traffic import ACTIVATIONS
from memfirst.ledger import Ledger
from memfirst.lower.program import Call, Program

F64 = NDArray[np.float64]

WAITING, CLAIMING, AWAY, OUTSIDE = "waiting at barriers", "taking chunks", "workers away", "outside the walk (Python)"
"""What is no kernel's time."""

BYTES, MATMULS = "bytes", "matmuls"
"""What a step may be bound by."""

PARTS = {
    "activations.quantize",
    "activations.copy",
    "attention.write_keys",
    "attention.write_values",
    "attention.merge",
    "experts.pick",
    "experts.group",
    "experts.add_bias",
    "experts.add_weighed_bias",
    "experts.glu",
}
"""Kernels that prepare or end an operation, whose arithmetic is another kernel's."""


def kind(name: str) -> str:
    """ "attn_q" of "blk.3.attn_q": an operation or phase, whichever layer it is in."""
    return name.split(".", 2)[-1]


@dataclass(frozen=True)
class Span:
    """A call of a kernel by one worker: seconds from the walk's begin, the phase's number and chunk (-1: prologue)."""

    worker: int
    phase: int
    call: Call
    chunk: int
    begin: float
    end: float
    bytes: int


class Trace:
    """One step that took `seconds`: times of its log in seconds from the begin of the walk, cut at its end."""

    def __init__(self, log: StepLog, threads: int, frequency: float, seconds: float) -> None:
        self.program: Program = log.bound.program
        self.calls = log.bound.calls
        self.threads, self.seconds = threads, seconds
        self._logged = [log.calls(worker) for worker in range(threads)]
        self.phases = [log.phases(worker) for worker in range(threads)]
        """Each worker's phases, in cycles as logged."""
        first, last = self.phases[0]["started"][0], self.phases[0]["released"][-1]
        self._first, self._frequency = int(first), frequency
        self.walk = float(last - first) / frequency
        """Seconds from worker 0's first phase to its last barrier: the calling thread is worker 0."""
        self.phase_of = _phase_of_call(self.program)

    def at(self, cycles: NDArray[np.int64]) -> F64:
        """Seconds in the walk; what a worker did before or after is moved to its begin or end."""
        seconds: F64 = np.clip((cycles - self._first) / self._frequency, 0.0, self.walk)
        return seconds

    @cached_property
    def in_calls(self) -> F64:
        """Seconds in each call [workers, calls]."""
        out = np.zeros((self.threads, len(self.calls)))
        for worker, logged in enumerate(self._logged):
            np.add.at(out[worker], logged["call"], self.at(logged["end"]) - self.at(logged["begin"]))
        return out

    @cached_property
    def bytes(self) -> NDArray[np.int64]:
        """Bytes that each call read, all workers together."""
        out = np.zeros(len(self.calls), np.int64)
        for logged in self._logged:
            np.add.at(out, logged["call"], logged["bytes"])
        return out

    @cached_property
    def intervals(self) -> F64:
        """Each worker's phases [workers, phases, (begin, no chunk left, end)]: a phase begins where the one before
        ended, the first where the worker came; all three are the same where it did not come."""
        out = np.zeros((self.threads, len(self.program.phases), 3))
        for worker, rows in enumerate(self.phases):
            came = rows["released"] > 0
            end = self.at(rows["released"])
            arrived = self.at(rows["arrived"])
            begin = np.concatenate([self.at(rows["started"][:1]), end[:-1]])
            out[worker] = np.stack([begin, arrived, end], 1) * came[:, None]
        return out

    def spans(self) -> Iterator[Span]:
        """Every call, worker by worker."""
        for worker, logged in enumerate(self._logged):
            begins, ends = self.at(logged["begin"]), self.at(logged["end"])
            for row, begin, end in zip(logged.tolist(), begins.tolist(), ends.tolist(), strict=True):
                yield Span(worker, self.phase_of[row[0]], self.calls[row[0]], row[3], begin, end, row[4])

    def waits(self) -> Iterator[tuple[int, int, float, float]]:
        """(worker, phase, begin, end) of waiting at a barrier."""
        for worker, rows in enumerate(self.intervals.tolist()):
            yield from ((worker, phase, arrived, end) for phase, (_, arrived, end) in enumerate(rows) if end > arrived)


def _values(kernel: str) -> str:
    """What a matmul multiplies."""
    if not kernel.startswith(("matmul.", "routed.")):
        return ""
    return FLOAT32 if kernel.endswith(".floats") else INT8


def _phase_of_call(program: Program) -> list[int]:
    """The phase of each of `Bound.calls`."""
    out: list[int] = []
    for number, phase in enumerate(program.phases):
        out += [number] * (len(phase.prologue) + sum(len(task.calls) for task in phase.tasks))
    return out


@dataclass(frozen=True)
class OpTime:
    """One kind of operation in one kind of phase, per step: calls (of all layers), bytes, mean seconds of a worker.

    part    the kernel, where it only prepares or ends the operation
    values  what its FLOPs are of, where it is a matmul: int8 or f32
    """

    op: str
    part: str
    values: str
    calls: int
    bytes: int
    flops: int
    seconds: float
    prologue: bool


@dataclass(frozen=True)
class PhaseTime:
    """One kind of phase, per step: how many, its operations, and mean seconds of a worker: taking chunks, waiting."""

    phase: str
    count: int
    chunks: int
    claims: int
    ops: tuple[OpTime, ...]
    claiming: float
    waiting: float

    @property
    def bytes(self) -> int:
        """Of all its operations."""
        return sum(op.bytes for op in self.ops)

    @property
    def flops(self) -> int:
        """Of all its operations."""
        return sum(op.flops for op in self.ops)

    @property
    def seconds(self) -> float:
        """From its begin to its barrier."""
        return sum(op.seconds for op in self.ops) + self.claiming + self.waiting


class StepProfile:
    """Several runs of one step: means over the middle half of them by wall time, and the median one as a timeline.

    ordinary        seconds of the same step by the walk without a log, run in between
    read_bandwidth  bytes/s measured before and after
    peaks           FLOP/s of int8 and f32 values in registers, measured
    """

    def __init__(
        self, step: Step, traces: Sequence[Trace], ordinary: Sequence[float], predicted: Ledger, read_bandwidth: float,
        peaks: Mapping[str, float],
    ) -> None:  # fmt: skip
        ordered = sorted(traces, key=lambda t: t.seconds)
        cut = len(ordered) // 4
        self.step, self.runs = step, len(ordered)
        self.middle = ordered[cut : len(ordered) - cut]
        self.median = ordered[len(ordered) // 2]
        """The run that a timeline shows."""
        self.predicted, self.read_bandwidth, self.peaks = predicted, read_bandwidth, peaks
        self.recorded = ledger_of(self.median.calls, self.median.bytes, step.tokens)
        self.program, self.threads = self.median.program, self.median.threads
        self.seconds = _mean(t.seconds for t in self.middle)
        """Of the step, with Python."""
        self.outside = _mean(t.seconds - t.walk for t in self.middle)
        self.ordinary = median(ordinary)
        self.cost = median(t.seconds for t in ordered) / self.ordinary - 1
        """What logging adds to a step, as a share."""
        covered = (float((t.intervals[:, :, 2] - t.intervals[:, :, 0]).sum()) / t.threads for t in self.middle)
        self.away = _mean(t.walk - seconds for t, seconds in zip(self.middle, covered, strict=True))

    @property
    def bytes_as_predicted(self) -> bool:
        """Whether every run read what the ledger says, of each operation and purpose."""
        wanted = _amounts(self.predicted)
        return all(_amounts(ledger_of(t.calls, t.bytes, self.step.tokens)) == wanted for t in self.middle)

    @cached_property
    def phases(self) -> tuple[PhaseTime, ...]:
        """By kind of phase, in order of appearance."""
        in_calls = sum(t.in_calls.mean(0) for t in self.middle) / len(self.middle)
        spent = sum((t.intervals[:, :, 1] - t.intervals[:, :, 0]).mean(0) for t in self.middle) / len(self.middle)
        waited = sum((t.intervals[:, :, 2] - t.intervals[:, :, 1]).mean(0) for t in self.middle) / len(self.middle)
        kinds: dict[str, list[int]] = {}
        for number, phase in enumerate(self.program.phases):
            kinds.setdefault(kind(phase.name), []).append(number)
        return tuple(self._phase(name, numbers, in_calls, spent, waited) for name, numbers in kinds.items())

    def _phase(self, name: str, numbers: list[int], in_calls: F64, spent: F64, waited: F64) -> PhaseTime:
        mine = set(numbers)
        calls = [c for c, phase in enumerate(self.median.phase_of) if phase in mine]
        claiming = float(spent[numbers].sum() - in_calls[calls].sum())
        rows = self.median.phases
        chunks, claims = rows[0]["chunks"][numbers].sum(), sum(r["claims"][numbers].sum() for r in rows)
        waiting = float(waited[numbers].sum())
        ops = tuple(self._ops(calls, in_calls))
        return PhaseTime(name, len(numbers), int(chunks), int(claims), ops, claiming, waiting)

    def _ops(self, calls: list[int], in_calls: F64) -> Iterator[OpTime]:
        of: dict[tuple[str, str, bool], list[int]] = {}
        for c in calls:
            call = self.median.calls[c]
            part = call.kernel.split(".")[1] if call.kernel in PARTS else ""
            of.setdefault((kind(call.op), part, c in self._prologues), []).append(c)
        for (op, part, prologue), own in of.items():
            flops = 0 if part else sum(self._flops_of(self.median.calls[c]) for c in own)
            moved = sum(int(self.median.bytes[c]) for c in own if self.median.calls[c].purpose)
            values = _values(self.median.calls[own[0]].kernel)
            yield OpTime(op, part, values, len(own), moved, flops, float(in_calls[own].sum()), prologue)

    @cached_property
    def _prologues(self) -> set[int]:
        found, at = set[int](), 0
        for phase in self.program.phases:
            found |= set(range(at, at + len(phase.prologue)))
            at += len(phase.prologue) + sum(len(task.calls) for task in phase.tasks)
        return found

    def _flops_of(self, call: Call) -> int:
        """Of experts, one of their matrices; else all of the operation's."""
        if not call.kernel.startswith("routed."):
            return self._flops.get(call.op, 0)
        rows, columns, picked = (int(n) for name, n in call.args if name in ("rows", "cols", "k"))  # type: ignore[arg-type]
        return 2 * rows * columns * picked * self.step.tokens

    @cached_property
    def _flops(self) -> dict[str, int]:
        return {op.name: op.flops(self.step) for op in self.program.graph.ops}

    @property
    def bytes(self) -> int:
        """That the step's calls read and wrote of their purposes."""
        return sum(phase.bytes for phase in self.phases)

    @property
    def bounds(self) -> dict[str, float]:
        """Seconds that the step would take if only one thing took time: its bytes at the read bandwidth, its matmuls at
        the peak of their values. The largest is what it is bound by."""
        ops = [op for phase in self.phases for op in phase.ops if op.values]
        matmuls = sum(op.flops / self.peaks[op.values] for op in ops)
        return {BYTES: self.predicted.streamed.mean / self.read_bandwidth, MATMULS: matmuls}

    @property
    def others(self) -> dict[str, float]:
        """Mean seconds of a worker that are no kernel's; with all operations' they add up to the step."""
        return {
            CLAIMING: sum(p.claiming for p in self.phases),
            WAITING: sum(p.waiting for p in self.phases),
            AWAY: self.away,
            OUTSIDE: self.outside,
        }

    def report(self) -> dict[str, Any]:
        """For JSON; the timeline is that of the median run, in µs from the begin of its walk."""
        return {
            "tokens": self.step.tokens, "runs": self.runs, "threads": self.threads,
            "us": 1e6 * self.seconds, "ordinary_us": 1e6 * self.ordinary, "cost_of_logging": self.cost,
            "bytes": self.bytes, "bytes_as_predicted": self.bytes_as_predicted,
            "read_bandwidth_GBps": self.read_bandwidth / 1e9,
            "peak_GFLOPs": {values: rate / 1e9 for values, rate in self.peaks.items()},
            "bound_us": {name: 1e6 * seconds for name, seconds in self.bounds.items()},
            "phases": [self._phase_report(p) for p in self.phases],
            "other_us": {name: 1e6 * seconds for name, seconds in self.others.items()},
            "timeline": {"us": 1e6 * self.median.seconds, "walk_us": 1e6 * self.median.walk,
                         "calls": [_span(span, self.program) for span in self.median.spans()],
                         "waits": [{"worker": w, "phase": self.program.phases[p].name, "begin": 1e6 * b, "end": 1e6 * e}
                                   for w, p, b, e in self.median.waits()]},
        }  # fmt: skip

    def _phase_report(self, phase: PhaseTime) -> dict[str, Any]:
        return {
            "phase": phase.phase, "count": phase.count, "chunks": phase.chunks, "claims": phase.claims,
            "us": 1e6 * phase.seconds, "claiming_us": 1e6 * phase.claiming, "waiting_us": 1e6 * phase.waiting,
            "bytes": phase.bytes, **self._rates(phase.bytes, phase.flops, phase.seconds),
            "ops": [self._op_report(op) for op in phase.ops],
        }  # fmt: skip

    def _op_report(self, op: OpTime) -> dict[str, Any]:
        return {
            "op": op.op, "part": op.part, "prologue": op.prologue, "calls": op.calls, "bytes": op.bytes,
            "us": 1e6 * op.seconds, "share_of_peak": self.share_of_peak(op),
            **self._rates(op.bytes, op.flops, op.seconds),
        }  # fmt: skip

    def share_of_peak(self, op: OpTime) -> float | None:
        """Of a matmul: its FLOP/s over the peak of its values."""
        return op.flops / max(op.seconds, 1e-12) / self.peaks[op.values] if op.values else None

    def _rates(self, nbytes: int, flops: int, seconds: float) -> dict[str, float]:
        over = max(seconds, 1e-12)
        return {"GBps": nbytes / over / 1e9, "share_of_ceiling": nbytes / over / self.read_bandwidth,
                "GFLOPs": flops / over / 1e9, "share_of_step": seconds / self.seconds}  # fmt: skip


def _span(span: Span, program: Program) -> dict[str, Any]:
    return {"worker": span.worker, "phase": program.phases[span.phase].name, "op": span.call.op,
            "kernel": span.call.kernel, "chunk": span.chunk, "begin": 1e6 * span.begin, "end": 1e6 * span.end,
            "bytes": span.bytes}  # fmt: skip


def chrome_trace(profiles: Sequence[StepProfile]) -> dict[str, Any]:
    """Median runs in the Trace Event Format, for Perfetto and chrome://tracing: a process a step, a thread a worker."""
    events: list[dict[str, Any]] = []
    for pid, profile in enumerate(profiles, 1):
        trace, tokens = profile.median, profile.step.tokens
        title = f"a step of {tokens} tokens" if tokens > 1 else "one token"
        events.append({"ph": "M", "pid": pid, "name": "process_name", "args": {"name": title}})
        for worker in range(trace.threads):
            events.append({"ph": "M", "pid": pid, "tid": worker, "name": "thread_name",
                           "args": {"name": f"worker {worker}"}})  # fmt: skip
        events += [_event(pid, span, trace.program) for span in trace.spans()]
        events += [
            {"ph": "X", "pid": pid, "tid": worker, "name": "waiting", "cat": "barrier", "ts": 1e6 * begin,
             "dur": 1e6 * (end - begin), "args": {"phase": trace.program.phases[phase].name}}
            for worker, phase, begin, end in trace.waits()
        ]  # fmt: skip
    return {"traceEvents": events, "displayTimeUnit": "ns"}


def _event(pid: int, span: Span, program: Program) -> dict[str, Any]:
    seconds = span.end - span.begin
    args = {"op": span.call.op, "phase": program.phases[span.phase].name, "chunk": span.chunk, "bytes": span.bytes,
            "GBps": span.bytes / max(seconds, 1e-12) / 1e9}  # fmt: skip
    return {"ph": "X", "pid": pid, "tid": span.worker, "name": kind(span.call.op), "cat": span.call.kernel,
            "ts": 1e6 * span.begin, "dur": 1e6 * seconds, "args": args}  # fmt: skip


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


def _amounts(ledger: Ledger) -> dict[tuple[str, str], int]:
    out: dict[tuple[str, str], int] = {}
    for entry in ledger.entries:
        if entry.purpose != ACTIVATIONS:
            out[entry.op, entry.purpose] = out.get((entry.op, entry.purpose), 0) + int(entry.amount)
    return out


def profile_step(backend: CpuBackend, step: Step, tokens: NDArray[np.int32], runs: int) -> StepProfile:
    """Run one step `runs` times by the walk that logs, and as often in between by the one that does not."""
    ceilings = [backend.read_bandwidth(0.25)]
    ordinary, logged, logs = _interleaved(backend, step, tokens, runs)
    ceilings.append(backend.read_bandwidth(0.25))
    threads, frequency = backend.options.threads, backend.pool.frequency
    traces = [Trace(log, threads, frequency, seconds) for log, seconds in zip(logs, logged, strict=True)]
    peaks = {values: 2 * rate for values, rate in backend.multiply_rates().items()}
    known = replace(step, routing=backend.routing(backend.step(step, tokens)))  # the same tokens pick the same experts
    return StepProfile(known, traces, ordinary, backend.predicted(known), median(ceilings), peaks)


def time_calls(backend: CpuBackend, step: Step, tokens: NDArray[np.int32], times: int) -> tuple[F64, float]:
    """Seconds that all workers together spend in each call of a step (`Bound.calls`), and those of the step itself when
    nothing is logged: means of as many steps of both kinds, by turns."""
    ordinary, _, logs = _interleaved(backend, step, tokens, times)
    cycles = np.sum([log.cycles() for log in logs], axis=0)
    return cycles / (times * backend.pool.frequency), _mean(ordinary)


def _interleaved(
    backend: CpuBackend, step: Step, tokens: NDArray[np.int32], times: int
) -> tuple[list[float], list[float], list[StepLog]]:
    """Seconds of ordinary steps and of logged ones, and their logs."""
    logs = [backend.step_log(step, tokens) for _ in range(times + 1)]
    backend.step(step, tokens, logs.pop())  # the walk is compiled, and everything touched
    ordinary, logged = [], []
    for log in logs:
        ordinary.append(_timed(backend, step, tokens, None))
        logged.append(_timed(backend, step, tokens, log))
    backend.quiesce()  # nobody writes a log any more
    return ordinary, logged, logs


def _timed(backend: CpuBackend, step: Step, tokens: NDArray[np.int32], log: StepLog | None) -> float:
    start = time.perf_counter()
    backend.step(step, tokens, log)
    return time.perf_counter() - start
