"""Architectures that are not known: priced by their tensors or by what their config.json says, never run."""

from __future__ import annotations

import json
import shutil
from math import prod
from pathlib import Path
from typing import Any

import pytest

from memfirst import load, models
from memfirst.catalog.configs import catalog_checkpoint, configs
from memfirst.codecs import BLOCK_TYPES
from memfirst.convert.synthetic import synthetic, write
from memfirst.errors import ConfigError, MemfirstError, UnsupportedError
from memfirst.formats.checkpoint import TensorInfo
from memfirst.formats.open import open_checkpoint
from memfirst.graph import Graph, KVCache, StateCache, decode, prefill
from memfirst.ledger import price
from memfirst.models import gguf_keys, quantized
from memfirst.models.unknown import FROM_CONFIG, FROM_TENSORS, unknown
from memfirst.plan.priced import Priced
from memfirst.transform.recode import mixed, with_kv

FIXTURES = Path(__file__).parent.parent / "fixtures"


class Table:
    """A file's header: tensors as (name, shape, codec), hyperparameters by GGUF's names."""

    kind, path, has_bytes = "gguf", "novel.gguf", True

    def __init__(self, tensors: list[TensorInfo], architecture: str = "novel", **metadata: Any) -> None:
        self.architecture = architecture
        self.tensors = {t.name: t for t in tensors}
        self.metadata = {key.replace("__", "."): value for key, value in metadata.items()}


def tensor(name: str, *shape: int, codec: str = "f16") -> TensorInfo:
    kind = BLOCK_TYPES[codec]
    return TensorInfo(name, shape, codec, prod(shape) * kind.block_bytes // kind.block)


def layer(index: int, *more: TensorInfo) -> list[TensorInfo]:
    """One with grouped attention, 2 key heads of 16."""
    named = [("attn_q", 64, 64), ("attn_k", 32, 64), ("attn_v", 32, 64), ("attn_output", 64, 64), ("ffn_up", 96, 64)]
    own = [tensor(f"blk.{index}.{name}.weight", rows, columns) for name, rows, columns in named]
    return [*own, tensor(f"blk.{index}.attn_norm.weight", 64, codec="f32"), *more]


EMBED, HEAD = tensor("token_embd.weight", 100, 64), tensor("output.weight", 100, 64, codec="q8_0")
LAYER_BYTES = 2 * 64 * (64 + 32 + 32 + 64 + 96) + 4 * 64
KEYS: dict[str, Any] = {
    "novel__attention__head_count": 4, "novel__attention__head_count_kv": 2, "novel__context_length": 512,
}  # fmt: skip


def graph_of(*tensors: TensorInfo, **metadata: Any) -> Graph:
    return unknown(Table([*tensors], **KEYS | metadata)).graph  # type: ignore[arg-type]


def bytes_of(graph: Graph, past: int = 9) -> dict[str, float]:
    return {name: amount.mean for name, amount in price(graph, decode(past)).by_purpose().items() if amount.mean}


# what a token reads


def test_every_tensor_once_a_row_of_the_table_and_the_head() -> None:
    graph = graph_of(EMBED, HEAD, *layer(0), *layer(1))
    read = bytes_of(graph)
    assert read["weights"] == 2 * LAYER_BYTES
    assert (read["embedding"], read["head"]) == (2 * 64, 100 * 68)
    assert read["kv_read"] == 2 * 10 * 2 * (16 + 16) * 2 and read["kv_write"] == 2 * 2 * (16 + 16) * 2
    assert (graph.vocab_size, graph.hidden_size, graph.context) == (100, 64, 512)
    linear = 2 * 64 * 288 * 2 + 2 * 100 * 64
    assert graph.flops(decode(9)) == linear + 2 * 2 * 4 * 32 * 10


def test_without_a_head_the_table_is_read_in_full() -> None:
    read = bytes_of(graph_of(EMBED, *layer(0)))
    assert (read["embedding"], read["head"]) == (2 * 64, 2 * 100 * 64)


def test_tables_of_all_layers_are_looked_up() -> None:
    wide = tensor("per_layer_token_embd.weight", 100, 256)
    read = bytes_of(graph_of(wide, EMBED, *layer(0)))
    assert (read["embedding"], read["head"]) == (2 * (64 + 256), 2 * 100 * 64)


@pytest.mark.parametrize(("picked", "read"), [(2, 2), (None, 8)])
def test_of_experts_those_that_are_picked(picked: int | None, read: int) -> None:
    more = [tensor("blk.0.ffn_down_exps.weight", 8, 64, 32), tensor("blk.0.ffn_down_exps.bias", 8, 64, codec="f32")]
    more.append(tensor("blk.0.exp_probs_b.bias", 8, codec="f32"))
    found = bytes_of(graph_of(EMBED, *layer(0, *more), novel__expert_used_count=picked))
    assert found["experts"] == read * (64 * 32 * 2 + 64 * 4)
    assert found["weights"] == LAYER_BYTES + 8 * 4


def test_experts_that_are_stored_one_by_one() -> None:
    own = [tensor(f"model.layers.0.mlp.experts.{i}.up_proj.weight", 32, 64) for i in range(8)]
    shared = tensor("model.layers.0.mlp.shared_experts.up_proj.weight", 32, 64)
    found = bytes_of(graph_of(EMBED, *layer(0), *own, shared, novel__expert_used_count=3))
    assert found["experts"] == 3 * 32 * 64 * 2 and found["weights"] == LAYER_BYTES + 32 * 64 * 2


def test_layers_that_predict_further_tokens_are_not_read() -> None:
    extra = [*layer(2), tensor("blk.2.nextn.eh_proj.weight", 64, 128), tensor("mtp.fc.weight", 64, 64)]
    graph = graph_of(EMBED, *layer(0), *layer(1), *extra, novel__block_count=3, novel__nextn_predict_layers=1)
    assert bytes_of(graph)["weights"] == 2 * LAYER_BYTES and len(graph.caches) == 2


# what it keeps


def test_windows_by_the_pattern_that_says_which_layers_have_one() -> None:
    said = {"novel__attention__sliding_window": 32}
    layers = [*layer(0), *layer(1)]
    assert [c.window for c in caches(EMBED, *layers, **said)] == [None, None]
    pattern = {"novel__attention__sliding_window_pattern": [True, False]}
    assert [c.window for c in caches(EMBED, *layers, **said, **pattern)] == [32, None]


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("afmoe", [3]),
        ("exaone-moe", [3]),
        ("gemma3n", [4]),
        ("cohere2moe", [0, 4]),
        ("laguna", [0, 4]),
        ("novel", None),
    ],
)
def test_windows_of_architectures_whose_files_do_not_say_which_layers(name: str, full: list[int] | None) -> None:
    stated = {key.replace("novel", name): value for key, value in KEYS.items()}
    said = stated | {f"{name}__attention__sliding_window": 32}
    table = Table([EMBED, *(t for i in range(6) for t in layer(i))], name, **said)
    kept = [c.window for c in unknown(table).graph.caches if isinstance(c, KVCache)]  # type: ignore[arg-type]
    assert [i for i, window in enumerate(kept) if window is None] == (list(range(6)) if full is None else full)


def caches(*tensors: TensorInfo, **metadata: Any) -> list[KVCache]:
    return [c for c in graph_of(*tensors, **metadata).caches if isinstance(c, KVCache)]


def test_latents_and_what_sparse_attention_keeps_beside_them() -> None:
    own = [tensor("blk.0.attn_kv_a_mqa.weight", 72, 64), tensor("blk.0.indexer.attn_k.weight", 16, 64)]
    found = unknown(Table([EMBED, *own], **KEYS, novel__attention__indexer__top_k=64))  # type: ignore[arg-type]
    kept = [(c.heads, c.k_dim, c.v_dim) for c in found.graph.caches if isinstance(c, KVCache)]
    assert kept == [(1, 72, 0), (1, 16, 0)]
    assert any("sparse attention" in note for note in found.notes)


def test_keys_that_are_values_too_and_one_projection_for_all() -> None:
    same = [tensor("blk.0.attn_k.weight", 32, 64)]
    assert [(c.heads, c.k_dim, c.v_dim) for c in caches(EMBED, *same)] == [(2, 16, 16)]
    fused = [tensor("blk.0.attn_qkv.weight", 128, 64)]
    assert [(c.heads, c.k_dim, c.v_dim) for c in caches(EMBED, *fused)] == [(2, 16, 16)]


STATE = {"novel__ssm__conv_kernel": 4, "novel__ssm__inner_size": 64, "novel__ssm__state_size": 8,
         "novel__ssm__group_count": 1}  # fmt: skip


def test_recurrent_layers_keep_a_state_of_constant_size() -> None:
    scan = [tensor("blk.1.ssm_in.weight", 128, 64), tensor("blk.1.attn_qkv.weight", 128, 64)]
    found = unknown(Table([EMBED, *layer(0), *scan], **KEYS | STATE))  # type: ignore[arg-type]
    states = [c for c in found.graph.caches if isinstance(c, StateCache)]
    assert [c.elements for c in states] == [3 * (64 + 16) + 64 * 8]  # convolution's tail, and the scan's state
    assert len(found.graph.caches) == 2 and not any("state of" in note for note in found.notes)
    without = unknown(Table([EMBED, *layer(0), *scan], **KEYS))  # type: ignore[arg-type]
    assert len(without.graph.caches) == 1 and "the state of 1 layers is not counted" in without.notes[-1]


def test_a_layer_that_is_said_to_have_no_key_heads_keeps_none() -> None:
    kept = caches(EMBED, *layer(0), *layer(1), novel__attention__head_count_kv=[0, 2])
    assert [c.name for c in kept] == ["blk.1.kv"]


# against models that are known


def by_family() -> list[str]:
    """One row of the catalogue for each kind of config, the largest."""
    found = {str(row.config["model_type"]): row.name for row in sorted(configs(), key=lambda r: r.parameters)}
    return [*found.values()]


UNUSUAL = {"lfm2", "lfm2_moe", "nemotron_h", "llama4_text"}
"""Kinds whose config.json says the feed-forward's width under a name of its own, or has experts without a gate."""


def streamed(graph: Graph) -> float:
    return sum(amount.mean for amount in Priced(graph).amounts(decode(8191)).values())


@pytest.mark.parametrize("name", by_family())
def test_known_models_are_priced_alike_without_being_known(name: str) -> None:
    checkpoint = catalog_checkpoint(name)
    graph = models.build(checkpoint)
    expected, compared = streamed(graph), 0
    config = quantized.without(checkpoint.metadata)
    try:
        written = gguf_keys.written(models.entry(checkpoint), config).metadata
    except UnsupportedError:
        pass  # files of it are not written here
    else:
        tensors = [TensorInfo(w.name, w.shape, w.codec, w.nbytes) for w in graph.weights().values()]
        table = Table(tensors, graph.architecture, **written)
        assert 1 / FROM_TENSORS < streamed(unknown(table).graph) / expected < FROM_TENSORS  # type: ignore[arg-type]
        compared += 1
    if "num_attention_heads" in json.dumps(dict(config)) and config["model_type"] not in UNUSUAL:
        assert 1 / FROM_CONFIG < streamed(unknown(checkpoint).graph) / expected < FROM_CONFIG
        compared += 1
    assert compared or "mamba" in name or config["model_type"] in UNUSUAL


@pytest.mark.parametrize("fixture", ["experts/qwen2_moe", "experts/glm4_moe", "parity/llama_3"])
def test_folders_by_their_own_names(fixture: str, tmp_path: Path) -> None:
    folder = tmp_path / "novel"
    shutil.copytree(FIXTURES / fixture, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "novel", "architectures": ["Novel"]}))
    known, other = open_checkpoint(FIXTURES / fixture), open_checkpoint(folder)
    expected, found = models.build(known), unknown(other).graph
    for step in (decode(9), prefill(20)):
        one, two = Priced(expected).amounts(step), Priced(found).amounts(step)
        assert one.keys() == two.keys() and one["kv_read"] == two["kv_read"]
        total = sum(a.mean for a in one.values())
        assert sum(a.mean for a in two.values()) == pytest.approx(total, rel=0.01)
    assert found.flops(decode(9)) == pytest.approx(expected.flops(decode(9)), rel=0.15)  # norms and activations apart
    with pytest.raises(UnsupportedError, match="'novel' does not run here"):
        load(str(folder), backend="reference")


def test_other_codecs() -> None:
    graph = graph_of(EMBED, HEAD, *layer(0), novel__attention__head_count_kv=1)
    smaller = mixed(graph, "q8_0")
    assert bytes_of(smaller)["weights"] == 64 * 288 * 34 // 32 + 4 * 64
    assert bytes_of(with_kv(graph, "q8_0", "q8_0"))["kv_read"] < bytes_of(graph)["kv_read"]


# what is refused


CONFIG: dict[str, Any] = {
    "model_type": "novel", "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 100,
    "intermediate_size": 96,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"hidden_size": None}, ConfigError, "hidden_size is missing"),
        ({"intermediate_size": None}, ConfigError, "intermediate_size is missing"),
        ({"num_hidden_layers": 1 << 40}, ConfigError, "an integer in 0"),
        ({"num_hidden_layers": "3"}, ConfigError, "num_hidden_layers is '3'"),
        ({"is_encoder_decoder": True}, UnsupportedError, "no decoder"),
    ],
    ids=str,
)
def test_configs_that_say_too_little(
    change: dict[str, Any], error: type[MemfirstError], says: str, tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG))
    assert len(unknown(open_checkpoint(path)).graph.caches) == 3
    path.write_text(json.dumps(CONFIG | change))
    with pytest.raises(error, match=says):
        unknown(open_checkpoint(path))


def test_files_that_are_no_decoders() -> None:
    with pytest.raises(UnsupportedError, match="no decoder"):
        graph_of(EMBED, *layer(0), novel__pooling_type=1)
    with pytest.raises(UnsupportedError, match="no decoder"):
        graph_of(EMBED, *layer(0), general__type="mmproj")
    with pytest.raises(ConfigError, match="no embedding of tokens"):
        graph_of(*layer(0))


def test_packed_folders_are_priced_by_their_config(tmp_path: Path) -> None:
    folder = tmp_path / "novel"
    shutil.copytree(FIXTURES / "parity/llama_3", folder)
    config = json.loads((folder / "config.json").read_text())
    packed = {"quant_method": "awq", "bits": 4, "group_size": 16, "zero_point": True}
    changed = config | {"model_type": "novel", "quantization_config": packed}
    (folder / "config.json").write_text(json.dumps(changed))
    with pytest.raises(UnsupportedError, match="packed by awq"):
        unknown(open_checkpoint(folder))
    assert bytes_of(unknown(open_checkpoint(folder / "config.json")).graph)["weights"] > 0


def test_it_has_no_meaning_to_run(tmp_path: Path) -> None:
    (op,) = (op for op in graph_of(EMBED, *layer(0)).ops if op.name == "blk.0.tensors")
    with pytest.raises(UnsupportedError, match="known by its tensors alone"):
        op.reference(None, ())  # type: ignore[arg-type]
    write(synthetic("tiny-llama", "q8_0"), tmp_path / "tiny.gguf")
    data = (tmp_path / "tiny.gguf").read_bytes()
    at = data.index(b"llama", data.index(b"general.architecture"))
    (tmp_path / "novel.gguf").write_bytes(data[:at] + b"novel" + data[at + 5 :])
    with pytest.raises(UnsupportedError, match="'novel' does not run here"):
        load(str(tmp_path / "novel.gguf"))
