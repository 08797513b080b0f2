"""Dense architectures: published sizes to the last digit, windows, traps, and GGUF files of the same models."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from math import log
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import save_file

from memfirst import models
from memfirst.backends.cpu.backend import CpuBackend
from memfirst.backends.reference.backend import ReferenceBackend
from memfirst.cli import contents
from memfirst.errors import ConfigError, MemfirstError, UnsupportedError
from memfirst.formats.hf import text_alone
from memfirst.formats.open import open_checkpoint
from memfirst.graph import Graph, KVCache, Op, Sequence, Step, decode, prefill
from memfirst.graph.ops.attention import Attention
from memfirst.graph.ops.embed import Embed
from memfirst.graph.ops.linear import Linear
from memfirst.graph.ops.norm import RMSNorm
from memfirst.graph.ops.rope import Rope
from memfirst.ledger import price, table
from memfirst.models.smollm3 import without_rope
from memfirst.plan import subject
from tests.models.test_models import NASTY, rope_of
from tests.models.test_models import gguf as gguf_file
from tests.support import dense_gguf
from tests.support.dense_configs import MODELS
from tests.support.make_parity_fixture import CASES, FOLDER
from tests.support.tiny_models import options, tiny
from tests.support.toy import one

OTHERS = ("qwen2", "qwen3_yarn")
FAMILIES = [name for name in CASES if not name.startswith("llama_") and name not in OTHERS]


class Bare:
    """A config.json without a file."""

    kind, path, has_bytes, tensors = "hf", "", False, dict[str, Any]()

    def __init__(self, config: dict[str, Any]) -> None:
        from memfirst.formats.architectures import architecture_of

        self.metadata, self.architecture = config, architecture_of(config)


def graph_of(name: str, **changes: Any) -> Graph:
    return models.build(Bare(MODELS[name][0] | changes))  # type: ignore[arg-type]


def parameters(graph: Graph) -> int:
    return sum(int(np.prod(w.shape)) for w in graph.weights().values())


def streamed(graph: Graph) -> int:
    """Parameters of every tensor that some operation other than a look-up reads."""
    ops = [op for op in graph.ops if not isinstance(op, Embed)]
    return sum({w.alias or w.name: int(np.prod(w.shape)) for op in ops for w in op.weights}.values())


def per_token(graph: Graph) -> int:
    return sum(c.position_bytes for c in graph.caches if isinstance(c, KVCache))


def test_the_registry_has_every_file_and_names_each_as_itself() -> None:
    """It imports by name and on demand: a wrong or a missing entry would show only when its model is asked for."""
    assert {name: found.name for name, found in models.ARCHITECTURES.items()} == {n: n for n in models.ARCHITECTURES}
    files = set(Path(models.__file__).parent.glob("*.py")) - {Path(models.__file__)}
    defined = {path.stem for path in files if "\nARCHITECTURE" in path.read_text(encoding="utf-8")}
    found = [models.ARCHITECTURES[name] for name in models.ARCHITECTURES] + list(models.BY_MODEL_TYPE.values())
    imported = [import_module(f"memfirst.models.{stem}").ARCHITECTURE for stem in defined]
    assert len(defined) == len(set(map(id, found))) and set(map(id, found)) == set(map(id, imported))


@pytest.mark.parametrize("name", MODELS)
def test_published_sizes(name: str) -> None:
    """Parameters, streamed parameters and bytes of keys and values, to the last digit; the ledger agrees."""
    _, params, stream, kv = MODELS[name]
    graph = graph_of(name)
    assert (parameters(graph), streamed(graph), per_token(graph)) == (params, stream, kv)
    bytes_of = table(price(graph, decode(0)))
    vectors = sum(w.nbytes // 2 for w in graph.weights().values() if w.codec == "f32")
    assert bytes_of["weights"] + bytes_of["head"] == 2 * stream + vectors  # vectors stay f32, 2 bytes more each
    read = sum(op.cache.position_bytes for op in graph.ops if isinstance(op, Attention))  # shared ones once a layer
    assert (bytes_of["kv_read"], bytes_of["kv_write"]) == (read, kv) and (read == kv or "-E" in name)
    assert bytes_of["embedding"] == 2 * sum(op.width for op in graph.ops if isinstance(op, Embed))


# windows


def held_and_read(graph: Graph, context: int) -> dict[str, tuple[int, int, int]]:
    """By kind of layer, positions that a decoded token reads, that are held, and that are allocated."""
    found = {}
    for c in graph.caches:
        assert isinstance(c, KVCache)
        read = c.read_bytes(Sequence(context - 1))
        sizes = (read, c.held_bytes(context), c.allocated_bytes(context))
        found["local" if c.window else "global"] = tuple(n // c.position_bytes for n in sizes)
    return found  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("name", "window", "local"),
    [
        ("Mistral-7B-v0.1", 4096, range(32)),
        ("Gemma-2-2B", 4096, range(0, 26, 2)),
        ("Gemma-3-1B", 512, [i for i in range(26) if i % 6 != 5]),
        ("Gemma-3-4B", 1024, [i for i in range(34) if i % 6 != 5]),
        ("Phi-3-mini", 2047, range(32)),
    ],
)
def test_windows(name: str, window: int, local: Any) -> None:
    """Which layers have one; below it they are as the others; above it they read and hold it, in whole blocks."""
    graph = graph_of(name)
    assert [i for i, c in enumerate(graph.caches) if isinstance(c, KVCache) and c.window] == list(local)
    assert {c.window for c in graph.caches if isinstance(c, KVCache)} <= {window, None}
    for context, seen in ((320, 320), (window, window), (window + 1, window), (3 * window, window)):
        whole = -(-context // 64) * 64
        behind = max(0, context + 1 - window) // 64 * 64
        found = held_and_read(graph, context)
        assert found.pop("local") == (seen, seen, whole - behind)
        assert found in ({}, {"global": (context, context, whole)})


def test_a_prompt_reads_a_window_and_its_own_tokens() -> None:
    """Of a prompt's chunk the windows of all its tokens together; pairs are computed within them."""
    graph = graph_of("Gemma-2-2B")
    near, far = graph.caches[:2]
    step = prefill(512, past=8192 - 512)
    assert isinstance(near, KVCache) and isinstance(far, KVCache)
    assert near.read_bytes(step.sequences[0]) == (4096 + 511) * near.position_bytes
    assert far.read_bytes(step.sequences[0]) == 8192 * far.position_bytes
    first, second = [op for op in graph.ops if isinstance(op, Attention)][:2]
    assert first.flops(step) == 4 * 8 * 256 * 512 * 4096
    assert second.flops(step) == 4 * 8 * 256 * sum(range(8192 - 511, 8193))


# traps for a reader of configs


@pytest.mark.parametrize(
    ("name", "stated"), [("Qwen3-0.6B", 128), ("Gemma-2-27B", 128), ("Gemma-3-4B", 256), ("Mistral-Nemo-12B", 128)]
)
def test_trap_head_dim_is_not_hidden_over_heads(name: str, stated: int) -> None:
    """Trap 1."""
    graph = graph_of(name)
    attention = next(op for op in graph.ops if isinstance(op, Attention))
    assert attention.cache.k_dim == stated != graph.hidden_size / attention.heads
    assert graph.weights()["blk.0.attn_output.weight"].columns == stated * attention.heads


@pytest.mark.parametrize(
    "name", ["Qwen2.5-0.5B", "Qwen2.5-72B", "Qwen3-8B", "Phi-3.5-mini", "Phi-4", "Phi-4-mini", "Mistral-7B-v0.3"]
)
def test_trap_a_window_that_is_off(name: str) -> None:
    """Trap 3: switched off, null, or beyond the context; `layer_types` of newer configs says the same."""
    assert {c.window for c in graph_of(name).caches if isinstance(c, KVCache)} == {None}
    if name.startswith("Qwen"):
        layers = MODELS[name][0]["num_hidden_layers"]
        assert graph_of(name, layer_types=["full_attention"] * layers) == graph_of(name)


@pytest.mark.parametrize("given", [True, False])
def test_trap_a_window_that_is_on_from_some_layer(given: bool) -> None:
    """Qwen2's max_window_layers keep full attention; `layer_types` may list the same."""
    kinds = ["full_attention"] * 20 + ["sliding_attention"] * 4
    changes = {"layer_types": kinds} if given else {"max_window_layers": 20}
    graph = graph_of("Qwen2.5-0.5B", use_sliding_window=True, sliding_window=1024, **changes)
    assert [c.window for c in graph.caches if isinstance(c, KVCache)] == [None] * 20 + [1024] * 4


def test_trap_a_wrapped_config() -> None:
    """Trap 4: what Gemma 3 4B's text_config leaves out, and its 64 rows that are no tokens."""
    graph = graph_of("Gemma-3-4B")
    assert (graph.vocab_size, graph.context) == (262208, 131072)
    text = {**MODELS["Gemma-3-4B"][0]["text_config"], "vocab_size": 262144}
    smaller = graph_of("Gemma-3-4B", text_config=text)
    assert (smaller.vocab_size, parameters(smaller)) == (262144, 3880099328)
    turns = {op.frequencies[1] / op.frequencies[0]: op.frequencies[0] for op in graph.ops if isinstance(op, Rope)}
    assert turns == pytest.approx({1e6 ** (-1 / 128): 1 / 8, 1e4 ** (-1 / 128): 1.0})
    assert graph_of("Gemma-3-4B", audio_config={}) == graph
    with pytest.raises(ConfigError, match="novel_attention"):
        graph_of("Gemma-3-4B", novel_attention=True)
    with pytest.raises(ConfigError, match="text_config is 'big'"):
        graph_of("Gemma-3-4B", text_config="big")


@pytest.mark.parametrize(
    ("name", "missing"),
    [("Qwen3-14B", "num_hidden_layers"), ("Mistral-7B-v0.3", "hidden_size"), ("Gemma-2-9B", "query_pre_attn_scalar"),
     ("Gemma-2-9B", "sliding_window"), ("Phi-4", "intermediate_size"), ("Qwen3-14B", "num_key_value_heads"),
     ("Mistral-7B-v0.3", "num_key_value_heads"), ("Gemma-3-1B", "num_key_value_heads")],
)  # fmt: skip
def test_trap_a_class_default_is_not_the_checkpoint(name: str, missing: str) -> None:
    """Trap 5: what a class would fill in with another model's value is asked for instead."""
    with pytest.raises(ConfigError, match=f"{missing} is missing"):
        graph_of(name, **{missing: None})


def test_trap_no_window_is_none() -> None:
    """Trap 5: transformers' MistralConfig has a window of 4096 where config.json has none."""
    assert graph_of("Mistral-7B-v0.3").caches[0].window is None  # type: ignore[union-attr]


def test_trap_the_vocabulary_is_padded() -> None:
    """Trap 7: rows of the embedding, 151,936 up to 3B and 152,064 from 7B on, not the 151,643 tokens."""
    rows = {name: graph_of(name).weights()["token_embd.weight"].rows for name in MODELS if "Qwen2.5" in name}
    assert set(rows.values()) == {151936, 152064}
    assert rows["Qwen2.5-3B"] == graph_of("Qwen2.5-3B").vocab_size == 151936


class Table:
    """The tensor table of a GGUF file, without bytes."""

    kind, path, has_bytes, architecture = "gguf", "", False, "llama"

    def __init__(self, graph: Graph, metadata: dict[str, Any], *more: Any) -> None:
        from memfirst.formats.checkpoint import TensorInfo

        self.metadata = metadata
        stored = [*graph.weights().values(), *more]
        self.tensors = {w.name: TensorInfo(w.name, w.shape, w.codec, w.nbytes) for w in stored}


def test_trap_a_tied_head_that_is_stored_twice() -> None:
    """Trap 8: 1.498e9 parameters in the file, 1.236e9 streamed, whether tied or stored apart."""
    tied = graph_of("Llama-3.2-1B", rope_scaling=None)
    sizes = {"embedding_length": 2048, "block_count": 16, "feed_forward_length": 8192, "context_length": 131072}
    heads = {"head_count": 32, "head_count_kv": 8, "layer_norm_rms_epsilon": 1e-5}
    metadata: dict[str, Any] = {f"llama.{k}": v for k, v in sizes.items()}
    metadata |= {f"llama.attention.{k}": v for k, v in heads.items()}
    metadata |= {"llama.vocab_size": 128256, "llama.rope.freq_base": 500000.0}
    embedding = tied.weights()["token_embd.weight"]
    twice = models.build(Table(tied, metadata, replace(embedding, name="output.weight")))  # type: ignore[arg-type]
    once = models.build(Table(tied, metadata))  # type: ignore[arg-type]
    assert once == tied
    assert (parameters(twice), streamed(twice)) == (1498482688, 1235814400)
    assert (parameters(once), streamed(once)) == (1235814400, 1235814400)
    prices = [table(price(graph, decode(0))) for graph in (once, twice)]
    assert prices[0] == prices[1]


# the same models as GGUF files


@pytest.mark.parametrize("name", FAMILIES)
def test_a_gguf_file_gives_the_same_graph(name: str, tmp_path: Path) -> None:
    """Keys and tensors as the converter writes them. Mistral's and Qwen2's windows it drops, Gemma's scale it
    implies; all else is equal, and so are the numbers of every tensor."""
    folder = open_checkpoint(FOLDER / name)
    file = open_checkpoint(dense_gguf.write(FOLDER / name, tmp_path / "model.gguf"))
    expected, found = models.build(folder), models.build(file)
    if name in ("mistral_window", "qwen2_window", "starcoder2"):
        expected = changed(expected, without_window)
    if name in ("gemma2", "gemma3"):  # 1/sqrt(head_dim), where the fixture's query_pre_attn_scalar is 20
        found = changed(found, lambda op: replace(op, scale=20**-0.5) if isinstance(op, Attention) else op)
    if name in ("exaone4", "hunyuan"):  # divisors, and a theta, that GGUF holds as float32
        found = replace(found, ops=tuple(map(with_angles_of, found.ops, expected.ops)))
    assert found.ops == expected.ops
    assert found.caches == expected.caches
    assert found == expected
    for tensor in found.weights():
        assert np.array_equal(folder.read(tensor), file.read(tensor)), tensor


def with_angles_of(op: Op, other: Op) -> Op:
    """`op` with the frequencies of `other`, which are the same within float32."""
    if not isinstance(op, Rope) or not isinstance(other, Rope):
        return op
    np.testing.assert_allclose(op.frequencies, other.frequencies, rtol=3e-7)
    return replace(op, frequencies=other.frequencies)


def changed(graph: Graph, change: Callable[[Op], Op]) -> Graph:
    ops = tuple(change(op) for op in graph.ops)
    caches = {op.cache.name: op.cache for op in ops if isinstance(op, Attention)}
    return replace(graph, ops=ops, caches=tuple(caches.get(c.name, c) for c in graph.caches))


def without_window(op: Op) -> Op:
    return with_window(op, None)


def with_window(op: Op, window: int | None) -> Op:
    return replace(op, cache=replace(op.cache, window=window)) if isinstance(op, Attention) else op


@pytest.mark.parametrize("name", FAMILIES)
def test_the_price_of_a_gguf_file(name: str, tmp_path: Path) -> None:
    """Bytes of the tensors as the `gguf` package counts them: all but looked-up embeddings, and numbers that are a part
    of the graph itself."""
    path = dense_gguf.write(FOLDER / name, tmp_path / "model.gguf")
    sizes = {t.name: int(t.n_bytes) for t in gguf.GGUFReader(path).tensors}
    apart = ("rope_f", "per_layer_token_embd")
    expected = sum(n for tensor, n in sizes.items() if not tensor.startswith(apart) and "output_scale" not in tensor)
    if "output.weight" in sizes:
        expected -= sizes["token_embd.weight"]
    bytes_of = table(price(models.build(open_checkpoint(path)), decode(0)))
    assert bytes_of["weights"] + bytes_of["head"] == expected
    assert bytes_of["embedding"] == (sizes["token_embd.weight"] + sizes.get("per_layer_token_embd.weight", 0)) // 48


def test_a_header_is_priced_without_its_numbers(tmp_path: Path) -> None:
    """Rope divisors and a layer's factor are parts of the graph, and behind the header: a price needs neither."""
    path = dense_gguf.write(FOLDER / "gemma4_shared", tmp_path / "model.gguf")
    whole, data = models.build(open_checkpoint(path)), path.read_bytes()
    front = min(t.data_offset for t in gguf.GGUFReader(path).tensors)
    path.write_bytes(data[:front] + bytes(len(data) - front))
    with pytest.raises(ConfigError, match="values below or at 0"):
        models.build(open_checkpoint(path))
    found = models.build(open_checkpoint(path), header=True)
    prices = [table(price(graph, decode(0))) for graph in (found, whole)]
    assert all(prices[0][what] == prices[1][what] for what in prices[0] if what != "activations")


def test_a_window_stated_in_gguf_counts(tmp_path: Path) -> None:
    """No converter writes one for Llama; a file that has one means it."""
    path = dense_gguf.write(FOLDER / "mistral_window", tmp_path / "model.gguf")
    file = open_checkpoint(path)
    metadata = {**file.metadata, "llama.attention.sliding_window": 9}
    config = models.find("llama").from_gguf(metadata, file.tensors, False)
    assert config.windows == (9, 9)


# what the graphs mean (parity with transformers itself is in test_reference.py)


def logits_of(folder: Path, change: Callable[[Op], Op] = lambda op: op) -> Any:
    checkpoint = open_checkpoint(folder)
    graph = changed(models.build(checkpoint), change)
    tokens = np.load(folder / "expected.npz")["tokens"]
    backend = ReferenceBackend(graph, checkpoint, context=len(tokens))
    return backend.step(one(0, len(tokens), logits=tuple(range(len(tokens)))), tokens)


UNWINDOWED = (
    *("phi3_short", "phi3_long", "granite", "granite4", "smollm3", "ministral3", "olmo2", "exaone4", "qwen3"),
    *("seed_oss", "hunyuan", "ernie4_5", "glm4", "stablelm", "phi2"),
    *("gemma", "cohere", "arcee"),
)


def wider(op: Op) -> Op:
    return with_window(op, op.cache.window + 1) if isinstance(op, Attention) and op.cache.window else op


def halved(op: Op) -> Op:
    return replace(op, softcap=op.softcap / 2) if isinstance(op, Attention | Linear) and op.softcap else op


def unscaled(op: Op) -> Op:
    return replace(op, scale=1.0) if isinstance(op, Embed) else op


def steady(op: Op) -> Op:
    return replace(op, temperature=0.0) if isinstance(op, Rope) else op


@pytest.mark.parametrize(
    ("name", "change"),
    [*((name, wider) for name in FAMILIES if name not in UNWINDOWED), ("gemma2", halved),
     ("ministral3", steady), ("gemma2", unscaled), ("gemma3", unscaled), ("granite", unscaled)],
)  # fmt: skip
def test_the_fixtures_see_a_wrong_attribute(name: str, change: Callable[[Op], Op]) -> None:
    """A window one position wider, another softcap, an embedding as it is stored: none passes for the same."""
    assert np.abs(logits_of(FOLDER / name, change) - logits_of(FOLDER / name)).max() > 0.02


def test_gemma_by_its_own_words() -> None:
    """The published scales: embedding by sqrt(hidden), scores by query_pre_attn_scalar, softcaps, norms."""
    graph = graph_of("Gemma-2-27B")
    embed, head = graph.ops[0], graph.ops[-1]
    assert isinstance(embed, Embed) and isinstance(head, Linear)
    assert embed.scale == pytest.approx(4608**0.5)
    assert (head.softcap, head.weight.alias) == (30.0, "token_embd.weight")
    attention = next(op for op in graph.ops if isinstance(op, Attention))
    assert (attention.scale, attention.softcap) == (1 / 12, 50.0)
    names = [op.name for op in graph.ops if isinstance(op, RMSNorm)][:5]
    layer = ["attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"]
    assert names == [*(f"blk.0.{norm}" for norm in layer), "blk.1.attn_norm"]


def test_a_wrapped_folder_is_its_text_model(tmp_path: Path) -> None:
    """Gemma 3's tensors inside a multimodal model, under both prefixes: same numbers, the rest is ignored."""
    config = json.loads((FOLDER / "gemma3" / "config.json").read_text())
    tensors, kind = dense_gguf.arrays(FOLDER / "gemma3")
    expected = logits_of(FOLDER / "gemma3")
    for prefix, tower in (("language_model.model.", ""), ("model.language_model.", "model.")):
        inner = {k.replace("model.", prefix, 1): dense_gguf.floats(v, kind) for k, v in tensors.items()}
        inner[f"{tower}vision_tower.encoder.weight"] = np.ones((3, 3), "f4")
        wrapped = {"model_type": "gemma3", "text_config": config, "vision_config": {}}
        (tmp_path / "config.json").write_text(json.dumps(wrapped))
        save_file(inner, tmp_path / "model.safetensors")
        np.savez(tmp_path / "expected.npz", tokens=np.load(FOLDER / "gemma3" / "expected.npz")["tokens"])
        np.testing.assert_array_equal(logits_of(tmp_path), expected)


def test_longrope_by_the_context() -> None:
    """Where sequences may grow beyond the original context, tokens are rotated by the long divisors from the first."""
    graph = graph_of("Phi-4-mini")
    rope = next(op for op in graph.ops if isinstance(op, Rope))
    assert (2 * len(rope.frequencies), rope.head_dim, rope.original) == (96, 128, 4096)
    assert rope.factor == pytest.approx((1 + np.log(32) / np.log(4096)) ** 0.5)
    assert rope.long_frequencies == pytest.approx([f / 32 for f in rope.frequencies])
    assert rope.frequencies_for(4096) == rope.frequencies
    assert rope.frequencies_for(4097) == rope.long_frequencies


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("SmolLM3-3B", {"no_rope_layers": [1, 0]}, "no_rope_layers"),
        ("Gemma-2-2B", {"hidden_activation": "gelu"}, "hidden_activation"),
        ("Gemma-2-2B", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("Gemma-2-2B", {"sliding_window": 0}, "sliding_window"),
        ("Gemma-2-2B", {"layer_types": ["full_attention"]}, "windows of 1 layers"),
        ("Gemma-2-2B", {"layer_types": "all"}, "layer_types"),
        ("Gemma-2-2B", {"attn_logit_softcapping": "high"}, "attn_logit_softcapping"),
        ("Gemma-3-1B", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ("Gemma-3-1B", {"sliding_window_pattern": "5:1"}, "sliding_window_pattern"),
        ("Gemma-3-1B", {"rope_parameters": {"full_attention": 3}}, "rope_parameters"),
        ("Gemma-3-1B", {"rope_parameters": {"chunked_attention": {}}}, "chunked_attention"),
        ("Phi-4-mini", {"lm_head_bias": True}, "lm_head_bias"),
        ("Phi-4-mini", {"rope_scaling": {"type": "longrope", "short_factor": [1.0] * 48}}, "long_factor"),
        ("Phi-4-mini", {"partial_rotary_factor": 0.5}, "48 rope divisors; expected 32"),
        ("Phi-4-mini", {"original_max_position_embeddings": None}, "original_max_position_embeddings is missing"),
        ("Mistral-7B-v0.1", {"sliding_window": "4k"}, "sliding_window"),
        ("Qwen2.5-7B", {"use_sliding_window": True, "sliding_window": None}, "without a sliding_window"),
        ("Qwen2.5-7B", {"layer_types": ["sliding_attention"] * 28}, "use_sliding_window is false"),
        ("Llama-3.1-8B", {"novel_attention": True}, "novel_attention"),
    ],
)
def test_variants_are_refused(name: str, change: dict[str, Any], says: str) -> None:
    """What would change the arithmetic is named, never ignored."""
    with pytest.raises(MemfirstError, match=says):
        graph_of(name, **change)


def test_the_cpu_runs_layers_that_do_not_turn() -> None:
    """q and k straight into attention, in every second layer."""
    graph, checkpoint = tiny("llama", "f32")
    llama = models.find("llama")
    config = without_rope(llama.from_gguf(checkpoint.metadata, checkpoint.tensors, False), (1,))
    still = llama.build(config, models.CheckpointWeights(checkpoint))
    assert sum(isinstance(op, Rope) for op in still.ops) == 2
    fast = CpuBackend(still, checkpoint, options())
    slow, plain = ReferenceBackend(still, checkpoint), ReferenceBackend(graph, checkpoint)
    tokens, step = np.arange(30, dtype=np.int32) * 7, Step((Sequence(0, 30, tables=((3,),)),))
    expected = slow.step(step, tokens)
    np.testing.assert_allclose(fast.step(step, tokens).logits, expected, atol=5e-3, rtol=0)
    assert np.abs(plain.step(step, tokens) - expected).max() > 0.02
    fast.close()


@pytest.mark.parametrize(
    "name", ["Mistral-7B-v0.1", "Gemma-2-2B", "Gemma-3-4B", "Gemma-3-1B", "Phi-4-mini", "SmolLM3-3B"]
)
def test_any_value_builds_or_is_refused(name: str) -> None:
    """Values of every type and size under every key, `text_config` and rope scaling included."""
    config = MODELS[name][0]
    for key in (*config, "rope_parameters", "layer_types", "text_config"):
        for value in NASTY:
            try:
                graph = graph_of(name, **{key: value})
            except MemfirstError:
                continue
            ropes = [op for op in graph.ops if isinstance(op, Rope)]
            assert all(np.isfinite((*op.frequencies, *op.long_frequencies, op.factor)).all() for op in ropes[:3])


# what public files have


YARN_FILE: dict[str, Any] = {
    "llama.rope.scaling.type": "yarn",
    "llama.rope.scaling.factor": 4.0,
    "llama.rope.scaling.original_context_length": 64,
}


@pytest.mark.parametrize(
    ("stated", "factor"),
    [
        ({}, 1 + 0.1 * log(4)),
        ({"llama.rope.scaling.yarn_attn_factor": 0.878, "llama.rope.scaling.yarn_ext_factor": 1.0}, 0.9997),
        ({"llama.rope.scaling.attn_factor": 0.5}, 0.5 + 0.05 * log(4)),
        ({"llama.rope.scaling.yarn_attn_factor": float(np.float32(1 + 0.1 * log(4)))}, 1 + 0.1 * log(4)),
        ({"llama.rope.scaling.yarn_log_multiplier": 1.0}, 1.0),
        ({"llama.rope.scaling.yarn_log_multiplier": 0.5}, (1 + 0.1 * log(4)) / (1 + 0.05 * log(4))),
    ],
)
def test_yarns_explicit_factors_in_gguf(stated: dict[str, Any], factor: float) -> None:
    """They multiply YaRN's own, but for one that states just that (OLMo 3's `attention_factor`)."""
    found = rope_of(models.build(gguf_file(YARN_FILE | stated)))
    assert found.factor == pytest.approx(factor, rel=1e-4)
    with pytest.raises(UnsupportedError, match="yarn_ext_factor"):
        models.build(gguf_file(YARN_FILE | {"llama.rope.scaling.yarn_ext_factor": 0.5}))
    fast = rope_of(models.build(gguf_file(YARN_FILE | {"llama.rope.scaling.yarn_beta_fast": 1.5})))
    assert fast.frequencies != found.frequencies


@pytest.mark.parametrize(
    ("stated", "factor"),
    [({}, 1 + 0.1 * log(4)), ({"attn_factor": 0.878}, 0.9997), ({"attention_factor": 0.7}, 0.7),
     ({"attn_factor": 2.0, "attention_factor": 0.7}, 0.7), ({"mscale": 1.0, "mscale_all_dim": 1.0}, 1.0)],
)  # fmt: skip
def test_yarns_explicit_factors_in_config_json(stated: dict[str, Any], factor: float) -> None:
    """`attention_factor` takes the place of YaRN's own, `attn_factor` multiplies it."""
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192, **stated}
    assert rope_of(graph_of("Llama-3.1-8B", rope_scaling=scaling)).factor == pytest.approx(factor, rel=1e-4)


def test_layers_may_differ_in_heads_and_widths() -> None:
    """A list of equal numbers is as one number; of other numbers each layer has its own."""
    same = {"llama.attention.head_count_kv": [2, 2], "llama.attention.head_count": np.array([4, 4], np.int32)}
    assert models.build(gguf_file(same)) == models.build(gguf_file())
    rows = {"blk.1.attn_k.weight": np.ones((16, 64), "f4"), "blk.1.attn_v.weight": np.ones((16, 64), "f4")}
    wide = {"blk.1.ffn_gate.weight": (32, 64), "blk.1.ffn_up.weight": (32, 64), "blk.1.ffn_down.weight": (64, 32)}
    other = {name.replace(".", "__"): array for name, array in rows.items()}
    other |= {name.replace(".", "__"): np.ones(shape, "f4") for name, shape in wide.items()}
    change = {"llama.attention.head_count_kv": [2, 1], "llama.feed_forward_length": [96, 32]}
    graph = models.build(gguf_file(change, **other))
    assert [c.heads for c in graph.caches if isinstance(c, KVCache)] == [2, 1]
    assert graph.weights()["blk.1.ffn_up.weight"].rows == 32


SAVED = {
    "return_dict": True, "output_hidden_states": False, "output_attentions": False, "is_encoder_decoder": False,
    "chunk_size_feed_forward": 0, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "problem_type": None,
    "use_bfloat16": False, "pruned_heads": {}, "tie_encoder_decoder": False, "torchscript": False, "top_k": 50,
    "temperature": 1.0, "architectures": ["LlamaForCausalLM"], "finetuning_task": None, "prefix": None,
    "add_cross_attention": False, "is_decoder": False, "cross_attention_hidden_size": None, "quantization_config": None,
}  # fmt: skip


def test_a_config_saved_with_every_default_is_the_same_model() -> None:
    """What PretrainedConfig has for every kind of model, and keys that are null, change nothing."""
    assert graph_of("Llama-3.1-8B", **SAVED) == graph_of("Llama-3.1-8B")
    for key, value in (("is_encoder_decoder", True), ("add_cross_attention", True), ("pruned_heads", {"0": [1]})):
        with pytest.raises(MemfirstError, match=key):
            graph_of("Llama-3.1-8B", **SAVED | {key: value})


def test_numbers_and_dtypes_as_other_tools_write_them() -> None:
    """`torch.bfloat16`, a dtype by part of the model, whole numbers as floats."""
    plain = graph_of("Llama-3.1-8B")
    assert graph_of("Llama-3.1-8B", torch_dtype="torch.bfloat16") == plain
    assert graph_of("Llama-3.1-8B", torch_dtype={"": "bfloat16", "vision_config": "float32"}) == plain
    assert graph_of("Llama-3.1-8B", max_position_embeddings=8192.0) == plain
    halves = graph_of("Llama-3.1-8B", torch_dtype="float8_e4m3fn")
    assert halves.weights()["blk.0.attn_q.weight"].codec == "f8_e4m3"
    for wrong in ("torch.int3", {"": "int3"}, 16):
        with pytest.raises(ConfigError, match="dtype"):
            graph_of("Llama-3.1-8B", torch_dtype=wrong)


def test_a_wrapper_around_a_known_text_model_is_that_model() -> None:
    """Qwen3-VL by its text_config; Mistral Small 3.1, whose rows are paired by the text model's heads."""
    scaling = {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"}
    text = MODELS["Qwen3-8B"][0] | {"model_type": "qwen3_vl_text", "rope_scaling": scaling}
    outer = {"model_type": "qwen3_vl", "image_token_id": 151655, "tie_word_embeddings": False, "vision_config": {}}
    wrapped = models.build(Bare(outer | {"text_config": text}))  # type: ignore[arg-type]
    assert wrapped == graph_of("Qwen3-8B")
    full = outer | {"is_encoder_decoder": False, "return_dict": True, "id2label": {}}
    assert models.build(Bare(full | {"text_config": text | SAVED})) == wrapped  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="novel_attention"):
        models.build(Bare(outer | {"text_config": text, "novel_attention": {}}))  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError, match="is_encoder_decoder"):
        models.build(Bare(outer | {"text_config": text, "is_encoder_decoder": True}))  # type: ignore[arg-type]


def test_a_multimodal_config_without_a_wrapper() -> None:
    """Qwen2.5-VL's published config.json has towers beside its own keys: the text model is Qwen2."""
    config = MODELS["Qwen2.5-7B"][0] | {"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}
    outer = {"model_type": "qwen2_5_vl", "vision_config": {"depth": 32}, "image_token_id": 151655}
    found = models.build(Bare(config | outer | {"vision_start_token_id": 151652}))  # type: ignore[arg-type]
    assert found == graph_of("Qwen2.5-7B")
    with pytest.raises(ConfigError, match="image_token_id"):
        models.build(Bare(config | {"image_token_id": 151655}))  # type: ignore[arg-type]


def test_what_is_left_out_of_a_multimodal_folder_is_said(tmp_path: Path) -> None:
    """Of a folder with its bytes; of a config.json that there is something; of a text model nothing."""
    config = json.loads((FOLDER / "qwen2" / "config.json").read_text()) | {
        "vision_config": {},
        "model_type": "qwen2_vl",
    }
    tensors, kind = dense_gguf.arrays(FOLDER / "qwen2")
    inner = {k: dense_gguf.floats(v, kind) for k, v in tensors.items()}
    inner |= {
        "visual.blocks.0.weight": np.ones((1000, 2500), "f4"),
        "model.vision_tower.a.weight": np.ones((3, 2), "f4"),
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(inner, tmp_path / "model.safetensors")
    np.savez(tmp_path / "expected.npz", tokens=np.load(FOLDER / "qwen2" / "expected.npz")["tokens"])
    np.testing.assert_array_equal(logits_of(tmp_path), logits_of(FOLDER / "qwen2"))
    says = "the text model alone: towers for images and sound, 0.01 GB, are left out"
    assert text_alone(open_checkpoint(tmp_path)) == says
    assert text_alone(open_checkpoint(tmp_path / "config.json")) == says.replace(", 0.01 GB,", "")
    assert text_alone(open_checkpoint(FOLDER / "qwen2")) == ""
    assert contents.describe(open_checkpoint(tmp_path))["left_out"] == says
    assert subject(str(tmp_path)).notes == (says,)


@pytest.mark.parametrize("head", ["lm_head.weight", "language_model.lm_head.weight"])
def test_a_wrapped_folder_is_read_by_its_text_models_sizes(head: str, tmp_path: Path) -> None:
    """Rows of q and k are paired by the heads that text_config states; wrappers put the head in one of two places."""
    config = json.loads((FOLDER / "ministral3" / "config.json").read_text())
    tensors, kind = dense_gguf.arrays(FOLDER / "ministral3")
    names = {name: name.replace("model.", "model.language_model.", 1) for name in tensors} | {"lm_head.weight": head}
    inner = {names[k]: dense_gguf.floats(v, kind) for k, v in tensors.items()}
    inner["model.vision_tower.encoder.weight"] = np.ones((3, 3), "f4")
    wrapped = {"model_type": "mistral3", "text_config": config, "vision_config": {}, "spatial_merge_size": 2}
    (tmp_path / "config.json").write_text(json.dumps(wrapped))
    save_file(inner, tmp_path / "model.safetensors")
    np.savez(tmp_path / "expected.npz", tokens=np.load(FOLDER / "ministral3" / "expected.npz")["tokens"])
    np.testing.assert_array_equal(logits_of(tmp_path), logits_of(FOLDER / "ministral3"))


def test_keys_whose_value_is_what_happens_anyway() -> None:
    """Qwen3-Coder states biases, norms and a shared expert that Qwen3-MoE has or has not."""
    from tests.support.experts_configs import QWEN3_30B

    stated = {"qkv_bias": False, "use_qk_norm": True, "shared_expert_intermediate_size": 0}
    plain = models.build(Bare(QWEN3_30B))  # type: ignore[arg-type]
    assert models.build(Bare(QWEN3_30B | stated)) == plain  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError, match="use_qk_norm"):
        models.build(Bare(QWEN3_30B | stated | {"use_qk_norm": False}))  # type: ignore[arg-type]


def test_a_local_layer_keeps_its_theta_where_its_window_never_applies() -> None:
    """A context not longer than the window: nothing is cut off, and heads are rotated as they were trained."""
    short, long = (graph_of("Gemma-3-1B", max_position_embeddings=n) for n in (512, 32768))
    assert [c.window for c in short.caches if isinstance(c, KVCache)] == [None] * 26
    angles = [[op.frequencies for op in graph.ops if isinstance(op, Rope)] for graph in (short, long)]
    assert angles[0] == angles[1]


def test_a_temperature_grows_with_the_position() -> None:
    """Ministral 3's queries: 1 below the original context, then 1 + 0.1 · ln(1 + floor(position / 16384))."""
    ropes = [op for op in graph_of("Ministral-3-8B").ops if isinstance(op, Rope)]
    assert [(op.temperature, op.original) for op in ropes[:2]] == [(0.1, 16384), (0.0, 0)]
    expected = [1, 1, 1 + 0.1 * log(2), 1 + 0.1 * log(4)]
    np.testing.assert_allclose(ropes[0].factors(np.array([0.0, 16383, 16384, 49152])), expected)


def test_where_layers_rotate() -> None:
    """Cohere 2 and EXAONE 4 32B only in windows; OLMo 3 everywhere, scaled only without one."""
    for name in ("Command-R7B", "EXAONE-4.0-32B"):
        graph = graph_of(name)
        rotated = {op.name.split(".")[1] for op in graph.ops if isinstance(op, Rope)}
        local = {c.name.split(".")[1] for c in graph.caches if isinstance(c, KVCache) and c.window}
        assert rotated == local and len(local) == 3 * len(graph.caches) // 4
    ropes = [op for op in graph_of("OLMo-3-7B").ops if isinstance(op, Rope)][::2]
    assert [op.factor == 1 for op in ropes] == [True, True, True, False] * 8
    assert len({op.frequencies for op in ropes}) == 2
