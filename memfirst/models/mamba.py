"""Mamba and Falcon-Mamba: layers of norm and a state-space mixer, no attention and no feed-forward."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from memfirst.errors import ConfigError, UnsupportedError
from memfirst.graph import Graph
from memfirst.graph.ops.channel_scan import ChannelScan
from memfirst.graph.ops.conv import CausalConv1d
from memfirst.graph.ops.unit_norm import UnitNorm
from memfirst.models import decoder, recurrent
from memfirst.models import reader as limits
from memfirst.models.base import Architecture, WeightProvider
from memfirst.models.builder import Builder
from memfirst.models.reader import ConfigReader

PLAIN, UNIT, WEIGHTED = "plain", "unit", "weighted"
"""How dt, B and C are normalized: not (Mamba), without weights (Falcon-Mamba), with weights (Jamba)."""


NATIVE = {"d_state": "state_size", "d_conv": "conv_kernel", "dt_rank": "time_step_rank"}
"""Keys of ssm_cfg in state-spaces' own configs."""


@dataclass(frozen=True)
class Mixer:
    """A mixer's widths, named as in config.json.

    intermediate_size  channels that have a state of `state_size` each
    time_step_rank     columns that dt is made from
    inner_norms        PLAIN, UNIT or WEIGHTED; inner_eps: theirs
    """

    hidden_size: int
    intermediate_size: int
    state_size: int
    conv_kernel: int
    time_step_rank: int
    inner_norms: str = PLAIN
    inner_eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.conv_kernel < 2:
            raise ConfigError(f"a convolution of {self.conv_kernel}", "at least 2 taps")


@dataclass(frozen=True)
class Config:
    """Hyperparameters, named as in config.json."""

    mixer: Mixer
    num_hidden_layers: int
    vocab_size: int
    layer_norm_epsilon: float
    tie_word_embeddings: bool
    context: int = recurrent.CONTEXT


def mixer_keys(m: Mixer) -> dict[str, Any]:
    """The same as GGUF has them."""
    return {
        "embedding_length": m.hidden_size, "ssm.conv_kernel": m.conv_kernel, "ssm.inner_size": m.intermediate_size,
        "ssm.state_size": m.state_size, "ssm.time_step_rank": m.time_step_rank,
    }  # fmt: skip


def read_mixer(r: ConfigReader, hidden: int, norms: str, eps: float) -> Mixer:
    """The `ssm.*` keys of a GGUF file."""
    return Mixer(
        hidden_size=hidden,
        intermediate_size=r.integer("ssm.inner_size", limits.MAX_WIDTH),
        state_size=r.integer("ssm.state_size", recurrent.MAX_STATE),
        conv_kernel=r.integer("ssm.conv_kernel", recurrent.MAX_KERNEL),
        time_step_rank=r.integer("ssm.time_step_rank", limits.MAX_WIDTH),
        inner_norms=norms,
        inner_eps=eps,
    )


def from_gguf(metadata: Mapping[str, Any], tensors: Container[str], allow_unknown: bool = False) -> Config:
    """Read `mamba.*`; Falcon-Mamba is the one with `ssm.dt_b_c_rms`."""
    r = ConfigReader(metadata, "mamba.")
    eps = r.number("attention.layer_norm_rms_epsilon", high=1.0)
    norms = UNIT if r.flag("ssm.dt_b_c_rms") else PLAIN
    config = Config(
        mixer=read_mixer(r, r.integer("embedding_length", limits.MAX_WIDTH), norms, eps),
        num_hidden_layers=r.integer("block_count", limits.MAX_LAYERS),
        vocab_size=decoder.vocab_size(r),
        layer_norm_epsilon=eps,
        tie_word_embeddings="output.weight" not in tensors,
        context=r.integer("context_length", limits.MAX_CONTEXT),
    )
    r.check_unknown(recurrent.HARMLESS_GGUF, allow_unknown)
    return config


def from_hf(config: Mapping[str, Any], allow_unknown: bool = False) -> Config:
    """Read a config.json of `mamba` or `falcon_mamba`.

    Falcon-Mamba's says "expand": 16, but its channels are the stated intermediate_size, 2 · hidden_size.
    """
    r = ConfigReader(recurrent.from_native(config, NATIVE))
    falcon = "falcon" in str(r.raw("model_type") or r.raw("architectures")).lower()
    hidden, layers = r.integer("hidden_size", limits.MAX_WIDTH), r.integer("num_hidden_layers", limits.MAX_LAYERS)
    expanded = hidden * r.integer("expand", 64, default=2)
    inner = r.integer("intermediate_size", limits.MAX_WIDTH, default=expanded)
    _refuse_variants(r, hidden, layers, inner)
    found = Config(
        mixer=Mixer(
            hidden_size=hidden,
            intermediate_size=inner,
            state_size=r.integer("state_size", recurrent.MAX_STATE, default=16),
            conv_kernel=r.integer("conv_kernel", recurrent.MAX_KERNEL, default=4),
            time_step_rank=_rank(r, hidden),
            inner_norms=UNIT if falcon else PLAIN,
            inner_eps=r.number("mixer_rms_eps", 1e-6, high=1.0),
        ),
        num_hidden_layers=layers,
        vocab_size=r.integer("vocab_size", limits.MAX_VOCAB),
        layer_norm_epsilon=r.number("layer_norm_epsilon", 1e-5, high=1.0),
        tie_word_embeddings=r.flag("tie_word_embeddings", True),
    )
    recurrent.check_unknown(r, allow_unknown)
    return found


def _refuse_variants(r: ConfigReader, hidden: int, layers: int, inner: int) -> None:
    """Values that would mean another arithmetic, and second names that contradict the first."""
    r.only("hidden_act", ("silu",))
    r.only("use_bias", (False,))
    r.only("use_conv_bias", (True,))
    r.only("rms_norm", (True,))
    r.only("ssm_cfg", ({},))
    r.only("d_model", (hidden,))
    r.only("n_layer", (layers,))
    r.only("d_inner", (inner,))


def _rank(r: ConfigReader, hidden: int) -> int:
    """time_step_rank: a number, or "auto" for a sixteenth of the width, rounded up."""
    auto = r.raw("time_step_rank", "auto") == "auto"
    return -(-hidden // 16) if auto else r.integer("time_step_rank", limits.MAX_WIDTH)


def build(c: Config, w: WeightProvider) -> Graph:
    """The model's operations in order."""
    b = Builder(w, c.mixer.hidden_size, c.layer_norm_epsilon)
    x = b.embed(c.vocab_size)
    for i in range(c.num_hidden_layers):
        normed = b.rms_norm(f"blk.{i}.attn_norm", x)
        x = b.residual(f"blk.{i}.residual", x, mixer(b, f"blk.{i}.ssm", normed, c.mixer))
    normed = b.rms_norm("output_norm", b.select(x), head=True)
    b.head(normed, c.vocab_size, c.tie_word_embeddings)
    return b.graph("mamba", c.vocab_size, c.context)


def mixer(b: Builder, at: str, x: str, m: Mixer) -> str:
    """In, convolution, scan, gate, out: [n, hidden] -> [n, hidden] (arXiv:2312.00752, section 3.4)."""
    inner, kernel = m.intermediate_size, m.conv_kernel
    both = b.linear(f"{at}_in", x, 2 * inner)
    part, gate = b.slice(f"{at}_x_in", both, 0, inner), b.slice(f"{at}_z", both, inner, inner)
    taps, bias = b.w(f"{at}_conv1d.weight", (inner, kernel)), b.w(f"{at}_conv1d.bias", (inner,))
    tail = b.state(f"{at}_conv1d", (kernel - 1) * inner)
    part = b.add(CausalConv1d(f"{at}_conv1d", (part,), f"{at}_conv1d", tail, taps, bias))
    dt, keys, queries = _selected(b, at, part, m)
    a, d = b.w(f"{at}_a", (inner, m.state_size)), b.w(f"{at}_d", (inner,))
    cache = b.state(f"{at}_scan", inner * m.state_size)
    scanned = b.add(ChannelScan(f"{at}_scan", (part, dt, keys, queries), f"{at}_scan", cache, a, d))
    return b.linear(f"{at}_out", b.glu(f"{at}_gate", gate, scanned), m.hidden_size)


def _selected(b: Builder, at: str, x: str, m: Mixer) -> tuple[str, str, str]:
    """dt [n, intermediate], B and C [n, state], which depend on the token."""
    rank, state, inner = m.time_step_rank, m.state_size, m.intermediate_size
    parts = b.linear(f"{at}_x", x, rank + 2 * state)
    low, keys, queries = b.cut({f"{at}_dt_low": rank, f"{at}_b": state, f"{at}_c": state}, parts)
    low = _normed(b, f"{at}_dt_norm", low, rank, m)
    keys, queries = (_normed(b, f"{at}_{n}_norm", x, state, m) for n, x in (("b", keys), ("c", queries)))
    return b.linear(f"{at}_dt", low, inner, bias=True), keys, queries


def _normed(b: Builder, name: str, x: str, width: int, m: Mixer) -> str:
    if m.inner_norms == WEIGHTED:
        return b.rms_norm(name, x, m.inner_eps)
    return b.add(UnitNorm(name, (x,), name, width, m.inner_eps)) if m.inner_norms == UNIT else x


def to_gguf(c: Config) -> recurrent.Written:
    """The keys that llama.cpp's converter writes; Falcon-Mamba's norms inside have the epsilon of the others there."""
    if c.mixer.inner_norms == UNIT and c.mixer.inner_eps != c.layer_norm_epsilon:
        found = f"norms of dt, B and C with an epsilon of {c.mixer.inner_eps:g}, others of {c.layer_norm_epsilon:g}"
        raise UnsupportedError(found, "one epsilon, as a GGUF file has")
    return {
        **mixer_keys(c.mixer), "vocab_size": c.vocab_size, "context_length": c.context,
        "block_count": c.num_hidden_layers, "feed_forward_length": 0, "attention.head_count": 0,
        "attention.layer_norm_rms_epsilon": c.layer_norm_epsilon, "ssm.dt_b_c_rms": c.mixer.inner_norms == UNIT,
    }, {}  # fmt: skip


ARCHITECTURE = Architecture("mamba", from_gguf, from_hf, build, to_gguf=to_gguf)
