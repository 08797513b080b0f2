"""Routed experts as a layer's feed-forward: their numbers, read from GGUF or config.json, and their operations.

A model whose two forms name the same numbers reads both with `read` and KEYS.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from memfirst.errors import ConfigError, UnsupportedError
from memfirst.graph.ops.experts import Experts, Router
from memfirst.graph.ops.token_gate import TokenGate
from memfirst.models import reader as limits
from memfirst.models.builder import Builder
from memfirst.models.reader import ConfigReader, Keys

MAX_EXPERTS = 1 << 12
KEYS: Keys = {
    "num_experts": "expert_count",
    "num_local_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
    "shared_expert_intermediate_size": "expert_shared_feed_forward_length",
    "n_shared_experts": "expert_shared_count",
    "first_k_dense_replace": "leading_dense_block_count",
    "routed_scaling_factor": "expert_weights_scale",
    "norm_topk_prob": "expert_weights_norm",
    "n_group": "expert_group_count",
    "topk_group": "expert_group_used_count",
}
"""What models with experts have beside those of dense decoders: by its usual name in config.json its name in GGUF."""
SOFTMAX, SIGMOID = "softmax", "sigmoid"
GATING = {1: SOFTMAX, 2: SIGMOID}
"""`expert_gating_func` of a GGUF file."""
ROUTED = "n_routed_experts"
"""What config.json calls the number of experts in DeepSeek's manner."""
CORRECTED = "noaux_tc"
"""`topk_method` of sigmoids that are corrected when picking."""


@dataclass(frozen=True)
class MoE:
    """The routed experts of a layer, named as in config.json.

    scoring      "softmax" or "sigmoid": see Router
    n_group      groups of experts, of which a token's experts come from `topk_group`
    correction   scores are corrected when picking, by `exp_probs_b.bias`
    biases       router and experts have biases
    activation   of the experts' gated unit
    gated        their units have a gate
    expert_scale a picked expert's weight is multiplied by a number of its own, `ffn_down_exps.scale`
    shared       width of the feed-forward that every token goes through beside the experts; 0: there is none
    weigh_input  a token's weight multiplies what an expert gets, not what it gives
    shared_gate  what it gives is multiplied by a sigmoid of the token's own
    dense        layers that have a dense feed-forward all the same
    """

    num_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    norm_topk_prob: bool = True
    scoring: str = "softmax"
    routed_scaling_factor: float = 1.0
    n_group: int = 1
    topk_group: int = 1
    correction: bool = False
    biases: bool = False
    activation: str = "silu"
    expert_scale: bool = False
    gated: bool = True
    shared: int = 0
    weigh_input: bool = False
    shared_gate: bool = False
    dense: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        n, k = self.num_experts, self.num_experts_per_tok
        if k > n:
            raise ConfigError(f"{k} experts a token of {n}", "no more than there are")
        if n % self.n_group or self.topk_group > self.n_group:
            found = f"{n} experts in {self.n_group} groups, {self.topk_group} of them used"
            raise ConfigError(found, "groups of one size, no more used than there are")
        if n // self.n_group * self.topk_group < k or (self.n_group > 1 and n // self.n_group < 2):
            raise ConfigError(f"{k} experts a token from {self.topk_group} groups of {n // self.n_group}", "enough")


def read_gguf(r: ConfigReader, width: int) -> MoE | None:
    """`expert_*`; None where there are no experts. They are `width` wide unless the file says otherwise."""
    count = r.integer("expert_count", MAX_EXPERTS, default=0, low=0)
    used = r.integer("expert_used_count", MAX_EXPERTS, default=None if count else 0, low=bool(count))
    if not count:
        return None
    if "blk.0.ffn_gate.0.weight" in r.tensors:
        raise UnsupportedError(
            "this file has its experts one by one (blk.0.ffn_gate.0.weight)",
            "one tensor for all experts of a layer (blk.0.ffn_gate_exps.weight), as files since April 2024 have",
            "get or convert the model again",
        )
    return MoE(count, used, r.integer("expert_feed_forward_length", limits.MAX_WIDTH, default=width))


COUNTS = ("num_local_experts", "num_experts")
"""What config.json calls the number of experts: transformers 5 writes the first for every architecture."""
TRAINED = ("output_router_logits", "router_aux_loss_coef", "router_jitter_noise")
"""Keys that train a router."""


def read_hf(r: ConfigReader, width: int) -> MoE:
    """The experts of a config.json."""
    r.require("num_key_value_heads")
    return read(r, width)


def read(r: ConfigReader, width: int, count: tuple[str, ...] = COUNTS, used: str = "num_experts_per_tok") -> MoE:
    """The experts of either form, where the model's keys name them in GGUF.

    count, used  what config.json calls their number, by several names perhaps, and those that a token picks
    """
    for key in TRAINED:
        r.raw(key)
    stated = next((key for key in count if r.raw(key) is not None), count[0])
    found = r.integer(stated, MAX_EXPERTS)
    for other in count:
        r.only(other, (found,))
    return MoE(found, r.integer(used, MAX_EXPERTS), width)


def read_corrected(r: ConfigReader, scoring: tuple[str, ...]) -> MoE:
    """DeepSeek-V3's experts in either form: picked by corrected sigmoids, beside shared ones, behind dense layers.

    scoring  what config.json may call the sigmoid
    """
    r.only("scoring_func", scoring)
    r.only("topk_method", (CORRECTED,))
    r.plain.only("expert_gating_func", (2,))
    width = r.integer("moe_intermediate_size", limits.MAX_WIDTH)
    first = r.integer("first_k_dense_replace", limits.MAX_LAYERS, default=0, low=0)
    return replace(
        read(r, width, (ROUTED, "num_local_experts")),
        scoring=SIGMOID,
        correction=True,
        norm_topk_prob=r.flag("norm_topk_prob"),
        routed_scaling_factor=r.single("routed_scaling_factor", 1.0),
        n_group=r.integer("n_group", MAX_EXPERTS, default=1),
        topk_group=r.integer("topk_group", MAX_EXPERTS, default=1),
        shared=width * r.integer("n_shared_experts", MAX_EXPERTS, default=0, low=0),
        dense=frozenset(range(first)),
    )


def feed_forward(b: Builder, at: str, x: str, moe: MoE) -> str:
    """Routed experts of the feed-forward `at`, and the shared one where there is one."""
    y = routed(b, at, x, moe)
    if not moe.shared:
        return y
    shared = b.swiglu(at, x, moe.shared, suffix="_shexp")
    if moe.shared_gate:
        name = f"{at}_gate_inp_shexp"
        shared = b.add(TokenGate(name, (shared, x), name, b.hidden_size, b.w(f"{name}.weight", (b.hidden_size,))))
    return b.residual(f"{at}_sum", y, shared)


def routed(b: Builder, at: str, x: str, moe: MoE, router_input: str = "") -> str:
    """Router and experts of the feed-forward `at` ("blk.3.ffn") over the normalized value `x`.

    router_input  what the router reads, where that is another value
    """
    inner, count, hidden, w = moe.moe_intermediate_size, moe.num_experts, b.widths[x], b.w
    router = b.add(
        Router(
            f"{at}_gate_inp", (router_input or x,), f"{at}_gate_inp",
            w(f"{at}_gate_inp.weight", (count, b.hidden_size)), moe.num_experts_per_tok, moe.scoring,
            bias=w(f"{at.removesuffix('ffn')}exp_probs_b.bias", (count,)) if moe.correction else None,
            normalize=moe.norm_topk_prob, scale=moe.routed_scaling_factor,
            logit_bias=w(f"{at}_gate_inp.bias", (count,)) if moe.biases else None,
            groups=moe.n_group, groups_used=moe.topk_group,
            expert_scale=w(f"{at}_down_exps.scale", (count,)) if moe.expert_scale else None,
        )
    )  # fmt: skip
    shapes = {"gate": (inner, hidden), "up": (inner, hidden), "down": (hidden, inner)}
    if not moe.gated:
        del shapes["gate"]
    parts = {part: w(f"{at}_{part}_exps.weight", (count, *shape)) for part, shape in shapes.items()}
    if moe.biases:
        rows = {part: shape[0] for part, shape in shapes.items()}
        parts |= {f"{part}_b": w(f"{at}_{part}_exps.bias", (count, n)) for part, n in rows.items()}
    name, k = f"{at}_exps", moe.num_experts_per_tok
    gate = parts.pop("gate", None)
    return b.add(
        Experts(name, (x, router), name, gate, **parts, k=k, activation=moe.activation, weigh_input=moe.weigh_input)
    )
