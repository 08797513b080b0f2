"""Models with routed experts and latent attention: published sizes, transformers' logits, their own GGUF files."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import quants
from safetensors.numpy import load_file, save_file

import memfirst
from memfirst import models
from memfirst.backends.reference.backend import ReferenceBackend
from memfirst.cli import contents, inspect
from memfirst.errors import ConfigError, FormatError, MemfirstError, UnsupportedError
from memfirst.formats.hf import HFCheckpoint
from memfirst.formats.open import open_checkpoint
from memfirst.graph import Graph, KVCache, Op, decode, prefill
from memfirst.graph.ops.attention import Attention
from memfirst.graph.ops.experts import Experts, Router
from memfirst.graph.ops.latent import LatentAttention
from memfirst.graph.ops.norm import RMSNorm
from memfirst.graph.ops.rope import Rope
from memfirst.graph.ops.scale import Scale
from memfirst.graph.ops.temperature import Temperature
from memfirst.graph.ops.token_gate import TokenGate
from memfirst.graph.ops.unit_norm import UnitNorm
from memfirst.graph.runtime import Runtime, Values
from memfirst.ledger import price, table
from memfirst.lower import cpu
from memfirst.models import ShapeOnly, quantized, rope
from tests.support import experts_gguf
from tests.support.experts_configs import MODELS, V2_LITE, YARN
from tests.support.make_experts_fixture import CASES, FOLDER, make
from tests.support.toy import F32, one

CLOSE = 1e-4
NAMES = sorted(CASES)
DEEPSEEK = [name for name in NAMES if name.startswith("deepseek")]
WHOLE = [name for name in NAMES if not name.startswith("llama4")]
"""Those of whose numbers GGUF has all."""
GGUF_FORMS = [(name, False) for name in WHOLE] + [(name, True) for name in DEEPSEEK]
BARE = ("mixtral", "qwen3_moe", "gpt_oss", "deepseek_v2", "deepseek_v3")


def bare(config: Mapping[str, Any]) -> Graph:
    """The graph of a config.json without weights."""
    return models.build(HFCheckpoint("config.json", dict(config), []))


def in_f32(config: Mapping[str, Any]) -> Graph:
    """The same with every weight of 4 bytes: prices ÷ 4 are parameters."""
    checkpoint = HFCheckpoint("config.json", dict(config), [])
    architecture = models.BY_MODEL_TYPE.get(config["model_type"], models.find(checkpoint.architecture))
    return architecture.build(architecture.from_hf(quantized.without(config), False), ShapeOnly("f32"))


def parameters(graph: Graph) -> int:
    return sum(math.prod(w.shape) for w in graph.weights().values())


def first(graph: Graph, kind: type[Op]) -> Any:
    return next(op for op in graph.ops if isinstance(op, kind))


# --- what is published


@pytest.mark.parametrize("name", MODELS)
def test_parameters_streamed_weights_and_kv_are_the_published(name: str) -> None:
    """To the last digit. What is streamed at batch 1 is exact: k experts, whichever they are."""
    known = MODELS[name]
    graph = in_f32(known.config)
    assert parameters(graph) == known.params
    read = price(graph, decode(0)).by_purpose()
    assert sum(int(read[purpose]) for purpose in ("weights", "experts", "head")) == 4 * known.streamed
    assert all(amount.exact for amount in read.values())
    assert int(read["embedding"]) == 4 * known.config["hidden_size"]
    assert sum(c.position_bytes for c in graph.caches if isinstance(c, KVCache)) == known.kv_bytes
    assert table(price(graph, decode(0)))["kv_read"] == known.kv_bytes


@pytest.mark.parametrize("tokens", [1, 2, 7, 64, 5000])
@pytest.mark.parametrize("name", ["Mixtral-8x7B", "Qwen3-30B-A3B", "gpt-oss-20b", "DeepSeek-V3"])
def test_distinct_experts_are_an_expectation_with_bounds(name: str, tokens: int) -> None:
    """E·(1 − (1 − k/E)^n) of each layer, between k and min(E, k·n); group-limited picking changes none of it."""
    graph = in_f32(MODELS[name].config)
    layers = [op for op in graph.ops if isinstance(op, Experts)]
    count, k = layers[0].gate.shape[0], layers[0].k
    one_expert = sum(4 * math.prod(w.shape[1:]) for w in layers[0].weights)
    for step in (prefill(tokens), decode(100, batch=tokens)):
        found = price(graph, step).by_purpose()["experts"]
        expected = count * (1 - (1 - k / count) ** tokens)
        assert found.mean == pytest.approx(len(layers) * one_expert * expected, rel=1e-12)
        assert found.low == len(layers) * one_expert * k
        assert found.high == len(layers) * one_expert * min(count, k * tokens)


def test_groups_leave_the_expected_number_of_experts() -> None:
    """Drawn: 8 groups of 4, 3 of them used, 6 experts a token; 5 tokens read 32·(1 − (26/32)^5) = 20.67 experts."""
    router = Router("r", ("x",), "r", ShapeOnly("f32")("w", (32, 5)), 6, groups=8, groups_used=3)
    drawn = np.random.default_rng(0).standard_normal((5000, 32, 5)).astype(np.float32)  # each token its own column
    picked = [np.count_nonzero(picks(router, np.eye(5, dtype=np.float32), each).any(axis=0)) for each in drawn]
    assert np.mean(picked) == pytest.approx(32 * (1 - (26 / 32) ** 5), rel=0.005)


class OneWeight(Runtime):
    """A runtime of one matrix."""

    def __init__(self, matrix: F32) -> None:
        self.matrix = matrix

    def weight(self, weight: Any) -> F32:
        return self.matrix


def picks(router: Router, x: F32, matrix: F32) -> F32:
    inputs: Values = (x,)
    return router.reference(OneWeight(matrix), inputs)  # type: ignore[abstract]


def test_a_config_states_its_codecs() -> None:
    """gpt-oss: experts in MXFP4, 17 bytes per 32, the rest in bf16. V3: FP8 but for embedding, head and routers."""
    d, layers, experts, inner = 2880, 24, 32, 2880
    graph = bare(MODELS["gpt-oss-20b"].config)
    matrices = layers * experts * 3 * d * inner
    assert sum(w.nbytes for w in graph.weights().values() if w.codec == "mxfp4") == matrices // 32 * 17
    floats = sum(4 * math.prod(w.shape) for w in graph.weights().values() if len(w.shape) == 1)
    vectors = layers * (64 + 8 * 64 * 2 + 64 * 64 + d + experts + 2 * d) + d  # sinks, k and v, q, o, router, norms
    assert floats == 4 * vectors
    halves = MODELS["gpt-oss-20b"].params - matrices - vectors
    assert sum(w.nbytes for w in graph.weights().values()) == matrices // 32 * 17 + 2 * halves + floats
    third = bare(MODELS["DeepSeek-V3"].config).weights()
    assert {w.codec for w in third.values()} == {"f32", "bf16", "f8_e4m3-g128x128-32"}
    wide = {n.split(".")[-2] for n, w in third.items() if w.codec == "bf16"}
    assert wide == {"token_embd", "output", "ffn_gate_inp"}
    assert third["blk.60.ffn_down_exps.weight"].nbytes == 256 * (7168 * 2048 + 7168 // 128 * 2048 // 128 * 4)


# --- traps for a config reader


def test_heads_are_not_hidden_size_over_heads() -> None:
    """gpt-oss: 2880/64 = 45, but 64; Qwen3-30B-A3B: 2048/32 = 64, but 128; MLA: neither."""
    for name, dim in (("gpt-oss-20b", 64), ("Qwen3-30B-A3B", 128)):
        attention = first(in_f32(MODELS[name].config), Attention)
        assert (attention.cache.k_dim, attention.scale) == (dim, pytest.approx(dim**-0.5))
    latent = first(in_f32(V2_LITE), LatentAttention)
    assert (latent.nope, latent.cache.k_dim, latent.width) == (128, 512 + 64, 16 * 128)


def test_windows_are_where_the_model_has_them() -> None:
    """gpt-oss: 128 in layers 0, 2, …; Mixtral's null is none, and a number is all layers; Qwen3's is switched off."""
    graph = bare(MODELS["gpt-oss-120b"].config)
    assert [c.window for c in graph.caches if isinstance(c, KVCache)] == [128, None] * 18
    read = [table(price(graph, decode(past)))["kv_read"] for past in (127, 1000)]
    layer = 2 * 8 * 64 * 2
    assert read == [36 * 128 * layer, 18 * (128 + 1001) * layer]
    mixtral = MODELS["Mixtral-8x7B"].config
    assert {c.window for c in bare(mixtral).caches if isinstance(c, KVCache)} == {None}
    assert {c.window for c in bare(mixtral | {"sliding_window": 4096}).caches if isinstance(c, KVCache)} == {4096}
    qwen = MODELS["Qwen3-30B-A3B"].config | {"sliding_window": 4096}
    assert {c.window for c in bare(qwen).caches if isinstance(c, KVCache)} == {None}


MISSING = {
    "gpt-oss-20b": ("num_local_experts", "sliding_window", "head_dim", "rope_scaling", "num_key_value_heads"),
    "DeepSeek-V2-Lite": ("kv_lora_rank", "q_lora_rank", "n_routed_experts", "num_experts_per_tok", "n_shared_experts"),
    "DeepSeek-V3": ("moe_intermediate_size", "n_group", "topk_group", "routed_scaling_factor", "first_k_dense_replace"),
    "dots.llm1": ("routed_scaling_factor", "n_shared_experts", "norm_topk_prob", "moe_intermediate_size"),
    "DeepSeekMoE-16B": ("num_experts_per_tok", "n_shared_experts", "first_k_dense_replace", "norm_topk_prob"),
    "Mixtral-8x7B": ("num_experts_per_tok", "num_key_value_heads", "num_local_experts"),
    "Qwen3-30B-A3B": ("num_experts", "moe_intermediate_size", "head_dim", "norm_topk_prob"),
}


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, keys in MISSING.items() for key in keys])
def test_a_missing_size_is_never_taken_from_a_class(name: str, key: str) -> None:
    """transformers' defaults are another checkpoint's: GptOssConfig is the 120b, DeepseekV2Config no published one."""
    config = {k: v for k, v in MODELS[name].config.items() if k != key}
    with pytest.raises(ConfigError, match=rf"({key}|num_local_experts|rope_parameters) is missing|45 of 45"):
        bare(config)


def test_a_null_q_lora_rank_is_one_projection() -> None:
    """V2-Lite, where the class would say 1536."""
    lite, full = in_f32(V2_LITE).weights(), in_f32(MODELS["DeepSeek-V2"].config).weights()
    assert lite["blk.0.attn_q.weight"].shape == (16 * 192, 2048) and "blk.0.attn_q_a.weight" not in lite
    assert full["blk.0.attn_q_a.weight"].shape == (1536, 5120) and "blk.0.attn_q.weight" not in full


def test_the_latent_is_cached_and_not_the_heads() -> None:
    """V3: 61 · 576 · 2 = 70,272 bytes a token, read once for all heads; expanded it would be 71 times that."""
    graph = in_f32(MODELS["DeepSeek-V3"].config)
    assert {(c.heads, c.k_dim, c.v_dim) for c in graph.caches if isinstance(c, KVCache)} == {(1, 576, 0)}
    expanded = 61 * 128 * (192 + 128) * 2
    assert expanded / (61 * 576 * 2) == pytest.approx(71.1, abs=0.02)
    assert table(price(graph, decode(999)))["kv_read"] == 1000 * 61 * 576 * 2


def test_what_v3_predicts_further_tokens_with_is_left_out() -> None:
    """A 62nd layer is no part of decoding: the same graph, whether config.json mentions it or not."""
    config = MODELS["DeepSeek-V3"].config
    assert bare(config) == bare({k: v for k, v in config.items() if k != "num_nextn_predict_layers"})


def test_yarn_scales_the_scores_and_not_the_angles() -> None:
    """mscale = mscale_all_dim: cosines stay; scores grow by (0.1 · 0.707 · ln 40 + 1)², as GGUF's multiplier says."""
    graph = in_f32(V2_LITE)
    assert first(graph, Rope).factor == 1.0
    assert first(graph, LatentAttention).scale == pytest.approx((0.0707 * math.log(40) + 1) ** 2 / math.sqrt(192))
    plain = in_f32({**V2_LITE, "rope_scaling": {k: v for k, v in YARN.items() if "mscale" not in k}})
    assert first(plain, Rope).factor == pytest.approx(1 + 0.1 * math.log(40))
    assert first(plain, LatentAttention).scale == pytest.approx(192**-0.5)
    other = in_f32({**V2_LITE, "rope_scaling": {**YARN, "mscale": 1.0}})
    assert first(other, Rope).factor == pytest.approx((1 + 0.1 * math.log(40)) / (1 + 0.0707 * math.log(40)))


def test_gpt_oss_ramps_between_fractions_of_pairs() -> None:
    """By hand: kept up to the pair of 32 turns, divided by 32 from that of 1 turn on; no end is rounded."""
    ends = [64 * math.log(4096 / (turns * 2 * math.pi)) / (2 * math.log(150000)) for turns in (32.0, 1.0)]
    assert [e == round(e) for e in ends] == [False, False]
    shares = [min(1.0, max(0.0, (i - ends[0]) / (ends[1] - ends[0]))) for i in range(32)]
    plain = [150000 ** (-i / 32) for i in range(32)]
    expected = [f * (1 - share) + f / 32 * share for f, share in zip(plain, shares, strict=True)]
    turn = first(bare(MODELS["gpt-oss-20b"].config), Rope)
    assert turn.frequencies == pytest.approx(expected, rel=1e-12)
    assert turn.factor == pytest.approx(1 + 0.1 * math.log(32))


# --- meaning: against transformers


def logits(graph: Graph, checkpoint: Any, tokens: Any) -> F32:
    n = len(tokens)
    return ReferenceBackend(graph, checkpoint).step(one(0, n, logits=tuple(range(n))), tokens)


def parity(path: Path, folder: Path, change: Callable[[Op], Op] = lambda op: op) -> float:
    """Largest difference of any logit from transformers'."""
    checkpoint, expected = open_checkpoint(path), np.load(folder / "expected.npz")
    graph = models.build(checkpoint)
    graph = replace(graph, ops=tuple(change(op) for op in graph.ops))
    return float(np.abs(logits(graph, checkpoint, expected["tokens"]) - expected["logits"]).max())


@pytest.mark.parametrize("name", NAMES)
def test_parity_with_transformers(name: str) -> None:
    """40 positions, beyond windows and original contexts; logits spread over several units."""
    assert np.load(FOLDER / name / "expected.npz")["logits"].std() > 1
    assert parity(FOLDER / name, FOLDER / name) <= CLOSE


@pytest.mark.parametrize("name", NAMES)
def test_parity_live(name: str, tmp_path: Path) -> None:
    """The same with other weights, where torch and transformers are installed."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    make(name, tmp_path, seed=99)
    assert parity(tmp_path, tmp_path) <= CLOSE


@pytest.mark.parametrize(("name", "older"), GGUF_FORMS)
def test_parity_through_gguf(name: str, older: bool, tmp_path: Path) -> None:
    """The folder as llama.cpp's converter writes it, MLA's kv_b in one tensor too: the same logits."""
    path = experts_gguf.write(FOLDER / name, tmp_path / "m.gguf", older)
    assert parity(path, FOLDER / name) <= CLOSE
    latent = [op for op in models.build(open_checkpoint(path)).ops if isinstance(op, LatentAttention)]
    assert all((op.v_b is None) == older for op in latent)


@pytest.mark.parametrize("name", ["llama4", "llama4_large"])
def test_a_llama_4_of_gguf_attends_as_its_name_says(name: str, tmp_path: Path) -> None:
    """GGUF has no keys for chunks, layers without rotation, temperatures and norms of q and k: as in the published
    models (128 experts: no norms), and with these numbers in config.json the folder's own logits."""
    for file in (FOLDER / name).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    for key in ("no_rope_layers", "layer_types"):
        del config[key]
    config |= {"attention_chunk_size": 8192, "floor_scale": 8192, "attn_scale": 0.1, "no_rope_layer_interval": 4}
    config["max_position_embeddings"] = 16384
    (tmp_path / "config.json").write_text(json.dumps(config | {"use_qk_norm": True}))
    tokens = np.load(FOLDER / name / "expected.npz")["tokens"]
    folder, path = open_checkpoint(tmp_path), experts_gguf.write(tmp_path, tmp_path / "m.gguf")
    graph, read = models.build(folder), models.build(open_checkpoint(path))
    near(read, graph)
    assert [(c.window, c.chunked) for c in read.caches if isinstance(c, KVCache)] == [(8192, True)] * 3 + [
        (None, False)
    ]
    found = logits(read, open_checkpoint(path), tokens)
    np.testing.assert_allclose(found, logits(graph, folder, tokens), atol=CLOSE, rtol=0)


def of(kind: type[Op], **changes: Any) -> Callable[[Op], Op]:
    """Every operation of that kind, changed."""
    return lambda op: replace(op, **changes) if isinstance(op, kind) else op


def no_window(op: Op) -> Op:
    return replace(op, cache=replace(op.cache, window=None)) if isinstance(op, Attention) else op


def wider_window(op: Op) -> Op:
    window = isinstance(op, Attention) and op.cache.window
    return replace(op, cache=replace(op.cache, window=window + 1)) if window and isinstance(op, Attention) else op


def moving_window(op: Op) -> Op:
    return replace(op, cache=replace(op.cache, chunked=False)) if isinstance(op, Attention) else op


def other_angle(op: Op) -> Op:
    """The second pair turns a tenth faster."""
    if not isinstance(op, Rope):
        return op
    fast, second, *rest = op.frequencies
    return replace(op, frequencies=(fast, 1.1 * second, *rest))


def rounded_ramp(op: Op) -> Op:
    """gpt-oss's YaRN with the ramp's ends at whole pairs, as in other models."""
    scaling = rope.RopeScaling("yarn", 32.0, original=40, truncate=True)
    return replace(op, frequencies=rope.frequencies(150.0, 8, scaling)) if isinstance(op, Rope) else op


def ungated(op: Op) -> Op:
    """All of the shared expert."""
    return Scale(op.name, op.inputs[:1], op.output, op.width, 1.0) if isinstance(op, TokenGate) else op


MUTANTS: list[tuple[str, Callable[[Op], Op]]] = [
    ("mixtral", of(Router, normalize=False)), ("mixtral", of(Router, k=1)),
    ("mixtral", of(Rope, style="half")), ("qwen3_moe", of(Router, normalize=False)),
    ("qwen3_moe", of(Rope, style="interleaved")), ("qwen3_moe", of(Router, scoring="sigmoid")),
    ("deepseek_v2", of(Router, groups=1)), ("deepseek_v2", of(Router, scale=1.0)),
    ("deepseek_v2", of(Router, groups_used=3)), ("deepseek_v2", of(Rope, start=0)),
    ("deepseek_v2_lite", of(Router, normalize=True)), ("deepseek_v2_lite", of(LatentAttention, scale=12**-0.5)),
    ("deepseek_v2_lite", of(Rope, style="half")), ("deepseek_v2_lite", other_angle),
    ("deepseek_v3", of(Router, bias=None)), ("deepseek_v3", of(Router, groups=1)),
    ("deepseek_v3", of(Router, normalize=False)), ("deepseek_v3", of(Router, scoring="softmax")),
    ("gpt_oss", of(Attention, sinks=None)), ("gpt_oss", no_window), ("gpt_oss", wider_window),
    ("gpt_oss", of(Router, logit_bias=None)), ("gpt_oss", of(Experts, down_b=None)),
    ("gpt_oss", of(Experts, gate_b=None)), ("gpt_oss", of(Experts, activation="silu")), ("gpt_oss", rounded_ramp),
    ("qwen2_moe", of(Router, normalize=True)), ("qwen2_moe", ungated), ("olmoe", of(Router, normalize=True)),
    ("glm4_moe", of(Router, bias=None)), ("glm4_moe", of(Router, normalize=False)), ("glm4_moe", other_angle),
    ("glm4_moe_large", of(Router, scale=1.0)), ("minimax_m2", of(Router, bias=None)),
    ("dots1", of(Router, bias=None)), ("dots1", of(Router, scale=1.0)), ("dots1", of(Router, scoring="softmax")),
    ("minimax_m2", of(Router, scoring="softmax")), ("ernie4_5_moe", of(Router, bias=None)),
    ("ernie4_5_moe", of(Router, scoring="sigmoid")), ("ernie4_5_moe", of(Rope, style="half")),
    ("granitemoeshared", of(Router, normalize=False)), ("granitemoeshared", of(Scale, factor=1.0)),
    ("hunyuan_moe", of(Router, normalize=False)), ("gemma4_moe", of(Router, expert_scale=None)),
    ("gemma4_moe", of(Experts, activation="silu")), ("gemma4_moe", of(UnitNorm, heads=0)),
    ("llama4", of(Experts, weigh_input=False)), ("llama4", of(Router, scoring="softmax")), ("llama4", no_window),
    ("llama4", wider_window), ("llama4", moving_window), ("llama4", of(UnitNorm, heads=1)),
    ("llama4", of(UnitNorm, eps=1e-6)), ("llama4", of(Temperature, floor=6)), ("llama4", of(Temperature, slope=0.3)),
    ("llama4", of(Rope, style="half")), ("llama4_large", of(Experts, weigh_input=False)),
    ("llama4_large", of(Router, normalize=True)), ("llama4_large", of(Router, k=1)),
]  # fmt: skip


@pytest.mark.parametrize("index", range(len(MUTANTS)))
def test_parity_sees_a_wrong_model(index: int) -> None:
    """The fixtures are sharp enough for each of these mistakes."""
    name, change = MUTANTS[index]
    assert parity(FOLDER / name, FOLDER / name, change) > 10 * CLOSE


@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_in_chunks_gives_the_same(name: str) -> None:
    """Token by token and in chunks: routing and latents do not depend on how a prompt is cut."""
    checkpoint, tokens = open_checkpoint(FOLDER / name), np.load(FOLDER / name / "expected.npz")["tokens"]
    graph = models.build(checkpoint)
    whole, run = logits(graph, checkpoint, tokens), ReferenceBackend(graph, checkpoint)
    cuts = [0, 1, 2, 9, 30, 40]
    parts = [run.step(one(a, b - a, logits=tuple(range(b - a))), tokens[a:b]) for a, b in pairwise(cuts)]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-4, rtol=0)


# --- files


def counted(path: Path, k: int, experts: int) -> dict[str, int]:
    """What a token reads of a GGUF file's weights, from the `gguf` package's own reader."""
    reader = gguf.GGUFReader(path)
    out = {"weights": 0, "experts": 0, "head": 0, "embedding": 0}
    tied = all(t.name != "output.weight" for t in reader.tensors)
    for t in reader.tensors:
        if t.name == "token_embd.weight":
            out["embedding"] += int(t.n_bytes) // int(t.shape[1])
            out["head"] += int(t.n_bytes) if tied else 0
        elif t.name.startswith("rope_freqs") or "output_scale" in t.name:
            continue  # numbers that are a part of the graph
        elif "_exps." in t.name and not t.name.endswith("exps.scale"):
            out["experts"] += int(t.n_bytes) * k // experts
        else:
            out["head" if t.name.startswith("output") else "weights"] += int(t.n_bytes)
    return out


@pytest.mark.parametrize(("name", "older"), GGUF_FORMS)
def test_the_price_of_a_gguf_file_is_a_count_of_its_tensors(name: str, older: bool, tmp_path: Path) -> None:
    """Every tensor once, k of E experts, a row of the embedding; all tensors belong to the model."""
    path = experts_gguf.write(FOLDER / name, tmp_path / "m.gguf", older)
    config = json.loads((FOLDER / name / "config.json").read_text())
    experts = next(config[key] for key in COUNTS if config.get(key))
    used = next(config[key] for key in USED if config.get(key))
    checkpoint = open_checkpoint(path)
    bytes_of = table(price(models.build(checkpoint), decode(0)))
    expected = counted(path, used, experts)
    assert {purpose: bytes_of[purpose] for purpose in expected} == expected
    latent, heads = "kv_lora_rank" in config, config["num_key_value_heads"]
    kv = (
        2 * (config["kv_lora_rank"] + config["qk_rope_head_dim"])
        if latent
        else 2 * 2 * heads * (config.get("head_dim") or 8)
    )
    wide = len(config.get("per_layer_config", ()))  # Gemma 4's layers without a window have heads of twice the size
    assert bytes_of["kv_read"] == bytes_of["kv_write"] == (config["num_hidden_layers"] + wide) * kv
    assert checkpoint.architecture == experts_gguf.ARCHITECTURES[config["model_type"]]


COUNTS = ("num_local_experts", "n_routed_experts", "num_experts", "moe_num_experts")
USED = ("num_experts_per_tok", "moe_k", "moe_topk", "top_k_experts")


def near(a: Graph, b: Graph) -> None:
    """The same operations; YaRN's multiplier is a float32 in GGUF, so scales are equal to 1e-6."""

    assert replace(a, ops=tuple(map(rounded, a.ops))) == replace(b, ops=tuple(map(rounded, b.ops)))


def rounded(op: Op) -> Op:
    """Weights without their codecs, MLA's scale to 11 bits, angles to six digits: a theta is a float32 in GGUF."""
    plain = op.with_weights({w.name: replace(w, codec="f32") for w in op.weights})
    if isinstance(plain, Rope):
        return replace(plain, frequencies=tuple(float(f"{f:.5g}") for f in plain.frequencies))
    return replace(plain, scale=float(np.float16(plain.scale))) if isinstance(plain, LatentAttention) else plain


@pytest.mark.parametrize("name", WHOLE)
def test_both_forms_of_a_model_give_the_same_graph(name: str, tmp_path: Path) -> None:
    """Folder and GGUF: the same operations over the same shapes (codecs of routers and biases differ)."""
    path = experts_gguf.write(FOLDER / name, tmp_path / "m.gguf")
    near(models.build(open_checkpoint(path)), models.build(open_checkpoint(FOLDER / name)))


def apart(arrays: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Gate and up, which Gemma 4's files have in one tensor, as two."""
    for name, array in arrays.items():
        if "ffn_gate_up_exps" in name:
            yield from zip(
                (name.replace("gate_up", part) for part in ("gate", "up")), np.split(array, 2, 1), strict=True
            )
        else:
            yield name, array


def test_fused_gate_and_up_of_a_gguf_file_are_two_tensors(tmp_path: Path) -> None:
    """Each expert's rows of gate, then of up: read as views, and priced apart."""
    path = experts_gguf.write(FOLDER / "gemma4_moe", tmp_path / "m.gguf")
    stored = {t.name: t.data for t in gguf.GGUFReader(path).tensors}
    file, name = open_checkpoint(path), "blk.1.ffn_gate_up_exps.weight"
    assert name in stored and name not in file.tensors
    for half, array in apart({name: stored[name]}):
        assert file.tensors[half].shape == array.shape and file.tensors[half].nbytes == array.nbytes
        np.testing.assert_array_equal(file.read(half).view("<f2").reshape(array.shape), array)
        file.release(half)
    with pytest.raises(KeyError):
        file.read("blk.9.ffn_up_exps.weight")


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_reads_as_the_file_that_the_converter_writes(name: str, tmp_path: Path) -> None:
    """Experts stacked, kv_b cut and turned, gpt-oss's columns apart: every value at its place."""
    config = json.loads((FOLDER / name / "config.json").read_text())
    folder = open_checkpoint(FOLDER / name)
    expected = dict(apart(experts_gguf.tensors(FOLDER / name, config)))
    assert folder.tensors.keys() == expected.keys()
    for tensor, array in expected.items():
        info = folder.tensors[tensor]
        assert info.shape == array.shape, tensor
        found = folder.read(tensor)
        assert not found.flags.writeable and found.nbytes == info.nbytes
        np.testing.assert_array_equal(found.view(info.codec.replace("f", "<f").replace("16", "2").replace("32", "4")),
                                      array.reshape(-1).astype("f4" if info.codec == "f32" else "f2"))  # fmt: skip
        folder.release(tensor)


def first_deepseek(folder: Path) -> Path:
    """A folder of the first DeepSeek, of which transformers has no model: dots.llm1's without what it lacks."""
    folder.mkdir()
    config = json.loads((FOLDER / "dots1" / "config.json").read_text())
    config |= {"model_type": "deepseek", "norm_topk_prob": False, "routed_scaling_factor": 1.0, "head_dim": None}
    config |= {"scoring_func": "softmax", "intermediate_size": 32, "num_key_value_heads": 4}
    for key in ("layer_types", "max_window_layers"):
        del config[key]
    drawn, arrays = np.random.default_rng(1), load_file(FOLDER / "dots1" / "model.safetensors")
    for name in list(arrays):
        if "q_norm" in name or "k_norm" in name or "e_score" in name:
            del arrays[name]
        elif "self_attn" in name:
            arrays[name] = (drawn.standard_normal((32, 32)) / 4).astype(np.float16)
    save_file(arrays, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_the_first_deepseek_is_the_same_from_a_folder_and_from_gguf(tmp_path: Path) -> None:
    """Its heads' halves are pairs in GGUF, as Llama's: the same operations, values and logits."""
    folder = first_deepseek(tmp_path / "folder")
    path = experts_gguf.write(folder, tmp_path / "m.gguf")
    ours, file = open_checkpoint(folder), open_checkpoint(path)
    near(models.build(file), models.build(ours))
    for name, array in experts_gguf.tensors(folder, json.loads((folder / "config.json").read_text())).items():
        width = "<f4" if ours.tensors[name].codec == "f32" else "<f2"
        np.testing.assert_array_equal(ours.read(name).view(width), array.reshape(-1).astype(width))
    tokens = np.arange(40, dtype=np.int32)
    np.testing.assert_allclose(
        logits(models.build(ours), ours, tokens), logits(models.build(file), file, tokens), atol=1e-5
    )


def published_mxfp4(folder: Path, to: Path) -> None:
    """gpt-oss's folder with its experts in MXFP4 as they are published: blocks of neighbours, and exponents."""
    arrays = load_file(folder / "model.safetensors")
    for name in [n for n in arrays if n.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        rows = np.ascontiguousarray(arrays.pop(name).transpose(0, 2, 1), np.float32)
        blocks = quants.quantize(rows, experts_gguf.MXFP4).reshape(*rows.shape[:2], -1, 17)
        low, high = blocks[..., 1:] & 15, blocks[..., 1:] >> 4
        codes = np.concatenate([low, high], axis=-1)  # columns 0..31
        arrays[f"{name}_blocks"] = np.ascontiguousarray(codes[..., 0::2] | codes[..., 1::2] << 4)
        arrays[f"{name}_scales"] = np.ascontiguousarray(blocks[..., 0])
    save_file(arrays, to / "model.safetensors")
    config = json.loads((folder / "config.json").read_text()) | {"quantization_config": {"quant_method": "mxfp4"}}
    (to / "config.json").write_text(json.dumps(config))


def test_mxfp4_is_the_same_from_a_folder_and_from_gguf(tmp_path: Path) -> None:
    """Bytes, price (17 per 32 weights) and logits; and near those of the unquantized model."""
    source = FOLDER / "gpt_oss"
    published_mxfp4(source, tmp_path)
    path = experts_gguf.write(source, tmp_path / "m.gguf", experts=experts_gguf.MXFP4)
    folder, file = open_checkpoint(tmp_path), open_checkpoint(path)
    for name, info in file.tensors.items():
        if info.codec == "mxfp4":
            assert folder.tensors[name] == info
            np.testing.assert_array_equal(folder.read(name), file.read(name))
    tokens = np.load(source / "expected.npz")["tokens"]
    a, b = (logits(models.build(c), c, tokens) for c in (folder, file))
    np.testing.assert_allclose(a, b, atol=1e-5, rtol=0)
    bytes_of = table(price(models.build(file), decode(0)))
    assert bytes_of["experts"] == 2 * 2 * (3 * 32 * 32 // 32 * 17 + 4 * 3 * 32)
    assert 0.05 < np.abs(a - np.load(source / "expected.npz")["logits"]).max() < 5


def test_v3s_further_layers_and_fp8_scales_are_left_alone(tmp_path: Path) -> None:
    """A folder's layer 2 of 2 and its scales; a GGUF file that counts such a layer among its blocks."""
    source = FOLDER / "deepseek_v3"
    arrays = load_file(source / "model.safetensors")
    extra = {"model.layers.2.eh_proj.weight": np.zeros((4, 4), "f2"),
             "model.layers.1.self_attn.o_proj.weight_scale_inv": np.ones((1, 1), "f4")}  # fmt: skip
    save_file(arrays | extra, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((source / "config.json").read_bytes())
    folder = open_checkpoint(tmp_path)
    assert isinstance(folder, HFCheckpoint) and sorted(folder.ignored) == sorted(extra)
    assert models.build(folder) == models.build(open_checkpoint(source))
    more = {"blk.2.nextn.eh_proj.weight": np.zeros((4, 4), np.float32)}
    file = open_checkpoint(experts_gguf.write(source, tmp_path / "m.gguf", more=more))
    with pytest.raises(ConfigError, match=r"not part of this model: blk\.2\.nextn"):
        models.build(file)
    metadata = {**file.metadata, "deepseek2.block_count": 3, "deepseek2.nextn_predict_layers": 1}
    file.metadata = metadata
    near(models.build(file), models.build(folder))


# --- what is refused


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda a: a.pop("model.layers.1.mlp.experts.3.up_proj.weight"), "each of 0..7 once"),
        (
            lambda a: a.update({"model.layers.1.mlp.experts.8.up_proj.weight": np.zeros((12, 32), "f2")}),
            "9, 12, 32",
        ),
        (lambda a: a.update({"model.layers.1.mlp.experts.3.up_proj.weight": np.zeros((12, 31), "f2")}), "one shape"),
        (lambda a: a.update({"model.layers.1.mlp.experts.3.up_proj.weight": np.zeros((12, 32), "f4")}), "dtypes"),
        (lambda a: a.update({"model.layers.1.self_attn.kv_b_proj.weight": np.zeros((55, 16), "f2")}), "has shape"),
        (lambda a: a.update({"model.layers.1.self_attn.kv_b_proj.weight": np.zeros(56, "f2")}), "has shape"),
        (lambda a: a.update({"model.layers.1.mlp.experts.x.up_proj.weight": np.zeros((12, 32), "f2")}), "not part of"),
        (lambda a: a.pop("model.layers.1.mlp.gate.e_score_correction_bias"), "e_score_correction_bias"),
    ],
)
def test_folders_whose_pieces_do_not_fit_are_refused(change: Callable[[Any], Any], says: str, tmp_path: Path) -> None:
    """An expert missing, too many, of another shape or dtype; a kv_b that has no such heads."""
    arrays = load_file(FOLDER / "deepseek_v3" / "model.safetensors")
    change(arrays)
    save_file(arrays, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((FOLDER / "deepseek_v3" / "config.json").read_bytes())
    with pytest.raises((FormatError, ConfigError), match=says):
        models.build(open_checkpoint(tmp_path))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda a: a.pop("model.layers.0.mlp.experts.down_proj_scales"), "one tensor of blocks and one of scales"),
        (
            lambda a: a.update({"model.layers.0.mlp.experts.down_proj_scales": np.zeros((4, 32, 2), "u1")}),
            "MXFP4 blocks",
        ),
        (lambda a: a.update({"model.layers.0.mlp.experts.down_proj": np.zeros((4, 32, 32), "f2")}), "dtypes"),
    ],
)
def test_mxfp4_that_does_not_fit_is_refused(change: Callable[[Any], Any], says: str, tmp_path: Path) -> None:
    """Blocks without scales, or with others' scales."""
    published_mxfp4(FOLDER / "gpt_oss", tmp_path)
    arrays = load_file(tmp_path / "model.safetensors")
    change(arrays)
    save_file(arrays, tmp_path / "model.safetensors")
    with pytest.raises(FormatError, match=says):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("Mixtral-8x7B", {"num_experts_per_tok": 9}, "9 experts a token of 8"),
        ("Mixtral-8x7B", {"quantization_config": {"quant_method": "aqlm"}}, "quantization_config"),
        ("Mixtral-8x7B", {"num_experts": 7}, "num_experts"),
        ("Qwen3-30B-A3B", {"decoder_sparse_step": 2}, "decoder_sparse_step"),
        ("Qwen3-30B-A3B", {"mlp_only_layers": [0]}, "mlp_only_layers"),
        ("gpt-oss-20b", {"swiglu_limit": 8.0}, "swiglu_limit"),
        ("gpt-oss-20b", {"experts_per_token": 5}, "experts_per_token"),
        ("gpt-oss-20b", {"quantization_config": 3}, "quantization_config is '3'"),
        ("DeepSeek-V2", {"norm_topk_prob": True}, "norm_topk_prob"),
        ("DeepSeek-V2", {"topk_method": "noaux_tc"}, "topk_method"),
        ("DeepSeek-V2", {"scoring_func": "sigmoid"}, "scoring_func"),
        ("DeepSeek-V2", {"n_group": 7}, "groups"),
        ("DeepSeek-V2", {"topk_group": 9}, "groups"),
        ("DeepSeek-V3", {"topk_group": 0}, "topk_group"),
        ("DeepSeek-V3", {"n_group": 128, "topk_group": 3}, "8 experts a token from 3 groups of 2"),
        ("DeepSeek-V3", {"attention_bias": True}, "attention_bias"),
        ("DeepSeek-V3", {"rope_interleave": False}, "rope_interleave"),
        ("DeepSeek-V3", {"moe_layer_freq": 2}, "moe_layer_freq"),
        ("DeepSeek-V3", {"novelty": 1}, "novelty"),
        ("dots.llm1", {"use_sliding_window": True}, "use_sliding_window"),
        ("dots.llm1", {"scoring_func": "softmax"}, "scoring_func"),
        ("dots.llm1", {"moe_layer_freq": 2}, "moe_layer_freq"),
        ("DeepSeekMoE-16B", {"norm_topk_prob": True}, "norm_topk_prob"),
        ("DeepSeekMoE-16B", {"scoring_func": "sigmoid"}, "scoring_func"),
        ("DeepSeekMoE-16B", {"n_routed_experts": None}, "has no experts"),
    ],
)
def test_configs_that_mean_something_else_are_refused(name: str, change: dict[str, Any], says: str) -> None:
    """Values that would change the arithmetic, and those that contradict each other."""
    with pytest.raises(MemfirstError, match=says):
        bare(MODELS[name].config | change)


NASTY: tuple[Any, ...] = (
    None,
    0,
    -1,
    1,
    3,
    1 << 31,
    1 << 63,
    1.5,
    1e-320,
    1e308,
    float("nan"),
    True,
    "",
    "x",
    [],
    [1],
    {},
    {"a": 1},
)


@pytest.mark.parametrize("name", BARE)
def test_any_config_value_builds_or_is_refused(name: str) -> None:
    """Values of every type and size under every key of a small model: a graph with a price, or a clear error."""
    folder = {"deepseek_v2": "deepseek_v2_lite"}.get(name, name)
    config = json.loads((FOLDER / folder / "config.json").read_text())
    for key in (*config, "quantization_config", "rope_scaling", "scoring_func"):
        for value in NASTY:
            try:
                graph = bare({**copy.deepcopy(config), key: value})
            except MemfirstError:
                continue
            assert price(graph, decode(3)).streamed.low > 0


@pytest.mark.parametrize("name", NAMES)
def test_any_gguf_value_builds_or_is_refused(name: str, tmp_path: Path) -> None:
    """The same for every key of its GGUF file."""
    file = open_checkpoint(experts_gguf.write(FOLDER / name, tmp_path / "m.gguf"))
    metadata = dict(file.metadata)
    for key in metadata:
        for value in NASTY:
            file.metadata = {**metadata, key: value}
            try:
                models.build(file)
            except MemfirstError:
                continue


def test_old_files_of_single_experts_are_refused_with_the_reason(tmp_path: Path) -> None:
    """Mixtral as it was converted until April 2024."""
    more = {"blk.0.ffn_gate.0.weight": np.zeros((4, 4), np.float32)}
    with pytest.raises(UnsupportedError, match=r"one by one .*ffn_gate_exps.*convert the model again"):
        models.build(open_checkpoint(experts_gguf.write(FOLDER / "mixtral", tmp_path / "m.gguf", more=more)))


NARROW = ("deepseek_v2",)
"""Models with heads of 4, which no kernel takes."""


@pytest.mark.parametrize("name", NARROW)
def test_the_cpu_says_what_it_lacks_and_what_there_is_instead(name: str, tmp_path: Path) -> None:
    """By architecture and operation; priced, inspected, and run by the reference."""
    path = experts_gguf.write(FOLDER / name, tmp_path / "m.gguf")
    checkpoint = open_checkpoint(path)
    graph = models.build(checkpoint)
    arch = checkpoint.architecture
    message = rf"the cpu backend does not run {arch} yet \(blk\.0\.attn has rows of 4; .*it is priced, and --backend"
    with pytest.raises(UnsupportedError, match=message):
        cpu.lower(graph, 1, 128, 1)
    with pytest.raises(UnsupportedError, match=message):
        memfirst.load(path)
    facts = contents.describe(checkpoint)
    assert not facts["runs"] and arch in facts["why_not"]
    assert facts["bytes_per_token"]["experts"] > 0 and facts["bytes_per_token_of_context"] > 0
    assert "does not run" in inspect.page(facts) and "experts" in inspect.page(facts)
    expected = np.load(FOLDER / name / "expected.npz")
    with memfirst.load(path, backend="reference") as model:
        found = model.logits(list(expected["tokens"]))
        assert np.abs(found - expected["logits"]).max() <= CLOSE
        assert model.memory([40]).weights == sum(info.nbytes for info in checkpoint.tensors.values())


def test_a_codec_without_a_kernel_is_named() -> None:
    """A Llama in IQ2_XS: there is nothing wrong but that."""
    tiny = {"hidden_size": 256, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 256,
            "vocab_size": 64, "max_position_embeddings": 64, "model_type": "llama"}  # fmt: skip
    architecture = models.find("llama")
    graph = architecture.build(architecture.from_hf(quantized.without(tiny), False), ShapeOnly("iq2_xs"))
    with pytest.raises(UnsupportedError, match=r"does not run llama yet \(no kernel for iq2_xs, token_embd.weight"):
        cpu.lower(graph, 1, 64, 1)
    assert first(graph, RMSNorm).weight.codec == "f32"
    assert table(price(graph, decode(0)))["head"] == 64 * 74 + 256 * 4
