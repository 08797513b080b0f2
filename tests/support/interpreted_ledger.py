"""Interpreted kernels against the price: tests/ledger/test_interpreted.py runs this under NUMBA_DISABLE_JIT=1.

For each model and step: the unique bytes loaded by each operation are its price, as integers; each byte of a matrix is
loaded once for `reuse` tokens; keys and values once at decode; what is stored in the cache is what was priced.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from math import ceil
from pathlib import Path

import numpy as np
import pytest

from memfirst import codecs, ledger, models
from memfirst.backends.base import StepResult, observed
from memfirst.backends.cpu.twelve_bits import measure
from memfirst.backends.interpreted import InterpretedBackend
from memfirst.codecs.base import ROWS
from memfirst.convert.mixes import mix
from memfirst.convert.synthetic import SyntheticCheckpoint
from memfirst.graph import Sequence, Step, Weight
from memfirst.graph.ops.attention import Attention
from memfirst.graph.ops.experts import Experts
from memfirst.graph.ops.linear import Linear
from memfirst.graph.ops.norm import RMSNorm
from memfirst.graph.ops.sketched import sketched
from memfirst.graph.traffic import (
    ACTIVATIONS,
    EMBEDDING,
    EXPERTS,
    HEAD,
    KV_READ,
    KV_WRITE,
    STATE_READ,
    STATE_WRITE,
    WEIGHTS,
)
from memfirst.kernels.cpu import q4_0, simd
from memfirst.kernels.cpu.attention_scores import MOST, MOST_INT8
from memfirst.kernels.cpu.simd import bits, load_w
from memfirst.kernels.cpu.spans import Owner, Span, SpanLog, Touched
from memfirst.kernels.cpu.tiles import PARTS
from memfirst.lower.packing import family, int8_tile, kernel_of
from memfirst.lower.program import Program
from memfirst.lower.step_fields import tile_of
from memfirst.transform.sketched import with_sketch
from memfirst.transform.twelve_bits import packable
from tests.support.kernel_calls import call, zeros
from tests.support.tiny_configs import Coded
from tests.support.tiny_experts import routed_graph
from tests.support.tiny_models import ARCHITECTURES, CODECS, STEPS, apart, fill_cache, options, tiny

Log = Mapping[tuple[Owner, str], Touched]
FULL = {("llama", "f16"), ("llama", "q4_0"), ("llama", "q4_k_m"), ("qwen2", "q8_0"), ("qwen3", "q5_1")}
Bytes = Counter[tuple[str, str]]


@cache
def backend(architecture: str, codec: str, tied: bool = True, threads: int = 1) -> InterpretedBackend:
    return InterpretedBackend(*tiny(architecture, codec, tied), options(threads))


def price(program: Program, step: Step) -> Bytes:
    out: Bytes = Counter()
    for entry in ledger.price(program, step).entries:
        if entry.purpose != ACTIVATIONS:
            out[entry.op, entry.purpose] += int(entry.amount)
    return out


def moved(log: Log) -> Bytes:
    """Unique bytes of the watched arrays, by operation and purpose."""
    out: Bytes = Counter()
    for (owner, _), touched in log.items():
        assert owner is not None
        loads, stores = int((touched.loads > 0).sum()), int((touched.stores > 0).sum())
        assert (loads == 0) == (owner[1] == KV_WRITE), f"{owner} loads {loads} and stores {stores}"
        out[owner] += loads + stores
    return out


def loads(log: Log, op: str, purpose: str, array: str) -> set[int]:
    """How often the bytes that were loaded at all were loaded."""
    touched: Touched = log[(op, purpose), array]
    return set(touched.loads[touched.loads > 0].tolist())


def check_reuse(log: Log, program: Program, step: Step) -> None:
    """Every byte of a matrix once a tile of tokens; of a norm or bias once a token (and head)."""
    reuse = {task.name: task.reuse for task in program.tasks}
    task_of = {op: task.name for task in program.tasks for op, _ in task.moves}
    for op in program.graph.ops:
        rows = step.logits if getattr(op, "head", False) else step.tokens
        purpose = HEAD if getattr(op, "head", False) else WEIGHTS
        if not rows:
            assert not any(owner and owner[0] == op.name for owner, _ in log)
        elif isinstance(op, Linear):
            name = op.weight.alias or op.weight.name
            assert loads(log, op.name, purpose, name) == {ceil(rows / reuse[task_of[op.name]])}, op.name
            if op.bias is not None:
                assert loads(log, op.name, purpose, op.bias.name) == {rows}
        elif isinstance(op, RMSNorm):
            assert loads(log, op.name, purpose, op.weight.name) == {rows * max(1, op.heads)}, op.name


def most_loads(program: Program, name: str, new: int) -> int:
    """How often a key or value may be loaded for `new` tokens of a sequence: once for one token; of several, once for
    each piece of a tile's queries, and where not all of the tile attend it, once more for each query."""
    op = next(op for op in program.graph.ops if op.name == name)
    if new == 1 or not isinstance(op, Attention):
        return new
    group = op.heads // op.cache.heads
    tile = tile_of(group, program.capacity)
    pieces = ceil(tile * group / min(MOST, MOST_INT8))
    return ceil(new / tile) * pieces + min(tile, new) * group


def check(made: InterpretedBackend, step: Step) -> np.ndarray:
    fill_cache(made)
    logits = made.step(step, apart(step)).logits.copy()
    program, log = made.program(step.tokens).program, made.log.touched
    assert moved(log) == price(program, step)
    check_reuse(log, program, step)
    most = max(sequence.new for sequence in step.sequences)
    for (owner, array), touched in log.items():
        if owner and owner[1] == KV_READ:
            assert touched.loads.max() <= most_loads(program, owner[0], most), "a key or value is loaded too often"
        if owner and owner[1] == KV_WRITE:
            assert touched.stores.max() == 1
        if owner and owner[1] == EMBEDDING:
            assert loads(log, *owner, array) == {1}
    return logits


def cases() -> Iterator[tuple[str, str, str]]:
    """All steps where what differs is not the codec, else those that reach each of its kernels."""
    for codec in (*CODECS, "q4_k_m"):
        for architecture in ARCHITECTURES:
            for name in STEPS if (architecture, codec) in FULL else ("prefill", "decode"):
                yield architecture, codec, name


@pytest.mark.parametrize(("architecture", "codec", "name"), list(cases()))
def test_unique_bytes_are_the_price_and_loads_are_the_reuse(architecture: str, codec: str, name: str) -> None:
    logits = check(backend(architecture, codec), STEPS[name])
    assert np.isfinite(logits).all()
    assert logits.shape == (STEPS[name].logits, 260)
    if folder := os.environ.get("MEMFIRST_TEST_LOGITS"):  # the compiled kernels are compared with these
        np.save(Path(folder) / f"{architecture}-{codec}-{name}.npy", logits)


@pytest.mark.parametrize("codec", ["f16", "q4_0", "q4_k", "q6_k"])
@pytest.mark.parametrize("name", ["prefill", "decode", "all logits"])
def test_of_a_head_exactly_the_named_tiles_are_read(codec: str, name: str) -> None:
    """The last one is half padding; what is priced is what is loaded, elsewhere nothing is."""
    made, step = backend("llama", codec, False), replace(STEPS[name], head=(0, 3, 16))
    check(made, step)
    touched = made.log.touched[("output", HEAD), "output.weight"]
    whole = made.program(step.tokens).program.weights["output.weight"].nbytes
    assert int((touched.loads > 0).sum()) == whole // 17 * 3


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_untied_head_has_bytes_of_its_own(architecture: str) -> None:
    made = backend(architecture, "q4_1", tied=False)
    check(made, STEPS["prefill"])
    assert (("output", HEAD), "output.weight") in made.log.touched
    tied = backend(architecture, "q4_1")
    check(tied, STEPS["prefill"])
    assert (("output", HEAD), "token_embd.weight") in tied.log.touched


def test_tokens_that_are_packed_together_share_their_bytes() -> None:
    """The price of a look-up is a whole pack a token: an upper bound where tokens are neighbours."""
    made, step = backend("llama", "q4_0"), STEPS["prefill"]
    made.step(step, np.arange(5, dtype=np.int32))
    embedding = [o for o, _ in made.log.touched if o and o[1] == EMBEDDING]
    assert moved(made.log.touched)[embedding[0]] * 5 == price(made.program(5).program, step)[embedding[0]]


def test_two_workers_load_matrices_once_and_repeat_only_what_they_prepare() -> None:
    one, two = backend("qwen2", "q8_0"), backend("qwen2", "q8_0", threads=2)
    for name in ("decode", "prefill"):
        step = STEPS[name]
        expected = check(one, step)
        fill_cache(two)
        np.testing.assert_array_equal(two.step(step, apart(step)).logits, expected)
        program = two.program(step.tokens).program
        assert moved(two.log.touched) == price(program, step)
        for op in program.graph.ops:
            if isinstance(op, Linear):
                purpose = HEAD if op.head else WEIGHTS
                assert loads(two.log.touched, op.name, purpose, op.weight.alias or op.weight.name) == {1}


@pytest.mark.parametrize("codec", [*CODECS, "mxfp4", "iq4_nl"])
def test_weights_are_read_as_one_stream(codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines of memory come in order, but for some within 1 KiB: of two streams that lie further apart hardware fetches
    hardly ahead, and Q6_K was read 2.3 times as slowly as now."""
    columns, weights, lines = 512, np.full(ROWS * 512 * 4, 0x3C, np.uint8), dict[int, None]()

    def note(array: np.ndarray, offset: int, count: int) -> None:
        start = array.ctypes.data - weights.ctypes.data + offset
        if 0 <= start < weights.nbytes:
            lines.update(dict.fromkeys(range(start // 64, (start + count - 1) // 64 + 1)))

    monkeypatch.setattr(simd, "loaded", note)
    name = kernel_of(Weight("w", (ROWS, columns), codec))
    rest = {n: zeros(kind, 3 * columns) for n, kind in (("aq", "i8"), ("ad", "f32"), ("ao", "i32"), ("af", "f32"))}
    rest |= {n: zeros(kind, columns) for n, kind in (("am", "i32"), ("ap", "i32"), ("x", "f32"), ("y", "f32"))}
    call(f"matmul.{name}", 0, ROWS, w=weights, step=np.array([1] + [0] * 7), count=0, cols=columns, stride_x=columns,
         stride=ROWS, private=0, add_to=0, CODEC=codec, TILE=1, **rest)  # fmt: skip
    order = np.array(list(lines))
    size = codecs.get(codec).block_bytes * ROWS * columns // codecs.get(codec).block
    assert sorted(lines) == list(range(-(-size // 64)))
    late = np.maximum.accumulate(order) - order > 1024 // 64
    assert late.sum() <= 2 * columns // 256  # d and a line of scales, first needed at the end of a block


def test_the_likeliest_tokens_interpreted() -> None:
    """Bounds are checked here; with a tail, a penalty, a tie at the edge, and NaN."""
    logits = np.round(np.random.default_rng(3).standard_normal(150) * 4).astype(np.float32)
    window, top = np.array([7, 7, 149], np.int32), backend("llama", "q4_0").top()
    for k in (1, 5, 150):
        scores = logits.copy()
        scores[[7, 149]] = [x / 1.5 if x > 0 else x * 1.5 for x in logits[[7, 149]]]
        order = np.argsort(-scores, kind="stable")[:k].tolist()
        ids, values, ties = top(logits, window, 3, k, 1.5)
        assert (ids, values) == (order, scores[order].tolist())
        assert ties == (scores == scores[order[-1]]).sum() - values.count(values[-1])
    logits[149] = np.nan
    assert top(logits, window, 3, 5, 1.5)[2] == -1


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", ["decode", "prefill", "batch"])
def test_bf16_in_twelve_bits_is_loaded_once_whatever_the_tokens(name: str, tied: bool) -> None:
    """What lies aside too; of look-ups it is known once it is recorded, and within its bounds before."""
    graph, checkpoint = tiny("llama", "bf16", tied)
    found = measure(packable(graph), checkpoint, 1)
    assert found.plain == 0 < sum(found.aside.values())
    graph = graph.in_twelve_bits(found.aside)
    made, step = InterpretedBackend(graph, checkpoint, options(1), found), STEPS[name]
    fill_cache(made)
    result = made.step(step, apart(step))
    known, log, program = observed(made, step, result), made.log.touched, made.program(step.tokens).program
    assert moved(log) == price(program, known) == made_ledger(made, step, result)
    before, after = (ledger.price(program, s).by_purpose()[EMBEDDING] for s in (step, known))
    assert before.low <= after.low == after.high <= before.high
    for op in (op for op in graph.ops if isinstance(op, Linear)):
        name_of, purpose = op.weight.alias or op.weight.name, HEAD if op.head else WEIGHTS
        assert {1} <= loads(log, op.name, purpose, name_of) <= {1, PARTS}, op.name  # codes, for each register of bytes


@pytest.mark.parametrize("likeliest", [True, False])
def test_a_sketch_is_loaded_once_and_of_the_head_what_it_leaves(likeliest: bool) -> None:
    """A tile that is chosen first is not read again."""
    graph, checkpoint = tiny("llama", "q8_0", vocab_size=520)
    made = InterpretedBackend(with_sketch(graph), checkpoint, options(2))
    step = replace(STEPS["decode"], likeliest=likeliest)
    fill_cache(made)
    result = made.step(step, apart(step))
    known, log, program = observed(made, step, result), made.log.touched, made.program(step.tokens).program
    assert moved(log) == price(program, known) == made_ledger(made, step, result)
    head = sketched(made.graph)
    assert head is not None and loads(log, head.name, HEAD, head.weight.alias or head.weight.name) == {1}
    if likeliest:
        assert loads(log, head.name, HEAD, head.sketch.name) == {1}
    else:
        assert (result.listed, ((head.name, HEAD), head.sketch.name) in log) == (None, False)


@pytest.mark.parametrize("name", ["decode", "prefill", "batch"])
@pytest.mark.parametrize(("kind", "codecs"), [("mixtral", "q4_k_m"), ("qwen3_moe", "bf16"), ("gpt_oss", "mxfp4")])
def test_an_experts_bytes_are_loaded_once_for_each_tile_of_its_tokens(kind: str, codecs: str, name: str) -> None:
    """And nothing of those that nobody picked; predicted exactly once the routing is recorded."""
    graph = routed_graph(kind, codecs, 64, 1)
    made = InterpretedBackend(graph, Coded(graph), options(2))
    step = Step(tuple(replace(s, tables=made.own_tables(i)) for i, s in enumerate(STEPS[name].sequences)))
    fill_cache(made)
    result = made.step(step, apart(step))
    assert np.isfinite(result.logits).all()
    known, log = replace(step, routing=made.routing(result)), made.log.touched
    program = made.program(step.tokens).program
    assert moved(log) == price(program, known) == made_ledger(made, step, result)
    for op in (op for op in graph.ops if isinstance(op, Experts)):
        counts = known.routing[op.name]
        for w in (op.gate, op.up, op.down):
            most = 4 if family(w) == "float" else 8
            found = log[(op.name, EXPERTS), w.name].loads.reshape(len(counts), -1)
            tiles = [ceil(n / min(most, int8_tile(program.capacity))) for n in counts]
            assert [set(row.tolist()) for row in found] == [{n} for n in tiles]
    made.close()


def made_ledger(made: InterpretedBackend, step: Step, result: StepResult) -> Bytes:
    """What the kernels said that they read."""
    out: Bytes = Counter()
    for entry in made.recorded(step, result).entries:
        out[entry.op, entry.purpose] += int(entry.amount)
    return out


def test_a_kernel_that_reads_other_bytes_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def columns(w, p, gap):  # type: ignore[no-untyped-def]
        a = load_w(w, p + 16, gap)
        return (bits(a, 15),) * 8

    monkeypatch.setattr(q4_0, "columns", columns)
    with pytest.raises(AssertionError):
        check(backend("llama", "q4_0"), STEPS["decode"])


@cache
def recurrent(name: str, threads: int) -> InterpretedBackend:
    """Two layers of one head of 64, ranks and rows that fill no register."""
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 96, "vocab_size": 260}
    ranks = {f"{part}_low_rank_dim": 12 for part in ("decay", "a", "v", "gate")} if name == "rwkv7" else {}
    checkpoint = SyntheticCheckpoint({"model_type": name, **sizes, **ranks}, mix("f32"), 0, name)
    return InterpretedBackend(models.build(checkpoint), checkpoint, options(threads))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["rwkv6", "rwkv7"])
def test_state_is_loaded_from_one_slot_and_stored_in_another(name: str, threads: int) -> None:
    """Unique bytes of each operation are its price: what it loads, and of the states that are written what it stores.
    A new sequence's state is cleared where it is written, and that counts as its read."""
    made = recurrent(name, threads)
    first = Step((Sequence(0, 3, state_read=0, state_write=0), Sequence(0, 1, state_read=2, state_write=2)))
    made.step(first, [1, 2, 3, 4])
    state = {c.name: c.state_bytes for c in made.graph.states}
    assert stored_by(made.log.touched, STATE_WRITE) == {op: 2 * n for op, n in state.items()}
    step = Step((Sequence(3, 2, state_read=0, state_write=1), Sequence(1, 1, state_read=2, state_write=2)))
    made.step(step, [5, 50, 100])
    program, log = made.program(step.tokens).program, made.log.touched
    found: Bytes = Counter()
    slot = sum(state.values())
    for (owner, array), touched in log.items():
        if owner and array == "state":  # of a scan, which reads and writes: the slots that are read, 0 and 2
            read = touched.loads.reshape(-1, slot)[[0, 2]]
            found[owner[0], STATE_READ] += int((read > 0).sum())
        elif owner:
            found[owner] += int((touched.loads > 0).sum())
    assert found == {key: n for key, n in price(program, step).items() if key[1] != STATE_WRITE}
    assert stored_by(log, STATE_WRITE) == {op: 2 * n for op, n in state.items()}
    for key, touched in log.items():
        if key[1] == "state":
            assert not touched.stores[:slot].any(), "the slot that is kept is not written"


def stored_by(log: Log, purpose: str) -> dict[str, int]:
    """Unique bytes of state that each operation stored for a purpose."""
    return {o[0]: int((t.stores > 0).sum()) for (o, array), t in log.items() if o and o[1] == purpose}


@pytest.mark.parametrize("name", ["decode", "prefill"])
def test_a_log_has_room_for_all_of_a_step(name: str) -> None:
    """Out of bounds would raise; the bits are the same."""
    made, step = backend("llama", "q4_0", threads=2), STEPS[name]
    plain = made.step(step, apart(step)).logits.tobytes()
    log = made.step_log(step, apart(step))
    assert made.step(step, apart(step), log).logits.tobytes() == plain
    calls = np.concatenate([log.calls(worker) for worker in range(2)])
    assert calls["bytes"].sum() == sum(price(log.bound.program, step).values())
    assert set(calls["call"].tolist()) == set(range(len(log.bound.calls)))


def test_memory_has_ends() -> None:
    log = SpanLog()
    span = Span.over(np.arange(10, dtype=np.int32), log)
    for index in (-1, 10):
        with pytest.raises(IndexError):
            span[index]
        with pytest.raises(IndexError):
            span[index] = 0
    with pytest.raises(IndexError):
        load_w(Span.over(np.zeros(31, np.uint8), log), 0, 0)


def test_nothing_compiled_ran() -> None:
    assert "numba" not in sys.modules
