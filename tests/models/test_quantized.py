"""What a config.json says of its weights' quantization: bytes by method, computed here from the shapes alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from math import ceil
from typing import Any

import pytest

from memfirst import models
from memfirst.codecs.grouped import grouped
from memfirst.errors import ConfigError, MemfirstError, UnsupportedError
from memfirst.formats.hf import HFCheckpoint
from memfirst.graph import Graph
from memfirst.models.quantized import METHODS
from memfirst.transform.shard import shard
from tests.support.experts_configs import MODELS

H, F, V, LAYERS, Q, KV = 256, 640, 1000, 3, 256, 128
LLAMA = {
    "model_type": "llama", "hidden_size": H, "intermediate_size": F, "num_hidden_layers": LAYERS,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": V,
    "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "torch_dtype": "bfloat16",
}  # fmt: skip
LINEAR = {"q": (Q, H), "k": (KV, H), "v": (KV, H), "o": (H, Q), "gate": (F, H), "up": (F, H), "down": (H, F)}
NORMS = (2 * LAYERS + 1) * H * 4
TABLES = 2 * V * H * 2
"""Embedding and head in BF16."""

Size = Callable[[int, int], float]


def bare(config: dict[str, Any]) -> Graph:
    return models.build(HFCheckpoint("", config, []))


def nbytes(graph: Graph) -> int:
    return sum(w.nbytes for w in graph.weights().values())


def layers(size: Size) -> int:
    return LAYERS * sum(ceil(size(*shape)) for shape in LINEAR.values())


def integers(bits: int, group: int, scale: int) -> Size:
    """`bits` a weight and `scale` bits for each group of a row."""
    return lambda r, c: r * c * bits / 8 + r * ceil(c / group) * scale / 8


def rows(bits: int, scale: int) -> Size:
    return lambda r, c: r * c * bits / 8 + r * scale / 8


def fp8(block: int) -> Size:
    return lambda r, c: r * c + ceil(r / block) * ceil(c / block) * 4


def plain(r: int, c: int) -> float:
    return r * c * 2


def linear(weights: dict[str, Any], **more: Any) -> dict[str, Any]:
    """compressed-tensors' form."""
    groups = {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": None}}
    return {"quant_method": "compressed-tensors", "config_groups": groups, "ignore": ["lm_head"], **more}


AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}
CASES: dict[str, tuple[dict[str, Any], Size]] = {
    "awq": (AWQ, integers(4, 128, 16 + 4)),
    "awq without zero points": (AWQ | {"zero_point": False, "group_size": 64}, integers(4, 64, 16)),
    "gptq": (GPTQ, integers(4, 128, 16)),
    "gptq, 8 bits a row": (GPTQ | {"bits": 8, "group_size": -1}, rows(8, 16)),
    "gptq with zero points": (GPTQ | {"bits": 3, "sym": False}, integers(3, 128, 16 + 3)),
    "auto-round": (GPTQ | {"quant_method": "auto-round", "iters": 200}, integers(4, 128, 16)),
    "fp8 in blocks": ({"quant_method": "fp8", "weight_block_size": [128, 128], "fmt": "e4m3"}, fp8(128)),
    "fp8": ({"quant_method": "fp8", "activation_scheme": "static"}, lambda r, c: r * c),
    "fbgemm": ({"quant_method": "fbgemm_fp8", "modules_to_not_convert": []}, rows(8, 32)),
    "bitsandbytes, 8 bits": ({"quant_method": "bitsandbytes", "load_in_8bit": True}, rows(8, 32)),
    "bitsandbytes, 4 bits": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, integers(4, 64, 32)),
    "bitsandbytes, double": (
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_use_double_quant": True},
        integers(4, 64, 8),
    ),
    "compressed-tensors, w4a16": (
        linear({"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128, "symmetric": True}),
        integers(4, 128, 16),
    ),
    "compressed-tensors, w8a8": (
        linear({"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True}), rows(8, 16),
    ),
    "compressed-tensors, fp8": (linear({"num_bits": 8, "type": "float", "strategy": "channel"}), rows(8, 32)),
    "compressed-tensors, fp8 in blocks": (
        linear({"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [128, 128]}), fp8(128),
    ),
    "compressed-tensors, nvfp4": (
        linear({"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}), integers(4, 16, 8),
    ),
    "modelopt nvfp4": (
        {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"]}, integers(4, 16, 8),
    ),
    "modelopt fp8, older form": (
        {"quant_method": "modelopt", "quantization": {"quant_algo": "FP8", "exclude_modules": ["lm_head"]}},
        lambda r, c: r * c,
    ),
    "hqq": ({"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 64}}},
            integers(4, 64, 32)),
    "mxfp4 of a dense model": ({"quant_method": "mxfp4"}, plain),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_matrices_in_layers_are_quantized_and_tables_are_not(case: str) -> None:
    values, size = CASES[case]
    assert nbytes(bare(LLAMA | {"quantization_config": values})) == layers(size) + TABLES + NORMS


def test_the_published_sizes_of_8b_models() -> None:
    """Llama 3.1 8B in AWQ: 7.0 B weights x 4.16 bits and two BF16 tables; Qwen3-8B-FP8 in blocks of 128."""
    shapes = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
              "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256}  # fmt: skip
    assert nbytes(bare(LLAMA | shapes | {"quantization_config": AWQ})) == 5_728_387_072
    qwen = shapes | {"model_type": "qwen3", "intermediate_size": 12288, "num_hidden_layers": 36, "vocab_size": 151936}
    found = bare(LLAMA | qwen | {"quantization_config": CASES["fp8 in blocks"][0]})
    assert nbytes(found) == pytest.approx(6.946e9 + 2 * 151936 * 4096 * 2, rel=1e-3)


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        (AWQ | {"modules_to_not_convert": ["self_attn"]}, "qkvo"),
        (AWQ | {"modules_to_not_convert": ["v_proj", "model.layers.0.mlp.nothing"]}, "v"),
        (AWQ | {"modules_to_not_convert": ["proj"]}, ""),  # no whole part of a name
        (linear({"num_bits": 4, "group_size": 128}, ignore=["re:.*o_proj$", "re:.*\\.(q|k)_proj$"]), "qko"),
        (GPTQ | {"dynamic": {"-:.*\\.mlp\\.down_proj": {}}}, ["down"]),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4", "exclude_modules": ["model.layers.*.self_attn*"]}, "qkvo"),
        ({"quant_method": "fp8", "ignored_layers": ["model.language_model.layers.*.mlp.up_proj"]}, ["up"]),
    ],
)
def test_modules_that_are_named_stay_as_they_are(values: dict[str, Any], kept: str | list[str]) -> None:
    graph = bare(LLAMA | {"quantization_config": values})
    roles = {"q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output"}
    wanted = {roles.get(name, f"ffn_{name}") for name in kept}
    found = {name.split(".")[2] for name, w in graph.weights().items() if w.codec == "bf16" and name[:3] == "blk"}
    assert found == wanted


def test_one_layer_or_one_module_may_differ() -> None:
    only = LLAMA | {"quantization_config": AWQ | {"modules_to_not_convert": ["model.layers.1"]}}
    two = layers(CASES["awq"][1]) // LAYERS * 2
    assert nbytes(bare(only)) == two + layers(plain) // LAYERS + TABLES + NORMS
    dynamic = GPTQ | {"dynamic": {"+:.*layers\\.2\\..*": {"bits": 8}}, "lm_head": True}
    head = ceil(integers(4, 128, 16)(V, H))
    eight = layers(integers(8, 128, 16)) // LAYERS
    assert nbytes(bare(LLAMA | {"quantization_config": dynamic})) == (
        layers(integers(4, 128, 16)) // LAYERS * 2 + eight + head + TABLES // 2 + NORMS
    )


def test_mlx_quantizes_tables_too_and_names_what_differs() -> None:
    size = integers(4, 64, 32)
    values: dict[str, Any] = {"group_size": 64, "bits": 4}
    tables = 2 * ceil(size(V, H))
    for key in ("quantization", "quantization_config"):
        assert nbytes(bare(LLAMA | {key: values})) == layers(size) + tables + NORMS
    values |= {"lm_head": False, "model.layers.0.mlp.up_proj": {"group_size": 64, "bits": 8}}
    more = size(F, H), integers(8, 64, 32)(F, H)
    assert nbytes(bare(LLAMA | {"quantization": values})) == (
        layers(size) + int(more[1] - more[0]) + tables // 2 + TABLES // 2 + NORMS
    )
    values = {"group_size": 32, "bits": 4, "mode": "mxfp4"}
    assert nbytes(bare(LLAMA | {"quantization": values})) == (
        layers(integers(4, 32, 8)) + 2 * ceil(integers(4, 32, 8)(V, H)) + NORMS
    )


def test_experts_and_their_router() -> None:
    """Qwen3-30B-A3B in 4 bits: every expert, never the router; gpt-oss in MXFP4: experts only."""
    config = dict(MODELS["Qwen3-30B-A3B"].config)
    awq = bare(config | {"quantization_config": AWQ}).weights()
    assert awq["blk.0.ffn_gate_inp.weight"].codec == "bf16"
    experts, width, hidden = 128, 768, 2048
    assert awq["blk.5.ffn_up_exps.weight"].nbytes == experts * integers(4, 128, 20)(width, hidden)
    named = AWQ | {"modules_to_not_convert": ["model.layers.5.mlp.experts"]}
    some = bare(config | {"quantization_config": named}).weights()
    assert {some[f"blk.{i}.ffn_up_exps.weight"].codec for i in (4, 6)} == {"int4-g128-20"}
    assert some["blk.5.ffn_up_exps.weight"].codec == "bf16"
    oss = bare(dict(MODELS["gpt-oss-20b"].config)).weights()
    assert oss["blk.0.ffn_up_exps.weight"].codec == "mxfp4" and oss["blk.0.attn_q.weight"].codec == "bf16"


def test_the_text_model_of_a_wrapper_has_the_wrappers_quantization() -> None:
    text = {k: v for k, v in LLAMA.items() if k != "torch_dtype"}
    text |= {"model_type": "gemma3_text", "head_dim": 64, "query_pre_attn_scalar": 64, "sliding_window": 512}
    outer = {"model_type": "gemma3", "text_config": text, "torch_dtype": "bfloat16"}
    quantized = linear({"num_bits": 4, "group_size": 128}, ignore=["lm_head", "re:vision_tower.*"])
    for wrapped in (outer | {"quantization_config": quantized},
                    outer | {"text_config": text | {"quantization_config": quantized}}):  # fmt: skip
        weights = bare(wrapped).weights()
        assert weights["blk.0.attn_q.weight"].codec == "int4-g128-16"
        assert weights["token_embd.weight"].codec == "bf16"


@pytest.mark.parametrize(
    ("dtype", "size"),
    [("float8_e4m3fn", 1), ("torch.bfloat16", 2), ("float32", 4), ("half", 2), ({"": "float32"}, 4)],
)
def test_dtypes(dtype: Any, size: int) -> None:
    found = nbytes(bare(LLAMA | {"torch_dtype": dtype}))
    assert found == size * (layers(lambda r, c: r * c) + 2 * V * H) + NORMS


def test_null_is_as_absent_and_whole_floats_are_integers() -> None:
    config = LLAMA | {"quantization_config": None, "unheard_of": None, "max_position_embeddings": 2048.0}
    assert bare(config) == bare(LLAMA)
    with pytest.raises(ConfigError, match="max_position_embeddings"):
        bare(LLAMA | {"max_position_embeddings": 2048.5})


def test_shares_of_a_quantized_model_add_up() -> None:
    whole = bare(LLAMA | {"quantization_config": AWQ})
    weights = [shard(whole, i, 2).weights()["blk.0.ffn_gate.weight"] for i in range(2)]
    assert sum(w.nbytes for w in weights) == whole.weights()["blk.0.ffn_gate.weight"].nbytes


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"quant_method": "aqlm"}, "'aqlm'; expected one of awq"),
        ({"bits": 4}, "names no method"),
        (3, "quantization_config is '3'"),
        (AWQ | {"bits": 7}, "bits is '7'"),
        (AWQ | {"group_size": 0.5}, "group_size"),
        (AWQ | {"modules_to_not_convert": "lm_head"}, "modules_to_not_convert"),
        (AWQ | {"modules_to_not_convert": ["re:(a+)+$"]}, "repetition"),
        (AWQ | {"modules_to_not_convert": ["re:["]}, "of modules"),
        (AWQ | {"modules_to_not_convert": ["x" * 600]}, "600 characters"),
        (AWQ | {"modules_to_not_convert": ["*"] * 300}, "300 of them patterns"),
        ({"quant_method": "fp8", "weight_block_size": [128]}, "weight_block_size"),
        ({"quant_method": "modelopt", "quant_algo": "W2"}, "W2"),
        (linear({"num_bits": 4}, sparsity_config={"format": "sparse-24-bitmask"}), "sparse"),
        ({"group_size": 64, "bits": 4, "mode": "odd"}, "mode"),
    ],
)
def test_what_has_no_known_size_is_refused(values: Any, says: str) -> None:
    with pytest.raises(MemfirstError, match=says):
        bare(LLAMA | {"quantization_config": values})


def test_a_folder_of_packed_weights_is_refused_before_its_tensors_are_looked_at() -> None:
    checkpoint = HFCheckpoint("", LLAMA | {"quantization_config": AWQ}, [])
    checkpoint.tensors = {"model.layers.0.self_attn.q_proj.qweight": None}  # type: ignore[dict-item]
    with pytest.raises(UnsupportedError, match=r"quantized by awq.*config\.json alone"):
        models.build(checkpoint)


NASTY: tuple[Any, ...] = (None, 0, -1, 1, 1 << 63, 1.5, float("nan"), True, "", "x", [], [1], ["x"], {}, {"a": 1})


@pytest.mark.parametrize("method", METHODS)
def test_any_value_is_priced_or_refused(method: str) -> None:
    group = {"targets": ["Linear"], "weights": {"num_bits": 4, "group_size": 128}}
    full: dict[str, Any] = {
        "quant_method": method, "bits": 4, "group_size": 128, "modules_to_not_convert": ["lm_head"], "dynamic": {},
        "weight_block_size": [128, 128], "load_in_4bit": True, "quant_algo": "FP8", "config_groups": {"group_0": group},
        "quant_config": {}, "ignore": [], "quantization": {}, "mode": "affine", "zero_point": True, "sym": True,
    }  # fmt: skip
    for key in full:
        for value in NASTY:
            try:
                assert nbytes(bare(LLAMA | {"quantization_config": full | {key: value}})) > 0
            except MemfirstError:
                continue
    for key in group["weights"]:  # type: ignore[attr-defined]
        for value in NASTY:
            inner = json.loads(json.dumps(full))
            inner["config_groups"]["group_0"]["weights"][key] = value
            try:
                bare(LLAMA | {"quantization_config": inner})
            except MemfirstError:
                continue


def test_thousands_of_names_and_slow_patterns_take_no_time() -> None:
    names = [f"model.layers.{i}.block.experts.{j}.w{k}" for i in range(60) for j in range(60) for k in (1, 2, 3)]
    slow = [f"re:.*a.*a.*a.*a.*a.*a.*{i}b" for i in range(200)]
    started = time.process_time()
    bare(LLAMA | {"quantization_config": AWQ | {"modules_to_not_convert": names + slow}})
    assert time.process_time() - started < 2.0


def test_names_of_codecs_in_groups() -> None:
    found = grouped("int4-g128-20")
    assert found is not None and found.bits_per_weight == 4 + 20 / 128
    assert grouped("f8_e4m3-row-32").bits_per_weight == 8  # type: ignore[union-attr]
    for name in ("int4", "int4-g0-16", "int4-g-16", "int7-g64-16", "int4-g64x0-16", "int4-g64-16 "):
        assert grouped(name) is None
