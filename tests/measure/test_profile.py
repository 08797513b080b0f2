"""Profiles: nothing changes by being logged, nothing is counted twice, and nothing is left out."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import numpy as np
import pytest

from memfirst.backends.cpu.backend import CpuBackend
from memfirst.backends.cpu.step_log import StepLog
from memfirst.cli.profile_page import LEAST, PLAIN_RAMP, page
from memfirst.graph import Step
from memfirst.graph.traffic import ACTIVATIONS
from memfirst.kernels.cpu.thread_pool import EPOCHS, RING, SLOT
from memfirst.measure.profile import OUTSIDE, StepProfile, Trace, chrome_trace, profile_step
from tests.support.tiny_models import STEPS, apart, batch, fill_cache, options, tiny

STEP = batch((5, 1))


@pytest.fixture(scope="module")
def backends() -> Iterator[dict[int, CpuBackend]]:
    """By threads."""
    made = {threads: CpuBackend(*tiny("qwen3", "q4_0"), options(threads)) for threads in (1, 2)}
    for backend in made.values():
        fill_cache(backend)
    yield made
    for backend in made.values():
        backend.close()


@pytest.fixture(scope="module")
def profiles(backends: dict[int, CpuBackend]) -> list[StepProfile]:
    """Of one token and of several, by two threads."""
    return [profile_step(backends[2], what, apart(what), 5) for what in (STEP, STEPS["prefill"])]


def logged(backend: CpuBackend, step: Step) -> tuple[StepLog, np.ndarray]:
    log = backend.step_log(step, apart(step))
    logits = backend.step(step, apart(step), log).logits.copy()
    backend.quiesce()
    return log, logits


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", STEPS)
def test_a_log_changes_no_bit_and_has_every_chunk_once(
    backends: dict[int, CpuBackend], name: str, threads: int
) -> None:
    backend, step = backends[threads], STEPS[name]
    plain = backend.step(step, apart(step)).logits.copy()
    before = backend.counted()
    log, logits = logged(backend, step)
    moved = backend.moved(before, backend.counted())
    assert logits.tobytes() == plain.tobytes()
    calls = np.concatenate([log.calls(worker) for worker in range(threads)])
    work = calls[calls["number"] >= 0]
    assert len(np.unique(np.stack([work["call"], work["number"]]), axis=1).T) == len(work)
    chunks, trace = log.phases(0)["chunks"], Trace(log, threads, 1e9, 1.0)
    for phase, count in enumerate(chunks):
        numbers = {n for c, n in zip(work["call"], work["number"], strict=True) if trace.phase_of[c] == phase}
        assert numbers == set(range(count)), backend.program(step.tokens).program.phases[phase].name
    assert log.phases(0)["chunks"].sum() > 0
    at = [id(call) for call in backend.calls()].index(id(log.bound.operands.calls[0]))
    assert trace.bytes.tolist() == moved[at : at + len(log.bound.calls)].tolist()


def test_a_worker_that_wakes_late_does_not_touch_a_log_that_is_gone(backends: dict[int, CpuBackend]) -> None:
    """Asleep when a step begins, it may come when the step is over and its log freed: that crashed."""
    backend = backends[2]
    for _ in range(100):
        time.sleep(0.001)  # beyond the time that workers wait awake
        log, _ = logged(backend, STEP)
        assert not backend._logs
        log._words[:] = log.walks[0][:] = 1  # as if the memory were another's by now
    slot = RING + backend.pool._epoch % EPOCHS * SLOT
    assert backend.pool.control[slot] == 0


@pytest.mark.parametrize("threads", [1, 2])
def test_spans_of_a_worker_lie_one_after_another_in_their_phase(backends: dict[int, CpuBackend], threads: int) -> None:
    for step in STEPS.values():
        log, _ = logged(backends[threads], step)
        trace = Trace(log, threads, 1e9, 1.0)
        for worker in range(threads):
            phases, calls = log.phases(worker), log.calls(worker)
            if worker == 0:
                assert (phases["released"] > 0).all(), "worker 0 passes every phase"
            came = phases[phases["released"] > 0]
            times = np.stack([came["started"], came["arrived"], came["released"]], 1).reshape(-1)
            assert (np.diff(times) >= 0).all()
            assert (np.diff(np.stack([calls["begin"], calls["end"]], 1).reshape(-1)) >= 0).all()
            rows = phases[[trace.phase_of[c] for c in calls["call"]]]
            assert ((rows["started"] <= calls["begin"]) & (calls["end"] <= rows["arrived"])).all()


def test_the_parts_add_up_to_the_step(profiles: list[StepProfile]) -> None:
    for found in profiles:
        ops = sum(op.seconds for phase in found.phases for op in phase.ops)
        assert ops + sum(found.others.values()) == pytest.approx(found.seconds, rel=1e-9)
        phases = sum(phase.seconds for phase in found.phases)
        assert phases + found.away + found.outside == pytest.approx(found.seconds, rel=1e-9)
        assert min([op.seconds for phase in found.phases for op in phase.ops]) >= 0
        assert min(found.others.values()) >= 0
        assert found.others[OUTSIDE] < found.seconds


def test_bytes_are_the_ledgers(backends: dict[int, CpuBackend], profiles: list[StepProfile]) -> None:
    for found in profiles:
        assert found.bytes_as_predicted
        predicted = backends[2].predicted(found.step).by_purpose()
        wanted = sum(int(amount) for purpose, amount in predicted.items() if purpose != ACTIVATIONS)
        assert found.bytes == wanted > 0
        report = found.report()
        assert sum(op["bytes"] for phase in report["phases"] for op in phase["ops"]) == wanted
        assert sum(span["bytes"] for span in report["timeline"]["calls"]) == wanted
        assert json.loads(json.dumps(report)) == report


def test_a_step_is_bound_by_what_takes_longest_alone(profiles: list[StepProfile]) -> None:
    for found in profiles:
        matmuls = [op for phase in found.phases for op in phase.ops if op.values]
        assert {op.values for op in matmuls} == {"int8"}
        assert found.bounds["matmuls"] == pytest.approx(sum(op.flops for op in matmuls) / found.peaks["int8"])
        assert found.bounds["bytes"] == pytest.approx(found.predicted.streamed.mean / found.read_bandwidth)
        largest = max(found.bounds, key=lambda name: found.bounds[name])
        assert f"bound by {largest}:" in page([found], 120)


def test_every_phase_and_operation_is_listed(profiles: list[StepProfile]) -> None:
    for found in profiles:
        program = found.program
        assert sum(phase.count for phase in found.phases) == len(program.phases)
        assert sum(op.calls for phase in found.phases for op in phase.ops) == len(program.calls)
        matmuls = [op for phase in found.phases for op in phase.ops if op.op == "ffn_down" and not op.part]
        layers = [op.flops(found.step) for op in program.graph.ops if op.name.endswith("ffn_down")]
        assert [op.flops for op in matmuls] == [sum(layers)]


@pytest.mark.parametrize("width", [LEAST, 80, 120])
def test_a_page_is_as_wide_as_the_terminal(profiles: list[StepProfile], width: int) -> None:
    for ramp in ({}, {"ramp": PLAIN_RAMP}):
        lines = page(profiles, width, **ramp).splitlines()
        assert max(map(len, lines)) <= width
        workers = [line for line in lines if line.startswith("worker ")]
        assert len(workers) >= 2 * 2 * 2, "of each step all of it and a layer, by both workers"
        assert max(map(len, workers)) == width
        assert {"D ffn_down", "U ffn_up"} <= {word for line in lines for word in line.split("  ")}


def test_a_trace_has_every_call(profiles: list[StepProfile]) -> None:
    events = chrome_trace(profiles)["traceEvents"]
    for pid, found in enumerate(profiles, 1):
        spans = [e for e in events if e["pid"] == pid and e["ph"] == "X" and e["name"] != "waiting"]
        assert sum(e["args"]["bytes"] for e in spans) == found.bytes
        assert {e["args"]["op"] for e in spans} == {call.op for call in found.program.calls}
        assert all(e["ts"] >= 0 and e["ts"] + e["dur"] <= 1e6 * found.median.walk * (1 + 1e-9) for e in spans)
