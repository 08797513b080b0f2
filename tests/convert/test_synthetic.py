"""Synthetic checkpoints and the codec rules: against tables that llama.cpp's own quantizer made."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memfirst
from memfirst import models
from memfirst.catalog.configs import configs
from memfirst.codecs import get
from memfirst.convert.mixes import MIXES, Rule, fit, mix, more_bits
from memfirst.convert.synthetic import SyntheticCheckpoint, synthetic, write
from memfirst.convert.synthetic_shapes import NAMED, Blueprint, SyntheticShape, blueprint
from memfirst.convert.synthetic_vocab import FIRST_MERGE, byte_letters, byte_strings_metadata, tokenizer_metadata
from memfirst.errors import ConfigError, ModelNotFoundError, UnsupportedError
from memfirst.formats.gguf import open_gguf
from memfirst.formats.hf import HFCheckpoint
from memfirst.graph import Graph, KVCache, Weight
from memfirst.models import ShapeOnly, quantized
from memfirst.runtime.sampling import GREEDY
from memfirst.text.bytes_of_tokens import escaped
from tests.support.dense_configs import MODELS as DENSE
from tests.support.experts_configs import MODELS as EXPERTS
from tests.support.recurrent_configs import (
    FALCON_H1_7B,
    FALCON_H1_500M,
    FALCON_MAMBA,
    GRANITE_1B,
    GRANITE_TINY,
    JAMBA,
    LFM2_MOE,
    NEMOTRON_8B,
    NEMOTRON_30B,
    RWKV6,
    RWKV7,
    lfm2,
    mamba,
    mamba2,
)

# Per shape and mix: role -> the codec, or one codec per layer, as llama_model_quantize chose them.
LLAMA_CPP = json.loads((Path(__file__).parent.parent / "data" / "llama_cpp_mixes.json").read_text())


def by_role(checkpoint: SyntheticCheckpoint) -> dict[str, str]:
    """Matrices only, in the form of the table."""
    layers: dict[str, list[str]] = {}
    for name, info in checkpoint.tensors.items():
        if len(info.shape) > 1:
            layers.setdefault(name.split(".")[-2], []).append(info.codec)
    return {role: codecs[0] if len(set(codecs)) == 1 else " ".join(codecs) for role, codecs in layers.items()}


@pytest.mark.parametrize("name", [name for name in MIXES if name != "mxfp4"])  # of experts: see test_mixes
@pytest.mark.parametrize("shape", LLAMA_CPP["shapes"])
def test_every_tensor_gets_the_codec_that_llama_cpp_gives_it(shape: str, name: str) -> None:
    checkpoint = synthetic(SyntheticShape(**LLAMA_CPP["shapes"][shape]), name)
    assert by_role(checkpoint) == LLAMA_CPP["codecs"][shape][name]
    assert {i.codec for i in checkpoint.tensors.values() if len(i.shape) == 1} == {"f32"}


def test_the_table_covers_every_rule() -> None:
    seen = {(m, role, codec) for by in LLAMA_CPP["codecs"].values() for m, roles in by.items()
            for role, codecs in roles.items() for codec in codecs.split()}  # fmt: skip
    for name, chosen in MIXES.items():
        for role, rules in chosen.rules.items():
            of_all = [rule for rule in rules if not rule.experts]
            assert all((name, role, rule.codec) in seen for rule in of_all)
            if of_all and not any(rule == Rule(rule.codec) for rule in of_all):
                assert (name, role, chosen.codec) in seen
    assert {("q4_k_m", "ffn_up", "q5_0"), ("q5_k_m", "ffn_up", "q5_1"), ("q6_k", "ffn_up", "q8_0")} <= seen
    assert {("q4_0", "ffn_down", "f16"), ("q4_k_s", "attn_v", "q5_1")} <= seen


def test_the_real_model_has_the_shapes_and_codecs_of_its_synthetic_twin(smollm2: Path) -> None:
    real, made = open_gguf(smollm2), synthetic("smollm2-135m", "q4_1")
    assert dict(real.tensors) == dict(made.tensors)
    keys = {key for key in real.metadata if key.startswith("llama.")}
    assert {key: real.metadata[key] for key in keys} == {key: made.metadata[key] for key in keys}
    assert made.metadata["general.file_type"] == real.metadata["general.file_type"]


# Bits: 973,078,528 weights in layers; head 49,152 x 2,048 in Q6_K (6.5625 bits) or Q8_0; 67,584 norms in f32.
LAYERS_WEIGHTS, HEAD_WEIGHTS, NORM_BYTES = 973_078_528, 49_152 * 2_048, 4 * 2_048 * 33


@pytest.mark.parametrize(("name", "bits", "head_bits"), [("q4_0", 4.5, 6.5625), ("q8_0", 8.5, 8.5), ("f16", 16, 16)])
def test_the_1b_model_has_exactly_its_bytes(name: str, bits: float, head_bits: float) -> None:
    held = sum(info.nbytes for info in synthetic("llama-1b", name).tensors.values())
    assert held == LAYERS_WEIGHTS * bits / 8 + HEAD_WEIGHTS * head_bits / 8 + NORM_BYTES


def test_q4_k_m_of_16_layers_spends_more_on_eight_of_them() -> None:
    tensors = synthetic("llama-1b", "q4_k_m").tensors
    richer = [i for i in range(16) if tensors[f"blk.{i}.attn_v.weight"].codec == "q6_k"]
    assert richer == [i for i in range(16) if tensors[f"blk.{i}.ffn_down.weight"].codec == "q6_k"]
    assert richer == [0, 1, 4, 7, 10, 13, 14, 15]
    assert richer == [i for i in range(16) if more_bits(i, 16)]


@pytest.mark.parametrize(
    ("codec", "columns", "fitted"),
    [
        ("q4_k", 512, "q4_k"),
        ("q4_k", 576, "q5_0"),
        ("q5_k", 576, "q5_1"),
        ("q6_k", 576, "q8_0"),
        ("q4_k", 80, "f16"),
        ("q4_0", 80, "f16"),
        ("iq4_nl", 96, "iq4_nl"),
        ("f16", 7, "f16"),
    ],
)
def test_rows_that_fill_no_block_take_another_codec(codec: str, columns: int, fitted: str) -> None:
    assert fit(codec, columns) == fitted


def test_mixes_are_found_in_any_case_and_others_are_listed() -> None:
    assert mix("Q4_K_M") is MIXES["q4_k_m"]
    with pytest.raises(UnsupportedError, match="q4_k_m, q5_k_s"):
        mix("iq3_m")


# ---- the bytes -------------------------------------------------------------------------


@pytest.mark.parametrize("name", MIXES)
@pytest.mark.parametrize("shape", ["tiny-llama", "tiny-llama-odd", "tiny-qwen2", "tiny-qwen3"])
def test_weights_are_finite_and_of_the_right_size(shape: str, name: str) -> None:
    checkpoint = synthetic(shape, name)
    for info in checkpoint.tensors.values():
        data, codec = checkpoint.read(info.name), get(info.codec)
        assert data.nbytes == info.nbytes == codec.nbytes(math.prod(info.shape))
        assert not data.flags.writeable
        weights = codec.dequantize(data.reshape(-1, codec.block_bytes)).reshape(info.shape)
        assert np.isfinite(weights).all()
        if len(info.shape) > 1:
            assert weights.std() == pytest.approx(info.shape[-1] ** -0.5, rel=0.1)
            assert abs(weights.mean()) < 0.1 * weights.std()
            assert len(np.unique(weights, axis=0)) == len(weights)
        elif info.name.endswith("_norm.weight"):
            assert weights.mean() == pytest.approx(1, abs=0.1)


def test_the_same_seed_has_the_same_bytes_in_any_order() -> None:
    first, again, other = (synthetic("tiny-qwen2", "q4_k_m", seed) for seed in (5, 5, 6))
    names = list(first.tensors)
    forward = {name: first.read(name).tobytes() for name in names}
    backward = {name: again.read(name).tobytes() for name in reversed(names)}
    assert forward == backward
    assert forward == {name: first.read(name).tobytes() for name in names}
    assert all(forward[name] != other.read(name).tobytes() for name in names)


def test_no_two_tensors_are_alike() -> None:
    checkpoint = synthetic("tiny-llama", "q8_0")
    contents = [checkpoint.read(name).tobytes() for name in checkpoint.tensors]
    assert len(set(contents)) == len(contents)


@pytest.mark.parametrize(
    ("shape", "nbytes", "total", "first"),
    [
        ("tiny-llama", 36864, 4780193, "a4a49f95c7aac2a6"),  # quantized whole
        ("llama-1b", 2359296, 304534071, "149eb16a0ca883c4"),  # drawn from the pool
    ],
)
def test_bytes_do_not_change_between_releases(shape: str, nbytes: int, total: int, first: str) -> None:
    """A file written yesterday and a model made today are the same model."""
    data = synthetic(shape, "q4_0", seed=1).read("blk.0.attn_q.weight")
    assert (data.nbytes, int(data.sum(dtype=np.uint64)), data[:8].tobytes().hex()) == (nbytes, total, first)


def test_large_matrices_are_sound_too() -> None:
    """Those that are drawn from the pool: finite, of the right size, rows unlike each other."""
    checkpoint = synthetic("llama-1b", "q4_k_m")
    for name in ("blk.0.attn_v.weight", "blk.2.attn_v.weight", "blk.1.attn_q.weight"):
        info = checkpoint.tensors[name]
        codec = get(info.codec)
        blocks = checkpoint.read(name).reshape(-1, codec.block_bytes)
        weights = codec.dequantize(blocks).reshape(info.shape)
        assert weights.std() == pytest.approx(2048**-0.5, rel=0.05)
        assert len(np.unique(weights[:, :512], axis=0)) > 0.99 * len(weights)


# ---- shapes ----------------------------------------------------------------------------


def test_shapes_follow_the_architecture() -> None:
    qwen2, qwen3, llama = (blueprint(NAMED[f"tiny-{a}"].config).shapes for a in ("qwen2", "qwen3", "llama"))
    assert qwen2["blk.1.attn_k.bias"] == (128,)
    assert qwen2["output.weight"] == (512, 256)
    assert qwen3["blk.1.attn_q_norm.weight"] == (128,)
    assert qwen3["blk.1.attn_q.weight"] == (512, 256)
    assert qwen3["blk.1.attn_output.weight"] == (256, 512)
    assert not [name for name in llama if name.endswith("bias") or "q_norm" in name or name == "output.weight"]
    metadata = synthetic("tiny-qwen3", "f16").metadata
    assert metadata["qwen3.attention.key_length"] == metadata["qwen3.attention.value_length"] == 128


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"architecture": "gpt2"}, UnsupportedError),
        ({"num_key_value_heads": 3}, ConfigError),
        ({"num_hidden_layers": 0}, ConfigError),
        ({"vocab_size": FIRST_MERGE - 1}, ConfigError),
        ({"head_dim": 5}, ConfigError),
    ],
)
def test_impossible_shapes_are_refused(change: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        SyntheticShape(**({**vars(NAMED["tiny-llama"])} | change))


def test_an_unknown_shape_lists_those_there_are() -> None:
    with pytest.raises(ModelNotFoundError, match="llama-1b"):
        synthetic("llama-2b", "q4_0")


# ---- the vocabulary --------------------------------------------------------------------


@pytest.mark.parametrize("size", [FIRST_MERGE, FIRST_MERGE + 1, 512, 49152, 128256])
def test_a_vocabulary_is_byte_level_bpe(size: int) -> None:
    keys = tokenizer_metadata(size, "smollm")
    tokens, merges = keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.merges"]
    assert len(tokens) == len(set(tokens)) == len(keys["tokenizer.ggml.token_type"]) == size
    position = {token: i for i, token in enumerate(tokens)}
    for i, merge in enumerate(merges[: size - FIRST_MERGE]):
        left, right = merge.split(" ")
        assert position[left + right] == FIRST_MERGE + i
        assert max(position[left], position[right]) < FIRST_MERGE + i
    assert keys["tokenizer.ggml.token_type"].tolist() == [3] * 3 + [1] * (size - 3)


def test_byte_letters_are_those_of_gpt2() -> None:
    letters = byte_letters()
    assert len(set(letters)) == 256
    assert (letters[32], letters[10], letters[65], letters[0xAD], letters[0xFF]) == ("Ġ", "Ċ", "A", "Ń", "ÿ")


def test_a_written_model_is_the_model(tmp_path: Path) -> None:
    source = synthetic("tiny-llama-odd", "q5_k_m")
    write(source, tmp_path / "m.gguf")
    read = open_gguf(tmp_path / "m.gguf")
    assert (read.architecture, dict(read.tensors)) == ("llama", dict(source.tensors))
    assert all(read.read(name).tobytes() == source.read(name).tobytes() for name in read.tensors)


# ---- any model ---------------------------------------------------------------------------------


def same_graph(found: Graph, expected: Graph) -> None:
    """But for codecs, and for numbers that GGUF rounds to float32."""
    assert [(type(op), op.name, op.inputs) for op in found.ops] == [
        (type(op), op.name, op.inputs) for op in expected.ops
    ]
    for one, other in zip(found.ops, expected.ops, strict=True):
        for key, value in vars(other).items():
            if isinstance(value, Weight):
                assert (vars(one)[key].name, vars(one)[key].shape) == (value.name, value.shape)
            elif isinstance(value, float) or (isinstance(value, tuple) and value and isinstance(value[0], float)):
                np.testing.assert_allclose(vars(one)[key], value, rtol=1e-6)
            else:
                assert vars(one)[key] == value, (one.name, key)


class Described(ShapeOnly):
    """Weights of the tensors that a blueprint lists."""

    def __init__(self, plan: Blueprint) -> None:
        super().__init__("f16")
        self.plan = plan

    def has(self, name: str) -> bool:
        return name in self.plan.shapes

    def values(self, name: str, count: int) -> tuple[float, ...]:
        assert len(self.plan.vectors[name]) == count
        return self.plan.vectors[name]


GGUF_FORMS = {name: config for name, (config, *_) in DENSE.items()} | {
    name: quantized.without(EXPERTS[name].config)
    for name in ("Mixtral-8x7B", "Qwen3-30B-A3B", "DeepSeek-V2-Lite", "DeepSeek-V2", "DeepSeek-V3")
}


@pytest.mark.parametrize("name", GGUF_FORMS)
def test_the_gguf_form_of_a_published_model_is_the_model(name: str) -> None:
    """Metadata as it is written, read again: all operations, shapes and numbers."""
    plan = blueprint(GGUF_FORMS[name])
    assert plan.kind == "gguf"
    found = models.ARCHITECTURES[plan.architecture]
    config = found.from_gguf(plan.metadata, plan.shapes, False)
    same_graph(found.build(config, Described(plan)), models.build(HFCheckpoint("", GGUF_FORMS[name], [])))


FIRST_OF_A_TYPE = {m.config["model_type"]: m.name for m in reversed(configs())}


@pytest.mark.parametrize("name", FIRST_OF_A_TYPE.values())
def test_every_model_of_the_catalogue_can_be_made(name: str) -> None:
    """Two layers of it (hybrids: a period), which are built as they are."""
    hybrid = "granite" in name or "jamba" in name
    made = synthetic(name, "q4_k_m", layers=8 if hybrid else 2)
    graph = models.build(made)
    assert set(graph.weights()) <= set(made.tensors)
    assert made.name == f"{name}, {8 if hybrid else 2} layers q4_k_m"


def test_a_config_json_can_be_made_shorter(tmp_path: Path) -> None:
    """By its path or its folder's; lists by layer are cut with it, in a wrapped text model too."""
    config = DENSE["EXAONE-4.0-32B"][0] | {"vocab_size": 300}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for path in (tmp_path, tmp_path / "config.json"):
        graph = models.build(synthetic(path, "q8_0", layers=5))
        assert [c.window for c in graph.caches if isinstance(c, KVCache)] == [4096, 4096, 4096, None, 4096]
    wrapped = DENSE["Gemma-3-4B"][0]
    (tmp_path / "config.json").write_text(json.dumps(wrapped))
    assert len(models.build(synthetic(tmp_path, "q8_0", layers=7)).caches) == 7
    with pytest.raises(ConfigError, match="99 layers of a model of 34"):
        synthetic(tmp_path, "q8_0", layers=99)


def test_a_file_of_phi_3_is_not_called_so(tmp_path: Path) -> None:
    """llama.cpp asks a vocabulary of that name for Phi-3's own tokens; here the model keeps its name."""
    made = SyntheticCheckpoint(shortened(DENSE["Phi-3.5-mini"][0]), MIXES["q8_0"], 0, "phi-3.5:mini q8_0")
    write(made, tmp_path / "m.gguf")
    assert made.metadata["general.name"] == "phi-3.5:mini q8_0"
    assert open_gguf(tmp_path / "m.gguf").metadata["general.name"] == "phi 3.5:mini q8_0"


def test_what_has_no_gguf_form_is_not_written(tmp_path: Path) -> None:
    made = synthetic("falcon-mamba:7b", "q8_0", layers=1)  # two epsilons
    assert made.kind == "hf" and models.build(made)
    with pytest.raises(UnsupportedError, match="GGUF files of mamba"):
        write(made, tmp_path / "m.gguf")


RWKV = {
    "rwkv6": {**RWKV6, "hidden_size": 128, "attention_hidden_size": 128, "num_hidden_layers": 2, "vocab_size": 400},
    "rwkv7": {**RWKV7, "hidden_size": 128, "num_hidden_layers": 2, "vocab_size": 400, "intermediate_size": 512},
}


@pytest.mark.parametrize("name", RWKV)
def test_a_written_rwkv_is_the_model_and_answers(name: str, tmp_path: Path) -> None:
    """Its vocabulary of byte strings and its chat included; greedily the reference's tokens."""
    source, path = SyntheticCheckpoint(RWKV[name], MIXES["f32"], 0, name), tmp_path / "m.gguf"
    write(source, path)
    read = open_gguf(path)
    assert dict(read.tensors) == dict(source.tensors)
    assert models.build(read) == replace(models.build(source), context=1 << 20)  # as llama.cpp's converter writes it
    found = []
    for backend in ("cpu", "reference"):
        with memfirst.load(path, backend=backend, ctx=64) as model:
            assert model.tokenizer.decode(model.encode("\n\nHä?\0")) == "\n\nHä?\0"
            found.append([token.id for token in model.chat().ask("Hi!", params=GREEDY, max_tokens=8)])
    assert len(found[0]) >= 1 and found[0] == found[1]


STATE = {
    "mamba": mamba(128, 2), "falcon_mamba": FALCON_MAMBA | {
        "hidden_size": 128, "intermediate_size": 256, "time_step_rank": 8, "mixer_rms_eps": 1e-5,
    },
    "mamba2": mamba2(128, 2),
    "jamba": JAMBA | {"hidden_size": 128, "num_hidden_layers": 8, "intermediate_size": 96, "num_attention_heads": 4,
                      "num_key_value_heads": 2, "mamba_dt_rank": 8, "num_experts": 4},
    "granite_tiny": GRANITE_TINY | {"hidden_size": 128, "intermediate_size": 96, "shared_intermediate_size": 64,
                                    "num_attention_heads": 4, "num_key_value_heads": 2, "mamba_n_heads": 4,
                                    "num_local_experts": 8, "num_experts_per_tok": 2},
    "granite_1b": GRANITE_1B | {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2,
                                "mamba_n_heads": 4, "shared_intermediate_size": 64},
    "nemotron_h": NEMOTRON_8B | {"hidden_size": 128, "intermediate_size": 96, "mamba_num_heads": 16,
                                 "num_attention_heads": 4, "num_key_value_heads": 2},
    "nemotron_h_moe": NEMOTRON_30B | {"hidden_size": 128, "moe_intermediate_size": 96, "mamba_num_heads": 16,
                                      "n_routed_experts": 8, "moe_shared_expert_intermediate_size": 64,
                                      "num_attention_heads": 4, "moe_latent_size": 64},
    "falcon_h1": FALCON_H1_500M | {"hidden_size": 128, "intermediate_size": 96, "num_hidden_layers": 2,
                                   "mamba_d_ssm": 256, "mamba_n_heads": 4},
    "falcon_h1_normed": FALCON_H1_7B | {"hidden_size": 128, "intermediate_size": 96, "num_hidden_layers": 2,
                                        "mamba_d_ssm": 256, "mamba_n_heads": 2, "mamba_d_state": 32},
    "lfm2": lfm2(256, 384) | {"num_key_value_heads": 2},
    "lfm2_moe": LFM2_MOE | {"hidden_size": 128, "intermediate_size": 96, "moe_intermediate_size": 64,
                            "num_attention_heads": 4, "num_key_value_heads": 2, "num_experts": 8},
}  # fmt: skip
"""Published models made small."""


@pytest.mark.parametrize("name", STATE)
def test_a_written_model_with_state_is_the_model_and_decays(name: str, tmp_path: Path) -> None:
    """Read again the same operations; every state decays, so that a synthetic model may run on and on."""
    source, path = SyntheticCheckpoint(STATE[name] | {"vocab_size": 400}, MIXES["f32"], 0, name), tmp_path / "m.gguf"
    write(source, path)
    read = open_gguf(path)
    assert dict(read.tensors) == dict(source.tensors)
    assert models.build(read).ops == models.build(source).ops
    rates = [read.read(tensor).view(np.float32) for tensor in read.tensors if tensor.endswith("ssm_a")]
    assert all((r < -0.5).all() and np.isfinite(r).all() for r in rates) and bool(rates) == ("lfm2" not in name)


def test_byte_strings_of_any_size() -> None:
    """All distinct, a paragraph's end the first of two bytes; of three bytes where there are many."""
    tokens = byte_strings_metadata(70_000)["tokenizer.ggml.tokens"]
    assert len({*tokens}) == 70_000
    assert escaped(tokens[257]) == b"\n\n"
    assert sorted({len(escaped(token)) for token in tokens[1:]}) == [1, 2, 3]


def test_a_written_gemma_has_what_follows_from_its_config(tmp_path: Path) -> None:
    """Windows by layer and two thetas, Llama 3's divisors as a tensor: read again, the same model."""
    for name in ("Gemma-3-1B", "Phi-4-mini", "EXAONE-4.0-1.2B"):
        source = SyntheticCheckpoint(shortened(DENSE[name][0]), MIXES["q8_0"], 0, name)
        write(source, tmp_path / "m.gguf")
        read = open_gguf(tmp_path / "m.gguf")
        assert dict(read.tensors) == dict(source.tensors)
        assert models.build(read) == models.build(source)


def shortened(config: dict[str, Any]) -> dict[str, Any]:
    """One layer, and a small vocabulary."""
    found = config | {"num_hidden_layers": 1, "vocab_size": 300}
    return found | ({"layer_types": config["layer_types"][:1]} if config.get("layer_types") else {})
