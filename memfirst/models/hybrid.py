"""What hybrids of state-space and attention layers share: attention without RoPE, dense and routed feed-forwards."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from memfirst.errors import ConfigError
from memfirst.graph.ops.attention import Attention
from memfirst.graph.ops.experts import Experts, Router
from memfirst.models.builder import Builder


@dataclass(frozen=True)
class Heads:
    """Attention's widths. scale: of the scores; 0: 1/sqrt(head_dim)."""

    hidden_size: int
    num_attention_heads: int
    num_key_value_heads: int
    scale: float = 0.0

    def __post_init__(self) -> None:
        heads, kv = self.num_attention_heads, self.num_key_value_heads
        if self.hidden_size % heads or heads % kv:
            found = f"{heads} attention heads over {kv} KV heads, for a width of {self.hidden_size}"
            raise ConfigError(found, "whole heads, and a whole number of them for each KV head")

    @property
    def head_dim(self) -> int:
        """Values of a head."""
        return self.hidden_size // self.num_attention_heads


@dataclass(frozen=True)
class Routing:
    """Routed experts: `k` of `experts` a token; normalize: their weights sum to 1."""

    experts: int
    k: int
    normalize: bool

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.experts:
            raise ConfigError(f"{self.k} experts a token of {self.experts}", "at least 1, at most all")


def attention(b: Builder, at: str, x: str, heads: Heads) -> str:
    """q, k, v, attention, output: positions show only in the order of what the state layers give."""
    hidden, dim, kv = heads.hidden_size, heads.head_dim, heads.num_key_value_heads
    qkv = (
        b.linear(f"{at}_q", x, hidden, hidden),
        b.linear(f"{at}_k", x, kv * dim, hidden),
        b.linear(f"{at}_v", x, kv * dim, hidden),
    )
    cache = b.kv(f"{at}.kv", kv, dim)
    attended = b.add(Attention(at, qkv, at, cache, heads.num_attention_heads, heads.scale or 1 / sqrt(dim)))
    return b.linear(f"{at}_output", attended, hidden, hidden)


def feed_forward(b: Builder, at: str, x: str, width: int, suffix: str = "") -> str:
    """Gate and up, gating, down; suffix: "_shexp" for a shared expert."""
    gate = b.linear(f"{at}_gate{suffix}", x, width, b.hidden_size)
    up = b.linear(f"{at}_up{suffix}", x, width, b.hidden_size)
    gated = b.glu(f"{at}_glu{suffix}", gate, up, width)
    return b.linear(f"{at}_down{suffix}", gated, b.hidden_size, width)


def experts(b: Builder, at: str, x: str, width: int, routing: Routing) -> str:
    """The router, and the experts that it picks."""
    n, hidden = routing.experts, b.hidden_size
    name = f"{at}_gate_inp"
    weight = b.w(f"{name}.weight", (n, hidden))
    picked = b.add(Router(name, (x,), name, weight, routing.k, normalize=routing.normalize))
    gate, up = (b.w(f"{at}_{part}_exps.weight", (n, width, hidden)) for part in ("gate", "up"))
    down = b.w(f"{at}_down_exps.weight", (n, hidden, width))
    return b.add(Experts(f"{at}_exps", (x, picked), f"{at}_exps", gate, up, down, routing.k))
