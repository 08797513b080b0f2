"""Mamba-2 is Mamba with one projection for everything and a scan by heads, whose output is gated and normalized."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from memfirst.errors import ConfigError
from memfirst.graph import Graph
from memfirst.graph.ops.conv import CausalConv1d
from memfirst.graph.ops.norm import RMSNorm
from memfirst.graph.ops.scale import ScaleParts
from memfirst.graph.ops.scan import SelectiveScan
from memfirst.models import decoder, recurrent
from memfirst.models import reader as limits
from memfirst.models.base import Architecture, WeightProvider
from memfirst.models.builder import Builder
from memfirst.models.reader import ConfigReader

NATIVE = {"d_state": "state_size", "d_conv": "conv_kernel", "headdim": "head_dim", "ngroups": "n_groups"}
"""Keys of ssm_cfg in state-spaces' own configs."""


@dataclass(frozen=True)
class Mixer:
    """A mixer's widths, named as in config.json: `num_heads` of `head_dim`, B and C in `n_groups`.

    normed       what the gate gives is normalized
    multipliers  Falcon-H1's, of the parts of the first projection: gate, x, B, C and dt
    out          multiplies what the mixer gives
    """

    hidden_size: int
    num_heads: int
    head_dim: int
    state_size: int
    n_groups: int
    conv_kernel: int
    normed: bool = True
    multipliers: tuple[float, ...] = (1.0,) * 5
    out: float = 1.0

    def __post_init__(self) -> None:
        if self.num_heads % self.n_groups:
            raise ConfigError(f"{self.num_heads} heads in {self.n_groups} groups", "as many heads in each group")
        if self.conv_kernel < 2:
            raise ConfigError(f"a convolution of {self.conv_kernel}", "at least 2 taps")

    @property
    def inner(self) -> int:
        """Channels of all heads."""
        return self.num_heads * self.head_dim

    @property
    def projected(self) -> dict[str, int]:
        """Values of each part of the first projection, in their order."""
        bc = self.n_groups * self.state_size
        return {"z": self.inner, "x": self.inner, "b": bc, "c": bc, "dt": self.num_heads}

    @property
    def convolved(self) -> int:
        """Channels that go through the convolution: x, B and C."""
        return self.inner + 2 * self.n_groups * self.state_size


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
        "embedding_length": m.hidden_size, "ssm.conv_kernel": m.conv_kernel, "ssm.inner_size": m.inner,
        "ssm.state_size": m.state_size, "ssm.time_step_rank": m.num_heads, "ssm.group_count": m.n_groups,
    }  # fmt: skip


def read_mixer(r: ConfigReader, hidden: int) -> Mixer:
    """The `ssm.*` keys of a GGUF file, where `time_step_rank` counts heads."""
    inner = r.integer("ssm.inner_size", limits.MAX_WIDTH)
    heads = r.integer("ssm.time_step_rank", limits.MAX_WIDTH)
    if inner % heads:
        raise ConfigError(f"ssm.inner_size is {inner} for {heads} heads", "a whole number for each head")
    return Mixer(
        hidden_size=hidden,
        num_heads=heads,
        head_dim=inner // heads,
        state_size=r.integer("ssm.state_size", recurrent.MAX_STATE),
        n_groups=r.integer("ssm.group_count", limits.MAX_HEADS),
        conv_kernel=r.integer("ssm.conv_kernel", recurrent.MAX_KERNEL),
    )


def from_gguf(metadata: Mapping[str, Any], tensors: Container[str], allow_unknown: bool = False) -> Config:
    """Read `mamba2.*`."""
    r = ConfigReader(metadata, "mamba2.")
    config = Config(
        mixer=read_mixer(r, r.integer("embedding_length", limits.MAX_WIDTH)),
        num_hidden_layers=r.integer("block_count", limits.MAX_LAYERS),
        vocab_size=decoder.vocab_size(r),
        layer_norm_epsilon=r.number("attention.layer_norm_rms_epsilon", high=1.0),
        tie_word_embeddings="output.weight" not in tensors,
        context=r.integer("context_length", limits.MAX_CONTEXT),
    )
    r.check_unknown(recurrent.HARMLESS_GGUF, allow_unknown)
    return config


def from_hf(config: Mapping[str, Any], allow_unknown: bool = False) -> Config:
    """Read a config.json of `mamba2`, whose defaults in transformers are Codestral-Mamba's, or of state-spaces' own."""
    r = ConfigReader(_with_heads(recurrent.from_native(config, NATIVE), config))
    hidden = r.integer("hidden_size", limits.MAX_WIDTH)
    m = Mixer(
        hidden_size=hidden,
        num_heads=r.integer("num_heads", limits.MAX_WIDTH, default=128),
        head_dim=r.integer("head_dim", limits.MAX_HEAD_DIM, default=64),
        state_size=r.integer("state_size", recurrent.MAX_STATE, default=128),
        n_groups=r.integer("n_groups", limits.MAX_HEADS, default=8),
        conv_kernel=r.integer("conv_kernel", recurrent.MAX_KERNEL, default=4),
    )
    _refuse_variants(r, m)
    found = Config(
        mixer=m,
        num_hidden_layers=r.integer("num_hidden_layers", limits.MAX_LAYERS),
        vocab_size=r.integer("vocab_size", limits.MAX_VOCAB),
        layer_norm_epsilon=r.number("layer_norm_epsilon", 1e-5, high=1.0),
        tie_word_embeddings=r.flag("tie_word_embeddings"),
    )
    recurrent.check_unknown(r, allow_unknown)
    return found


def _with_heads(read: Mapping[str, Any], config: Mapping[str, Any]) -> Mapping[str, Any]:
    """State-spaces' own configs state no heads: as many of 64 (headdim) as fill the channels, in one group."""
    if read is config:
        return config
    size, width, expand = read.get("head_dim", 64), read["hidden_size"], read.get("expand", 2)
    if not all(isinstance(n, int) and n > 0 for n in (size, width, expand)):
        return read  # what they should be is said where they are read
    return {"num_heads": width * expand // size, "n_groups": 1, "state_size": 128, **read}


def _refuse_variants(r: ConfigReader, m: Mixer) -> None:
    """Values that would mean another arithmetic, or that contradict the heads.

    norm_before_gate is written by some converters and read by nobody: all checkpoints gate first.
    """
    r.only("hidden_act", ("silu",))
    r.only("use_bias", (False,))
    r.only("use_conv_bias", (True,))
    r.only("rms_norm", (True,))
    r.raw("norm_before_gate")
    r.raw("time_step_rank")  # Mamba-1's
    recurrent.check_time_step_limit(r)
    expand = r.integer("expand", 64, default=2)
    r.only("intermediate_size", (m.inner,))
    if m.inner != expand * m.hidden_size:
        found = f"{m.num_heads} heads of {m.head_dim} for a width of {m.hidden_size}"
        raise ConfigError(found, f"{expand * m.hidden_size} channels, as expand says")


def build(c: Config, w: WeightProvider) -> Graph:
    """The model's operations in order."""
    b = Builder(w, c.mixer.hidden_size, c.layer_norm_epsilon)
    x = b.embed(c.vocab_size)
    for i in range(c.num_hidden_layers):
        normed = b.rms_norm(f"blk.{i}.attn_norm", x)
        x = b.residual(f"blk.{i}.residual", x, mixer(b, f"blk.{i}.ssm", normed, c.mixer))
    normed = b.rms_norm("output_norm", b.select(x), head=True)
    b.head(normed, c.vocab_size, c.tie_word_embeddings)
    return b.graph("mamba2", c.vocab_size, c.context)


def mixer(b: Builder, at: str, x: str, m: Mixer) -> str:
    """In, convolution, scan, gate, norm, out: [n, hidden] -> [n, hidden] (arXiv:2405.21060, section 7)."""
    inner, heads = m.inner, m.num_heads
    all_parts = b.linear(f"{at}_in", x, inner + m.convolved + heads)
    if any(factor != 1 for factor in m.multipliers):
        parts = tuple(zip(m.projected.values(), m.multipliers, strict=True))
        all_parts = b.add(ScaleParts(f"{at}_in_scale", (all_parts,), f"{at}_in_scale", parts))
    gate = b.slice(f"{at}_z", all_parts, 0, inner)
    dt = b.slice(f"{at}_dt", all_parts, inner + m.convolved, heads)
    part = _convolved(b, at, b.slice(f"{at}_xbc", all_parts, inner, m.convolved), m)
    scanned = _scanned(b, at, part, dt, m)
    gated = b.glu(f"{at}_gate", gate, scanned)
    if not m.normed:
        return b.linear(f"{at}_out", gated, m.hidden_size, scale=m.out)
    weight = b.w(f"{at}_norm.weight", (m.n_groups, inner // m.n_groups))
    normed = b.add(RMSNorm(f"{at}_norm", (gated,), f"{at}_norm", weight, b.eps, heads=m.n_groups))
    return b.linear(f"{at}_out", normed, m.hidden_size, scale=m.out)


def _convolved(b: Builder, at: str, x: str, m: Mixer) -> str:
    taps = b.w(f"{at}_conv1d.weight", (m.convolved, m.conv_kernel))
    bias = b.w(f"{at}_conv1d.bias", (m.convolved,))
    tail = b.state(f"{at}_conv1d", (m.conv_kernel - 1) * m.convolved)
    return b.add(CausalConv1d(f"{at}_conv1d", (x,), f"{at}_conv1d", tail, taps, bias))


def _scanned(b: Builder, at: str, parts: str, dt: str, m: Mixer) -> str:
    bc = m.n_groups * m.state_size
    x = b.slice(f"{at}_x", parts, 0, m.inner)
    keys, queries = b.slice(f"{at}_b", parts, m.inner, bc), b.slice(f"{at}_c", parts, m.inner + bc, bc)
    a, d = (b.w(f"{at}_{n}", (m.num_heads, 1)) for n in "ad")
    scan = SelectiveScan(
        f"{at}_scan", (x, keys, queries, dt), f"{at}_scan", b.state(f"{at}_scan", m.inner * m.state_size),
        m.num_heads, m.head_dim, m.n_groups, m.state_size, a, d, b.w(f"{at}_dt.bias", (m.num_heads,)),
    )  # fmt: skip
    return b.add(scan)


def to_gguf(c: Config) -> recurrent.Written:
    """The keys that llama.cpp's converter writes."""
    return {
        **mixer_keys(c.mixer), "vocab_size": c.vocab_size, "context_length": c.context,
        "block_count": c.num_hidden_layers, "feed_forward_length": 0, "attention.head_count": 0,
        "attention.layer_norm_rms_epsilon": c.layer_norm_epsilon,
    }, {}  # fmt: skip


ARCHITECTURE = Architecture("mamba2", from_gguf, from_hf, build, to_gguf=to_gguf)
