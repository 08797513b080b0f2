"""Predicted times: properties of the formula, the fit against published speeds, and what a missing rate answers."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from functools import cache
from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import fit_timing, planned_rows
from benchmarks import timing_model as tm
from benchmarks.measured_rows import DATA, models, prompts, question, read
from memfirst.catalog.configs import catalog_checkpoint
from memfirst.errors import MemfirstError
from memfirst.formats.open import open_checkpoint
from memfirst.graph import decode as decode_step
from memfirst.graph import prefill as prefill_step
from memfirst.hardware.machines import Machine, catalogue, find_machine
from memfirst.models import build
from memfirst.plan import Priced
from memfirst.predict.fitted import FITTED, KV, TERMS, Cost, Deployment, Observation, cost, predict
from memfirst.predict.fitted.pieces import MATMUL_LANE, MEMORY_LANE, memory_class, pieces
from memfirst.predict.fitted.predict import estimate, floor
from memfirst.predict.fitted.priors import priors
from memfirst.predict.prediction import Prediction
from tests.support.toy import toy_llama, toy_mla

ROOT = Path(__file__).parent.parent.parent
SEVEN_B = Cost({"weights": 3.6e9, "head": 0.1e9, "kv_read": 0.1e9}, 1.4e10, 1, 32, "q4_0", 1, 4096)
UNSEEN = replace(find_machine("rtx-4090"), name="unseen")
"""A machine of which no row is measured, so that it has no level of its own."""
MACHINES = st.sampled_from(catalogue())
DEPLOYMENTS = st.builds(
    Deployment, st.sampled_from([*FITTED, "other"]), st.integers(1, 8), st.sampled_from(["pipeline", "tensor"]),
    st.booleans(), st.integers(0, 16), st.floats(0, 3),
)  # fmt: skip
BYTES = st.just(0.0) | st.floats(1, 1e11)
COSTS = st.builds(
    lambda w, e, kv, flops, tokens, layers, codec: Cost(
        {"weights": w, "experts": e, "kv_read": kv}, flops, tokens, layers, codec, tokens, 4096, e / 2
    ),
    st.floats(1e6, 1e12), BYTES, BYTES, st.floats(1e6, 1e14), st.integers(1, 64),
    st.integers(1, 128), st.sampled_from(["f16", "q4_0", "q4_k", "iq2_xs", "gptq4", "mxfp4", "unheard"]),
)  # fmt: skip


def seconds(asked: Cost, machine: Machine, how: Deployment) -> float:
    found = predict(asked, machine, how).seconds
    assert found is not None
    return found


# properties


@settings(max_examples=150, deadline=None)
@given(COSTS, MACHINES, DEPLOYMENTS)
def test_an_answer_is_whole(asked: Cost, machine: Machine, how: Deployment) -> None:
    """The interval is ordered, terms add up, the largest binds, and nothing exceeds 95 % of the peak."""
    found = predict(asked, machine, how)
    assert found.low and found.seconds and found.high and found.mbu and found.mfu
    assert found.low <= found.seconds <= found.high
    assert found.slowest and found.tokens_per_second and found.fastest
    assert found.slowest <= found.tokens_per_second <= found.fastest
    assert sum(t.seconds for t in found.terms) == pytest.approx(found.seconds)
    assert {t.name for t in found.terms} <= set(TERMS)
    assert found.binding == max(found.terms, key=lambda t: t.seconds).name
    parts = how.devices if how.parallel == "tensor" else 1
    assert machine.bandwidth
    assert asked.total / found.low <= 0.95 * machine.bandwidth * parts * (1 + 1e-9)
    assert 0 < found.mbu <= 0.95 * (1 + 1e-9)


@settings(max_examples=100, deadline=None)
@given(COSTS, MACHINES, DEPLOYMENTS, st.sampled_from(["weights", "experts", "kv_read"]), st.floats(1, 10))
def test_more_bytes_are_never_faster(asked: Cost, machine: Machine, how: Deployment, what: str, times: float) -> None:
    """Context too: it is bytes of KV."""
    more = replace(asked, streamed={**asked.streamed, what: asked.streamed[what] * times})
    more = replace(more, least=asked.least)
    assert seconds(more, machine, how) >= seconds(asked, machine, how) * (1 - 1e-9)


@settings(max_examples=100, deadline=None)
@given(COSTS, MACHINES, DEPLOYMENTS, st.floats(1, 10))
def test_more_work_or_layers_are_never_faster(asked: Cost, machine: Machine, how: Deployment, times: float) -> None:
    before = seconds(asked, machine, how) * (1 - 1e-9)
    assert seconds(replace(asked, flops=asked.flops * times), machine, how) >= before
    assert seconds(replace(asked, layers=int(asked.layers * times)), machine, how) >= before


@settings(max_examples=60, deadline=None)
@given(COSTS, MACHINES, DEPLOYMENTS)
def test_half_the_bandwidth_doubles_what_is_read(asked: Cost, machine: Machine, how: Deployment) -> None:
    """Exactly, in each piece of weights, experts and KV that memory bounds; no other piece changes."""
    assert machine.bandwidth
    half = replace(machine, bandwidth=machine.bandwidth / 2)
    for one, two in zip(pieces(asked, machine, how), pieces(asked, half, how), strict=True):
        read_from_memory = one.constants[0][0] in ("memory", "cache", "scores")
        assert two.seconds == pytest.approx(one.seconds * (2 if read_from_memory else 1), abs=0)


def term(found: Prediction, name: str) -> float:
    return sum(t.seconds for t in found.terms if t.name == name)


def test_half_the_bandwidth_doubles_the_weight_term() -> None:
    """Where weights bind, within the little that overlapping arithmetic takes of it."""
    big = replace(SEVEN_B, streamed={"weights": 140e9}, codec="f16", flops=1.4e11)
    card = find_machine("rtx-4090")
    slow = replace(card, bandwidth=(card.bandwidth or 0) / 2)
    one, two = predict(big, card), predict(big, slow)
    assert one.binding == two.binding == "weights"
    assert term(two, "weights") == pytest.approx(2 * term(one, "weights"), rel=0.01)


@pytest.mark.parametrize(
    ("asked", "machine", "how", "binding"),
    [
        (SEVEN_B, "raspberry-pi-5", Deployment(), "weights"),
        (replace(SEVEN_B, streamed={"weights": 1e8, "experts": 2e10}, least=2e10), "rtx-4090", Deployment(), "experts"),
        (replace(SEVEN_B, streamed={"weights": 1e9, "kv_read": 2e10}), "rtx-4090", Deployment(), "KV"),
        (replace(SEVEN_B, tokens=2048, flops=2.8e13), "rtx-4090", Deployment(), "compute"),
        (replace(SEVEN_B, streamed={"weights": 1e7}, flops=1e7), "h100", Deployment(), "overhead"),
        (SEVEN_B, "a100", Deployment("transformers"), "overhead"),
        (replace(SEVEN_B, tokens=4000, width=8192), "rtx-3090", Deployment("vllm", 8, "tensor"), "link"),
    ],
)  # fmt: skip
def test_the_binding_term(asked: Cost, machine: str, how: Deployment, binding: str) -> None:
    assert predict(asked, find_machine(machine), how).binding == binding


def test_devices() -> None:
    """Tensor parallel reads together; a pipeline does not, and pays for each hop."""
    card, heavy = find_machine("a100"), replace(SEVEN_B, streamed={"weights": 140e9}, codec="bf16", layers=80)
    one = seconds(heavy, card, Deployment("vllm"))
    assert one / 2 < seconds(heavy, card, Deployment("vllm", 2, "tensor")) < one
    assert seconds(heavy, card, Deployment("vllm", 4, "pipeline")) > one


def test_weights_in_slower_places() -> None:
    """Half of 8 GB over a bus of 31.5 GB/s at 85 %: 149 ms, and half as much from the card's own memory."""
    whole = replace(SEVEN_B, streamed={"weights": 8e9}, codec="f16")  # nothing to unpack beside the reads
    card = replace(UNSEEN, disk_bandwidth=5e9)
    near, far = predict(whole, card), predict(replace(whole, slow=4e9), card)
    assert term(far, "link") == pytest.approx(4e9 / (0.85 * 31.5e9)) and far.binding == "link"
    assert term(far, "weights") == pytest.approx(term(near, "weights") / 2, rel=0.02)
    assert seconds(replace(whole, disk=4e9), card, Deployment()) > seconds(replace(whole, slow=4e9), card, Deployment())
    unknown = predict(replace(whole, disk=4e9), find_machine("rtx-4090"))
    assert unknown.seconds is None and "its disk's rate is not known; a step reads 4 GB" in unknown.notes[0]


def test_a_missing_rate_gives_no_number() -> None:
    machine = find_machine("rtx-4090")
    no_bandwidth = predict(SEVEN_B, replace(machine, bandwidth=None))
    assert (no_bandwidth.seconds, no_bandwidth.high, no_bandwidth.tokens_per_second) == (None, None, None)
    assert no_bandwidth.notes == ("rtx-4090: its bandwidth is not known; a step reads 3.8 GB",)
    no_rate = predict(SEVEN_B, replace(machine, compute={}))
    assert no_rate.seconds is None and no_rate.binding == ""
    assert no_rate.notes[-1] == "its bandwidth alone allows 252 tokens/s at the most"


@pytest.mark.parametrize(
    ("kind", "memory_type", "expected"),
    [("gpu", "", "gddr"), ("gpu", "gddr6x", "gddr"), ("datacentre-gpu", "", "hbm"), ("datacentre-gpu", "hbm2e", "hbm"),
     ("datacentre-gpu", "gddr6", "gddr"), ("unified", "lpddr5x", "unified"), ("cpu", "ddr5", "ddr"),
     ("board", "", "ddr")],
)  # fmt: skip
def test_memory_classes(kind: str, memory_type: str, expected: str) -> None:
    assert memory_class(Machine("x", "X", kind, memory_type=memory_type)) == expected


def test_rates_that_stand_in() -> None:
    """A row with one rate of arithmetic is enough; a measured step of a machine without rates is no help."""
    card = find_machine("rtx-4090")
    assert predict(SEVEN_B, replace(card, compute={"f16": 1e14})).seconds
    useless = Observation(SEVEN_B, replace(card, bandwidth=None), Deployment(), 0.01)
    assert predict(SEVEN_B, card, Deployment(), [useless]) == predict(SEVEN_B, card)


@pytest.mark.parametrize("bad", [{"devices": 0}, {"threads": -1}, {"parallel": "expert"}])
def test_a_deployment_that_cannot_be(bad: dict[str, Any]) -> None:
    with pytest.raises(MemfirstError, match="expected"):
        Deployment(**bad)


def test_an_engine_without_published_speeds_says_so() -> None:
    known, other = (predict(SEVEN_B, find_machine("rtx-4090"), Deployment(e)) for e in ("ollama", "other"))
    assert known.notes == () and "no published speeds of other" in other.notes[0]
    assert known.high and known.low and other.high and other.low
    assert other.high / other.low > known.high / known.low


# a measured step


def test_a_measured_step_is_followed() -> None:
    """A machine that ran 20 % slower than predicted is predicted slower, with a narrower interval."""
    card, how = UNSEEN, Deployment()
    plain = predict(SEVEN_B, card, how)
    assert plain.seconds and plain.high and plain.low
    known = Observation(SEVEN_B, card, how, plain.seconds * 1.2)
    same = predict(SEVEN_B, card, how, [known])
    assert same.seconds and same.high and same.low
    assert same.seconds == pytest.approx(plain.seconds * 1.2, rel=0.05)
    assert same.high / same.low < plain.high / plain.low
    larger = replace(SEVEN_B, streamed={"weights": 13e9}, codec="f16")
    before, after = seconds(larger, card, how), predict(larger, card, how, [known]).seconds
    assert after and before < after < before * 1.2
    assert "follows 1 measured step" in same.notes
    elsewhere = predict(SEVEN_B, find_machine("apple-m3-max"), how, [known]).seconds
    assert elsewhere and abs(log(elsewhere / seconds(SEVEN_B, find_machine("apple-m3-max"), how))) < log(1.2) / 2


def test_no_end_of_an_interval_is_the_prediction() -> None:
    """Not even of a step that measurements faster than the peak allows would put above it: 92 % of the peak is
    predicted, and 95 % is the fast end."""
    how = Deployment()
    for machine in catalogue():
        for asked in (SEVEN_B, replace(SEVEN_B, tokens=2048, flops=2048 * 1.4e10)):
            impossible = Observation(asked, machine, how, floor(asked, machine, how) / 2)
            for found in (predict(asked, machine, how), predict(asked, machine, how, [impossible])):
                assert found.low and found.seconds and found.high
                assert found.low < 0.99 * found.seconds < found.seconds < 0.99 * found.high, machine.name
        least = floor(SEVEN_B, machine, how)
        known = predict(SEVEN_B, machine, how, [Observation(SEVEN_B, machine, how, least / 50)])
        assert known.seconds == pytest.approx(least * 0.95 / 0.92) and known.low == pytest.approx(least), machine.name


def test_keys_are_read_for_each_query_head_without_flash_attention() -> None:
    """Eight query heads share keys: 8 times the bytes on a GPU, as many as there are with flash attention or a CPU."""
    shared, alone = (
        Cost({"weights": 4e9, "kv_read": 1e9}, 1e10, 1, 32, "q4_k", 1, 4096, group=group) for group in (8.0, 1.0)
    )
    for machine, times in (("rtx-3090", 8.0), ("apple-m2-ultra", 8.0), ("ryzen-7950x", 1.0)):
        for flash, expected in ((False, times), (True, 1.0)):
            how = Deployment(flash=flash)
            kv = [
                sum(p.seconds for p in pieces(c, find_machine(machine), how) if p.term == KV) for c in (shared, alone)
            ]
            assert kv[0] / kv[1] == pytest.approx(expected)
    llama = Priced(build(catalog_checkpoint("llama-3:8b")))
    assert llama.cost(decode_step(10)).group == cost(llama.graph, decode_step(10)).group == 4


# the cost of a program


def test_cost_of_a_program() -> None:
    """68 bytes of the embedding's row, 79,360 of layers, 17,664 of the head, 101 positions of two layers."""
    found = cost(toy_llama(), decode_step(100))
    assert (found.weights, found.kv, found.experts) == (68 + 79_360 + 17_664, 2 * 101 * 128, 0)
    assert (found.layers, found.codec, found.width, found.tokens, found.sequences) == (2, "q8_0", 64, 1, 1)
    assert cost(toy_llama(), prefill_step(50)).tokens == 50


def test_cost_of_experts() -> None:
    """Two of eight experts for a token; the fewest for four tokens are two, the expectation 5.47."""
    one, four = (cost(toy_mla(), decode_step(10, n)) for n in (1, 4))
    assert one.experts == one.least > 0
    assert four.least == one.least and four.experts == pytest.approx(one.least / 2 * 8 * (1 - 0.75**4))


CONFIGS: dict[str, dict[str, Any]] = {
    "Llama-3-8B": {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096,
                   "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
                   "num_key_value_heads": 8, "vocab_size": 128256, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
                   "max_position_embeddings": 8192, "hidden_act": "silu", "torch_dtype": "float16",
                   "tie_word_embeddings": False},
    "Qwen2.5-7B-Instruct": {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 3584,
                            "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
                            "num_key_value_heads": 4, "vocab_size": 152064, "rms_norm_eps": 1e-6,
                            "rope_theta": 1000000.0, "max_position_embeddings": 32768, "hidden_act": "silu",
                            "torch_dtype": "bfloat16", "tie_word_embeddings": False},
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_rows_ask_what_graphs_say(name: str, tmp_path: Path) -> None:
    """The shapes that rows are priced from, against the model's own graph: 16-bit weights, KV, operations."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS[name]), encoding="utf-8")
    found = cost(build(open_checkpoint(tmp_path / "config.json")), decode_step(1023))
    shape = models()[name]
    layers, width = int(shape["layers"]), int(shape["width"])
    alike = (r for r in read()[0] if (r.cost.layers, r.cost.width) == (layers, width))
    row = next(r for r in alike if r.cost.codec in ("f16", "bf16") and r.source.startswith(("Xiong", "Qwen")))
    assert found.weights == pytest.approx(row.cost.weights, rel=0.001)
    assert found.kv == layers * int(shape["kv_numbers_a_layer"]) * 2 * 1024
    assert (found.layers, found.width) == (layers, width)
    assert found.flops == pytest.approx(2 * int(shape["stream_params"]), rel=0.05)


# the fit


@pytest.fixture(scope="module")
def figures() -> dict[str, dict[str, float]]:
    """Figures of the fit with each source left out, as the script wrote them: it fits anew for each of 44 authors."""
    found: dict[str, dict[str, float]] = json.loads(fit_timing.FIGURES.read_text(encoding="utf-8"))["scores"]
    return found


@cache
def gathered() -> tm.Table:
    """All rows."""
    return tm.table(fit_timing.gather()[0])


def test_figures_are_what_the_script_finds() -> None:
    """One author, left out again: as the file says."""
    t = gathered()
    author = next(int(a) for a, row in zip(t.author, t.rows, strict=True) if row.author == "gpt-fast")
    again = fit_timing.by_author(t, fit_timing.leave_out(t, [author]))
    stored = json.loads(fit_timing.FIGURES.read_text(encoding="utf-8"))["authors"]
    assert again["gpt-fast"] == pytest.approx(stored["gpt-fast"], abs=2e-3)
    assert sum(rows for rows, _ in stored.values()) == len(t.rows)


def test_bars_of_every_part(figures: dict[str, dict[str, float]]) -> None:
    """Decoding of all sources, processors, Radeons, prompts: each source left out."""
    every = figures["published and 2026, source left out"]
    assert every["rows"] == 779 and every["cells"] == 60
    assert every["by_row"] <= 0.11 and every["tenth"] <= 0.40 and every["mean_of_medians"] <= 0.14
    assert 0.75 <= every["inside"] <= 0.85 and every["ratio"] <= 1.6
    assert figures["processors, source left out"]["median"] <= 0.15
    radeons = figures["ROCm, Vulkan and SYCL, source left out"]
    assert radeons["by_row"] <= 0.18 and radeons["median"] <= 0.18
    assert figures["prompts, source left out"]["by_row"] <= 0.30


@pytest.mark.parametrize("rows", ["published", "with added rows"])
def test_bars_of_the_fit(figures: dict[str, dict[str, float]], rows: str) -> None:
    unseen, known = figures[f"{rows}, source left out"], figures[f"{rows}, one row known"]
    assert unseen["rows"] == 606 and unseen["cells"] == 54
    assert unseen["median"] <= 0.15 and unseen["mean_of_medians"] <= 0.15
    assert known["median"] <= 0.08
    assert 0.75 <= unseen["inside"] <= 0.90 and unseen["ratio"] <= 1.6
    assert unseen["fastest"] <= 0.95 + 1e-9 and known["fastest"] <= 0.95 + 1e-9


def test_every_row_is_used_or_has_a_reason() -> None:
    rows, left = read()
    assert (len(rows), len(left)) == (606, 21)
    assert sorted({row.why for row in left}) == [
        "a throughput without a batch size",
        "the hardware is not named",
        "the weights fit in the last-level cache: no question of memory",
    ]
    assert len(read(DATA / "measured_added.csv")[0]) == 47 and len(prompts()) == 94


def test_rows_of_2026_are_priced_by_their_graphs() -> None:
    """Weights within 5 % of what their sources' files say of a step, where the format tells each tensor's codec; KV by
    hand; a capped card below its data sheet."""
    decoding, reading = planned_rows.read()
    assert (len(decoding), len(reading)) == (173, 38)
    with (DATA / "measured_2026.csv").open(encoding="utf-8") as file:
        raws = [raw for raw in csv.DictReader(file) if raw["phase"] == "decode"]
    stated = 0
    for raw, row in zip(raws, decoding, strict=True):
        if raw["stream_GB_per_step_est"] and raw["quant"] in ("BF16", "Q4_0"):
            stated += 1
            found = (row.cost.weights + row.cost.experts) / 1e9
            assert found == pytest.approx(float(raw["stream_GB_per_step_est"]), rel=0.05), raw["model"]
    assert stated >= 12
    llama = next(row for raw, row in zip(raws, decoding, strict=True) if "16384" in raw["context_or_test"]
                 and raw["model"] == "Llama-2-7B")  # fmt: skip
    assert llama.cost.kv == 32 * 2 * 4096 * 2 * (16384 + 16 + 1)  # layers, keys and values, numbers, bytes, positions
    capped = next(row for row in decoding if row.machine.name == "rtx-3090")
    assert capped.machine.bandwidth and 0.9 * 936.2e9 < capped.machine.bandwidth < 936.2e9


def test_an_impossible_row_is_flagged() -> None:
    """1133 tokens/s of an 8B model at 4 bits on an M1: 75 times its memory."""
    with (DATA / "measured_decode.csv").open(encoding="utf-8") as file:
        raw = next(csv.DictReader(file))
    planted = {**raw, "hardware": "Apple M1 7-GPU 8GB", "backend": "llama.cpp b2824-era Metal",
               "context_or_test": "tg8192", "tokens_per_s": "1133"}  # fmt: skip
    assert question(planted) == "impossible: above 95% of the peak bandwidth"
    assert not isinstance(question({**planted, "tokens_per_s": "11.33"}), str)


def test_a_source_left_out_cannot_speak() -> None:
    """Doubling an author's times changes no prediction of its rows, and those of others."""
    rows = [r for r in read()[0] if r.source.startswith(("geerlingguy", "llama.cpp discussion", "brand-o", "turbo"))]
    told = [replace(r, seconds=r.seconds * 2) if r.source.startswith("turbo") else r for r in rows]
    one, two = (fit_timing.leave_out(tm.table(chosen)) for chosen in (rows, told))
    theirs = np.array([r.source.startswith("turbo") for r in rows])
    assert np.array_equal(one.log_seconds[theirs], two.log_seconds[theirs])
    assert np.array_equal(one.spread[theirs], two.spread[theirs])
    assert not np.allclose(one.log_seconds[~theirs], two.log_seconds[~theirs])


def test_shipped_constants_are_the_fits() -> None:
    """priors.json is what the script writes from the committed rows (it rounds to 4 digits), published.json too."""
    t = gathered()
    rows, fitted, shipped = t.rows, tm.fit(t, np.arange(len(t.y))), priors()
    assert list(shipped.means) == list(t.names)
    assert np.allclose(list(shipped.means.values()), fitted.constants, atol=2e-3)
    assert np.allclose(shipped.covariance, fitted.covariance, atol=2e-3)
    assert dict(shipped.before) == tm.BEFORE
    for kind, own in fitted.spreads.items():
        assert shipped.spreads[kind] == pytest.approx(dict(own), abs=1e-3)
    keys = {int(code): tm.machine_key(row) for row, code in zip(rows, t.groups[tm.MACHINE], strict=True)}
    assert set(shipped.levels) == {"|".join(key) for key in keys.values()}
    for code, level in fitted.levels.items():
        same = shipped.level(*keys[code])
        assert same.names == level.names and np.allclose(same.means, level.means, atol=2e-3)
        assert np.allclose(same.covariance, level.covariance, atol=2e-3)
    counted = json.loads((ROOT / "memfirst" / "catalog" / "published.json").read_text(encoding="utf-8"))["rows"]
    assert counted == fit_timing.published(rows)
    assert 0.8 < shipped.widen < 1.5 and 0.8 < shipped.widen_known < 2.0


def test_the_fit_and_the_planner_compute_the_same() -> None:
    """Arrays in the fit, one step at a time in the planner: seconds and slopes of every fifth row."""
    rows = [r for r in gathered().rows[::5] if r.prompt is None]
    t, shipped = tm.table(rows), priors()
    levels = {int(g): shipped.level(*tm.machine_key(row)) for row, g in zip(rows, t.groups[tm.MACHINE], strict=True)}
    own = {(g, n): float(v) for g, level in levels.items() for n, v in zip(level.names, level.means, strict=True)}
    log_seconds, slopes = tm.model(t, np.array([shipped.mean(n) for n in t.names]), own, np.arange(len(rows)))
    for i, row in enumerate(rows):
        found = estimate(pieces(row.cost, row.machine, row.how), shipped, levels[int(t.groups[tm.MACHINE][i])])
        assert found.log_seconds == pytest.approx(log_seconds[i])
        assert [found.slope.get(n, 0.0) for n in t.names] == pytest.approx(slopes[i].tolist())
        assert sum(found.shares) == pytest.approx(1)


def test_what_rows_say_of_a_machine_moves_its_prediction() -> None:
    """A machine with a level of its own, against the same one under another name; and a narrower interval."""
    card, how = find_machine("rtx-4090"), Deployment()
    other = replace(card, name="nobodys")
    mine, unseen = predict(SEVEN_B, card, how), predict(SEVEN_B, other, how)
    assert mine.seconds and mine.high and mine.low and unseen.seconds and unseen.high and unseen.low
    assert mine.seconds != unseen.seconds
    assert mine.high / mine.low < unseen.high / unseen.low


def test_backends_of_one_card_differ() -> None:
    """A Radeon's prompts by ROCm and by Vulkan; a CUDA card asked for Vulkan; processors have one."""
    prompt = replace(SEVEN_B, tokens=512, flops=512 * 1.4e10)
    card = find_machine("r9700")
    assert seconds(prompt, card, Deployment()) == seconds(prompt, card, Deployment(backend="rocm"))
    assert seconds(prompt, card, Deployment(backend="vulkan")) > 1.2 * seconds(prompt, card, Deployment())
    cuda = find_machine("rtx-4090")
    assert seconds(prompt, cuda, Deployment(backend="vulkan")) > seconds(prompt, cuda, Deployment())
    cpu = find_machine("ryzen-7950x")
    assert seconds(prompt, cpu, Deployment(backend="vulkan")) == seconds(prompt, cpu, Deployment())


def test_a_long_prompt_reads_weights_for_each_batch_of_it() -> None:
    """llama.cpp cuts 2,048 tokens into four; vLLM takes them at once."""
    prompt = replace(SEVEN_B, tokens=2048, flops=2048 * 1.4e10)
    read = {e: sum(p.seconds for p in pieces(prompt, find_machine("rtx-4090"), Deployment(e)) if p.lane == MEMORY_LANE)
            for e in ("llama.cpp", "vllm")}  # fmt: skip
    assert read["llama.cpp"] == pytest.approx(4 * read["vllm"])


def test_a_prompt_uses_matrix_units() -> None:
    """A share of their peak between 2 % and 95 %, everywhere in the catalogue."""
    prompt = replace(SEVEN_B, tokens=2048, flops=2048 * 1.4e10)
    for machine in catalogue():
        found = predict(prompt, machine)
        assert found.mfu and 0.02 < found.mfu < 0.95, machine.name
        assert any(p.lane == MATMUL_LANE for p in pieces(prompt, machine, Deployment()))


def test_published_speeds_lie_near() -> None:
    """RTX 4090, Llama-3-8B Q4_K_M, 1024 tokens, May 2024: 127.74 tokens/s; M2 Ultra 76.28."""
    asked = Cost({"weights": 4.622e9, "kv_read": 6.7e7}, 1.53e10, 1, 32, "q4_k", 1, 4096)
    old = Deployment(flash=False, age=1.6)
    for name, measured in (("rtx-4090", 127.74), ("m2-ultra", 76.28)):
        found = predict(asked, find_machine(name), old)
        assert found.slowest and found.fastest and found.slowest < measured < found.fastest
        today = predict(asked, find_machine(name))
        assert today.tokens_per_second and today.tokens_per_second > measured * exp(-0.05)
