"""Puts operations in order: each method adds one (or a few) and returns the name of its value, its own name.

Its weight is called after it too (`blk.0.ssm_in` has `blk.0.ssm_in.weight`), as in GGUF.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import sqrt
from typing import Any

from memfirst.errors import ConfigError
from memfirst.graph import Cache, Graph, KVCache, Op, StateCache, Weight
from memfirst.graph.ops.activation import Activation
from memfirst.graph.ops.add import Add
from memfirst.graph.ops.attention import Attention
from memfirst.graph.ops.embed import Embed
from memfirst.graph.ops.glu import Glu
from memfirst.graph.ops.layer_norm import LayerNorm
from memfirst.graph.ops.linear import Linear
from memfirst.graph.ops.norm import RMSNorm
from memfirst.graph.ops.rope import Rope
from memfirst.graph.ops.scale import Scale
from memfirst.graph.ops.select import Select
from memfirst.graph.ops.slice import Slice
from memfirst.models import rope
from memfirst.models.base import WeightProvider
from memfirst.models.rope import Rotation

HEAD, ROW, UNIT = "head", "row", "unit"
"""What a norm of q and k is taken over: each head (Qwen3), the whole row (OLMo 2), each head and without a weight
(Llama 4)."""


@dataclass(frozen=True)
class Heads:
    """One layer's attention."""

    heads: int
    kv_heads: int
    head_dim: int
    rotation: Rotation | None
    """None: heads are not rotated (NoPE)."""
    window: int | None = None
    """Positions attended at most, the token's own included; None: all."""
    chunked: bool = False
    """They are those of the token's own chunk of that many (Llama 4)."""
    scale: float = 0.0
    """Multiplies the scores; 0: 1/sqrt(head_dim)."""
    softcap: float = 0.0
    """> 0: a score x becomes softcap · tanh(x / softcap)."""
    qk_norm: str = ""
    """HEAD, ROW or UNIT: q and k are normalized before they are rotated."""
    norm_after: bool = False
    """They are normalized after it (Hunyuan)."""
    temperature: tuple[float, int] | None = None
    """(slope, floor): q grows with the position, see `graph.ops.temperature` (Llama 4)."""
    bias: bool = False
    """q, k and v have biases."""
    output_bias: bool = False
    fused: bool = False
    """One tensor gives q, k and v."""
    sinks: bool = False
    """Each head has a score of its own that takes its share of the softmax and gives nothing (gpt-oss)."""
    k_is_v: bool = False
    """One projection gives k, and v before k is normalized and rotated (Gemma 4)."""
    v_norm: bool = False
    """Each head of v is normalized, without a weight (Gemma 4)."""
    shares: int | None = None
    """The layer whose keys and values it attends; None: its own."""
    multipliers: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Of what the projections of q, k and v give (Falcon-H1)."""
    output_gate: bool = False
    """The projection of q gives each head a gate too, whose sigmoid multiplies what it attended (Qwen3-Next)."""

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            found = f"{self.heads} attention heads over {self.kv_heads} KV heads"
            raise ConfigError(found, "a whole number of attention heads for each KV head")

    @property
    def widths(self) -> dict[str, int]:
        """Values of a row of q, k and v."""
        return {"q": self.heads * self.head_dim, "k": self.kv_heads * self.head_dim, "v": self.kv_heads * self.head_dim}


@dataclass
class Builder:
    """A graph in the making: `w` gives its weights, `eps` is its norms'."""

    w: WeightProvider
    hidden_size: int
    eps: float
    ops: list[Op] = field(default_factory=list)
    caches: list[Cache] = field(default_factory=list)
    widths: dict[str, int] = field(default_factory=dict)
    """Floats a row of each value."""

    def add(self, op: Op) -> str:
        """Any operation."""
        self.ops.append(op)
        width = getattr(op, "width", None)  # not a runtime protocol: asking one took a twentieth of a plan's time
        if width is not None:
            self.widths[op.output] = width
        return op.output

    # caches

    def state(self, name: str, elements: int) -> StateCache:
        """State of one layer, in float32: rounding to f16 at every token would lose slow decays.

        Two slots: a step that may be rolled back writes another than it reads.
        """
        cache = StateCache(name, elements, "f32", slots=2)
        self.caches.append(cache)
        return cache

    def kv(
        self, name: str, heads: int, k_dim: int, v_dim: int | None = None, window: int | None = None,
        chunked: bool = False,
    ) -> KVCache:  # fmt: skip
        """Keys and values of one layer; v_dim None: as wide as keys."""
        chunked = chunked and window is not None
        cache = KVCache(name, heads, k_dim, k_dim if v_dim is None else v_dim, window=window, chunked=chunked)
        self.caches.append(cache)
        return cache

    # single operations

    def embed(self, vocab_size: int, scale: float = 1.0, name: str = "token_embd", width: int = 0) -> str:
        """The rows of the tokens, of a table of another name and width too."""
        table = self.w(f"{name}.weight", (vocab_size, width or self.hidden_size))
        return self.add(Embed(name, ("tokens",), name, table, scale))

    def linear(self, name: str, x: str, rows: int, bias: bool | str = False, scale: float = 1.0) -> str:
        """scale · (x @ weight.T + bias); `bias`: whether there is one, or its name where it is not the usual one."""
        weight = self.w(f"{name}.weight", (rows, self.widths[x]))
        named = f"{name}.bias" if bias is True else bias
        return self.add(Linear(name, (x,), name, weight, self.w(named, (rows,)) if named else None, scale=scale))

    def rms_norm(self, name: str, x: str, eps: float | None = None, head: bool = False, weight: str = "") -> str:
        """RMS norm of rows; `weight`: its name where it is not the usual one."""
        stored = self.w(weight or f"{name}.weight", (self.widths[x],))
        return self.add(RMSNorm(name, (x,), name, stored, self.eps if eps is None else eps, head=head))

    def head_norm(self, name: str, x: str, heads: int) -> str:
        """RMS norm of each of the heads by itself."""
        weight = self.w(f"{name}.weight", (self.widths[x] // heads,))
        return self.add(RMSNorm(name, (x,), name, weight, self.eps, heads=heads))

    def layer_norm(
        self, name: str, x: str, eps: float | None = None, groups: int = 1, head: bool = False, bias: bool = True
    ) -> str:
        """Layer norm of rows."""
        weight = self.w(f"{name}.weight", (self.widths[x],))
        shift = self.w(f"{name}.bias", (self.widths[x],)) if bias else None
        return self.add(LayerNorm(name, (x,), name, weight, shift, self.eps if eps is None else eps, groups, head))

    def slice(self, name: str, x: str, start: int, width: int, heads: int = 1) -> str:
        """A range of each row of `x`; of several heads, `width` values in all, each head's from `start` on."""
        return self.add(Slice(name, (x,), name, start, width, heads))

    def cut(self, names: dict[str, int], x: str) -> list[str]:
        """Ranges of each row of `x`, one after another: by name their widths."""
        start, parts = 0, list[str]()
        for name, width in names.items():
            parts.append(self.slice(name, x, start, width))
            start += width
        return parts

    def rope(self, name: str, x: str, heads: int, rotation: Rotation, query: bool = False, **more: Any) -> str:
        """The heads of `x` rotated by their positions; `query`: they are queries, which have the temperature."""
        head_dim = more.pop("head_dim", self.widths[x] // heads)
        angles = _angles(rotation, self.w)
        if query and rotation.temperature and rotation.scaling:
            angles = {**angles, "temperature": rotation.temperature, "original": rotation.scaling.original}
        return self.add(Rope(name, (x,), name, heads, head_dim, style=rotation.style, **angles, **more))

    def activate(self, name: str, x: str, function: str) -> str:
        """A function of each value."""
        return self.add(Activation(name, (x,), name, self.widths[x], function))

    def glu(self, name: str, gate: str, up: str, activation: str = "silu") -> str:
        """activation(gate) · up."""
        return self.add(Glu(name, (gate, up), name, self.widths[gate], activation))

    def scale(self, name: str, x: str, factor: float) -> str:
        """x · factor; nothing where that is 1."""
        return x if factor == 1 else self.add(Scale(name, (x,), name, self.widths[x], factor))

    def residual(self, name: str, x: str, change: str, multiplier: float = 1.0) -> str:
        """x + multiplier · change."""
        return self.add(Add(name, (x, self.scale(f"{name}_scale", change, multiplier)), name, self.widths[x]))

    def shift(self, name: str, x: str) -> str:
        """For each token the value of the one before it."""
        from memfirst.graph.ops.token_shift import TokenShift  # RWKV's alone, as the next: a plan starts without

        return self.add(TokenShift(name, (x,), name, self.state(name, self.hidden_size)))

    def lerp(self, name: str, x: str, previous: str, more: tuple[str, ...] = (), parts: int = 0) -> str:
        """Between a token and the one before; `parts` of them side by side, as GGUF stores several."""
        from memfirst.graph.ops.token_lerp import TokenLerp

        shape = (parts, 1, 1, self.hidden_size) if parts else (self.hidden_size,)
        return self.add(TokenLerp(name, (x, previous, *more), name, self.w(f"{name}.weight", shape)))

    def select(self, x: str) -> str:
        """The rows that need logits."""
        return self.add(Select("select", (x,), "select", self.hidden_size))

    def head(
        self, normed: str, vocab_size: int, tied: bool, scale: float = 1.0, softcap: float = 0.0, bias: bool = False
    ) -> str:
        """Logits; tied: by the embedding, which is stored once and read in full."""
        if tied:
            table = self.ops[0].weights[0]
            weight: Weight = replace(table, name="output.weight", alias=table.name)
        else:
            weight = self.w("output.weight", (vocab_size, self.hidden_size))
        shift = self.w("output.bias", (vocab_size,)) if bias else None
        return self.add(Linear("output", (normed,), "logits", weight, shift, True, scale, softcap))

    def graph(self, architecture: str, vocab_size: int, context: int) -> Graph:
        """Everything that was added."""
        return Graph(architecture, tuple(self.ops), tuple(self.caches), vocab_size, self.hidden_size, context)

    # a layer's parts

    def attention(self, at: str, x: str, h: Heads, scale: float = 1.0) -> str:
        """q, k and v of `x`, norms and rotation, attention, output: [n, hidden] -> [n, hidden], times `scale`."""
        cache = self._cache(at, h)
        q, *own = self._qkv(at, x, h)
        gate = ""
        if h.output_gate:
            both, width = q, h.widths["q"]
            q = self.slice(f"{at}_q_part", both, 0, width, h.heads)
            gate = self.slice(f"{at}_gate_part", both, h.head_dim, width, h.heads)
        inputs = [self._placed(f"{at}_q", q, h.heads, h, query=True)]
        if own:
            k, v = own
            inputs += [self._placed(f"{at}_k", k, h.kv_heads, h), self._values(f"{at}_v", v, h)]
        sinks = self.w(f"{at}_sinks.weight", (h.heads,)) if h.sinks else None
        factor = h.scale or 1 / sqrt(h.head_dim)
        attended = self.add(Attention(at, tuple(inputs), at, cache, h.heads, factor, h.softcap, sinks))
        if gate:
            attended = self.glu(f"{at}_gated", gate, attended, "sigmoid")
        return self.linear(f"{at}_output", attended, self.hidden_size, h.output_bias, scale)

    def _cache(self, at: str, h: Heads) -> KVCache:
        """The layer's own, or that of the layer whose keys and values it shares."""
        if h.shares is None:
            return self.kv(f"{at.rsplit('.', 1)[0]}.kv", h.kv_heads, h.head_dim, window=h.window, chunked=h.chunked)
        shared = f"blk.{h.shares}.kv"
        return next(c for c in self.caches if isinstance(c, KVCache) and c.name == shared)

    def _qkv(self, at: str, x: str, h: Heads) -> list[str]:
        """q, and k and v where the layer has its own."""
        if h.fused:
            together = self.linear(f"{at}_qkv", x, sum(h.widths.values()), h.bias)
            return self.cut({f"{at}_{part}": width for part, width in h.widths.items()}, together)
        parts = "q" if h.shares is not None else "qk" if h.k_is_v else "qkv"
        widths = h.widths | {"q": h.widths["q"] * (1 + h.output_gate)}
        factors = dict(zip("qkv", h.multipliers, strict=True))
        made = [self.linear(f"{at}_{part}", x, widths[part], h.bias, factors[part]) for part in parts]
        return made + made[1:] if parts == "qk" else made

    def _values(self, name: str, v: str, h: Heads) -> str:
        """v, normalized where the layer does so."""
        if not h.v_norm:
            return v
        return self._unit_norm(f"{name}_norm", v, h.kv_heads)

    def _unit_norm(self, name: str, x: str, heads: int) -> str:
        """Heads scaled to length 1, without a weight."""
        from memfirst.graph.ops.unit_norm import UnitNorm  # few have one: a plan starts without

        return self.add(UnitNorm(name, (x,), name, self.widths[x], self.eps, heads))

    def _placed(self, name: str, x: str, heads: int, h: Heads, query: bool = False) -> str:
        """q or k, normalized and rotated where the layer does so."""
        if not h.norm_after:
            x = self._normed(f"{name}_norm", x, heads, h)
        if h.rotation is not None:
            x = self.rope(f"{name}_rope", x, heads, h.rotation, query)
        if h.norm_after:
            x = self._normed(f"{name}_norm", x, heads, h)
        if not query or h.temperature is None:
            return x
        from memfirst.graph.ops.temperature import Temperature  # Llama 4's alone: a plan starts without

        grown = f"{name}_temperature"
        return self.add(Temperature(grown, (x,), grown, self.widths[x], *h.temperature))

    def _normed(self, name: str, x: str, heads: int, h: Heads) -> str:
        if h.qk_norm == ROW:
            return self.rms_norm(name, x)
        if h.qk_norm == UNIT:
            return self._unit_norm(name, x, heads)
        return self.head_norm(name, x, heads) if h.qk_norm == HEAD else x

    def swiglu(self, at: str, x: str, width: int, **more: Any) -> str:
        """down(silu(gate) · up): see `gated`."""
        return self.gated(at, x, width, "silu", **more)

    def geglu(self, at: str, x: str, width: int, **more: Any) -> str:
        """down(gelu(gate) · up): see `gated`."""
        return self.gated(at, x, width, "gelu", **more)

    def gated(
        self, at: str, x: str, width: int, activation: str, bias: bool = False, scale: float = 1.0,
        fused: bool = False, suffix: str = "", gate_scale: float = 1.0,
    ) -> str:  # fmt: skip
        """A gated feed-forward, [n, hidden] -> [n, hidden] times `scale`.

        fused   one tensor, `up`, gives gate and up
        suffix  "_shexp" of a shared expert
        gate_scale  multiplies what the gate's own tensor gives
        """
        if fused:
            both = self.linear(f"{at}_up{suffix}", x, 2 * width, bias)
            gate, up = self.cut({f"{at}_gate_part{suffix}": width, f"{at}_up_part{suffix}": width}, both)
        else:
            scales = {"gate": gate_scale, "up": 1.0}
            gate, up = (self.linear(f"{at}_{part}{suffix}", x, width, bias, s) for part, s in scales.items())
        inner = self.glu(f"{at}_glu{suffix}", gate, up, activation)
        return self.linear(f"{at}_down{suffix}", inner, self.hidden_size, bias, scale)

    def mlp(self, at: str, x: str, width: int, activation: str, bias: bool = False, suffix: str = "") -> str:
        """A feed-forward without a gate: down(activation(up)); suffix: "_shexp" of a shared expert."""
        up = self.activate(f"{at}_act{suffix}", self.linear(f"{at}_up{suffix}", x, width, bias), activation)
        return self.linear(f"{at}_down{suffix}", up, self.hidden_size, bias)


def _angles(rotation: Rotation, w: WeightProvider) -> dict[str, Any]:
    """A Rope's frequencies and what goes with them. GGUF has the divisors of Llama 3 and of LongRoPE as tensors."""
    scaling, pairs = rotation.scaling, rotation.dims // 2
    if scaling and scaling.kind == "longrope" and w.has("rope_factors_long.weight"):
        short, long = (w.values(f"rope_factors_{part}.weight", pairs) for part in ("short", "long"))
        scaling = replace(scaling, short=short, long=long)
    plain = _frequencies(rotation.theta, rotation.dims, scaling)
    turning = rotation.turning or pairs
    if not rotation.local and w.has("rope_freqs.weight"):
        divisors = w.values("rope_freqs.weight", pairs)
        plain, turning = rope.divided(plain, divisors), rope.turning(divisors)
    found: dict[str, Any] = {"frequencies": plain[:turning]}
    if turning < pairs:
        found["apart"] = pairs
    if scaling is None:
        return found
    found["factor"] = scaling.attention_factor
    if long := rope.long_frequencies(rotation.theta, rotation.dims, scaling):
        found |= {"long_frequencies": long, "original": scaling.original}
    return found


_frequencies = lru_cache(maxsize=16)(rope.frequencies)
"""The layers of a model share one tuple."""
