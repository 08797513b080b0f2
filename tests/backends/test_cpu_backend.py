"""The CPU backend: against the reference, against its own price, and against itself in every other order of work."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from memfirst import models
from memfirst.backends.cpu.backend import CpuBackend, CpuOptions
from memfirst.backends.reference.backend import ReferenceBackend
from memfirst.convert.synthetic import synthetic
from memfirst.errors import BackendError, CapacityError
from memfirst.graph import Step
from memfirst.graph.traffic import ACTIVATIONS, HEAD
from memfirst.kernels.cpu.walk import PHASE
from memfirst.ledger import Ledger, required
from memfirst.lower.packing import family
from tests.support.cpu_roundings import as_the_cpu
from tests.support.tiny_models import ARCHITECTURES, CODECS, STEPS, apart, batch, fill_cache, options, tiny

F32 = np.ndarray[Any, np.dtype[np.float32]]


@pytest.fixture
def made() -> Iterator[list[CpuBackend]]:
    """Backends to close when the test ends."""
    backends: list[CpuBackend] = []
    yield backends
    for backend in backends:
        backend.close()


def cpu(made: list[CpuBackend], architecture: str, codec: str, threads: int = 1, **changes: Any) -> CpuBackend:
    made.append(CpuBackend(*tiny(architecture, codec, **changes), options(threads)))
    fill_cache(made[-1])
    return made[-1]


def step(backend: CpuBackend, step: Step, tokens: Any) -> F32:
    return backend.step(step, np.asarray(tokens, np.int32)).logits.copy()


# --- the reference ---------------------------------------------------------------------------------------


PROMPT = [17, 200, 3, 99, 258, 45, 130]
# Largest error of a row's logits, over their standard deviation: sums in another order, which f16 rounds now and then
# to the next value (2^-11). And where a sum rounds an activation to the next of 255 steps: rare, so most rows must do
# without.
MOST_ROWS, WITH_F16, WITH_A_STEP = 1e-4, 2e-3, 0.1


@pytest.mark.parametrize("codec", (*CODECS, "q4_k_m"))
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_are_the_references(made: list[CpuBackend], architecture: str, codec: str) -> None:
    """Three prompts in one step, then a token for each, a row of logits for each token."""
    graph, checkpoint = tiny(architecture, codec)
    backend, reference = cpu(made, architecture, codec), ReferenceBackend(as_the_cpu(graph), checkpoint)
    prompts, next_tokens = [17, 200, 3, 99, 258, 45, 130, 0, 77], [8, 250, 131]
    steps = (
        (batch((0, 3), (0, 3), (0, 3), logits=(0, 1, 2)), prompts),
        (batch((3, 1), (3, 1), (3, 1)), next_tokens),
    )
    errors: list[float] = []
    for what, tokens in steps:
        expected = reference.step(what, np.asarray(tokens, np.int32))
        errors += list(np.abs(step(backend, what, tokens) - expected).max(1) / expected.std(1))
    floats = family(graph.weights()["blk.0.ffn_up.weight"]) == "float"
    assert np.median(errors) < MOST_ROWS, errors
    assert max(errors) < (WITH_F16 if floats else WITH_A_STEP), errors


def test_an_untied_head_is_used(made: list[CpuBackend]) -> None:
    graph, checkpoint = tiny("qwen2", "f32", tied=False)
    expected = ReferenceBackend(as_the_cpu(graph), checkpoint).step(batch((0, 7)), np.asarray(PROMPT, np.int32))
    found = step(cpu(made, "qwen2", "f32", tied=False), batch((0, 7)), PROMPT)
    assert np.abs(found - expected).max() < WITH_F16 * expected.std()
    assert np.abs(found - step(cpu(made, "qwen2", "f32"), batch((0, 7)), PROMPT)).max() > expected.std()


# --- the ledger ------------------------------------------------------------------------------------------


def bytes_of(ledger: Ledger) -> Counter[tuple[str, str]]:
    out: Counter[tuple[str, str]] = Counter()
    for entry in ledger.entries:
        if entry.purpose != ACTIVATIONS:
            out[entry.op, entry.purpose] += int(entry.amount)
    return out


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("codec", (*CODECS, "q4_k_m"))
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_recorded_bytes_are_the_predicted(made: list[CpuBackend], architecture: str, codec: str, threads: int) -> None:
    backend = cpu(made, architecture, codec, threads)
    for name, what in STEPS.items():
        recorded = bytes_of(backend.recorded(what, backend.step(what, apart(what))))
        assert recorded == bytes_of(backend.predicted(what)), name
        assert any(purpose == HEAD for _, purpose in recorded) == (what.logits > 0)


# --- the same bits, however the work is done ---------------------------------------------------------------


def alone(backend: CpuBackend, tokens: list[int], cut: int) -> list[F32]:
    """Logits after each token of one sequence, its tokens in steps of `cut`."""
    out: list[F32] = []
    for i in range(0, len(tokens), cut):
        part = tokens[i : i + cut]
        out += list(step(backend, batch((i, len(part)), logits=tuple(range(len(part)))), part))
    return out


@pytest.mark.parametrize("codec", ["f16", "q4_1", "q8_0", "q4_k_m"])
def test_bits_do_not_depend_on_how_a_prompt_is_cut(made: list[CpuBackend], codec: str) -> None:
    tokens = np.random.default_rng(1).integers(0, 260, 40).tolist()
    backend = cpu(made, "llama", codec)
    expected = alone(backend, tokens, 40)
    for cut in (1, 3, 7, 8):
        np.testing.assert_array_equal(alone(backend, tokens, cut), expected, err_msg=f"steps of {cut}")


@pytest.mark.parametrize("codec", ["f32", "q5_1", "q6_k"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bits_do_not_depend_on_the_batch_or_the_threads(made: list[CpuBackend], architecture: str, codec: str) -> None:
    """Eight sequences with pasts of their own, past a split and past two: alone or together, by 1 or 2 threads."""
    pasts, tokens = (0, 5, 63, 64, 130, 511, 512, 1100), [7, 31, 59, 83, 107, 131, 155, 179]
    graph, checkpoint = tiny(architecture, codec)
    together = batch(*((past, 1) for past in pasts))
    results = []
    for threads in (1, 2):
        made.append(CpuBackend(graph, checkpoint, CpuOptions(threads, 1280, 8)))
        fill_cache(made[-1])
        for sequence, token in zip(together.sequences, tokens, strict=True):
            results.append(step(made[-1], Step((sequence,)), [token])[0])
        results += list(step(made[-1], together, tokens))
    for k in range(1, 4):
        np.testing.assert_array_equal(results[8 * k : 8 * k + 8], results[:8])


def test_bits_do_not_depend_on_who_reads_a_long_context(made: list[CpuBackend]) -> None:
    """One token's splits are units of their own; among 9 tokens, one unit does them all."""
    backend = cpu(made, "llama", "q4_0")
    one = step(backend, batch((1100, 1)), [9])
    many = batch((1100, 1), (3, 8))
    assert step(backend, many, [9, 1, 2, 3, 4, 5, 6, 7, 8])[0].tobytes() == one.tobytes()


def test_bits_do_not_depend_on_luck(made: list[CpuBackend]) -> None:
    """300 steps by two threads that take chunks from each other, spinning or asleep in between."""
    backend = cpu(made, "qwen3", "q4_0", threads=2)
    expected = step(backend, batch((40, 1)), [5])
    for i in range(300):
        if i % 50 == 0:
            time.sleep(0.002)  # beyond the time that workers wait awake
        assert step(backend, batch((40, 1)), [5]).tobytes() == expected.tobytes()


# --- interruptions -----------------------------------------------------------------------------------------


def test_an_interrupted_step_leaves_the_pool_whole(made: list[CpuBackend]) -> None:
    """Ctrl-C in the middle of a long step: the next steps are right, and nobody works on the old one."""
    checkpoint = synthetic("tiny-llama", "q4_k_m")
    made.append(CpuBackend(models.build(checkpoint), checkpoint, CpuOptions(2, 512)))
    backend, long = made[0], batch((0, 256), row=8)
    tokens = np.arange(256, dtype=np.int32)
    expected = step(backend, long, tokens)
    started = time.perf_counter()
    backend.step(long, tokens)
    usual = time.perf_counter() - started
    seen = 0
    for share in (0.1, 0.3, 0.5, 0.7, 0.9) * 2:
        try:
            signal.signal(signal.SIGALRM, _interrupt)
            signal.setitimer(signal.ITIMER_REAL, max(1e-4, usual * share))
            backend.step(long, tokens)
        except KeyboardInterrupt:
            seen += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        np.testing.assert_array_equal(step(backend, long, tokens), expected)
    assert seen


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def test_a_dead_worker_is_an_error(made: list[CpuBackend]) -> None:
    backend = cpu(made, "llama", "q4_0", threads=2)
    backend.step(batch((5, 1)), [1])

    def die(*args: int) -> int:
        raise RuntimeError("out of luck")

    backend.pool._serve = die
    deadline = time.monotonic() + 5
    with pytest.raises(BackendError, match="worker thread died: out of luck"):
        while time.monotonic() < deadline:
            backend.step(batch((5, 1)), [1])
            time.sleep(0.001)


def test_close_ends_the_threads() -> None:
    before = threading.active_count()
    backend = CpuBackend(*tiny("llama", "q4_0"), options(3))
    assert threading.active_count() == before + 2
    backend.step(batch((0, 1)), [1])
    backend.close()
    assert threading.active_count() == before


def test_a_dropped_backend_ends_its_threads_before_its_memory_goes() -> None:
    """Workers that still spin read the records of the last step: unmapped under them, that was a crash."""
    before = threading.active_count()
    for _ in range(20):
        CpuBackend(*tiny("llama", "q4_0"), options(3)).step(batch((0, 3)), [1, 2, 3])
    assert threading.active_count() == before


def test_a_closed_backend_says_so() -> None:
    backend = CpuBackend(*tiny("llama", "q4_0"), options(2))
    backend.close()
    backend.close()
    with pytest.raises(BackendError, match="closed"):
        backend.step(batch((0, 1)), [1])


# --- what a step gives -------------------------------------------------------------------------------------


def test_logits_outlive_the_next_step(made: list[CpuBackend]) -> None:
    """Also where the next one runs another program; the ledger of a step can be asked for later."""
    backend = cpu(made, "llama", "q4_0")
    steps = [batch((5, 1)), batch((40, 1)), batch((0, 9)), batch((7, 1), (9, 1))]
    results = [backend.step(what, apart(what)) for what in steps]
    for what, result in zip(steps, results, strict=True):
        assert bytes_of(backend.recorded(what, result)) == bytes_of(backend.predicted(what))
    for what in steps:
        result = backend.step(what, apart(what))
        kept = result.logits.copy()
        after = backend.step(batch((3, 1)), [7]).logits
        assert result.logits.tobytes() == kept.tobytes() != after.tobytes()


def test_a_copied_block_is_a_past(made: list[CpuBackend]) -> None:
    backend = cpu(made, "qwen3", "q4_0")
    first = step(backend, batch((40, 1)), [5])
    what = batch((40, 1), (40, 1))
    backend.copy_block(0, what.sequences[0].tables[0][0], what.sequences[1].tables[0][0])
    both = step(backend, what, [5, 5])
    assert both[1].tobytes() == first[0].tobytes()


def test_what_it_holds_is_what_it_says(made: list[CpuBackend]) -> None:
    """A pool of one context for several sequences is as large as that for one; logits have two arrays."""
    graph, checkpoint = tiny("llama", "q4_0")
    made += [CpuBackend(graph, checkpoint, CpuOptions(1, 512, n, pool=1)) for n in (1, 8)]
    for backend in made:
        memory = backend.memory([512])
        bound = backend.program(1)
        held = sum(storage.nbytes for storage in backend.block_storage)
        assert held == memory.kv_allocated == required(bound.program, [512], 1, backend.max_tokens).kv_allocated
        buffers = [array for (space, _), array in bound.operands.arrays.items() if space == "buffer"]
        assert sum(array.nbytes for array in buffers) + bound.operands.arrays[
            "buffer", bound.program.output.buffer
        ].nbytes == (memory.buffers)


# --- limits ------------------------------------------------------------------------------------------------


def test_too_long_steps_and_contexts_are_refused(made: list[CpuBackend]) -> None:
    backend = cpu(made, "llama", "q4_0")
    with pytest.raises(CapacityError, match="at most 256"):
        backend.step(batch((0, 257)), np.zeros(257, np.int32))
    with pytest.raises(CapacityError, match="1281"):
        backend.step(batch((1280, 1), row=21), [0])
    assert np.isfinite(step(backend, batch((1279, 1)), [0])).all()


# --- asking ahead ----------------------------------------------------------------------------------------


def test_waiting_workers_ask_for_the_matrices_that_come_next(made: list[CpuBackend]) -> None:
    backend = cpu(made, "qwen2", "q4_0")
    for tokens in (1, 4):
        bound = backend.program(tokens)
        rows = dict(zip((p.name for p in bound.program.phases), bound.phases.reshape(-1, PHASE).tolist(), strict=True))
        place, size = backend._memory.ctypes.data, backend._memory.nbytes
        assert all(place <= row[5] and row[6] > 0 and row[5] + row[6] <= place + size for row in rows.values())
        weights = {name: backend._weights[f"blk.0.{name}.weight"] for name in ("attn_q", "attn_k", "attn_v")}
        assert rows["blk.0.attn_q"][5] == weights["attn_q"].ctypes.data
        assert rows["blk.0.attn_q"][6] == sum(w.nbytes for w in weights.values())
        assert rows["blk.0.attn"][5:7] == rows["blk.0.attn_output"][5:7]
