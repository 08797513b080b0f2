"""What Llama and its relatives share: layers of norm, attention, norm and gated feed-forward, and a head.

A relative states its numbers in `Config`, and overrides the part of `Layers` that it does differently.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from math import sqrt

from memfirst.errors import ConfigError
from memfirst.graph import Graph, KVCache, Op, Weight
from memfirst.graph.ops.add import Add
from memfirst.graph.ops.attention import Attention
from memfirst.graph.ops.embed import Embed
from memfirst.graph.ops.glu import Glu
from memfirst.graph.ops.linear import Linear
from memfirst.graph.ops.norm import RMSNorm
from memfirst.graph.ops.rope import HALF, Rope
from memfirst.graph.ops.select import Select
from memfirst.models import rope
from memfirst.models.base import WeightProvider
from memfirst.models.experts import MoE, routed

Windows = tuple[int | None, ...]
"""For each layer the positions that a token attends at most; None: all."""


@dataclass(frozen=True)
class Family:
    """What a relative of Llama does differently.

    architecture  GGUF's name
    rope_style    pairs that turn together, in GGUF row order
    qkv_bias      q, k and v always have biases, and the output none (Qwen2)
    qk_norm       each head's q and k are normalised before they turn (Qwen3, Gemma 3)
    activation    what gates the feed-forward
    tied          the head is the embedding where config.json does not say (Gemma)
    grouped       config.json states num_key_value_heads; in Llama's, absent means as many as heads
    """

    architecture: str
    rope_style: str = HALF
    qkv_bias: bool = False
    qk_norm: bool = False
    activation: str = "silu"
    tied: bool = False
    grouped: bool = False


@dataclass(frozen=True)
class Config:
    """Hyperparameters, named as in config.json.

    rotary_dim            values of a head that turn
    attention_bias        q, k and v have biases; output_bias: the attention's output too
    windows               by layer; empty: every layer attends everything
    rope_local_base_freq  > 0: theta of the layers with a window, which no scaling stretches (Gemma 3)
    no_rope_layers        indices of layers whose heads do not turn (SmolLM3)
    embedding_multiplier  of the looked-up rows, residual_multiplier of what a half of a layer adds
    attention_multiplier  of the scores; 0: 1/sqrt(head_dim)
    logits_scaling        the logits are divided by it
    *_softcapping         > 0: x becomes cap · tanh(x / cap), of scores and of logits
    moe                   routed experts in place of the gated feed-forward
    """

    family: Family
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: rope.RopeScaling | None = None
    rotary_dim: int = 0
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    windows: Windows = ()
    rope_local_base_freq: float = 0.0
    no_rope_layers: tuple[int, ...] = ()
    embedding_multiplier: float = 1.0
    residual_multiplier: float = 1.0
    attention_multiplier: float = 0.0
    logits_scaling: float = 1.0
    attn_logit_softcapping: float = 0.0
    final_logit_softcapping: float = 0.0
    moe: MoE | None = None

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            found = f"{self.num_attention_heads} attention heads over {self.num_key_value_heads} KV heads"
            raise ConfigError(found, "a whole number of attention heads for each KV head")
        if self.rotary_dim % 2 or not 0 < self.rotary_dim <= self.head_dim:
            raise ConfigError(f"{self.rotary_dim} of {self.head_dim} values turn", "an even number of them")
        if self.windows and len(self.windows) != self.num_hidden_layers:
            raise ConfigError(f"windows of {len(self.windows)} layers", f"{self.num_hidden_layers}")

    @property
    def scale(self) -> float:
        """What multiplies the attention scores."""
        return self.attention_multiplier or 1 / sqrt(self.head_dim)


@dataclass(frozen=True)
class Layers:
    """Builds a layer's two halves; a value has the name of the operation that gives it."""

    c: Config
    w: WeightProvider
    rope: partial[Rope]

    def caches(self) -> tuple[KVCache, ...]:
        """Keys and values of each layer."""
        c, windows = self.c, self.c.windows or (None,) * self.c.num_hidden_layers
        kv, dim = c.num_key_value_heads, c.head_dim
        return tuple(KVCache(f"blk.{i}.kv", kv, dim, dim, window=window) for i, window in enumerate(windows))

    def attention(self, at: str, cache: KVCache, x: str) -> list[Op]:
        """Norm, q k v, RoPE, attention, output, residual."""
        c, width = self.c, self.c.num_attention_heads * self.c.head_dim
        ops, qkv = self.qkv(at, cache)
        attend = Attention(at, qkv, at, cache, c.num_attention_heads, c.scale, c.attn_logit_softcapping)
        output = self.linear(f"{at}_output", at, c.hidden_size, c.output_bias, width, c.residual_multiplier)
        return [self.norm(f"{at}_norm", x), *ops, attend, output, *self.added(at, x, output.output)]

    def qkv(self, at: str, cache: KVCache) -> tuple[list[Op], tuple[str, str, str]]:
        """What gives attention its inputs, and their names."""
        c, ops = self.c, list[Op]()
        heads = {"q": c.num_attention_heads, "k": c.num_key_value_heads, "v": c.num_key_value_heads}
        for part, n in heads.items():
            ops.append(self.linear(f"{at}_{part}", f"{at}_norm", n * c.head_dim, c.attention_bias))
        turned, q, k = self.turned(at, cache)
        return [*ops, *turned], (q, k, f"{at}_v")

    def feed_forward(self, at: str, x: str) -> list[Op]:
        """Routed experts where the model has them, else one gated unit."""
        if self.c.moe is None:
            return self.dense(at, x)
        ops = routed(self.c.moe, self.w, at, f"{at}_norm", self.c.hidden_size)
        return [self.norm(f"{at}_norm", x), *ops, *self.added(at, x, ops[-1].output)]

    def dense(self, at: str, x: str) -> list[Op]:
        """Norm, gate and up, gating, down, residual."""
        c, inner, name = self.c, self.c.intermediate_size, f"{at}_glu"
        ops, gate_up = self.gate_up(at)
        glu = Glu(name, gate_up, name, inner, c.family.activation)
        down = self.linear(f"{at}_down", name, c.hidden_size, c.mlp_bias, inner, c.residual_multiplier)
        return [self.norm(f"{at}_norm", x), *ops, glu, down, *self.added(at, x, down.output)]

    def gate_up(self, at: str) -> tuple[list[Op], tuple[str, str]]:
        """What gives gating its inputs, and their names."""
        inner, bias = self.c.intermediate_size, self.c.mlp_bias
        ops: list[Op] = [self.linear(f"{at}_{part}", f"{at}_norm", inner, bias) for part in ("gate", "up")]
        return ops, (f"{at}_gate", f"{at}_up")

    def added(self, at: str, x: str, y: str) -> list[Op]:
        """The residual: what half a layer gives, on top of what it was given."""
        return [Add(f"{at}_residual", (x, y), f"{at}_residual", self.c.hidden_size)]

    def norm(self, name: str, x: str) -> Op:
        """RMS norm of a row."""
        weight = self.w(f"{name}.weight", (self.c.hidden_size,))
        return RMSNorm(name, (x,), name, weight, self.c.rms_norm_eps)

    def linear(self, name: str, x: str, rows: int, bias: bool = False, columns: int = 0, scale: float = 1.0) -> Linear:
        """The product with the tensor of that name, `columns` wide (0: hidden_size)."""
        weight = self.w(f"{name}.weight", (rows, columns or self.c.hidden_size))
        return Linear(name, (x,), name, weight, self.w(f"{name}.bias", (rows,)) if bias else None, scale=scale)

    def turned(self, at: str, cache: KVCache) -> tuple[list[Op], str, str]:
        """q and k, each head normed where the family does so, and turned where the layer does so; their names."""
        c, ops, names = self.c, list[Op](), list[str]()
        still = int(at.split(".")[1]) in c.no_rope_layers
        for part, heads in (("q", c.num_attention_heads), ("k", c.num_key_value_heads)):
            name = given = f"{at}_{part}"
            if c.family.qk_norm:
                weight, given = self.w(f"{name}_norm.weight", (c.head_dim,)), f"{name}_norm"
                ops.append(RMSNorm(given, (name,), given, weight, c.rms_norm_eps, heads=heads))
            if not still:
                ops.append(self.rope_of(cache)(f"{name}_rope", (given,), f"{name}_rope", heads))
            names.append(given if still else f"{name}_rope")
        return ops, names[0], names[1]

    def rope_of(self, cache: KVCache) -> partial[Rope]:
        """How a layer's heads turn; a window may turn by a theta of its own."""
        theta = self.c.rope_local_base_freq
        if cache.window is None or not theta:
            return self.rope
        local = rope.frequencies(theta, self.c.rotary_dim, None)
        return partial(Rope, head_dim=self.c.head_dim, frequencies=local, style=self.c.family.rope_style)


def build(c: Config, w: WeightProvider, layers: type[Layers] = Layers) -> Graph:
    """The model's operations in order, its layers built by `layers`."""
    embedding = w("token_embd.weight", (c.vocab_size, c.hidden_size))
    ops: list[Op] = [Embed("token_embd", ("tokens",), "token_embd", embedding, c.embedding_multiplier)]
    parts = layers(c, w, _rope(c, w))
    caches = parts.caches()
    for i, cache in enumerate(caches):
        ops += parts.attention(f"blk.{i}.attn", cache, ops[-1].output)
        ops += parts.feed_forward(f"blk.{i}.ffn", ops[-1].output)
    ops.append(Select("select", (ops[-1].output,), "select", c.hidden_size))
    norm = w("output_norm.weight", (c.hidden_size,))
    ops.append(RMSNorm("output_norm", ("select",), "output_norm", norm, c.rms_norm_eps, head=True))
    head = Linear("output", ("output_norm",), "logits", _head(c, w, embedding), head=True)
    ops.append(replace(head, scale=1 / c.logits_scaling, softcap=c.final_logit_softcapping))
    name, context = c.family.architecture, c.max_position_embeddings
    return Graph(name, tuple(ops), caches, c.vocab_size, c.hidden_size, context)


def _head(c: Config, w: WeightProvider, embedding: Weight) -> Weight:
    """The output matrix. Where tied, the embedding by another name: stored once, read in full as the head."""
    if c.tie_word_embeddings:
        return replace(embedding, name="output.weight", alias=embedding.name)
    return w("output.weight", (c.vocab_size, c.hidden_size))


def _rope(c: Config, w: WeightProvider) -> partial[Rope]:
    """RoPE but for its place and heads. GGUF has the divisors of Llama 3 and of LongRoPE as tensors."""
    scaling, pairs = c.rope_scaling, c.rotary_dim // 2
    if scaling and scaling.kind == "longrope" and w.has("rope_factors_long.weight"):
        short, long = (w.values(f"rope_factors_{part}.weight", pairs) for part in ("short", "long"))
        scaling = replace(scaling, short=short, long=long)
    turn = partial(Rope, head_dim=c.head_dim, style=c.family.rope_style)
    plain = rope.frequencies(c.rope_theta, c.rotary_dim, scaling)
    if w.has("rope_freqs.weight"):
        plain = rope.divided(plain, w.values("rope_freqs.weight", pairs))
    if scaling is None:
        return partial(turn, frequencies=plain)
    turn = partial(turn, frequencies=plain, factor=scaling.attention_factor)
    if not scaling.long:
        return turn
    long = rope.long_frequencies(c.rope_theta, c.rotary_dim, scaling)
    return partial(turn, long_frequencies=long, original=scaling.original)
