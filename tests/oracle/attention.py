"""Transformers: dense, with routed experts, with latent attention. From their config.json and papers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from tests.oracle.parts import LOGITS, ROWS, Config, Keys, Model, Tensor, in_layer, model, outside, routed, swiglu


@dataclass(frozen=True)
class Sizes:
    """Of a transformer with grouped queries."""

    d: int
    layers: int
    heads: int
    kv: int
    head_dim: int
    ffn: int


def sizes(c: Config) -> Sizes:
    """head_dim only follows from the others where it is not stated."""
    heads = c["num_attention_heads"]
    head_dim = c.get("head_dim") or c["hidden_size"] // heads
    kv = c.get("num_key_value_heads") or heads
    return Sizes(c["hidden_size"], c["num_hidden_layers"], heads, kv, head_dim, c["intermediate_size"])


def qkvo(i: int, s: Sizes, biased: str = "") -> Iterator[Tensor]:
    """Projections of grouped-query attention; `biased` names those with a bias, of q k v o."""
    q, kv = s.heads * s.head_dim, s.kv * s.head_dim
    rows = {"q": (q, s.d), "k": (kv, s.d), "v": (kv, s.d), "o": (s.d, q)}
    for letter, shape in rows.items():
        name = "attn_output" if letter == "o" else f"attn_{letter}"
        yield from in_layer(i, {name: shape})
        if letter in biased:
            yield from in_layer(i, {f"{name}.bias": shape[:1]})


def norms(i: int, d: int, *names: str) -> Iterator[Tensor]:
    """RMS norms of the width of the model."""
    return in_layer(i, dict.fromkeys(names, (d,)))


def keys(s: Sizes, windows: list[int | None]) -> list[Keys]:
    """By layer; None where a layer attends everything."""
    return [Keys(s.kv, s.head_dim, s.head_dim, w) for w in windows]


def head_norms(i: int, s: Sizes) -> Iterator[Tensor]:
    """One scale a head dimension for queries, one for keys, the same for all heads."""
    return in_layer(i, {"attn_q_norm": (s.head_dim,), "attn_k_norm": (s.head_dim,)})


def llama(c: Config) -> Model:
    """Llama, Mistral, Qwen2, Qwen3, Granite, SmolLM3, ERNIE, Hunyuan: two norms, attention and a SwiGLU."""
    s = sizes(c)

    def tensors() -> Iterator[Tensor]:
        for i in range(s.layers):
            yield from norms(i, s.d, "attn_norm", "ffn_norm")
            everywhere = c.get("attention_bias") or c.get("use_bias")
            yield from qkvo(i, s, "qkvo" if everywhere else "qkv" * (c["model_type"] == "qwen2"))
            if c["model_type"].startswith(("qwen3", "hunyuan")):
                yield from head_norms(i, s)
            yield from feed_forward(c, s, i)
        yield from outside(c, c.get("tie_word_embeddings", False))

    return model(tensors(), keys(s, windows(c)))


def feed_forward(c: Config, s: Sizes, i: int) -> Iterator[Tensor]:
    """Experts in Mixtral and Qwen3-MoE (all layers of published ones), else a SwiGLU, in Llama perhaps with biases."""
    if c["model_type"] == "mixtral":
        yield from routed(i, s.d, s.ffn, c["num_local_experts"], c["num_experts_per_tok"])
    elif c["model_type"] == "qwen3_moe":
        yield from routed(i, s.d, c["moe_intermediate_size"], c["num_experts"], c["num_experts_per_tok"])
    else:
        yield from swiglu(i, s.d, s.ffn)
        if c.get("mlp_bias") or c.get("use_bias"):
            yield from in_layer(i, {"ffn_gate.bias": (s.ffn,), "ffn_up.bias": (s.ffn,), "ffn_down.bias": (s.d,)})


def windows(c: Config) -> list[int | None]:
    """Mistral's on all layers; Qwen's only where it is switched on, and then from max_window_layers on."""
    window, n = c.get("sliding_window"), c["num_hidden_layers"]
    if c["model_type"].startswith("qwen"):
        first = c.get("max_window_layers", n) if c.get("use_sliding_window") else n
        return [window if i >= first else None for i in range(n)]
    return [window if c["model_type"] in WINDOWED else None] * n


WINDOWED = ("mistral", "ministral", "ministral3", "mixtral", "phi3")


def gemma(c: Config) -> Model:
    """Gemma 2 and 3: norms before and after both halves; local layers with a window, tied head."""
    s, three = sizes(c), c["model_type"] == "gemma3_text"
    period = c.get("sliding_window_pattern", 6) if three else 2

    def tensors() -> Iterator[Tensor]:
        for i in range(s.layers):
            yield from norms(i, s.d, "attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
            yield from qkvo(i, s)
            yield from head_norms(i, s) if three else ()
            yield from swiglu(i, s.d, s.ffn)
        yield from outside(c, c.get("tie_word_embeddings", True))

    everywhere = [None if (i + 1) % period == 0 else c["sliding_window"] for i in range(s.layers)]
    return model(tensors(), keys(s, everywhere))


def gemma4(c: Config) -> Model:
    """Gemma 3's layers, every sixth with wider and fewer heads and, where k is v, no projection for v.

    The last `num_kv_shared_layers` have queries only; E2B and E4B have an input a layer; 26B-A4B experts beside.
    """
    s, wide, d = sizes(c), c["global_head_dim"], c["hidden_size"]
    kinds = c.get("layer_types") or ["full" if i % 6 == 5 or i == s.layers - 1 else "local" for i in range(s.layers)]
    full = [kind.startswith("full") for kind in kinds]
    first, equal, own = s.layers - c.get("num_kv_shared_layers", 0), c.get("attention_k_eq_v"), inputs(c)
    few = (c.get("num_global_key_value_heads") if equal else None) or s.kv

    def tensors() -> Iterator[Tensor]:
        for i in range(s.layers):
            dim, kv = (wide, few) if full[i] else (s.head_dim, s.kv)
            yield from norms(i, d, "attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
            yield from in_layer(i, {"attn_q": (s.heads * dim, d), "attn_output": (d, s.heads * dim)})
            yield from in_layer(i, {"attn_q_norm": (dim,)})
            if i < first:
                yield from in_layer(i, {"attn_k": (kv * dim, d), "attn_k_norm": (dim,)})
                yield from () if full[i] and equal else in_layer(i, {"attn_v": (kv * dim, d)})
            yield from swiglu(i, d, s.ffn * (1 + (i >= first and c.get("use_double_wide_mlp", False))))
            if c.get("enable_moe_block"):
                yield from norms(i, d, "post_ffw_norm_1", "pre_ffw_norm_2", "post_ffw_norm_2", "ffn_gate_inp.scale")
                yield from in_layer(i, {"ffn_down_exps.scale": (c["num_experts"],)})
                yield from routed(i, d, c["moe_intermediate_size"], c["num_experts"], c["top_k_experts"])
            if own:
                yield from in_layer(i, {"inp_gate": (own, d), "proj": (d, own), "post_norm": (d,)})
        if own:
            yield Tensor("per_layer_token_embd.weight", -1, (c["vocab_size"], s.layers * own), ROWS)
            yield Tensor("per_layer_model_proj.weight", -1, (s.layers * own, d))
            yield Tensor("per_layer_proj_norm.weight", -1, (own,))
        yield from outside(c, c.get("tie_word_embeddings", True))

    window = c["sliding_window"]
    kept = [Keys(few, wide, wide) if f else Keys(s.kv, s.head_dim, s.head_dim, window) for f in full]
    return model(tensors(), [replace(keys, own=i < first) for i, keys in enumerate(kept)])


def inputs(c: Config) -> int:
    """Values of a layer's own input."""
    return int(c.get("hidden_size_per_layer_input") or 0)


def phi3(c: Config) -> Model:
    """Llama with q, k and v in one matrix, gate and up in another."""
    s = sizes(c)
    q, kv = s.heads * s.head_dim, s.kv * s.head_dim

    def tensors() -> Iterator[Tensor]:
        for i in range(s.layers):
            yield from norms(i, s.d, "attn_norm", "ffn_norm")
            yield from in_layer(i, {"attn_qkv": (q + 2 * kv, s.d), "attn_output": (s.d, q)})
            yield from in_layer(i, {"ffn_up": (2 * s.ffn, s.d), "ffn_down": (s.d, s.ffn)})
        yield from outside(c, c.get("tie_word_embeddings", False))

    return model(tensors(), keys(s, windows(c)))


def post_norm(c: Config) -> Model:
    """OLMo 2 and 3, EXAONE 4: norms after both halves, and of q and k: OLMo's of whole rows, EXAONE's of a head."""
    s = sizes(c)
    rows = (s.head_dim, s.head_dim) if c["model_type"] == "exaone4" else (s.heads * s.head_dim, s.kv * s.head_dim)

    def tensors() -> Iterator[Tensor]:
        for i in range(s.layers):
            yield from qkvo(i, s)
            yield from in_layer(i, {"attn_q_norm": rows[:1], "attn_k_norm": rows[1:]})
            yield from norms(i, s.d, "post_attention_norm", "post_ffw_norm")
            yield from swiglu(i, s.d, s.ffn)
        yield from outside(c, c.get("tie_word_embeddings", False))

    window = c.get("sliding_window")
    return model(tensors(), keys(s, [window if (i + 1) % 4 else None for i in range(s.layers)]))


def seed_oss(c: Config) -> Model:
    """Llama with biases on q, k and v."""
    s = sizes(c)

    def tensors() -> Iterator[Tensor]:
        for i in range(s.layers):
            yield from norms(i, s.d, "attn_norm", "post_attention_norm")
            yield from qkvo(i, s, "qkv" * c["attention_bias"] + "o" * c["attention_out_bias"])
            yield from swiglu(i, s.d, s.ffn)
        yield from outside(c, c.get("tie_word_embeddings", False))

    return model(tensors(), keys(s, [None] * s.layers))


def glm4(c: Config) -> Model:
    """Four norms a layer, biases on q, k and v, gate and up in one matrix."""
    s = sizes(c)

    def tensors() -> Iterator[Tensor]:
        for i in range(s.layers):
            yield from norms(i, s.d, "attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
            yield from qkvo(i, s, "qkv" if c["attention_bias"] else "")
            yield from in_layer(i, {"ffn_up": (2 * s.ffn, s.d), "ffn_down": (s.d, s.ffn)})
        yield from outside(c, False)

    return model(tensors(), keys(s, [None] * s.layers))


def cohere2(c: Config) -> Model:
    """One norm a layer, without a bias, for both halves; a window in three layers of four; a tied head."""
    s = sizes(c)

    def tensors() -> Iterator[Tensor]:
        for i in range(s.layers):
            yield from norms(i, s.d, "attn_norm")
            yield from qkvo(i, s)
            yield from swiglu(i, s.d, s.ffn)
        yield from outside(c, True)

    return model(tensors(), keys(s, [None if i % 4 == 3 else c["sliding_window"] for i in range(s.layers)]))


def plain_gemma(c: Config) -> Model:
    """Gemma 1: two norms, attention and a GeGLU, a tied head."""
    s = sizes(c)

    def tensors() -> Iterator[Tensor]:
        for i in range(s.layers):
            yield from norms(i, s.d, "attn_norm", "ffn_norm")
            yield from qkvo(i, s)
            yield from swiglu(i, s.d, s.ffn)
        yield from outside(c, c.get("tie_word_embeddings", True))

    return model(tensors(), keys(s, [None] * s.layers))


def cohere(c: Config) -> Model:
    """One norm a layer, without a bias, for both halves; a tied head."""
    return cohere2(c | {"sliding_window": None})


def ungated(c: Config) -> Model:
    """Arcee: a feed-forward of two matrices."""
    s = sizes(c)

    def tensors() -> Iterator[Tensor]:
        for i in range(s.layers):
            yield from norms(i, s.d, "attn_norm", "ffn_norm")
            yield from qkvo(i, s, "qkvo" * c.get("attention_bias", False))
            yield from in_layer(i, {"ffn_up": (s.ffn, s.d), "ffn_down": (s.d, s.ffn)})
            if c.get("mlp_bias"):
                yield from in_layer(i, {"ffn_up.bias": (s.ffn,), "ffn_down.bias": (s.d,)})
        yield from outside(c, c.get("tie_word_embeddings", False))

    return model(tensors(), keys(s, [None] * s.layers))


def layer_normed(c: Config) -> Model:
    """StableLM (SwiGLU), StarCoder2 and Phi-2 (no gate): norms have a weight and a bias; Phi-2 has one a layer."""
    s, kind = sizes(c), c["model_type"]
    biased = {"stablelm": "qkv" * c.get("use_qkv_bias", False)}.get(kind, "qkvo")
    names = ["attn_norm"] if kind == "phi" else ["attn_norm", "ffn_norm"]

    def tensors() -> Iterator[Tensor]:
        for i in range(s.layers):
            yield from norms(i, s.d, *names, *(f"{name}.bias" for name in names))
            yield from qkvo(i, s, biased)
            if kind == "stablelm":
                yield from swiglu(i, s.d, s.ffn)
            else:
                yield from in_layer(i, {"ffn_up": (s.ffn, s.d), "ffn_down": (s.d, s.ffn)})
                yield from in_layer(i, {"ffn_up.bias": (s.ffn,), "ffn_down.bias": (s.d,)})
        yield from outside(c, kind == "starcoder2" and c.get("tie_word_embeddings", True), biased_norms=True)
        if kind == "phi":
            yield Tensor("output.bias", -1, (c["vocab_size"],), LOGITS)

    return model(tensors(), keys(s, [c.get("sliding_window") if kind == "starcoder2" else None] * s.layers))


def gpt_oss(c: Config) -> Model:
    """Biases everywhere, a sink a head, experts in all layers, a window on every other from the first on."""
    s = sizes(c)
    experts, active = c["num_local_experts"], c["num_experts_per_tok"]

    def tensors() -> Iterator[Tensor]:
        for i in range(s.layers):
            yield from norms(i, s.d, "attn_norm", "post_attention_norm")
            yield from qkvo(i, s, "qkvo")
            yield from in_layer(i, {"attn_sinks": (s.heads,), "ffn_gate_inp.bias": (experts,)})
            yield from routed(i, s.d, s.ffn, experts, active, biased=True)
        yield from outside(c, False)

    return model(tensors(), keys(s, [c["sliding_window"] if i % 2 == 0 else None for i in range(s.layers)]))


@dataclass(frozen=True)
class Mixture:
    """How many experts, how many a token picks, how wide they are, how wide a shared one is, and from which layer on;
    q, k, v, o with biases; norms of q and k by head or by row."""

    experts: int
    active: int
    width: int
    shared: int = 0
    first: int = 0
    biased: str = ""
    normed: str = ""
    corrected: bool = False
    names: tuple[str, str] = ("attn_norm", "ffn_norm")
    extra: tuple[str, ...] = ()


def described(c: Config) -> Mixture:
    """By model_type, from config.json's own names."""
    kind, ffn = c["model_type"], c["intermediate_size"]
    experts, active = (c.get(key) for key in ("num_experts", "num_experts_per_tok"))
    width = c.get("moe_intermediate_size") or ffn
    found = Mixture(c.get("num_local_experts", 0), active, ffn, c.get("shared_intermediate_size", 0))
    if kind == "qwen2_moe":
        shared = c["shared_expert_intermediate_size"]
        found = Mixture(experts, active, width, shared, biased="qkv", extra=("ffn_gate_inp_shexp",))
    elif kind == "olmoe":
        found = Mixture(experts, active, ffn, normed="row")
    elif kind == "glm4_moe":
        found = Mixture(
            c["n_routed_experts"], active, width, width * c["n_shared_experts"], c["first_k_dense_replace"],
            "qkv" * c["attention_bias"], "head" * c["use_qk_norm"], True, ("attn_norm", "post_attention_norm"),
        )  # fmt: skip
    elif kind in ("dots1", "deepseek"):
        found = Mixture(
            c["n_routed_experts"], active, width, width * c["n_shared_experts"], c["first_k_dense_replace"],
            normed="head" * (kind == "dots1"), corrected=kind == "dots1",
        )  # fmt: skip
    elif kind == "minimax_m2":
        found = Mixture(c["num_local_experts"], active, ffn, normed="row", corrected=True)
    elif kind == "ernie4_5_moe":
        shared, first = width * c["moe_num_shared_experts"], c["moe_layer_start_index"]
        found = Mixture(c["moe_num_experts"], c["moe_k"], width, shared, first, corrected=True)
    elif kind == "hunyuan_v1_moe":
        found = Mixture(experts, c["moe_topk"], width, ffn * c.get("num_shared_expert", 1), normed="head")
    return found


def mixture(c: Config) -> Model:
    """Grouped-query attention, then experts, beside them perhaps a shared one; the first layers perhaps dense."""
    s, m = sizes(c), described(c)

    def tensors() -> Iterator[Tensor]:
        for i in range(s.layers):
            yield from norms(i, s.d, *m.names)
            yield from qkvo(i, s, m.biased)
            if m.normed == "head":
                yield from head_norms(i, s)
            elif m.normed:
                yield from in_layer(i, {"attn_q_norm": (s.heads * s.head_dim,), "attn_k_norm": (s.kv * s.head_dim,)})
            if i < m.first:
                yield from swiglu(i, s.d, s.ffn)
                continue
            yield from routed(i, s.d, m.width, m.experts, m.active)
            yield from norms(i, s.d, *m.extra)
            yield from swiglu(i, s.d, m.shared, "_shexp") if m.shared else ()
            yield from in_layer(i, {"exp_probs_b.bias": (m.experts,)}) if m.corrected else ()
        yield from outside(c, c.get("tie_word_embeddings", False))

    return model(tensors(), keys(s, [None] * s.layers))


def llama4(c: Config) -> Model:
    """Chunks in layers that are rotated, which three of four are, and no norms of q and k with a weight; in every
    `step`-th layer experts beside a shared one of their width, in others a feed-forward of another width."""
    s, step = sizes(c), c["interleave_moe_layer_step"]
    rotated = c.get("no_rope_layers") or [(i + 1) % c.get("no_rope_layer_interval", 4) for i in range(s.layers)]

    def tensors() -> Iterator[Tensor]:
        for i in range(s.layers):
            yield from norms(i, s.d, "attn_norm", "ffn_norm")
            yield from qkvo(i, s)
            if (i + 1) % step:
                yield from swiglu(i, s.d, c["intermediate_size_mlp"])
                continue
            yield from routed(i, s.d, s.ffn, c["num_local_experts"], c["num_experts_per_tok"])
            yield from swiglu(i, s.d, s.ffn, "_shexp")
        yield from outside(c, c.get("tie_word_embeddings", False))

    chunk, whole = (
        Keys(s.kv, s.head_dim, s.head_dim, c["attention_chunk_size"], True),
        Keys(s.kv, s.head_dim, s.head_dim),
    )
    return model(tensors(), [chunk if turns else whole for turns in rotated])


def latent(c: Config, i: int) -> Iterator[Tensor]:
    """Multi-head latent attention: queries through a rank or not, keys and values out of one latent."""
    d, heads, rank, rope = c["hidden_size"], c["num_attention_heads"], c["kv_lora_rank"], c["qk_rope_head_dim"]
    nope, v, q_rank = c["qk_nope_head_dim"], c["v_head_dim"], c.get("q_lora_rank")
    if q_rank:
        yield from in_layer(i, {"attn_q_a": (q_rank, d), "attn_q_a_norm": (q_rank,)})
    yield from in_layer(i, {"attn_q_b" if q_rank else "attn_q": (heads * (nope + rope), q_rank or d)})
    yield from in_layer(i, {"attn_kv_a_mqa": (rank + rope, d), "attn_kv_a_norm": (rank,)})
    yield from in_layer(i, {"attn_k_b": (heads, rank, nope), "attn_v_b": (heads, v, rank)})  # absorbed, by head
    yield from in_layer(i, {"attn_output": (d, heads * v)})


def deepseek(c: Config) -> Model:
    """DeepSeek-V2 and V3: the first layers dense, then experts, some of them shared by all tokens."""
    d, ffn = c["hidden_size"], c["moe_intermediate_size"]

    def tensors() -> Iterator[Tensor]:
        for i in range(c["num_hidden_layers"]):
            yield from norms(i, d, "attn_norm", "ffn_norm")
            yield from latent(c, i)
            if i < c["first_k_dense_replace"]:
                yield from swiglu(i, d, c["intermediate_size"])
                continue
            yield from routed(i, d, ffn, c["n_routed_experts"], c["num_experts_per_tok"])
            yield from swiglu(i, d, ffn * c["n_shared_experts"], "_shexp")
            if c["model_type"] in ("deepseek_v3", "kimi_k2", "glm4_moe_lite"):
                yield from in_layer(i, {"exp_probs_b.bias": (c["n_routed_experts"],)})
        yield from outside(c, c.get("tie_word_embeddings", False))

    cached = Keys(1, c["kv_lora_rank"] + c["qk_rope_head_dim"], 0)
    return model(tensors(), [cached] * c["num_hidden_layers"])


FAMILIES: dict[str, Callable[[Config], Model]] = {
    **dict.fromkeys(("llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe", "granite", "smollm3"), llama),
    **dict.fromkeys(("gemma2", "gemma3_text"), gemma), "gemma4_text": gemma4,
    "gemma": plain_gemma, "cohere": cohere, "arcee": ungated,
    **dict.fromkeys(("ministral", "ministral3", "ernie4_5", "hunyuan_v1_dense"), llama),
    **dict.fromkeys(("olmo2", "olmo3", "exaone4"), post_norm),
    **dict.fromkeys(("starcoder2", "stablelm", "phi"), layer_normed),
    **dict.fromkeys(("qwen2_moe", "olmoe", "glm4_moe", "minimax_m2", "ernie4_5_moe", "hunyuan_v1_moe"), mixture),
    **dict.fromkeys(("dots1", "deepseek"), mixture),
    **dict.fromkeys(("granitemoe", "granitemoeshared"), mixture),
    "seed_oss": seed_oss, "glm4": glm4, "cohere2": cohere2, "phi3": phi3,
    "gpt_oss": gpt_oss, "llama4_text": llama4,
    **dict.fromkeys(("deepseek_v2", "deepseek_v3", "kimi_k2", "glm4_moe_lite"), deepseek),
}  # fmt: skip
