"""Models with state: Mamba, Mamba-2, RWKV-6 and 7, and hybrids of these with attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.oracle.attention import norms, qkvo, sizes
from tests.oracle.parts import ROUTED, Config, Keys, Model, Tensor, in_layer, model, outside, routed, swiglu


def selective(i: int, d: int, inner: int, n: int, conv: int, rank: int, biased: bool) -> Iterator[Tensor]:
    """Mamba's mixer: x and z, a convolution over time, step sizes through a rank, B and C of n values each."""
    yield from in_layer(i, {"ssm_in": (2 * inner, d), "ssm_out": (d, inner), "ssm_conv1d": (inner, conv)})
    yield from in_layer(i, {"ssm_x": (rank + 2 * n, inner), "ssm_dt": (inner, rank), "ssm_dt.bias": (inner,)})
    yield from (Tensor("ssm_a", i, (inner, n)), Tensor("ssm_d", i, (inner,)))  # stored without ".weight"
    if biased:
        yield from in_layer(i, {"ssm_conv1d.bias": (inner,)})


def selective_state(inner: int, n: int, conv: int) -> int:
    """n values a channel, and the inputs that the convolution still needs."""
    return inner * n + inner * (conv - 1)


def mamba(c: Config) -> Model:
    """Mamba and Falcon-Mamba (whose `expand` is wrong: intermediate_size holds)."""
    d, n, conv, layers = c["hidden_size"], c["state_size"], c["conv_kernel"], c["num_hidden_layers"]
    inner, rank = c["intermediate_size"], c["time_step_rank"]
    rank = -(-d // 16) if rank == "auto" else rank

    def tensors() -> Iterator[Tensor]:
        for i in range(layers):
            yield from norms(i, d, "attn_norm")
            yield from selective(i, d, inner, n, conv, rank, c["use_conv_bias"])
        yield from outside(c, c.get("tie_word_embeddings", True))

    return model(tensors(), states=[selective_state(inner, n, conv)] * layers)


def dual(i: int, d: int, heads: int, dim: int, n: int, groups: int, conv: int, biased: bool) -> Iterator[Tensor]:
    """Mamba-2's mixer: z, x, B, C and one step size a head from one matrix; x, B and C are convolved."""
    inner, mixed = heads * dim, heads * dim + 2 * groups * n
    yield from in_layer(i, {"ssm_in": (inner + mixed + heads, d), "ssm_out": (d, inner)})
    yield from in_layer(i, {"ssm_norm": (groups, inner // groups)})
    yield from in_layer(i, {"ssm_conv1d": (mixed, conv), "ssm_dt.bias": (heads,)})
    yield from (Tensor(name, i, (heads, 1)) for name in ("ssm_a", "ssm_d"))  # stored without ".weight"
    if biased:
        yield from in_layer(i, {"ssm_conv1d.bias": (mixed,)})


def dual_state(heads: int, dim: int, n: int, groups: int, conv: int) -> int:
    """A matrix a head, and the inputs that the convolution still needs."""
    return heads * dim * n + (heads * dim + 2 * groups * n) * (conv - 1)


def mamba2(c: Config) -> Model:
    """Mamba-2."""
    of = (c["num_heads"], c["head_dim"], c["state_size"], c["n_groups"], c["conv_kernel"])
    layers = c["num_hidden_layers"]

    def tensors() -> Iterator[Tensor]:
        for i in range(layers):
            yield from norms(i, c["hidden_size"], "attn_norm")
            yield from dual(i, c["hidden_size"], *of, c["use_conv_bias"])
        yield from outside(c, c["tie_word_embeddings"])

    return model(tensors(), states=[dual_state(*of)] * layers)


def layer_norms(i: int, d: int, *names: str) -> Iterator[Tensor]:
    """Scale and bias each."""
    for name in names:
        yield from in_layer(i, {f"{name}.weight": (d,), f"{name}.bias": (d,)})


def rwkv6(c: Config) -> Model:
    """RWKV-6 (Finch): data-dependent mixing through ranks of 32 and 64, twice that at width 4096."""
    d, layers, head = c["hidden_size"], c["num_hidden_layers"], c["head_size"]
    rank, decay = (64, 128) if d == 4096 else (32, 64)
    ffn = c.get("intermediate_size") or int(3.5 * d) // 32 * 32

    def tensors() -> Iterator[Tensor]:
        yield from layer_norms(-1, d, "token_embd_norm")
        for i in range(layers):
            yield from layer_norms(i, d, "attn_norm", "attn_norm_2", "time_mix_ln")
            yield from in_layer(i, {"time_mix_lerp_x": (d,), "time_mix_lerp_fused": (5, 1, 1, d)})
            yield from in_layer(i, {"time_mix_w1": (5 * rank, d), "time_mix_w2": (5, d, rank)})
            yield from in_layer(i, {"time_mix_decay_w1": (decay, d), "time_mix_decay_w2": (d, decay)})
            yield from in_layer(i, {"time_mix_decay": (d,), "time_mix_first": (d // head, head)})
            square = ("receptance", "key", "value", "gate", "output")
            yield from in_layer(i, {f"time_mix_{name}": (d, d) for name in square})
            yield from in_layer(i, {"channel_mix_lerp_k": (d,), "channel_mix_lerp_r": (d,)})
            yield from in_layer(i, {"channel_mix_key": (ffn, d), "channel_mix_value": (d, ffn)})
            yield from in_layer(i, {"channel_mix_receptance": (d, d)})
        yield from outside(c, c["tie_word_embeddings"], biased_norms=True)

    return model(tensors(), states=[2 * d + d * head] * layers)


def rwkv7(c: Config) -> Model:
    """RWKV-7 (Goose): four ranks; the first layer's values are the ones that later layers mix in."""
    d, layers, head = c["hidden_size"], c["num_hidden_layers"], c["head_dim"]
    ranks = {"w": c["decay_low_rank_dim"], "a": c["a_low_rank_dim"], "v": c["v_low_rank_dim"]}
    ffn, gate = c["intermediate_size"], c["gate_low_rank_dim"]

    def tensors() -> Iterator[Tensor]:
        yield from layer_norms(-1, d, "token_embd_norm")
        for i in range(layers):
            yield from layer_norms(i, d, "attn_norm", "attn_norm_2", "time_mix_ln")
            yield from in_layer(i, {"time_mix_lerp_fused": (6, 1, 1, d), "channel_mix_lerp_k": (d,)})
            for name, rank in ranks.items():
                if i or name != "v":
                    yield from in_layer(i, {f"time_mix_{name}0": (d,), f"time_mix_{name}1": (rank, d)})
                    yield from in_layer(i, {f"time_mix_{name}2": (d, rank)})
            yield from in_layer(i, {"time_mix_g1": (gate, d), "time_mix_g2": (d, gate)})
            yield from in_layer(i, dict.fromkeys(("time_mix_k_k", "time_mix_k_a", "time_mix_r_k"), (d,)))
            square = ("receptance", "key", "value", "output")
            yield from in_layer(i, {f"time_mix_{name}": (d, d) for name in square})
            yield from in_layer(i, {"channel_mix_key": (ffn, d), "channel_mix_value": (d, ffn)})
        yield from outside(c, c["tie_word_embeddings"], biased_norms=True)

    return model(tensors(), states=[2 * d + d * head] * layers)


def jamba(c: Config) -> Model:
    """Mamba with three norms inside, attention in one layer of a period, experts in another's."""
    s, n, conv = sizes(c), c["mamba_d_state"], c["mamba_d_conv"]
    inner, rank = c["mamba_expand"] * s.d, c["mamba_dt_rank"]
    attends = [i % c["attn_layer_period"] == c["attn_layer_offset"] for i in range(s.layers)]

    def tensors() -> Iterator[Tensor]:
        for i in range(s.layers):
            yield from norms(i, s.d, "attn_norm", "ffn_norm")
            if attends[i]:
                yield from qkvo(i, s)
            else:
                yield from selective(i, s.d, inner, n, conv, rank, c["mamba_conv_bias"])
                yield from in_layer(i, {"ssm_dt_norm": (rank,), "ssm_b_norm": (n,), "ssm_c_norm": (n,)})
            if c["num_experts"] > 1 and i % c["expert_layer_period"] == c["expert_layer_offset"]:
                yield from routed(i, s.d, s.ffn, c["num_experts"], c["num_experts_per_tok"])
            else:
                yield from swiglu(i, s.d, s.ffn)
        yield from outside(c, c["tie_word_embeddings"])

    cached, state = Keys(s.kv, s.head_dim, s.head_dim), selective_state(inner, n, conv)
    return model(tensors(), [cached if a else None for a in attends], [None if a else state for a in attends])


def granite_hybrid(c: Config) -> Model:
    """Granite-4.0-H: Mamba-2 or attention, then experts (where it has any) beside a shared SwiGLU."""
    s, experts = sizes(c), c.get("num_local_experts", 0)
    of = (c["mamba_n_heads"], c["mamba_d_head"], c["mamba_d_state"], c["mamba_n_groups"], c["mamba_d_conv"])
    attends = [kind == "attention" for kind in c["layer_types"]]

    def tensors() -> Iterator[Tensor]:
        for i in range(s.layers):
            yield from norms(i, s.d, "attn_norm", "ffn_norm")
            yield from qkvo(i, s) if attends[i] else dual(i, s.d, *of, c["mamba_conv_bias"])
            if experts:
                yield from routed(i, s.d, s.ffn, experts, c["num_experts_per_tok"])
            yield from swiglu(i, s.d, c["shared_intermediate_size"], "_shexp" if experts else "")
        yield from outside(c, c["tie_word_embeddings"])

    cached, state = Keys(s.kv, s.head_dim, s.head_dim), dual_state(*of)
    return model(tensors(), [cached if a else None for a in attends], [None if a else state for a in attends])


def falcon_h1(c: Config) -> Model:
    """Attention and Mamba-2 in every layer, of which the latter has a norm where it says so, then a SwiGLU whose norm
    is stored without ".weight"."""
    s = sizes(c)
    inner = c["mamba_d_ssm"] or c.get("mamba_expand", 2) * s.d
    heads = c["mamba_n_heads"]
    of = (heads, inner // heads, c["mamba_d_state"], c["mamba_n_groups"], c["mamba_d_conv"])

    def tensors() -> Iterator[Tensor]:
        for i in range(s.layers):
            yield from norms(i, s.d, "attn_norm")
            yield Tensor("ffn_norm", i, (s.d,))
            yield from qkvo(i, s)
            mixer = dual(i, s.d, *of, c.get("mamba_conv_bias", True))
            yield from (t for t in mixer if c["mamba_rms_norm"] or "ssm_norm" not in t.kind)
            yield from swiglu(i, s.d, s.ffn)
        yield from outside(c, c["tie_word_embeddings"])

    return model(tensors(), [Keys(s.kv, s.head_dim, s.head_dim)] * s.layers, [dual_state(*of)] * s.layers)


def nemotron_h(c: Config) -> Model:
    """A norm and one thing a layer: Mamba-2, attention whose heads are as wide as stated, or two matrices around a
    squared ReLU, as a feed-forward or as experts (on a latent, where there is one) beside a shared one."""
    letters = {"M": "linear_attention", "*": "full_attention", "-": "mlp", "E": "moe"}
    kinds = c.get("layers_block_type") or [letters[kind] for kind in c["hybrid_override_pattern"]]
    d, c = c["hidden_size"], {"head_dim": c.get("attention_head_dim"), **c}
    of = (c["mamba_num_heads"], c["mamba_head_dim"], c["ssm_state_size"], c["n_groups"], c["conv_kernel"])
    s = sizes(c)

    def two(i: int, ffn: int, suffix: str = "") -> Iterator[Tensor]:
        yield from in_layer(i, {f"ffn_up{suffix}": (ffn, d), f"ffn_down{suffix}": (d, ffn)})

    def experts(i: int) -> Iterator[Tensor]:
        count, ffn, width = c["n_routed_experts"], c["moe_intermediate_size"], c.get("moe_latent_size") or d
        yield from in_layer(i, {"ffn_gate_inp": (count, d), "exp_probs_b.bias": (count,)})
        if width != d:
            yield from in_layer(i, {"ffn_latent_down": (width, d), "ffn_latent_up": (d, width)})
        for name, rows, columns in (("up", ffn, width), ("down", width, ffn)):
            shape = (count, rows, columns)
            yield Tensor(f"ffn_{name}_exps.weight", i, shape, ROUTED, c["num_experts_per_tok"])
        yield from two(i, c["moe_shared_expert_intermediate_size"], "_shexp")

    def tensors() -> Iterator[Tensor]:
        for i, kind in enumerate(kinds):
            yield from norms(i, d, "attn_norm")
            if kind == "linear_attention":
                yield from dual(i, d, *of, True)
            elif kind == "full_attention":
                yield from qkvo(i, s)
            else:
                yield from experts(i) if kind == "moe" else two(i, s.ffn)
        yield from outside(c, c["tie_word_embeddings"])

    cached, state = Keys(s.kv, s.head_dim, s.head_dim), dual_state(*of)
    return model(
        tensors(),
        [cached if kind == "full_attention" else None for kind in kinds],
        [state if kind == "linear_attention" else None for kind in kinds],
    )


FAMILIES: dict[str, Callable[[Config], Model]] = {
    "mamba": mamba, "falcon_mamba": mamba, "mamba2": mamba2, "rwkv6": rwkv6, "rwkv7": rwkv7,
    "jamba": jamba, "granitemoehybrid": granite_hybrid, "nemotron_h": nemotron_h,
    "falcon_h1": falcon_h1,
}  # fmt: skip
