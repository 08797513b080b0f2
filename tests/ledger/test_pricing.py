"""Prices of toy models as integers, each worked out a second time by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from memfirst import ledger
from memfirst.errors import UnsupportedError
from memfirst.graph import Graph, KVCache, Sequence, Step, decode, prefill
from memfirst.transform.shard import shard
from tests.support.toy import paged, toy_llama, toy_mamba2, toy_mla

R64, R128, R32 = 68, 136, 34  # bytes of a q8_0 row of 64, 128, 32 weights: 34 a block of 32


def price(graph: Graph, step: Step) -> dict[str, int]:
    found = dict(ledger.table(ledger.price(graph, step)))
    assert found.pop("activations") > 0
    return found


# q 64 rows of 64, k 32, v 32, output 64; gate and up 128 rows of 64, down 64 of 128; 2 norms
LLAMA_LAYER = (64 + 32 + 32 + 64) * R64 + 2 * 128 * R64 + 64 * R128 + 2 * 64 * 4
LLAMA_KV = 2 * (16 + 16) * 2  # a position of a layer: 2 heads, k and v of 16, f16


def test_llama_decode() -> None:
    """One token after 100: 79,360 bytes of layers, 17,664 of head, one row, 101 positions of two layers."""
    assert LLAMA_LAYER == 39_680
    assert price(toy_llama(), decode(100)) == {
        "embedding": 68,
        "weights": 2 * 39_680,
        "kv_write": 2 * 128,
        "kv_read": 2 * 101 * 128,
        "head": 256 * 68 + 64 * 4,
    }


def test_llama_prefill_shares_weights() -> None:
    """50 tokens read each weight once; KV once for the sequence; logits once."""
    assert price(toy_llama(), prefill(50, past=7)) == {
        "embedding": 50 * 68,
        "weights": 79_360,
        "kv_write": 50 * 256,
        "kv_read": 57 * 256,
        "head": 17_664,
    }


def test_llama_batch_and_no_logits() -> None:
    """Two sequences share weights, not KV; a step without logits reads no head."""
    step = Step((Sequence(10, 1, logits=()), Sequence(20, 3, logits=())))
    assert price(toy_llama(), step) == {
        "embedding": 4 * 68,
        "weights": 79_360,
        "kv_write": 4 * 256,
        "kv_read": (11 + 23) * 256,
    }


def test_llama_tied_counts_the_table_once() -> None:
    """A tied head is read in full and stored once."""
    tied, untied = toy_llama(tie_word_embeddings=True), toy_llama()
    assert price(tied, decode(5)) == price(untied, decode(5))
    assert ledger.memory(tied, [5]).weights == 2 * 39_680 + 256 * 68 + 256
    assert ledger.memory(untied, [5]).weights == 2 * 39_680 + 2 * 256 * 68 + 256


def test_llama_memory_and_window() -> None:
    """130 tokens fill 3 pages of 64; a window of 32 holds 32 and reads at most 32 a token."""
    graph = toy_llama()
    found = ledger.memory(graph, [130])
    assert (found.kv_held, found.kv_allocated) == (2 * 130 * 128, 2 * 192 * 128)
    whole = graph.caches[0]
    assert isinstance(whole, KVCache)
    window = replace(whole, window=32)
    ops = tuple(replace(op, cache=window) if op.name == "blk.0.attn" else op for op in graph.ops)  # type: ignore[call-arg]
    local = replace(graph, ops=ops, caches=(window, graph.caches[1]))
    assert price(local, decode(100))["kv_read"] == (32 + 101) * 128
    assert price(local, prefill(10, past=100))["kv_read"] == (32 + 9 + 110) * 128
    assert ledger.memory(local, [130]).kv_held == (32 + 130) * 128


def test_llama_flops() -> None:
    """Two a weight and token in matrices; two a value of k and of v, by head and pair, in attention."""
    ops = {op.name: op.flops(prefill(3, past=4)) for op in toy_llama().ops}
    assert ops["blk.0.ffn_down"] == 3 * 2 * 64 * 128
    assert ops["blk.0.attn"] == 2 * 4 * (16 + 16) * (5 + 6 + 7)
    assert ops["output"] == 2 * 256 * 64
    assert ops["select"] == ops["token_embd"] == 0


# q 96 rows, kv_a 40 of 64 columns; output 64 of 64; k_b f16 4·32·16; v_b 64 rows of 32; norms 64, 32, 64
MLA_ATTENTION = (96 + 40 + 64) * R64 + 4 * 32 * 16 * 2 + 64 * R32 + (64 + 32 + 64) * 4
MLA_SHARED = 2 * 32 * R64 + 64 * R32
EXPERT = 32 * R64 + 32 * R64 + 64 * R32
ROUTER = 8 * 64 * 4


def test_mla_with_experts() -> None:
    """One token: exactly 2 of 8 experts; the latent (32 + 8, f16) once for all heads."""
    assert (MLA_ATTENTION, MLA_SHARED, EXPERT) == (20_512, 6_528, 6_528)
    assert price(toy_mla(), decode(200)) == {
        "embedding": 68,
        "weights": 20_512 + 6_528 + 2_048,
        "kv_write": 80,
        "kv_read": 201 * 80,
        "experts": 2 * 6_528,
        "head": 128 * 68 + 256,
    }


def test_experts_are_an_expectation_until_recorded() -> None:
    """3 tokens, 2 of 8 each: 8·(1 − (6/8)³) = 4.625 experts expected, 2 to 6 possible; recorded, exact."""
    step = decode(10, batch=3)
    amount = ledger.price(toy_mla(), step).by_purpose()["experts"]
    assert (amount.mean, amount.low, amount.high) == (4.625 * 6_528, 2 * 6_528, 6 * 6_528)
    assert not amount.exact
    recorded = replace(step, routing={"blk.0.ffn_exps": (3, 0, 1, 0, 0, 2, 0, 0)})
    amount = ledger.price(toy_mla(), recorded).by_purpose()["experts"]
    assert amount.exact and int(amount) == 3 * 6_528


# in 128 + 160 + 4 rows of 64; out 64 rows of 128; conv 160·4 + 160; a, d, dt_bias 3·4; norms 64, 128
MAMBA = 292 * R64 + 64 * R128 + (160 * 5 + 12) * 4 + (64 + 128) * 4
MAMBA_ATTENTION = (64 + 32 + 32 + 64) * R64 + 64 * 4
STATE = (3 * 160 + 4 * 32 * 16) * 4  # convolution tail and scan state, f32


def test_mamba2_state_does_not_grow() -> None:
    """State is read and written once a sequence and step, whatever the context and the tokens."""
    assert (MAMBA, MAMBA_ATTENTION, STATE) == (32_576, 13_312, 10_112)
    expected = {
        "embedding": 68,
        "weights": 32_576 + 13_312,
        "state_read": 10_112,
        "state_write": 10_112,
        "kv_write": 128,
        "kv_read": 1001 * 128,
        "head": 8_960,
    }
    assert price(toy_mamba2(), decode(1000)) == expected
    chunk = price(toy_mamba2(), prefill(40, past=1000))
    assert (chunk["state_read"], chunk["kv_read"]) == (10_112, 1040 * 128)
    assert price(toy_mamba2(), decode(1000, batch=3))["state_write"] == 3 * 10_112


def test_mamba2_rollback_is_priced() -> None:
    """4 drafts after 100, 1 is kept: state goes to the other slot, both are allocated; KV is cut."""
    drafts = Step((paged(100, 4, state_read=0, state_write=1, logits=(0, 1, 2, 3)),))
    again = Step((paged(100, 1, state_read=0, state_write=1),))
    first, second = price(toy_mamba2(), drafts), price(toy_mamba2(), again)
    assert first["state_read"] == second["state_read"] == STATE
    assert (first["kv_read"], second["kv_read"]) == (104 * 128, 101 * 128)
    assert first["head"] == second["head"]
    found = ledger.memory(toy_mamba2(), [101])
    assert (found.kv_held, found.kv_allocated) == (101 * 128 + STATE, 128 * 128 + 2 * STATE)


def test_two_devices_share_a_llama() -> None:
    """Each reads half of every matrix and of KV, norms whole; 2 sums of 64 a layer, a gather of 256."""
    half = (192 // 2) * R64 + 128 * R64 + 64 * R64 + 2 * 64 * 4
    assert half == 20_096
    for index in (0, 1):
        assert price(shard(toy_llama(), index, 2), decode(100)) == {
            "embedding": 68,
            "weights": 2 * 20_096,
            "kv_write": 2 * 64,
            "kv_read": 2 * 101 * 64,
            "collective": 4 * 64 * 4 + 256 * 4 // 2,
            "head": 128 * 68 + 256,
        }


def test_four_devices_replicate_kv_heads() -> None:
    """2 KV heads over 4 devices: each holds one, so KV and its projections are half, not a quarter."""
    parts = [shard(toy_llama("f16"), index, 4) for index in range(4)]
    found = price(parts[3], decode(9))
    layer = (16 + 16 + 16) * 128 + 64 * 32 + 2 * 32 * 128 + 64 * 64 + 2 * 64 * 4
    assert (found["weights"], found["kv_read"]) == (2 * layer, 2 * 10 * 64)
    shards = [part.weights()["blk.0.attn_k.weight"].shard for part in parts]
    assert [(s.index, s.of) for s in shards if s] == [(0, 2), (0, 2), (1, 2), (1, 2)]
    assert found["collective"] == 2 * 2 * (64 * 4 * 2 * 3 // 4) + 256 * 4 * 3 // 4


def test_parts_that_do_not_fit_are_refused() -> None:
    """128 columns over 8 devices are no whole q8_0 blocks; 4 heads do not divide by 8 or by 3."""
    with pytest.raises(UnsupportedError, match="over 8 devices"):
        shard(toy_llama("f16"), 0, 8)
    with pytest.raises(UnsupportedError, match="over 3 devices"):
        shard(toy_llama(), 0, 3)
    with pytest.raises(UnsupportedError, match="blocks of 32"):
        shard(toy_llama(), 0, 4)
    with pytest.raises(UnsupportedError, match="cannot be shared"):
        shard(toy_mamba2(), 0, 2)


SHARED = Step((paged(100, 1), paged(7, 50, first=1), paged(0, 9, first=2, logits=()), paged(300, 3, first=3)))
"""A decoded token, two prompts of which one is not at its end, and three tokens that all follow a long past."""


@pytest.mark.parametrize("graph", [toy_llama(), toy_mla(), toy_mamba2()], ids=lambda g: g.architecture)
@pytest.mark.parametrize("recorded", [False, True])
def test_the_shares_of_a_step_sum_to_it(graph: Graph, recorded: bool) -> None:
    """As integers, bounds of what is not certain included; a sequence's own KV and state are what it has alone."""
    routing = {op.name: (40, 3, 0, 0, 60, 20, 2, 1) for op in graph.ops if "exps" in op.name}
    step = replace(SHARED, routing=routing) if recorded else SHARED
    whole = ledger.price(graph, step)
    parts = [ledger.share(graph, whole, step, i) for i in range(4)]
    assert [part.tokens for part in parts] == [1, 50, 9, 3]
    for purpose, amount in whole.by_purpose().items():
        each = [part.by_purpose().get(purpose, ledger.NOTHING) for part in parts]
        assert sum(a.low for a in each) == amount.low and sum(a.high for a in each) == amount.high
        assert sum(a.mean for a in each) == pytest.approx(amount.mean)
    for sequence, part in zip(step.sequences, parts, strict=True):
        alone = ledger.price(graph, Step((sequence,))).by_purpose()
        own = {k: v for k, v in part.by_purpose().items() if k.startswith(("kv", "state", "embedding"))}
        assert own == {k: v for k, v in alone.items() if k in own} and own
    assert "head" not in parts[2].by_purpose()
    assert ledger.share(graph, whole, Step((SHARED.sequences[0],)), 0) is whole


def test_what_does_not_divide_is_the_firsts() -> None:
    """79,360 bytes of layers for 1 + 1 + 1 rows: 26,453 each, and one byte more for the first."""
    step, graph = decode(100, batch=3), toy_llama()
    whole = ledger.price(graph, step)
    entries = {e.op: int(e.amount) for e in whole.entries if e.purpose == "weights"}
    parts = [ledger.share(graph, whole, step, i) for i in range(3)]
    for i, part in enumerate(parts):
        found = {e.op: int(e.amount) for e in part.entries if e.purpose == "weights"}
        assert found == {op: n // 3 + (n % 3 if i == 0 else 0) for op, n in entries.items()}
