"""The reference against transformers on tiny random models, and against itself: chunks, trees, devices."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memfirst import models
from memfirst.backends.reference.backend import ReferenceBackend
from memfirst.errors import BackendError, CapacityError, UnsupportedError
from memfirst.formats.open import open_checkpoint
from memfirst.graph import Graph, Op, Sequence, Step
from memfirst.graph.ops.rope import Rope
from memfirst.ledger import price
from memfirst.transform.shard import shard
from tests.support.make_parity_fixture import CASES, FOLDER, make
from tests.support.toy import F32, ArrayCheckpoint, one, paged, random_checkpoint, toy_llama, toy_mamba2, toy_mla

TOYS = {"llama": toy_llama, "mla": toy_mla, "mamba2": toy_mamba2}
TOKENS = np.random.default_rng(5).integers(0, 128, 40).astype(np.int32)
CLOSE = 2e-5
"""Logits are of the order of 1; float32 sums in another order differ by a few times 1e-6."""


PROMPT = (
    1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018, 411, 407,
    19712, 8182, 2, 198, 1, 4093, 198, 4898, 314, 260, 6376, 4461, 47, 2, 198, 1, 520, 9531, 198,
)  # fmt: skip
"""The model's default system prompt, then "Why is the sky blue?"."""
ANSWER = (
    504, 2988, 288, 451, 1962, 5721, 281, 260, 7564, 7180, 282, 1420, 284, 2380, 30, 378,
)  # fmt: skip
""""The answer to this question lies in the intricate dance of light and color. The"."""


def backend(kind: str) -> ReferenceBackend:
    graph = TOYS[kind]("f32")
    return ReferenceBackend(graph, random_checkpoint(graph))


def all_rows(n: int) -> dict[str, Any]:
    return {"logits": tuple(range(n))}


def parity(folder: Path, change: Callable[[Op], Op] = lambda op: op) -> float:
    """Largest difference of any logit from transformers'."""
    checkpoint = open_checkpoint(folder)
    graph = models.build(checkpoint)
    graph = replace(graph, ops=tuple(change(op) for op in graph.ops))
    expected = np.load(folder / "expected.npz")
    n = len(expected["tokens"])
    logits = ReferenceBackend(graph, checkpoint, context=n).step(one(0, n, **all_rows(n)), expected["tokens"])
    return float(np.abs(logits - expected["logits"]).max())


@pytest.mark.parametrize("name", CASES)
def test_parity_with_transformers(name: str) -> None:
    """40 positions, beyond the original context of the scaled ones; logits spread over several units."""
    assert np.load(FOLDER / name / "expected.npz")["logits"].std() > 1
    assert parity(FOLDER / name) <= 1e-4


@pytest.mark.parametrize("name", CASES)
def test_parity_live(name: str, tmp_path: Path) -> None:
    """The same with other weights, where torch and transformers are installed."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    make(name, tmp_path, seed=1234, dtype="bfloat16")
    assert parity(tmp_path) <= 1e-4


@pytest.mark.parametrize("name", CASES)
def test_parity_sees_a_wrong_rope(name: str) -> None:
    """The fixture is sharp enough: pairs or frequencies of another kind do not pass."""

    def other_pairs(op: Op) -> Op:
        style = {"half": "interleaved", "interleaved": "half"}
        return replace(op, style=style[op.style]) if isinstance(op, Rope) else op

    def other_slowest(op: Op) -> Op:
        if not isinstance(op, Rope):
            return op
        short, long = ((*f[:-1], 1.2 * f[-1]) if f else () for f in (op.frequencies, op.long_frequencies))
        return replace(op, frequencies=short, long_frequencies=long)

    assert parity(FOLDER / name, other_pairs) > 0.05
    assert parity(FOLDER / name, other_slowest) > 1e-3


@pytest.mark.parametrize("kind", TOYS)
def test_a_prompt_in_chunks_gives_the_same(kind: str) -> None:
    """Whole, in chunks of 7, 20 and 13 across pages, and token by token."""
    whole = backend(kind).step(one(0, 40, **all_rows(40)), TOKENS)
    for cuts in ((0, 7, 27, 40), tuple(range(41))):
        run = backend(kind)
        parts = [run.step(one(a, b - a, **all_rows(b - a)), TOKENS[a:b]) for a, b in pairwise(cuts)]
        np.testing.assert_allclose(np.concatenate(parts), whole, atol=CLOSE, rtol=0)


@pytest.mark.parametrize("kind", TOYS)
def test_a_batch_gives_what_each_gives_alone(kind: str) -> None:
    """Two sequences on their own pages and slots, one of them longer, and one that waits."""
    lone = [backend(kind).step(one(0, n), TOKENS[s : s + n]) for s, n in ((0, 9), (9, 5))]
    sequences = (paged(0, 9), Sequence(3, 0), paged(0, 5, first=1, state_read=2, state_write=2))
    both = backend(kind).step(Step(sequences), TOKENS[:14])
    np.testing.assert_allclose(both, np.concatenate(lone), atol=CLOSE, rtol=0)


def test_a_tree_gives_what_its_branches_give() -> None:
    """Drafts a, then b or c after a, then d after c: each as if its line stood alone."""
    prompt, (a, b, c, d) = TOKENS[:6], TOKENS[6:10]
    run = backend("llama")
    run.step(one(0, 6), prompt)
    tree = one(6, 4, parents=(-1, 0, 0, 2), positions=(6, 7, 7, 8), **all_rows(4))
    found = run.step(tree, np.array([a, b, c, d], np.int32))
    for line, row in (((a, b), 1), ((a, c, d), 3)):
        tokens = np.array([*prompt, *line], np.int32)
        alone = backend("llama").step(one(0, len(tokens)), tokens)
        np.testing.assert_allclose(found[row], alone[0], atol=CLOSE, rtol=0)


def test_rollback_keeps_state_and_cuts_keys() -> None:
    """3 drafts are rejected: the old slot is read again, their positions are overwritten, nothing remains."""
    run = backend("mamba2")
    run.step(one(0, 8, state_write=0), TOKENS[:8])
    run.step(one(8, 3, state_read=0, state_write=1), TOKENS[30:33])
    found = run.step(one(8, 2, state_read=0, state_write=1), TOKENS[8:10])
    clean = backend("mamba2").step(one(0, 10), TOKENS[:10])
    np.testing.assert_allclose(found, clean, atol=CLOSE, rtol=0)
    kept = run.step(one(10, 1, state_read=1, state_write=0), TOKENS[10:11])
    np.testing.assert_allclose(kept, backend("mamba2").step(one(0, 11), TOKENS[:11]), atol=CLOSE, rtol=0)


def test_routing_is_recorded_and_prices_exactly() -> None:
    """Counts add to k a token, and a step with them has an exact price within the bounds."""
    run = backend("mla")
    run.step(one(0, 3), TOKENS[:3])
    counts = run.routing["blk.0.ffn_exps"]
    assert sum(counts) == 2 * 3 and len(counts) == 8
    program = run.graph
    before = price(program, one(0, 3)).by_purpose()["experts"]
    after = price(program, replace(one(0, 3), routing=run.routing)).by_purpose()["experts"]
    assert after.exact and before.low <= after.low <= before.high


class Devices:
    """Threads that meet at every collective: what each adds is summed, or joined in order."""

    def __init__(self, count: int) -> None:
        self.barrier, self.values = threading.Barrier(count, timeout=20), [np.zeros(0, np.float32)] * count

    def exchange(self, index: int, value: F32) -> list[F32]:
        self.values[index] = value
        self.barrier.wait()
        everyone = list(self.values)
        self.barrier.wait()
        return everyone

    def run(self, graph: Graph, checkpoint: ArrayCheckpoint, index: int, out: list[F32]) -> None:
        device = ReferenceBackend(
            shard(graph, index, len(out)),
            checkpoint,
            all_reduce=lambda x: np.sum(self.exchange(index, x), axis=0, dtype=np.float32),
            all_gather=lambda x: np.concatenate(self.exchange(index, x), axis=1),
        )
        first = device.step(one(0, 9), TOKENS[:9])
        out[index] = np.concatenate([first, device.step(one(9, 2), TOKENS[9:11])])


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("tied", [False, True])
def test_devices_together_give_the_whole_model(count: int, tied: bool) -> None:
    """A Llama with q, k and v biases over 2 devices, and over 4 that hold 2 KV heads twice."""
    graph = toy_llama("f32", tie_word_embeddings=tied, bias=True)
    checkpoint = random_checkpoint(graph)
    out, devices = [np.zeros(0, np.float32)] * count, Devices(count)
    threads = [threading.Thread(target=devices.run, args=(graph, checkpoint, i, out)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    whole = ReferenceBackend(graph, checkpoint)
    expected = np.concatenate([whole.step(one(0, 9), TOKENS[:9]), whole.step(one(9, 2), TOKENS[9:11])])
    for found in out:
        np.testing.assert_allclose(found, expected, atol=CLOSE, rtol=0)


@pytest.mark.parametrize(
    ("sequence", "tokens", "says"),
    [
        (paged(0, 3), [1, 2], "tokens of shape"),
        (paged(0, 2), [1, 256], "token ids"),
        (paged(0, 2), [-1, 2], "token ids"),
        (paged(0, 2, logits=(2,)), [1, 2], "logits of tokens"),
        (paged(0, 2, parents=(-1, 1)), [1, 2], "parents"),
        (paged(0, 2, positions=(0,)), [1, 2], "positions"),
        (paged(70, 1), [1], "never written"),
        (paged(-1, 1), [1], "past -1"),
    ],
)
def test_senseless_steps_are_refused(sequence: Sequence, tokens: list[int], says: str) -> None:
    """Each says what is wrong with it."""
    with pytest.raises(BackendError, match=says):
        backend("llama").step(Step((sequence,)), np.array(tokens, np.int32))


def test_too_few_pages_and_lone_devices_are_refused() -> None:
    """Positions beyond the page table; a part of a model without its peers."""
    with pytest.raises(CapacityError, match="0 blocks"):
        backend("llama").step(Step((Sequence(0, 1),)), TOKENS[:1])
    graph = toy_llama("f32")
    with pytest.raises(UnsupportedError, match="one device's part"):
        ReferenceBackend(shard(graph, 0, 2), random_checkpoint(graph)).step(one(0, 1), TOKENS[:1])


def test_smollm2_continues_a_sentence(smollm2: Path) -> None:
    """Greedy text of the real model, as llama.cpp gives it from the same file and prompt."""
    checkpoint = open_checkpoint(smollm2)
    run = ReferenceBackend(models.build(checkpoint), checkpoint)
    prompt = np.array(PROMPT, np.int32)
    found: list[int] = []
    logits, past = run.step(one(0, len(prompt)), prompt), len(prompt)
    while len(found) < len(ANSWER):
        found.append(int(logits[-1].argmax()))
        logits, past = run.step(one(past, 1), np.array(found[-1:], np.int32)), past + 1
    assert tuple(found) == ANSWER
