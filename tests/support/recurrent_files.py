"""Tiny GGUF files of recurrent models: the keys and tensors that llama.cpp's converter writes, by the `gguf` package.

Shapes are listed here a second time, from the converter and its loader, and not from memfirst's models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

Shapes = dict[str, tuple[int, ...]]
Arrays = Mapping[str, NDArray[np.float32]]

HIDDEN, VOCAB, STATE, KERNEL, RANK, HEADS, KV_HEADS = 128, 48, 16, 4, 8, 4, 2
INNER, FFN, EXPERTS, USED = 2 * HIDDEN, 96, 4, 2
SSM_HEADS, GROUPS = 8, 2
WKV_HEAD, MIX, DECAY, ICLR, VALUE, GATE = 64, 8, 12, 12, 10, 20
CONTEXT = 1 << 20


@dataclass(frozen=True)
class Spec:
    """One file. state: float32 values that a sequence keeps; kv: f16 values that a token adds; unused: tensors that
    no token reads."""

    architecture: str
    keys: dict[str, Any]
    shapes: Shapes
    state: int
    kv: int = 0
    unused: tuple[str, ...] = ()


def stays_f32(name: str, shape: tuple[int, ...]) -> bool:
    """What the converter never makes smaller than f32."""
    parts = (
        "ssm_conv1d",
        "shortconv.conv",
        "ffn_gate_inp",
        "time_mix_first",
        "time_mix_w",
        "time_mix_decay_w",
        "lerp_fused",
    )
    return (
        len(shape) < 2
        or not name.endswith(".weight")
        or name.endswith("_norm.weight")
        or any(part in name for part in parts)
    )


def write(path: Path, spec: Spec, arrays: Arrays, kind: str = "f32") -> dict[str, int]:
    """The file; gives the bytes of each tensor. kind: "f32", "f16" or "q8_0" for what does not stay f32."""
    writer = gguf.GGUFWriter(path, spec.architecture)
    for key, value in spec.keys.items():
        _add(writer, f"{spec.architecture}.{key}", value)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*map(chr, range(65, 64 + VOCAB)), "AB"])
    writer.add_token_merges(["A B"])
    sizes = {}
    for name, array in arrays.items():
        data, raw = _stored(name, array, kind)
        writer.add_tensor(name, data, raw_dtype=raw)
        sizes[name] = int(data.nbytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sizes


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    add = {bool: writer.add_bool, float: writer.add_float32, int: writer.add_uint32, list: writer.add_array}
    add[type(value)](key, value)


def _stored(name: str, array: NDArray[np.float32], kind: str) -> tuple[NDArray[Any], Any]:
    if kind == "f32" or stays_f32(name, array.shape):
        return np.ascontiguousarray(array, np.float32), None
    if kind == "f16" or array.shape[-1] % 32:
        return array.astype(np.float16), None
    return gguf.quants.quantize(array, gguf.GGMLQuantizationType.Q8_0), gguf.GGMLQuantizationType.Q8_0


def random_arrays(spec: Spec, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Normal weights scaled by the row length; norms near 1; `ssm_a` negative."""
    rng, arrays = np.random.default_rng(seed), {}
    for name, shape in spec.shapes.items():
        values = rng.standard_normal(shape) / np.sqrt(shape[-1] if len(shape) == 2 else 10)
        if "norm" in name or name.endswith("_ln.weight"):
            values = values + (1.0 if name.endswith(".weight") else 0.0)
        arrays[name] = (-np.exp(values) if name.endswith("ssm_a") else values).astype(np.float32)
    return arrays


def _top(tied: bool) -> Shapes:
    top = {"token_embd.weight": (VOCAB, HIDDEN), "output_norm.weight": (HIDDEN,)}
    return top if tied else {**top, "output.weight": (VOCAB, HIDDEN)}


def _block(i: int, shapes: Shapes) -> Shapes:
    return {f"blk.{i}.{name}": shape for name, shape in shapes.items()}


_MAMBA1: Shapes = {
    "attn_norm.weight": (HIDDEN,), "ssm_in.weight": (2 * INNER, HIDDEN), "ssm_conv1d.weight": (INNER, KERNEL),
    "ssm_conv1d.bias": (INNER,), "ssm_x.weight": (RANK + 2 * STATE, INNER), "ssm_dt.weight": (INNER, RANK),
    "ssm_dt.bias": (INNER,), "ssm_a": (INNER, STATE), "ssm_d": (INNER,), "ssm_out.weight": (HIDDEN, INNER),
}  # fmt: skip
_CONVOLVED = INNER + 2 * GROUPS * STATE
_MAMBA2: Shapes = {
    "attn_norm.weight": (HIDDEN,), "ssm_in.weight": (INNER + _CONVOLVED + SSM_HEADS, HIDDEN),
    "ssm_conv1d.weight": (_CONVOLVED, KERNEL), "ssm_conv1d.bias": (_CONVOLVED,), "ssm_dt.bias": (SSM_HEADS,),
    "ssm_a": (SSM_HEADS, 1), "ssm_d": (SSM_HEADS, 1), "ssm_norm.weight": (GROUPS, INNER // GROUPS),
    "ssm_out.weight": (HIDDEN, INNER),
}  # fmt: skip
_KV = HIDDEN // HEADS * KV_HEADS
_ATTENTION: Shapes = {
    "attn_norm.weight": (HIDDEN,), "attn_q.weight": (HIDDEN, HIDDEN), "attn_k.weight": (_KV, HIDDEN),
    "attn_v.weight": (_KV, HIDDEN), "attn_output.weight": (HIDDEN, HIDDEN),
}  # fmt: skip
_DENSE: Shapes = {
    "ffn_norm.weight": (HIDDEN,), "ffn_gate.weight": (FFN, HIDDEN), "ffn_up.weight": (FFN, HIDDEN),
    "ffn_down.weight": (HIDDEN, FFN),
}  # fmt: skip
_ROUTED: Shapes = {
    "ffn_norm.weight": (HIDDEN,), "ffn_gate_inp.weight": (EXPERTS, HIDDEN),
    "ffn_gate_exps.weight": (EXPERTS, FFN, HIDDEN), "ffn_up_exps.weight": (EXPERTS, FFN, HIDDEN),
    "ffn_down_exps.weight": (EXPERTS, HIDDEN, FFN),
}  # fmt: skip
_SHARED: Shapes = {
    "ffn_gate_shexp.weight": (FFN // 2, HIDDEN), "ffn_up_shexp.weight": (FFN // 2, HIDDEN),
    "ffn_down_shexp.weight": (HIDDEN, FFN // 2),
}  # fmt: skip

STATE1 = INNER * STATE + (KERNEL - 1) * INNER
STATE2 = INNER * STATE + (KERNEL - 1) * _CONVOLVED
_UNUSED_KEYS = {"feed_forward_length": 0, "attention.head_count": 0}


def mamba(norms: bool = False, layers: int = 2) -> Spec:
    """Mamba, tied; with `norms` Falcon-Mamba, untied."""
    shapes = _top(tied=not norms)
    for i in range(layers):
        shapes |= _block(i, _MAMBA1)
    keys = {
        "context_length": CONTEXT, "embedding_length": HIDDEN, **_UNUSED_KEYS, "block_count": layers,
        "ssm.conv_kernel": KERNEL, "ssm.inner_size": INNER, "ssm.state_size": STATE, "ssm.time_step_rank": RANK,
        "attention.layer_norm_rms_epsilon": 1e-5, "ssm.dt_b_c_rms": norms,
    }  # fmt: skip
    return Spec("mamba", keys, shapes, layers * STATE1)


def mamba2(layers: int = 2) -> Spec:
    """Mamba-2 with two groups, tied."""
    shapes = _top(tied=True)
    for i in range(layers):
        shapes |= _block(i, _MAMBA2)
    keys = {
        "context_length": CONTEXT, "embedding_length": HIDDEN, **_UNUSED_KEYS, "block_count": layers,
        "ssm.conv_kernel": KERNEL, "ssm.inner_size": INNER, "ssm.state_size": STATE, "ssm.group_count": GROUPS,
        "ssm.time_step_rank": SSM_HEADS, "attention.layer_norm_rms_epsilon": 1e-5,
    }  # fmt: skip
    return Spec("mamba2", keys, shapes, layers * STATE2)


def jamba(layers: int = 4) -> Spec:
    """Attention in layer 1 of every 4, experts in every second layer, untied."""
    shapes, kv = _top(tied=False), [KV_HEADS if i % 4 == 1 else 0 for i in range(layers)]
    norms = {"ssm_dt_norm.weight": (RANK,), "ssm_b_norm.weight": (STATE,), "ssm_c_norm.weight": (STATE,)}
    for i in range(layers):
        shapes |= _block(i, _ATTENTION if kv[i] else {**_MAMBA1, **norms})
        shapes |= _block(i, _ROUTED if i % 2 else _DENSE)
    keys = {
        "block_count": layers, "context_length": 4096, "embedding_length": HIDDEN, "feed_forward_length": FFN,
        "attention.head_count": HEADS, "attention.head_count_kv": kv, "ssm.conv_kernel": KERNEL,
        "ssm.inner_size": INNER, "ssm.state_size": STATE, "ssm.time_step_rank": RANK,
        "attention.layer_norm_rms_epsilon": 1e-6, "expert_count": EXPERTS, "expert_used_count": USED,
    }  # fmt: skip
    attending = sum(n > 0 for n in kv)
    return Spec("jamba", keys, shapes, (layers - attending) * STATE1, attending * 2 * _KV)


def granite(routed: bool, layers: int = 3) -> Spec:
    """Granite-4.0-H as Tiny (routed and shared experts) or as 1B (dense); attention in layer 1, tied."""
    shapes, kv = _top(tied=True), [KV_HEADS if i == 1 else 0 for i in range(layers)]
    for i in range(layers):
        shapes |= _block(i, _ATTENTION if kv[i] else _MAMBA2) | _block(i, _ROUTED if routed else _DENSE)
        shapes |= _block(i, _SHARED) if routed else {}
    keys = {
        "vocab_size": VOCAB, "context_length": CONTEXT, "embedding_length": HIDDEN, "block_count": layers,
        "feed_forward_length": FFN, "attention.head_count": HEADS, "attention.head_count_kv": kv,
        "attention.layer_norm_rms_epsilon": 1e-5, "attention.scale": 0.05, "embedding_scale": 12.0,
        "residual_scale": 0.22, "logit_scale": 6.0, "rope.freq_base": 10000.0, "rope.dimension_count": 16,
        "rope.scaling.finetuned": False, "ssm.conv_kernel": KERNEL, "ssm.inner_size": INNER,
        "ssm.state_size": STATE, "ssm.group_count": GROUPS, "ssm.time_step_rank": SSM_HEADS,
    }  # fmt: skip
    if routed:
        keys |= {"expert_count": EXPERTS, "expert_used_count": USED, "expert_shared_feed_forward_length": FFN // 2}
    return Spec("granitehybrid", keys, shapes, (layers - 1) * STATE2, 2 * _KV)


def _rwkv_top() -> Shapes:
    norms = ("token_embd_norm", "output_norm")
    return _top(tied=False) | {f"{n}.{part}": (HIDDEN,) for n in norms for part in ("weight", "bias")}


def _norms() -> Shapes:
    names = ("attn_norm", "attn_norm_2", "time_mix_ln")
    return {f"{n}.{part}": (HIDDEN,) for n in names for part in ("weight", "bias")}


_SQUARE = (HIDDEN, HIDDEN)
_RWKV6: Shapes = {
    "time_mix_lerp_x.weight": (HIDDEN,), "time_mix_lerp_fused.weight": (5, 1, 1, HIDDEN),
    "time_mix_w1.weight": (5 * MIX, HIDDEN), "time_mix_w2.weight": (5, HIDDEN, MIX),
    "time_mix_first.weight": (HIDDEN // WKV_HEAD, WKV_HEAD), "time_mix_decay.weight": (HIDDEN,),
    "time_mix_decay_w1.weight": (DECAY, HIDDEN), "time_mix_decay_w2.weight": (HIDDEN, DECAY),
    **{f"time_mix_{n}.weight": _SQUARE for n in ("key", "value", "receptance", "gate", "output")},
    "channel_mix_lerp_k.weight": (HIDDEN,), "channel_mix_lerp_r.weight": (HIDDEN,),
    "channel_mix_key.weight": (FFN, HIDDEN), "channel_mix_value.weight": (HIDDEN, FFN),
    "channel_mix_receptance.weight": _SQUARE,
}  # fmt: skip
_RWKV7: Shapes = {
    "time_mix_lerp_fused.weight": (6, 1, 1, HIDDEN),
    **{f"time_mix_{n}.weight": (HIDDEN,) for n in ("w0", "a0", "v0", "k_k", "k_a", "r_k")},
    **{f"time_mix_{n}1.weight": (rank, HIDDEN) for n, rank in (("w", DECAY), ("a", ICLR), ("g", GATE))},
    **{f"time_mix_{n}2.weight": (HIDDEN, rank) for n, rank in (("w", DECAY), ("a", ICLR), ("g", GATE))},
    **{f"time_mix_{n}.weight": _SQUARE for n in ("key", "value", "receptance", "output")},
    "channel_mix_lerp_k.weight": (HIDDEN,), "channel_mix_key.weight": (FFN, HIDDEN),
    "channel_mix_value.weight": (HIDDEN, FFN),
}  # fmt: skip

STATE_RWKV = HIDDEN * WKV_HEAD + 2 * HIDDEN


def rwkv6(layers: int = 2, rescale: int = 1) -> Spec:
    """RWKV-6, whose stream is halved after every layer."""
    shapes = _rwkv_top()
    for i in range(layers):
        shapes |= _block(i, {**_norms(), **_RWKV6})
    keys = {
        "context_length": CONTEXT, "embedding_length": HIDDEN, "block_count": layers,
        "attention.layer_norm_epsilon": 1e-5, "rescale_every_n_layers": rescale, "wkv.head_size": WKV_HEAD,
        "time_mix_extra_dim": MIX, "time_decay_extra_dim": DECAY, "feed_forward_length": FFN,
        "attention.head_count": 0,
    }  # fmt: skip
    return Spec("rwkv6", keys, shapes, layers * STATE_RWKV)


def rwkv7(layers: int = 3) -> Spec:
    """RWKV-7; the converter writes copies of layer 0's a0, a1, a2 as v0, v1, v2, which nobody reads."""
    shapes = _rwkv_top()
    for i in range(layers):
        rank = VALUE if i else ICLR
        value = {"time_mix_v1.weight": (rank, HIDDEN), "time_mix_v2.weight": (HIDDEN, rank)}
        shapes |= _block(i, {**_norms(), **_RWKV7, **value})
    keys = {
        "context_length": CONTEXT, "embedding_length": HIDDEN, "block_count": layers,
        "attention.layer_norm_epsilon": 1e-5, "wkv.head_size": WKV_HEAD, "attention.decay_lora_rank": DECAY,
        "attention.iclr_lora_rank": ICLR, "attention.value_residual_mix_lora_rank": VALUE,
        "attention.gate_lora_rank": GATE, "feed_forward_length": FFN, "attention.head_count": 0,
    }  # fmt: skip
    unused = tuple(f"blk.0.time_mix_v{n}.weight" for n in "012")
    return Spec("rwkv7", keys, shapes, layers * STATE_RWKV, unused=unused)


KEY_HEADS, VALUE_HEADS, DELTA_DIM, HEAD_DIM = 2, 4, 32, 32
_MIXED = 2 * KEY_HEADS * DELTA_DIM + VALUE_HEADS * DELTA_DIM
_DELTA: Shapes = {
    "attn_norm.weight": (HIDDEN,), "attn_qkv.weight": (_MIXED, HIDDEN),
    "attn_gate.weight": (VALUE_HEADS * DELTA_DIM, HIDDEN), "ssm_conv1d.weight": (_MIXED, KERNEL),
    "ssm_dt.bias": (VALUE_HEADS,), "ssm_a": (VALUE_HEADS,), "ssm_norm.weight": (DELTA_DIM,),
    "ssm_out.weight": (HIDDEN, VALUE_HEADS * DELTA_DIM),
}  # fmt: skip
_GATED: Shapes = {
    "attn_norm.weight": (HIDDEN,), "attn_q.weight": (2 * HEADS * HEAD_DIM, HIDDEN),
    "attn_k.weight": (KV_HEADS * HEAD_DIM, HIDDEN), "attn_v.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
    "attn_output.weight": (HIDDEN, HEADS * HEAD_DIM), "attn_q_norm.weight": (HEAD_DIM,),
    "attn_k_norm.weight": (HEAD_DIM,),
}  # fmt: skip
STATE_DELTA = VALUE_HEADS * DELTA_DIM * DELTA_DIM + (KERNEL - 1) * _MIXED


def delta(name: str, routed: bool, layers: int = 4, predicting: int = 0) -> Spec:
    """Qwen3-Next or Qwen3.5, attention in every second layer; `predicting`: layers behind the last, unread."""
    two = {"ssm_alpha.weight": (VALUE_HEADS, HIDDEN), "ssm_beta.weight": (VALUE_HEADS, HIDDEN)}
    gates = {"ssm_ba.weight": (2 * VALUE_HEADS, HIDDEN)} if name == "qwen3next" else two
    after = {key.replace("ffn_norm", "post_attention_norm"): s for key, s in (_ROUTED if routed else _DENSE).items()}
    after |= {**_SHARED, "ffn_gate_inp_shexp.weight": (HIDDEN,)} if routed else {}
    shapes, unused = _top(tied=not routed), list[str]()
    for i in range(layers + predicting):
        block = _block(i, {**(_GATED if i % 2 or i >= layers else {**_DELTA, **gates}), **after})
        if i >= layers:
            block |= _block(i, {"nextn.eh_proj.weight": (HIDDEN, 2 * HIDDEN), "nextn.enorm.weight": (HIDDEN,)})
            block |= _block(i, {"nextn.hnorm.weight": (HIDDEN,), "nextn.shared_head_norm.weight": (HIDDEN,)})
            unused += block
        shapes |= block
    keys = {
        "vocab_size": VOCAB, "context_length": 4096, "embedding_length": HIDDEN, "block_count": layers + predicting,
        "feed_forward_length": FFN, "attention.head_count": HEADS, "attention.head_count_kv": KV_HEADS,
        "attention.key_length": HEAD_DIM, "attention.value_length": HEAD_DIM,
        "attention.layer_norm_rms_epsilon": 1e-6, "rope.freq_base": 1000.0, "rope.dimension_count": 8,
        "ssm.conv_kernel": KERNEL, "ssm.state_size": DELTA_DIM, "ssm.group_count": KEY_HEADS,
        "ssm.time_step_rank": VALUE_HEADS, "ssm.inner_size": VALUE_HEADS * DELTA_DIM, "full_attention_interval": 2,
    }  # fmt: skip
    if name != "qwen3next":
        keys["rope.dimension_sections"] = [2, 1, 1, 0]
    if predicting:
        keys["nextn_predict_layers"] = predicting
    if routed:
        keys |= {"expert_count": EXPERTS, "expert_used_count": USED, "expert_feed_forward_length": FFN}
        keys["expert_shared_feed_forward_length"] = FFN // 2
    attending = layers // 2
    kv = attending * 2 * KV_HEADS * HEAD_DIM
    return Spec(name, keys, shapes, (layers - attending) * STATE_DELTA, kv, tuple(unused))


_SHORT: Shapes = {
    "attn_norm.weight": (HIDDEN,), "shortconv.in_proj.weight": (3 * HIDDEN, HIDDEN),
    "shortconv.conv.weight": (HIDDEN, 3), "shortconv.out_proj.weight": (HIDDEN, HIDDEN),
}  # fmt: skip
_NORMED: Shapes = {**_ATTENTION, "attn_q_norm.weight": (HIDDEN // HEADS,), "attn_k_norm.weight": (HIDDEN // HEADS,)}


def lfm2(routed: bool, layers: int = 4) -> Spec:
    """LFM2 with attention in layer 1, or with experts from layer 1 on."""
    shapes = {"token_embd.weight": (VOCAB, HIDDEN), "token_embd_norm.weight": (HIDDEN,)}
    for i in range(layers):
        shapes |= _block(i, _NORMED if i == 1 else _SHORT)
        bias = {"exp_probs_b.bias": (EXPERTS,)}
        shapes |= _block(i, {**_ROUTED, **bias} if routed and i else _DENSE)
    keys = {
        "vocab_size": VOCAB, "context_length": 4096, "embedding_length": HIDDEN, "block_count": layers,
        "feed_forward_length": FFN, "attention.head_count": HEADS,
        "attention.head_count_kv": [KV_HEADS if i == 1 else 0 for i in range(layers)],
        "attention.layer_norm_rms_epsilon": 1e-5, "rope.freq_base": 1000.0, "shortconv.l_cache": 3,
    }  # fmt: skip
    if routed:
        keys |= {"expert_count": EXPERTS, "expert_used_count": USED, "expert_feed_forward_length": FFN}
        keys |= {"leading_dense_block_count": 1, "expert_gating_func": 2}
    return Spec("lfm2moe" if routed else "lfm2", keys, shapes, (layers - 1) * 2 * HIDDEN, 2 * _KV)


LATENT = 64
_UNGATED: Shapes = {"attn_norm.weight": (HIDDEN,), "ffn_up.weight": (FFN, HIDDEN), "ffn_down.weight": (HIDDEN, FFN)}
_UNGATED_EXPERTS: Shapes = {
    "attn_norm.weight": (HIDDEN,), "ffn_gate_inp.weight": (EXPERTS, HIDDEN), "exp_probs_b.bias": (EXPERTS,),
    "ffn_latent_down.weight": (LATENT, HIDDEN), "ffn_latent_up.weight": (HIDDEN, LATENT),
    "ffn_up_exps.weight": (EXPERTS, FFN, LATENT), "ffn_down_exps.weight": (EXPERTS, LATENT, FFN),
    "ffn_up_shexp.weight": (FFN // 2, HIDDEN), "ffn_down_shexp.weight": (HIDDEN, FFN // 2),
}  # fmt: skip


def nemotron(routed: bool) -> Spec:
    """A mixer, a feed-forward (experts on a latent beside a shared one), attention with wide heads, a feed-forward."""
    inner, head = _UNGATED_EXPERTS if routed else _UNGATED, 2 * HIDDEN // HEADS
    q, kv = HEADS * head, KV_HEADS * head
    wide = {"attn_q.weight": (q, HIDDEN), "attn_k.weight": (kv, HIDDEN), "attn_v.weight": (kv, HIDDEN)}
    attention = {"attn_norm.weight": (HIDDEN,), **wide, "attn_output.weight": (HIDDEN, q)}
    shapes = _top(tied=False)
    for i, block in enumerate((_MAMBA2, inner, attention, inner)):
        shapes |= _block(i, block)
    keys = {
        "vocab_size": VOCAB, "context_length": CONTEXT, "embedding_length": HIDDEN, "block_count": 4,
        "feed_forward_length": [0, FFN, 0, FFN], "attention.head_count": HEADS,
        "attention.head_count_kv": [0, 0, KV_HEADS, 0], "attention.key_length": head, "attention.value_length": head,
        "attention.layer_norm_rms_epsilon": 1e-5, "attention.layer_norm_epsilon": 1e-5,
        "rope.scaling.finetuned": False, "ssm.conv_kernel": KERNEL, "ssm.inner_size": INNER, "ssm.state_size": STATE,
        "ssm.group_count": GROUPS, "ssm.time_step_rank": SSM_HEADS,
    }  # fmt: skip
    if routed:
        keys |= {"expert_count": EXPERTS, "expert_used_count": USED, "expert_feed_forward_length": FFN}
        keys |= {"expert_shared_feed_forward_length": FFN // 2, "expert_shared_count": 1, "moe_latent_size": LATENT}
        keys |= {"expert_weights_norm": True, "expert_weights_scale": 2.5, "expert_group_count": 1}
    return Spec("nemotron_h_moe" if routed else "nemotron_h", keys, shapes, STATE2, 2 * kv)


def falcon_h1(normed: bool) -> Spec:
    """Attention beside a mixer in both layers, whose heads are not those of the width; untied, or with a norm, tied."""
    head, shapes = 48, _top(tied=normed)
    q, kv = HEADS * head, KV_HEADS * head
    block = {name: shape for name, shape in _MAMBA2.items() if normed or name != "ssm_norm.weight"}
    block |= {"attn_q.weight": (q, HIDDEN), "attn_k.weight": (kv, HIDDEN), "attn_v.weight": (kv, HIDDEN)}
    block |= {"attn_output.weight": (HIDDEN, q), "ffn_norm": (HIDDEN,)}  # so it is called
    block |= {name: shape for name, shape in _DENSE.items() if name != "ffn_norm.weight"}
    for i in range(2):
        shapes |= _block(i, block)
    keys = {
        "vocab_size": VOCAB, "context_length": 4096, "embedding_length": HIDDEN, "block_count": 2,
        "feed_forward_length": FFN, "attention.head_count": HEADS, "attention.head_count_kv": KV_HEADS,
        "attention.key_length": head, "attention.value_length": head, "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 1e11, "ssm.conv_kernel": KERNEL, "ssm.inner_size": INNER, "ssm.state_size": STATE,
        "ssm.group_count": GROUPS, "ssm.time_step_rank": SSM_HEADS,
    }  # fmt: skip
    return Spec("falcon-h1", keys, shapes, 2 * STATE2, 2 * 2 * kv)


SPECS = {
    "mamba": mamba(), "falcon_mamba": mamba(norms=True), "mamba2": mamba2(), "jamba": jamba(),
    "granite_tiny": granite(routed=True), "granite_1b": granite(routed=False), "rwkv6": rwkv6(), "rwkv7": rwkv7(),
    "qwen3next": delta("qwen3next", routed=True), "qwen35": delta("qwen35", routed=False, predicting=1),
    "qwen35moe": delta("qwen35moe", routed=True), "lfm2": lfm2(routed=False), "lfm2moe": lfm2(routed=True),
    "nemotron_h": nemotron(routed=False), "nemotron_h_moe": nemotron(routed=True),
    "falcon_h1": falcon_h1(normed=False), "falcon_h1_normed": falcon_h1(normed=True),
}  # fmt: skip
