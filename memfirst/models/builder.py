"""Puts operations in order: each method adds one and gives the name of its value, which is the operation's own.

Its weight is called after it too (`blk.0.ssm_in` has `blk.0.ssm_in.weight`), as in GGUF.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from memfirst.graph import Cache, Graph, KVCache, Op, StateCache, Weight
from memfirst.graph.ops.activation import Activation
from memfirst.graph.ops.add import Add
from memfirst.graph.ops.embed import Embed
from memfirst.graph.ops.glu import Glu
from memfirst.graph.ops.layer_norm import LayerNorm
from memfirst.graph.ops.linear import Linear
from memfirst.graph.ops.norm import RMSNorm
from memfirst.graph.ops.scale import Scale
from memfirst.graph.ops.select import Select
from memfirst.graph.ops.slice import Slice
from memfirst.graph.ops.token_lerp import TokenLerp
from memfirst.graph.ops.token_shift import TokenShift
from memfirst.models.base import WeightProvider


@dataclass
class Builder:
    """A graph in the making: `w` gives its weights, `eps` is its norms'."""

    w: WeightProvider
    hidden_size: int
    eps: float
    ops: list[Op] = field(default_factory=list)
    caches: list[Cache] = field(default_factory=list)

    def add(self, op: Op) -> str:
        """Any operation."""
        self.ops.append(op)
        return op.output

    def state(self, name: str, elements: int) -> StateCache:
        """State of one layer, in float32: a rounding to f16 at every token would swallow slow decays.

        Two slots: a step that may be taken back writes another than it reads.
        """
        cache = StateCache(name, elements, "f32", slots=2)
        self.caches.append(cache)
        return cache

    def kv(self, name: str, heads: int, head_dim: int) -> KVCache:
        """Keys and values of one layer."""
        cache = KVCache(name, heads, head_dim, head_dim)
        self.caches.append(cache)
        return cache

    def embed(self, vocab_size: int, scale: float = 1.0) -> str:
        """The rows of the tokens."""
        table = self.w("token_embd.weight", (vocab_size, self.hidden_size))
        return self.add(Embed("token_embd", ("tokens",), "token_embd", table, scale))

    def linear(self, name: str, x: str, rows: int, columns: int, bias: str = "") -> str:
        """x @ weight.T, plus the vector called `bias`."""
        weight = self.w(f"{name}.weight", (rows, columns))
        return self.add(Linear(name, (x,), name, weight, self.w(bias, (rows,)) if bias else None))

    def rms_norm(self, name: str, x: str, width: int, eps: float | None = None, head: bool = False) -> str:
        """RMS norm of rows of `width`."""
        weight = self.w(f"{name}.weight", (width,))
        return self.add(RMSNorm(name, (x,), name, weight, self.eps if eps is None else eps, head=head))

    def layer_norm(self, name: str, x: str, eps: float | None = None, groups: int = 1, head: bool = False) -> str:
        """Layer norm of the residual stream's width."""
        weight, bias = (self.w(f"{name}.{part}", (self.hidden_size,)) for part in ("weight", "bias"))
        return self.add(LayerNorm(name, (x,), name, weight, bias, self.eps if eps is None else eps, groups, head))

    def slice(self, name: str, x: str, start: int, width: int) -> str:
        """A range of each row of `x`."""
        return self.add(Slice(name, (x,), name, start, width))

    def glu(self, name: str, gate: str, up: str, width: int, activation: str = "silu") -> str:
        """activation(gate) · up."""
        return self.add(Glu(name, (gate, up), name, width, activation))

    def activate(self, name: str, x: str, width: int, function: str) -> str:
        """A function of each value."""
        return self.add(Activation(name, (x,), name, width, function))

    def residual(self, name: str, x: str, change: str, multiplier: float = 1.0) -> str:
        """x + multiplier · change."""
        if multiplier != 1.0:
            scaled = f"{name}_scale"
            change = self.add(Scale(scaled, (change,), scaled, self.hidden_size, multiplier))
        return self.add(Add(name, (x, change), name, self.hidden_size))

    def shift(self, name: str, x: str) -> str:
        """For each token the value of the one before it."""
        return self.add(TokenShift(name, (x,), name, self.state(name, self.hidden_size)))

    def lerp(self, name: str, x: str, previous: str, more: tuple[str, ...] = (), parts: int = 0) -> str:
        """Between a token and the one before; `parts` of them side by side, as GGUF stores several."""
        shape = (parts, 1, 1, self.hidden_size) if parts else (self.hidden_size,)
        return self.add(TokenLerp(name, (x, previous, *more), name, self.w(f"{name}.weight", shape)))

    def select(self, x: str) -> str:
        """The rows that need logits."""
        return self.add(Select("select", (x,), "select", self.hidden_size))

    def head(self, normed: str, vocab_size: int, tied: bool, divisor: float = 1.0) -> str:
        """Logits, divided by `divisor`; tied: by the embedding, which is stored once and read in full."""
        if tied:
            table = self.ops[0].weights[0]
            weight: Weight = replace(table, name="output.weight", alias=table.name)
        else:
            weight = self.w("output.weight", (vocab_size, self.hidden_size))
        return self.add(Linear("output", (normed,), "logits", weight, head=True, scale=1 / divisor))

    def graph(self, architecture: str, vocab_size: int, context: int) -> Graph:
        """Everything that was added."""
        return Graph(architecture, tuple(self.ops), tuple(self.caches), vocab_size, self.hidden_size, context)
