"""Hybrids of attention and gated delta nets (Qwen3-Next, Qwen3.5) or short convolutions (LFM2). From their config.json
and papers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from tests.oracle.attention import head_norms, norms, qkvo, sizes
from tests.oracle.parts import Config, Keys, Model, Tensor, in_layer, model, outside, routed, swiglu


def delta(c: Config) -> Model:
    """Three layers of four keep a matrix a head (keys by values) and the last inputs of a convolution over queries,
    keys and values; the fourth attends, and its queries come with as many gates."""
    text = c.get("text_config", c)
    kind, d, layers = text["model_type"], text["hidden_size"], text["num_hidden_layers"]
    experts = "moe" in kind or "next" in kind
    s = sizes({"intermediate_size": 0, **text})
    k, v = text["linear_key_head_dim"], text["linear_value_head_dim"]
    heads, taps = text["linear_num_value_heads"], text["linear_conv_kernel_dim"]
    inner, mixed = heads * v, 2 * text["linear_num_key_heads"] * k + heads * v
    interval = text.get("full_attention_interval", 4)
    kinds = text.get("layer_types") or ["full" if i % interval == interval - 1 else "linear" for i in range(layers)]
    attends = [name.startswith("full") for name in kinds]
    gates = {"ssm_ba": (2 * heads, d)} if "next" in kind else {"ssm_alpha": (heads, d), "ssm_beta": (heads, d)}

    def tensors() -> Iterator[Tensor]:
        for i in range(layers):
            yield from norms(i, d, "attn_norm", "post_attention_norm")
            if attends[i]:
                q, kv = s.heads * s.head_dim, s.kv * s.head_dim
                yield from in_layer(i, {"attn_q": (2 * q, d), "attn_k": (kv, d), "attn_v": (kv, d)})
                yield from in_layer(i, {"attn_output": (d, q)})
                yield from head_norms(i, s)
            else:
                yield from in_layer(
                    i, {"attn_qkv": (mixed, d), "attn_gate": (inner, d), "ssm_out": (d, inner), **gates}
                )
                yield from in_layer(i, {"ssm_conv1d": (mixed, taps), "ssm_norm": (v,), "ssm_dt.bias": (heads,)})
                yield Tensor("ssm_a", i, (heads,))  # stored without ".weight"
            if experts:
                yield from routed(i, d, text["moe_intermediate_size"], text["num_experts"], text["num_experts_per_tok"])
                yield from swiglu(i, d, text["shared_expert_intermediate_size"], "_shexp")
                yield from in_layer(i, {"ffn_gate_inp_shexp": (d,)})
            else:
                yield from swiglu(i, d, text["intermediate_size"])
        yield from outside(text, text.get("tie_word_embeddings", False))

    cached, state = Keys(s.kv, s.head_dim, s.head_dim), heads * k * v + mixed * (taps - 1)
    return model(tensors(), [cached if a else None for a in attends], [None if a else state for a in attends])


def lfm2(c: Config) -> Model:
    """A gate, a convolution and another gate in most layers, which keep the last gated inputs; attention in the others.
    The norm before the head has the name of one behind the embedding."""
    d, taps = c["hidden_size"], c["conv_L_cache"]
    ffn = c.get("block_ff_dim") or c["intermediate_size"]
    if c["model_type"] == "lfm2" and c.get("block_auto_adjust_ff_dim", True):
        multiple = c.get("block_multiple_of", 256)
        ffn = (2 * ffn // 3 + multiple - 1) // multiple * multiple
    s = sizes({**c, "intermediate_size": ffn})
    attends = (
        [i in c["full_attn_idxs"] for i in range(s.layers)]
        if c.get("full_attn_idxs")
        else [kind == "full_attention" for kind in c["layer_types"]]
    )

    def tensors() -> Iterator[Tensor]:
        for i in range(s.layers):
            yield from norms(i, d, "attn_norm", "ffn_norm")
            if attends[i]:
                yield from qkvo(i, s)
                yield from head_norms(i, s)
            else:
                yield from in_layer(i, {"shortconv.in_proj.weight": (3 * d, d), "shortconv.out_proj.weight": (d, d)})
                yield from in_layer(i, {"shortconv.conv.weight": (d, taps)})
            if i < c.get("num_dense_layers", s.layers):
                yield from swiglu(i, d, s.ffn)
            else:
                yield from routed(i, d, c["moe_intermediate_size"], c["num_experts"], c["num_experts_per_tok"])
                yield from in_layer(i, {"exp_probs_b.bias": (c["num_experts"],)})
        for t in outside(c, c.get("tie_word_embeddings", True)):
            yield replace(t, kind=t.kind.replace("output_norm", "token_embd_norm"))

    cached = Keys(s.kv, s.head_dim, s.head_dim)
    return model(tensors(), [cached if a else None for a in attends], [None if a else d * (taps - 1) for a in attends])


DELTA = ("qwen3_next", "qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text")
FAMILIES: dict[str, Callable[[Config], Model]] = {
    **dict.fromkeys(DELTA, delta),
    **dict.fromkeys(("lfm2", "lfm2_moe"), lfm2),
}
