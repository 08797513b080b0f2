"""What layers are made of: attention, latents, states, feed-forwards and experts, each with its tensors and caches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from memfirst.errors import ConfigError
from memfirst.graph import KVCache, StateCache
from memfirst.models import usual
from memfirst.models.reader import MAX_CONTEXT, MAX_HEAD_DIM, MAX_HEADS, MAX_LAYERS, MAX_VOCAB, MAX_WIDTH
from memfirst.models.usual import Stated

Shape = tuple[int, ...]


@dataclass
class Layer:
    """One layer as it is written down.

    tensors  by GGUF's names without "blk.7." and ".weight"
    states   read and written by every token
    attends  caches with how many query heads attend each; a cache that an earlier layer keeps is only read
    scores   caches of an indexer's keys with its query heads: scored in full to pick what is attended
    """

    index: int
    hidden: int
    tensors: dict[str, Shape] = field(default_factory=dict)
    states: list[StateCache] = field(default_factory=list)
    attends: list[tuple[KVCache, int]] = field(default_factory=list)
    scores: list[tuple[KVCache, int]] = field(default_factory=list)

    def matrices(self, **shapes: Shape) -> None:
        """Tensors of these shapes."""
        self.tensors |= shapes

    def rows(self, **counts: int) -> None:
        """Matrices that read the hidden state, by their rows."""
        self.tensors |= {name: (rows, self.hidden) for name, rows in counts.items()}

    def vectors(self, **lengths: int) -> None:
        """Norms and biases."""
        self.tensors |= {name: (length,) for name, length in lengths.items()}

    def cache(self, part: str, heads: int, k: int, v: int, window: int | None = None,
              picked: int | None = None, every: int = 1) -> KVCache:  # fmt: skip
        """One of this layer's; see KVCache."""
        return KVCache(f"blk.{self.index}.{part}", heads, k, v, window=window, picked=picked, every=every)

    def state(self, part: str, elements: int) -> None:
        """A state of so many values."""
        self.states.append(StateCache(f"blk.{self.index}.{part}", elements))


@dataclass
class Described:
    """A model: what stands outside of its layers, and these in order.

    tables  looked up beside the tokens' embedding, one row a token; outside: other tensors, all read
    notes   what is left out of the price
    picked  experts that a token reads, where that is not what the config states
    """

    hidden: int
    vocab: int
    context: int
    tied: bool
    layers: list[Layer]
    tables: dict[str, Shape] = field(default_factory=dict)
    outside: dict[str, Shape] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    picked: int | None = None


def begin(stated: Stated, tied: bool = False) -> Described:
    """A model with as many layers as are stated, each with its two norms; `tied` where nothing is said of the head."""
    hidden, layers = stated.needed(usual.HIDDEN, MAX_WIDTH), stated.needed(usual.LAYERS, MAX_LAYERS)
    said = stated.raw(("tie_word_embeddings",))
    found = Described(
        hidden,
        stated.needed(usual.VOCAB, MAX_VOCAB),
        stated.integer((*usual.CONTEXT, "model_max_length"), MAX_CONTEXT) or MAX_CONTEXT,
        tied if said is None else said is True,
        [Layer(i, hidden) for i in range(layers)],
        outside={"output_norm": (hidden,)},
    )
    for layer in found.layers:
        layer.vectors(attn_norm=hidden, ffn_norm=hidden)
    return found


def listed(stated: Stated, names: tuple[str, ...], layers: int) -> Sequence[object]:
    """What a list says of each layer, first layers first; () where there is none. It may go on for layers that
    predict further tokens. Raises ConfigError for one that is too short, or no list."""
    value = stated.raw(names)
    if value is None:
        return ()
    if not isinstance(value, list | tuple) or len(value) < layers:
        raise ConfigError(f"{names[0]} is {str(value)[:60]!r}", f"a list for {layers} layers")
    return value[:layers]


def sliding(stated: Stated, layers: int) -> list[int | None]:
    """Each layer's window by `layer_types`, None where it attends all."""
    size = stated.integer(usual.WINDOW, MAX_CONTEXT)
    kinds = listed(stated, ("layer_types",), layers) or ["full_attention"] * layers
    return [size or None if "sliding" in str(kind) else None for kind in kinds]


def dense_layers(stated: Stated, layers: int, default: int = 0) -> set[int]:
    """Layers with one feed-forward for all tokens; all others route."""
    kinds = listed(stated, ("mlp_layer_types",), layers)
    if kinds:
        return {i for i, kind in enumerate(kinds) if kind == "dense"}
    frequency = stated.raw(("moe_layer_freq",))
    if isinstance(frequency, list):
        return {i for i, routed in enumerate(listed(stated, ("moe_layer_freq",), layers)) if not routed}
    routed = stated.raw(("moe_layers_enum",))
    if isinstance(routed, str) and len(routed) <= 8 * MAX_LAYERS:
        return set(range(layers)) - {int(part) for part in routed.split(",") if part.strip().isdigit()}
    return set(range(stated.integer(usual.DENSE_FIRST, MAX_LAYERS, default)))


def attention(layer: Layer, heads: int, kv: int, dim: int, cache: KVCache, norms: bool = True) -> None:
    """Grouped attention with its own keys and values; `norms`: of each head's queries and keys."""
    layer.rows(attn_q=heads * dim, attn_k=kv * dim, attn_v=kv * dim)
    layer.matrices(attn_output=(layer.hidden, heads * dim))
    if norms:
        layer.vectors(attn_q_norm=dim, attn_k_norm=dim)
    layer.attends.append((cache, heads))


@dataclass(frozen=True)
class Latent:
    """Sizes of latent attention. rank: numbers of a position's latent, `rope` beside it; q_rank 0: queries directly."""

    heads: int
    rank: int
    q_rank: int
    nope: int
    rope: int
    v: int

    @staticmethod
    def of(stated: Stated) -> Latent:
        """As stated."""
        nope = stated.needed(usual.PLAIN_DIM, MAX_HEAD_DIM)
        return Latent(
            stated.needed(usual.HEADS, MAX_HEADS),
            stated.needed(usual.LATENT, MAX_WIDTH),
            stated.integer(usual.Q_LATENT, MAX_WIDTH),
            nope,
            stated.integer(usual.ROPE_DIM, MAX_HEAD_DIM),
            stated.integer(("v_head_dim",), MAX_HEAD_DIM, nope),
        )


def latent(layer: Layer, c: Latent, picked: int | None = None, gate: int = 0, name: str = "kv") -> None:
    """Multi-head latent attention; `picked` positions by an indexer; `gate`: numbers that the output is gated by;
    `name` of its cache."""
    if c.q_rank:
        layer.rows(attn_q_a=c.q_rank)
        layer.vectors(attn_q_a_norm=c.q_rank)
    layer.matrices(**{"attn_q_b" if c.q_rank else "attn_q": (c.heads * (c.nope + c.rope), c.q_rank or layer.hidden)})
    layer.rows(attn_kv_a_mqa=c.rank + c.rope)
    layer.vectors(attn_kv_a_norm=c.rank)
    layer.matrices(
        attn_kv_b=(c.heads * (c.nope + c.v), c.rank),
        attn_output=(layer.hidden, c.heads * c.v),
    )
    if gate:
        layer.rows(attn_gate=gate)
    layer.attends.append((layer.cache(name, 1, c.rank + c.rope, 0, picked=picked), c.heads))


def gated(layer: Layer, width: int, suffix: str = "") -> None:
    """A gated feed-forward."""
    layer.rows(**{f"ffn_gate{suffix}": width, f"ffn_up{suffix}": width})
    layer.matrices(**{f"ffn_down{suffix}": (layer.hidden, width)})


def experts(layer: Layer, stated: Stated, bias: bool = True, inner: int = 0) -> None:
    """Routed experts beside a shared one, that read the hidden state or a latent of `inner` numbers; `bias`: what the
    router adds to choose."""
    count = stated.needed(usual.EXPERTS, MAX_WIDTH)
    width, inner = stated.needed(usual.EXPERT_WIDTH, MAX_WIDTH), inner or layer.hidden
    shared = stated.integer(usual.SHARED_WIDTH, MAX_WIDTH)
    shared = shared or stated.integer(usual.SHARED, MAX_WIDTH) * width
    layer.rows(ffn_gate_inp=count)
    if bias:
        layer.vectors(exp_probs_b=count)
    layer.matrices(
        ffn_gate_exps=(count, width, inner), ffn_up_exps=(count, width, inner), ffn_down_exps=(count, inner, width)
    )
    if shared:
        gated(layer, shared, "_shexp")
