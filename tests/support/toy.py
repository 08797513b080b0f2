"""Small models: a checkpoint over arrays, and graphs of four kinds of architecture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memfirst.formats.checkpoint import TensorInfo
from memfirst.graph import Graph, KVCache, Op, Sequence, StateCache, Step, Weight
from memfirst.graph.ops.add import Add
from memfirst.graph.ops.attention import Attention
from memfirst.graph.ops.conv import CausalConv1d
from memfirst.graph.ops.embed import Embed
from memfirst.graph.ops.experts import Experts, Router
from memfirst.graph.ops.glu import Glu
from memfirst.graph.ops.latent import LatentAttention
from memfirst.graph.ops.linear import Linear
from memfirst.graph.ops.norm import RMSNorm
from memfirst.graph.ops.rope import INTERLEAVED, Rope
from memfirst.graph.ops.scan import SelectiveScan
from memfirst.graph.ops.select import Select
from memfirst.graph.ops.slice import Slice
from memfirst.models import ShapeOnly, llama
from memfirst.models.builder import Heads
from memfirst.models.decoder import Config
from memfirst.models.rope import Rotation

F32 = NDArray[np.float32]


class ArrayCheckpoint:
    """A Checkpoint of f32 arrays, by GGUF name."""

    kind, path, has_bytes = "gguf", "", True

    def __init__(self, arrays: Mapping[str, F32], metadata: Mapping[str, Any] | None = None) -> None:
        self.arrays = arrays
        self.metadata: Mapping[str, Any] = metadata or {}
        self.tensors: Mapping[str, TensorInfo] = {n: TensorInfo(n, a.shape, "f32", a.nbytes) for n, a in arrays.items()}

    @property
    def architecture(self) -> str:
        return str(self.metadata["general.architecture"])

    def read(self, name: str) -> NDArray[np.uint8]:
        return np.ascontiguousarray(self.arrays[name]).reshape(-1).view(np.uint8)

    def release(self, name: str) -> None:
        pass

    def close(self) -> None:
        pass


def random_checkpoint(graph: Graph, seed: int = 0) -> ArrayCheckpoint:
    """Normal weights scaled by the row length; norms near 1; `ssm_a` negative."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, w in graph.weights().items():
        values = rng.standard_normal(w.shape) / np.sqrt(w.columns if len(w.shape) > 1 else 10)
        values += 1.0 if "norm" in name else 0.0
        arrays[name] = (-np.exp(values) if "ssm_a" in name else values).astype(np.float32)
    return ArrayCheckpoint(arrays)


GROUPS = 4
"""Cache groups of the models here, at most: the reference takes no more tables than it needs."""


def paged(past: int, new: int = 1, first: int = 0, **more: Any) -> Sequence:
    """A sequence on blocks of its own in each cache group, in an order that is not ascending."""
    table = tuple(first * 100 + p for p in (3, 1, 2, 0, 5, 4))
    return Sequence(past, new, tables=(table,) * GROUPS, **more)


def one(past: int, new: int = 1, **more: Any) -> Step:
    """A step of one sequence."""
    return Step((paged(past, new, **more),))


LLAMA = Config(
    "llama", hidden_size=64, heads=(Heads(4, 2, 16, Rotation(10000.0, 16, INTERLEAVED)),) * 2,
    intermediate_size=(128, 128), vocab_size=256, max_position_embeddings=512, eps=1e-5,
)  # fmt: skip


def toy_llama(codec: str = "q8_0", bias: bool = False, **changes: Any) -> Graph:
    """2 layers, 64 wide, 4 heads over 2 KV heads of 16, feed-forward 128, 256 tokens."""
    return llama.build(replace(LLAMA.attention(bias=bias), **changes), ShapeOnly(codec))


def fitting(codec: str) -> Callable[[str, tuple[int, ...]], str]:
    """`codec` for matrices, f16 where rows are no whole blocks; f32 for vectors, routers and convolutions."""

    def choose(name: str, shape: tuple[int, ...]) -> str:
        if len(shape) == 1 or "gate_inp" in name or "conv1d" in name:
            return "f32"
        return codec if shape[-1] % 32 == 0 or codec == "f32" else "f16"

    return choose


HIDDEN, VOCAB = 64, 128


def toy_mla(codec: str = "q8_0") -> Graph:
    """One layer: latent attention (rank 32, rope 8, 4 heads of 16 + 8, values 16); 8 experts of 32, 2 a
    token, and a shared one."""
    w = ShapeOnly(fitting(codec))
    cache = KVCache("blk.0.kv", 1, 40, 0)
    turn: dict[str, Any] = {"frequencies": (1.0, 0.1, 0.01, 0.001), "style": "interleaved"}
    at, ffn = "blk.0.attn", "blk.0.ffn"
    ops: list[Op] = [
        Embed("token_embd", ("tokens",), "x0", w("token_embd.weight", (VOCAB, HIDDEN))),
        RMSNorm(f"{at}_norm", ("x0",), "h0", w(f"{at}_norm.weight", (HIDDEN,)), 1e-6),
        Linear(f"{at}_q", ("h0",), "q", w(f"{at}_q.weight", (4 * 24, HIDDEN))),
        Rope(f"{at}_q_rope", ("q",), "q_rope", 4, 24, start=16, **turn),
        Linear(f"{at}_kv_a_mqa", ("h0",), "kv", w(f"{at}_kv_a_mqa.weight", (40, HIDDEN))),
        Slice("latent", ("kv",), "latent", 0, 32),
        RMSNorm(f"{at}_kv_a_norm", ("latent",), "c", w(f"{at}_kv_a_norm.weight", (32,)), 1e-6),
        Slice("k_pe", ("kv",), "k_pe", 32, 8),
        Rope(f"{at}_k_rope", ("k_pe",), "k_rope", 1, 8, **turn),
        LatentAttention(
            at, ("q_rope", "c", "k_rope"), "a", cache, 4,
            w(f"{at}_k_b.weight", (4, 32, 16)), w(f"{at}_v_b.weight", (4, 16, 32)), 24**-0.5,
        ),
        Linear(f"{at}_output", ("a",), "o", w(f"{at}_output.weight", (HIDDEN, 64))),
        Add(f"{at}_residual", ("x0", "o"), "x1", HIDDEN),
        RMSNorm(f"{ffn}_norm", ("x1",), "h1", w(f"{ffn}_norm.weight", (HIDDEN,)), 1e-6),
        Router(f"{ffn}_gate_inp", ("h1",), "r", w(f"{ffn}_gate_inp.weight", (8, HIDDEN)), 2),
        Experts(
            f"{ffn}_exps", ("h1", "r"), "e", w(f"{ffn}_gate_exps.weight", (8, 32, HIDDEN)),
            w(f"{ffn}_up_exps.weight", (8, 32, HIDDEN)), w(f"{ffn}_down_exps.weight", (8, HIDDEN, 32)), 2,
        ),
        Linear(f"{ffn}_gate_shexp", ("h1",), "sg", w(f"{ffn}_gate_shexp.weight", (32, HIDDEN))),
        Linear(f"{ffn}_up_shexp", ("h1",), "su", w(f"{ffn}_up_shexp.weight", (32, HIDDEN))),
        Glu(f"{ffn}_glu_shexp", ("sg", "su"), "s", 32),
        Linear(f"{ffn}_down_shexp", ("s",), "sd", w(f"{ffn}_down_shexp.weight", (HIDDEN, 32))),
        Add(f"{ffn}_sum", ("e", "sd"), "f", HIDDEN),
        Add(f"{ffn}_residual", ("x1", "f"), "x2", HIDDEN),
    ]  # fmt: skip
    return Graph("toy_mla", (*ops, *_head(w, "x2")), (cache,), VOCAB, HIDDEN, 512)


def toy_mamba2(codec: str = "q8_0") -> Graph:
    """A Mamba-2 layer (4 heads of 32, state 16, 1 group, kernel 4), then attention (2 heads over 1 of 32)."""
    w = ShapeOnly(fitting(codec))
    at, inner, wide = "blk.0.ssm", 128, 128 + 2 * 16
    conv = StateCache("blk.0.conv", 3 * wide, slots=2)
    scan = StateCache("blk.0.scan", inner * 16, slots=2)
    kv = KVCache("blk.1.kv", 1, 32, 32)
    a, d, dt_bias = (w(f"{at}_{n}", (4,)) for n in ("a", "d", "dt.bias"))
    taps = w(f"{at}_conv1d.weight", (wide, 4))
    ops: list[Op] = [
        Embed("token_embd", ("tokens",), "x0", w("token_embd.weight", (VOCAB, HIDDEN))),
        RMSNorm("blk.0.attn_norm", ("x0",), "h0", w("blk.0.attn_norm.weight", (HIDDEN,)), 1e-6),
        Linear(f"{at}_in", ("h0",), "in", w(f"{at}_in.weight", (inner + wide + 4, HIDDEN))),
        Slice("z", ("in",), "z", 0, inner),
        Slice("xbc", ("in",), "xbc", inner, wide),
        Slice("dt", ("in",), "dt", inner + wide, 4),
        CausalConv1d(f"{at}_conv", ("xbc",), "conv", conv, taps, w(f"{at}_conv1d.bias", (wide,))),
        Slice("x", ("conv",), "x", 0, inner),
        Slice("b", ("conv",), "b", inner, 16),
        Slice("c", ("conv",), "c", inner + 16, 16),
        SelectiveScan(f"{at}_scan", ("x", "b", "c", "dt"), "y", scan, 4, 32, 1, 16, a, d, dt_bias),
        Glu(f"{at}_glu", ("z", "y"), "g", inner),
        RMSNorm(f"{at}_norm", ("g",), "gn", w(f"{at}_norm.weight", (inner,)), 1e-6),
        Linear(f"{at}_out", ("gn",), "o0", w(f"{at}_out.weight", (HIDDEN, inner))),
        Add("blk.0.residual", ("x0", "o0"), "x1", HIDDEN),
        RMSNorm("blk.1.attn_norm", ("x1",), "h1", w("blk.1.attn_norm.weight", (HIDDEN,)), 1e-6),
        Linear("blk.1.attn_q", ("h1",), "q", w("blk.1.attn_q.weight", (64, HIDDEN))),
        Linear("blk.1.attn_k", ("h1",), "k", w("blk.1.attn_k.weight", (32, HIDDEN))),
        Linear("blk.1.attn_v", ("h1",), "v", w("blk.1.attn_v.weight", (32, HIDDEN))),
        Attention("blk.1.attn", ("q", "k", "v"), "a", kv, 2, 32**-0.5),
        Linear("blk.1.attn_output", ("a",), "o1", w("blk.1.attn_output.weight", (HIDDEN, 64))),
        Add("blk.1.residual", ("x1", "o1"), "x2", HIDDEN),
    ]
    return Graph("toy_mamba2", (*ops, *_head(w, "x2")), (conv, scan, kv), VOCAB, HIDDEN, 512)


def _head(w: ShapeOnly, x: str) -> tuple[Op, ...]:
    norm: Weight = w("output_norm.weight", (HIDDEN,))
    return (
        Select("select", (x,), "rows", HIDDEN),
        RMSNorm("output_norm", ("rows",), "normed", norm, 1e-6, head=True),
        Linear("output", ("normed",), "logits", w("output.weight", (VOCAB, HIDDEN)), head=True),
    )
