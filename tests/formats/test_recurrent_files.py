"""Files of recurrent and hybrid models: their price, what they compute, chunks, rollback, turns."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import count, pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import memfirst
from memfirst import ledger, models
from memfirst.backends.reference.backend import ReferenceBackend
from memfirst.backends.reference.generating import SlowBackend
from memfirst.cli.contents import describe
from memfirst.errors import BackendError, ConfigError, FormatError, UnsupportedError
from memfirst.formats.open import open_checkpoint
from memfirst.graph import Graph, Sequence, Step, decode, prefill
from memfirst.lower import cpu
from memfirst.runtime.engine import Engine
from memfirst.runtime.sampling import GREEDY
from memfirst.transform.recode import with_kv
from tests.support.make_hybrid_fixture import CASES, FOLDER, make
from tests.support.make_recurrent_fixture import FILE, digest
from tests.support.recurrent_configs import (
    RWKV6,
    RWKV7,
    Config,
    price,
    states,
)
from tests.support.recurrent_files import HIDDEN, SPECS, WKV_HEAD, Spec, random_arrays, write
from tests.support.requests import answer, drain, request
from tests.support.slow_rwkv import Rwkv6, Rwkv7
from tests.support.toy import one, paged

ON_CPU = tuple(SPECS)
"""Those that the CPU backend runs."""


def opened(folder: Path, spec: Spec, kind: str = "f32") -> tuple[Graph, Any, dict[str, int]]:
    """A file of the spec, its graph, and the bytes of its tensors as they were written."""
    path = folder / f"{spec.architecture}.gguf"
    sizes = write(path, spec, random_arrays(spec), kind)
    checkpoint = open_checkpoint(path)
    return models.build(checkpoint), checkpoint, sizes


@pytest.mark.parametrize("kind", ["f32", "f16", "q8_0"])
@pytest.mark.parametrize("name", SPECS)
def test_the_price_of_a_file_is_the_count_of_its_tensors(name: str, kind: str, tmp_path: Path) -> None:
    """One token after 100: every tensor once, but one row of an untied embedding and 2 of 4 experts; state as f32,
    read and written; keys and values as f16."""
    spec = SPECS[name]
    graph, _, sizes = opened(tmp_path, spec, kind)
    tied = "output.weight" not in sizes
    table, experts = sizes["token_embd.weight"], sum(n for t, n in sizes.items() if "_exps." in t)
    last = "token_embd_norm.weight" if name.startswith("lfm2") else "output_norm.weight"
    head = {"output.weight", last, "output_norm.bias"} & sizes.keys()
    expected = {
        "embedding": table // 48,
        "head": sum(sizes[t] for t in head) + (table if tied else 0),
        "weights": sum(sizes.values()) - table - experts - sum(sizes[t] for t in (*head, *spec.unused)),
        "experts": experts // 2,
        "state_read": 4 * spec.state, "state_write": 4 * spec.state,
        "kv_read": 101 * 2 * spec.kv, "kv_write": 2 * spec.kv,
    }  # fmt: skip
    assert price(graph, decode(100)) == {k: n for k, n in expected.items() if n}
    held = ledger.memory(graph, [100])
    assert held.weights == sum(sizes.values()) - sum(sizes[t] for t in spec.unused)
    assert held.kv_held == 4 * spec.state + 100 * 2 * spec.kv


@pytest.mark.parametrize("name", SPECS)
def test_inspect_describes_what_runs_and_what_does_not(name: str, tmp_path: Path) -> None:
    """If it does not, why; the bytes of a token, and a group for every tensor."""
    _, checkpoint, sizes = opened(tmp_path, SPECS[name])
    facts = describe(checkpoint)
    assert facts["runs"] == (name in ON_CPU) != ("no kernel for" in facts["why_not"])
    assert facts["bytes_per_token"]["state_read"] == 4 * SPECS[name].state
    assert facts["bytes_per_token_of_context"] == 2 * SPECS[name].kv
    assert facts["tensor_bytes"] == sum(sizes.values())
    assert "other" not in {group["name"] for group in facts["by_group"]}
    assert sum(facts["unread"].values()) == len(SPECS[name].unused)


@pytest.mark.parametrize("name", SPECS)
def test_a_chunk_moves_the_state_once_and_each_sequence_its_own(name: str, tmp_path: Path) -> None:
    """50 tokens of one sequence read what 1 does; 3 sequences read three times that; one that waits, nothing."""
    graph, _, _ = opened(tmp_path, SPECS[name])
    moved = 4 * SPECS[name].state
    for step, times in (
        (decode(7), 1),
        (prefill(50, past=7), 1),
        (decode(7, batch=3), 3),
        (Step((Sequence(9, 0),)), 0),
    ):
        found = ledger.table(ledger.price(graph, step))
        assert (found.get("state_read", 0), found.get("state_write", 0)) == (times * moved, times * moved)


@pytest.mark.parametrize("name", SPECS)
def test_parity_with_llama_cpp(name: str, tmp_path: Path) -> None:
    """24 positions of the same file, keys and values in float32 too."""
    expected, spec = np.load(FILE), SPECS[name]
    assert digest(random_arrays(spec)) == pytest.approx(float(expected[f"draw/{name}"]), rel=1e-9)
    graph, checkpoint, _ = opened(tmp_path, spec)
    backend = ReferenceBackend(with_kv(graph, "f32", "f32"), checkpoint)
    found = backend.step(one(0, 24, logits=tuple(range(24))), expected["tokens"])
    logits = expected[f"logits/{name}"]
    np.testing.assert_allclose(found, logits, atol=5e-5 * logits.std(), rtol=0)


def from_folder(folder: Path) -> float:
    """Largest difference of any logit from transformers', in standard deviations of its logits."""
    checkpoint, expected = open_checkpoint(folder), np.load(folder / "expected.npz")
    n, logits = len(expected["tokens"]), expected["logits"]
    run = ReferenceBackend(models.build(checkpoint), checkpoint)
    found = run.step(one(0, n, logits=tuple(range(n))), expected["tokens"])
    return float(np.abs(found - logits).max() / logits.std())


@pytest.mark.parametrize("name", CASES)
def test_parity_with_transformers(name: str) -> None:
    """30 positions of a folder as save_pretrained writes it."""
    assert from_folder(FOLDER / name) <= 1e-4


@pytest.mark.parametrize("name", CASES)
def test_parity_live(name: str, tmp_path: Path) -> None:
    """The same with other weights, where torch and transformers are installed."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    make(name, tmp_path, seed=1234, dtype="bfloat16")
    assert from_folder(tmp_path) <= 1e-4


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("hf_falcon_mamba", {"model_type": "mamba"}),
        ("hf_falcon_mamba", {"mixer_rms_eps": 1e-6}),
        ("hf_mamba", {"model_type": "falcon_mamba"}),
        ("hf_jamba", {"num_experts_per_tok": 1}),
        ("hf_jamba", {"rms_norm_eps": 1e-6}),
        ("hf_granite", {"num_experts_per_tok": 3}),
        ("hf_granite", {"attention_multiplier": 0.35}),
        ("hf_granite", {"embedding_multiplier": 3.1}),
        ("hf_granite_dense", {"residual_multiplier": 0.61}),
        ("hf_granite_dense", {"logits_scaling": 0.51}),
        ("hf_qwen3_next", {"num_experts_per_tok": 3}),
        ("hf_lfm2", {"rope_parameters": {"rope_type": "default", "rope_theta": 120.0}}),
        ("hf_lfm2", {"norm_eps": 1e-5}),
        *(
            ("hf_falcon_h1", {key: value})
            for key, value in {
                "embedding_multiplier": 3.1,
                "lm_head_multiplier": 0.41,
                "attention_in_multiplier": 1.2,
                "key_multiplier": 0.8,
                "attention_out_multiplier": 0.75,
                "ssm_in_multiplier": 0.7,
                "ssm_out_multiplier": 0.55,
                "mlp_multipliers": [0.8, 1.2],
                "rms_norm_eps": 3e-2,
                "rope_parameters": {"rope_type": "default", "rope_theta": 150.0},
            }.items()
        ),
        *(
            (
                "hf_falcon_h1_normed",
                {"ssm_multipliers": [*([0.9, 1.4, 0.7, 1.6, 0.6][:i]), 1.0, *([0.9, 1.4, 0.7, 1.6, 0.6][i + 1 :])]},
            )
            for i in range(5)
        ),
        ("hf_falcon_h1_normed", {"mamba_n_groups": 1, "mamba_d_state": 16}),
        ("hf_nemotron_h", {"layer_norm_epsilon": 1e-5}),
        ("hf_nemotron_h", {"n_groups": 1, "mamba_num_heads": 4, "ssm_state_size": 16}),
        ("hf_nemotron_h_moe", {"routed_scaling_factor": 1.0}),
        ("hf_nemotron_h_moe", {"norm_topk_prob": False}),
        ("hf_nemotron_h_moe", {"n_group": 1}),
        ("hf_lfm2_moe", {"routed_scaling_factor": 1.0}),
        ("hf_lfm2_moe", {"norm_topk_prob": False}),
        ("hf_lfm2_moe", {"num_experts_per_tok": 3}),
        ("hf_qwen3_5", {"rms_norm_eps": 1e-2}),
        ("hf_qwen3_5", {"rope_parameters": {"rope_theta": 120.0, "partial_rotary_factor": 0.25}}),
        ("hf_qwen3_5_moe", {"rope_parameters": {"rope_theta": 100.0, "partial_rotary_factor": 0.5}}),
    ],
)
def test_parity_sees_another_config(name: str, change: Config, tmp_path: Path) -> None:
    """The fixtures are sharp enough: each of these numbers is used, and where it belongs."""
    for file in (FOLDER / name).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    assert {key: config[key] for key in change} != change
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    assert from_folder(tmp_path) > 1e-3


@pytest.mark.parametrize(
    ("name", "tensor", "shape", "says"),
    [
        ("hf_mamba", "backbone.layers.0.mixer.conv1d.weight", (64, 3), "conv1d.weight has shape"),
        ("hf_mamba", "backbone.layers.0.mixer.conv1d.weight", (32, 2, 3), "conv1d.weight has shape"),
        ("hf_mamba2", "backbone.layers.0.mixer.norm.weight", (63,), "norm.weight has shape"),
        ("hf_granite", "model.layers.0.shared_mlp.input_linear.weight", (39, 32), "input_linear.weight has shape"),
    ],
)
def test_folders_with_odd_shapes_are_refused(
    name: str, tensor: str, shape: tuple[int, ...], says: str, tmp_path: Path
) -> None:
    for file in (FOLDER / name).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    arrays = load_file(tmp_path / "model.safetensors")
    save_file({**arrays, tensor: np.zeros(shape, np.float16)}, tmp_path / "model.safetensors")
    with pytest.raises(FormatError, match=says):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("config", [RWKV6, RWKV7], ids=["rwkv6", "rwkv7"])
def test_folders_of_rwkv_are_refused_plainly(config: Config, tmp_path: Path) -> None:
    """Theirs name and turn tensors in several ways; GGUF files of them are read."""
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({"model.embeddings.weight": np.zeros((4, 4), np.float16)}, tmp_path / "model.safetensors")
    with pytest.raises(UnsupportedError, match=r"folders of rwkv. are not known; expected a GGUF file"):
        models.build(open_checkpoint(tmp_path))


def test_a_stored_head_is_the_embedding_where_the_class_ties_it(tmp_path: Path) -> None:
    """Mamba's old folders hold it twice, and do not say that it is tied."""
    for file in (FOLDER / "hf_mamba").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    del config["tie_word_embeddings"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    arrays = load_file(tmp_path / "model.safetensors")
    head = arrays["backbone.embeddings.weight"].copy()
    save_file({**arrays, "lm_head.weight": head}, tmp_path / "model.safetensors")
    assert from_folder(tmp_path) <= 1e-4


@pytest.mark.parametrize(("name", "slow"), [("rwkv6", Rwkv6), ("rwkv7", Rwkv7)])
def test_rwkv_as_its_paper_writes_it(name: str, slow: Any, tmp_path: Path) -> None:
    """Token by token in float64, by code that shares nothing; RWKV-6's stream halved after every layer, as in files."""
    spec = SPECS[name]
    graph, checkpoint, _ = opened(tmp_path, spec)
    layers, rescale = spec.keys["block_count"], spec.keys.get("rescale_every_n_layers", 0)
    expected = slow(random_arrays(spec), WKV_HEAD, layers, rescale).run(TOKENS)
    found = ReferenceBackend(graph, checkpoint).step(one(0, 24, logits=tuple(range(24))), TOKENS)
    assert HIDDEN // WKV_HEAD == 2  # heads are told apart
    np.testing.assert_allclose(found, expected, atol=5e-5, rtol=0)


def test_rwkv6_files_with_five_vectors_for_one(tmp_path: Path) -> None:
    """Files of 2024 keep w, k, v, r and g apart: the same bytes and the same logits."""
    spec, arrays = SPECS["rwkv6"], random_arrays(SPECS["rwkv6"])
    apart = {n: a for n, a in arrays.items() if "fused" not in n}
    for name, fused in ((n, a) for n, a in arrays.items() if "fused" in n):
        apart |= {name.replace("fused", part): fused[j, 0, 0] for j, part in enumerate("wkvrg")}
    write(tmp_path / "apart.gguf", spec, apart)
    write(tmp_path / "fused.gguf", spec, arrays)
    both = [open_checkpoint(tmp_path / f"{name}.gguf") for name in ("apart", "fused")]
    graphs = [models.build(checkpoint) for checkpoint in both]
    assert price(graphs[0], decode(3)) == price(graphs[1], decode(3))
    found, expected = (ReferenceBackend(g, c).step(one(0, 24), TOKENS) for g, c in zip(graphs, both, strict=True))
    np.testing.assert_allclose(found, expected, atol=1e-6, rtol=0)


TOKENS = np.random.default_rng(8).integers(0, 48, 24).astype(np.int32)
CLOSE = 1e-4
"""Logits are of the order of 1; float32 sums in another order differ by 4e-5 at most (Jamba, through its router)."""


@pytest.mark.parametrize("name", SPECS)
def test_chunks_and_single_steps_give_the_same(name: str, tmp_path: Path) -> None:
    """Whole; in chunks of 1 (shorter than the convolution), 2, 9 and 12; token by token."""
    graph, checkpoint, _ = opened(tmp_path, SPECS[name])
    whole = ReferenceBackend(graph, checkpoint).step(one(0, 24, logits=tuple(range(24))), TOKENS)
    for cuts in ((0, 1, 3, 12, 24), tuple(range(25))):
        run = ReferenceBackend(graph, checkpoint)
        parts = [run.step(one(a, b - a, logits=tuple(range(b - a))), TOKENS[a:b]) for a, b in pairwise(cuts)]
        np.testing.assert_allclose(np.concatenate(parts), whole, atol=CLOSE, rtol=0)


@pytest.mark.parametrize("name", SPECS)
def test_rollback_reads_the_old_slot(name: str, tmp_path: Path) -> None:
    """3 drafts are rejected: the slot from before them is read again; one that was overwritten gives another answer."""
    graph, checkpoint, _ = opened(tmp_path, SPECS[name])
    assert {c.slots for c in states(graph)} == {2}
    run, clean = ReferenceBackend(graph, checkpoint), ReferenceBackend(graph, checkpoint)
    run.step(one(0, 8, state_write=0), TOKENS[:8])
    run.step(one(8, 3, state_read=0, state_write=1), TOKENS[20:23])
    again = run.step(one(8, 2, state_read=0, state_write=1), TOKENS[8:10])
    expected = clean.step(one(0, 10), TOKENS[:10])
    np.testing.assert_allclose(again, expected, atol=CLOSE, rtol=0)
    spoiled = ReferenceBackend(graph, checkpoint)
    spoiled.step(one(0, 8), TOKENS[:8])
    spoiled.step(one(8, 3), TOKENS[20:23])
    assert np.abs(spoiled.step(one(8, 2), TOKENS[8:10]) - expected).max() > 100 * CLOSE


@pytest.mark.parametrize(("name", "on", "back"), [("mamba", 12, 10), ("granite_1b", 0, 0)])
def test_turns_of_a_conversation(name: str, on: int, back: int, tmp_path: Path) -> None:
    """State is kept where a prompt goes on, goes back to the snapshot behind the first prompt where it differs after
    that, and is not lost to a step that is interrupted after it computed. A hybrid goes on from whole pages of 64."""
    graph, checkpoint, _ = opened(tmp_path, SPECS[name])
    backend, ids = SlowBackend(graph, checkpoint, 64), TOKENS.tolist()
    engine = Engine(backend, 64)

    def turn(prompt: list[int], reused: int) -> None:
        fresh = answer(Engine(SlowBackend(graph, checkpoint, 64), 64), prompt, 3)
        asked = request(engine, prompt, 3)
        engine.submit(asked)
        with mock.patch.object(backend, "step", interrupted_once(backend.step)):
            with pytest.raises(KeyboardInterrupt):
                engine.next(asked)
            assert drain(engine, asked) == fresh
        assert asked.timing.reused_tokens == reused

    turn(ids[:10], 0)
    first = answer(Engine(SlowBackend(graph, checkpoint, 64), 64), ids[:10], 3)
    turn([*ids[:10], *first, *ids[14:16]], on)  # the third of them was never computed
    turn([*ids[:10], first[0], 1, 2, 3], back)


@pytest.mark.parametrize("name", SPECS)
def test_the_reference_backend_generates(name: str, tmp_path: Path) -> None:
    """From a file alone, through the tokenizer: greedy tokens as one step over everything gives them, and priced."""
    path = tmp_path / "model.gguf"
    write(path, SPECS[name], random_arrays(SPECS[name]))
    with memfirst.load(path, backend="reference", ctx=64) as model:
        generation = model.generate("ABBA", params=GREEDY, max_tokens=5)
        found = [token.id for token in generation]
        assert generation.line()
        whole = [*model.encode("ABBA"), *found]
        assert found == model.logits(whole).argmax(axis=1)[-6:-1].tolist()
        assert model.price(context=10).by_purpose()["state_read"].low == 4 * SPECS[name].state


def interrupted_once(step: Callable[..., Any]) -> Callable[..., Any]:
    """A step that is interrupted the first time, when it is done and nobody has seen it."""
    calls = count()

    def stepping(*args: Any) -> Any:
        result = step(*args)
        if not next(calls):
            raise KeyboardInterrupt
        return result

    return stepping


@pytest.mark.parametrize("name", SPECS)
def test_a_batch_gives_what_each_gives_alone(name: str, tmp_path: Path) -> None:
    """Two sequences on slots and pages of their own, and one between them that waits."""
    graph, checkpoint, _ = opened(tmp_path, SPECS[name])
    lone = [ReferenceBackend(graph, checkpoint).step(one(0, n), TOKENS[s : s + n]) for s, n in ((0, 9), (9, 5))]
    sequences = (paged(0, 9), Sequence(3, 0), paged(0, 5, first=1, state_read=2, state_write=2))
    both = ReferenceBackend(graph, checkpoint).step(Step(sequences), TOKENS[:14])
    np.testing.assert_allclose(both, np.concatenate(lone), atol=CLOSE, rtol=0)


def test_a_tree_of_drafts_is_refused(tmp_path: Path) -> None:
    """A state has one past; a chain that is written out as a tree is one."""
    graph, checkpoint, _ = opened(tmp_path, SPECS["mamba"])
    run = ReferenceBackend(graph, checkpoint)
    run.step(one(0, 3, parents=(-1, 0, 1)), TOKENS[:3])
    with pytest.raises(BackendError, match="tree of drafts"):
        run.step(one(0, 3, parents=(-1, 0, 0)), TOKENS[:3])


@pytest.mark.parametrize("name", [name for name in SPECS if name not in ON_CPU])
def test_the_cpu_backend_refuses_plainly(name: str, tmp_path: Path) -> None:
    graph, _, _ = opened(tmp_path, SPECS[name])
    with pytest.raises(UnsupportedError, match="no kernel for"):
        cpu.lower(graph, 1, 1024, 1)


@pytest.mark.parametrize(
    ("name", "key", "value", "says"),
    [
        ("mamba", "ssm.conv_kernel", 1, "at least 2 taps"),
        ("mamba", "ssm.inner_size", 128, "blk.0.ssm_in.weight has shape"),
        ("mamba2", "ssm.time_step_rank", 7, "for 7 heads"),
        ("mamba2", "ssm.group_count", 3, "3 groups"),
        ("rwkv6", "token_shift_count", 1, "token_shift_count"),
        ("rwkv7", "wkv.head_size", 60, "whole heads"),
        ("jamba", "attention.head_count_kv", [0, 2, 0], "4 integers"),
        ("jamba", "attention.head_count_kv", [0, 2, 0, 1], "KV heads by layer"),
        ("jamba", "attention.head_count_kv", 0, "KV heads by layer"),
        ("jamba", "expert_used_count", 5, "5 experts"),
        ("granite_tiny", "rope.scaling.finetuned", True, "rotary positions"),
        ("granite_1b", "mystery", 1, "mystery"),
        ("lfm2", "shortconv.l_cache", 1, "at least 2 taps"),
        ("falcon_h1", "ssm.time_step_rank", 7, "256 channels of 7 heads"),
        ("falcon_h1", "attention.value_length", 32, "attention.value_length"),
        ("falcon_h1", "attention.sliding_window", 32, "attention.sliding_window"),
        ("nemotron_h", "feed_forward_length", [0, 96, 0], "4 integers"),
        ("nemotron_h_moe", "expert_used_count", 5, "5 experts"),
        ("nemotron_h_moe", "nextn_predict_layers", 1, "nextn_predict_layers"),
        ("lfm2", "attention.head_count_kv", [2, 0, 1, 0], "KV heads by layer"),
    ],
)
def test_files_that_contradict_themselves_are_refused(
    name: str, key: str, value: Any, says: str, tmp_path: Path
) -> None:
    spec = SPECS[name]
    broken = replace(spec, keys={**spec.keys, key: value})
    with pytest.raises((ConfigError, UnsupportedError), match=says):
        opened(tmp_path, broken)


def test_a_stray_tensor_is_refused(tmp_path: Path) -> None:
    """A weight that the mixer does not have is no rounding error: the file means something else."""
    spec = SPECS["mamba"]
    with pytest.raises(ConfigError, match="ssm_b_norm"):
        opened(tmp_path, replace(spec, shapes={**spec.shapes, "blk.0.ssm_b_norm.weight": (16,)}))
