"""Models and steps to price twice: a random tiny config.json of each architecture, and codecs tensor by tensor.

Sizes are chosen so that no two of a model are alike where that can be avoided: a formula that takes one for the
other then gives another number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from tests.oracle import BLOCKS, Config, Model, Sequence, chunks, describe

Table = dict[tuple[str, int], str]
"""(GGUF kind, layer) -> codec."""

FLOATS, PACKED = ("f32", "f16", "bf16"), tuple(name for name in BLOCKS if name != "mxfp4")


@dataclass(frozen=True)
class Case:
    """One model in given codecs, the steps to price, and the lengths of the sequences that it holds.

    kv        codecs of keys and values
    recorded  the steps' routing is known: tokens by expert
    cpu       as the CPU packs it, else as in the file
    """

    name: str
    config: Config
    model: Model
    table: Table
    steps: tuple[tuple[Sequence, ...], ...]
    contexts: tuple[int, ...]
    kv: tuple[str, str] = ("f16", "f16")
    recorded: bool = False
    cpu: bool = False


def codecs(model: Model, random: Random, cpu: bool = False) -> Table:
    """Any codec whose blocks divide the tensor's rows; a tied table has one. The CPU keeps vectors in f32."""
    found: Table = {}
    for t in model.tensors:
        names = [n for n in (PACKED if cpu else BLOCKS) if t.shape[-1] % BLOCKS[n][0] == 0]
        vector = cpu and len(t.shape) == 1
        found.setdefault((t.kind, t.layer), "f32" if vector else random.choice(names))
    return found


def steps(random: Random, context: int) -> tuple[tuple[Sequence, ...], ...]:
    """A decoded token, a batch, a prompt in chunks, drafts that all need logits, steps without logits or tokens."""
    past = [random.randrange(context // 2) for _ in range(4)]
    drafts = random.randint(2, 5)
    return (
        (Sequence(past[0]),),
        tuple(Sequence(p) for p in past),
        *(
            (s,)
            for s in chunks(random.randint(context // 4, context // 2), random.randint(context // 12, context // 6))
        ),
        (Sequence(past[1], drafts, drafts), Sequence(0, 7), Sequence(past[2], 1, 0), Sequence(past[3], 0, 0)),
        (Sequence(past[3], 9, 0),),
        (Sequence(past[0], 0, 0),),
    )


def case(name: str, config: Config, seed: int, context: int = 400, **more: Any) -> Case:
    """`config` with codecs, and apart from them steps and lengths, drawn from `seed`: a new codec changes no step."""
    random, model = Random(f"{name}{seed} steps"), describe(config)
    table = codecs(model, Random(f"{name}{seed}"), more.get("cpu", False))
    lengths = (random.randrange(1, context), random.randrange(context // 2, context), 64, 65, 0)
    return Case(name, config, model, table, steps(random, context), lengths, **more)


def tiny(model_type: str, seed: int, changed: Config | None = None, **more: Any) -> Case:
    """A random small model of that architecture, with the keys in `changed`."""
    config = CONFIGS[model_type](Random(f"{model_type}{seed}")) | {"model_type": model_type, **(changed or {})}
    return case(f"{model_type} {seed}", config, seed, **more)


def transformer(r: Random, layers: int = 0) -> dict[str, Any]:
    """What every transformer's config.json states."""
    kv, group = r.choice([1, 2, 3]), r.choice([2, 3])
    return {
        "vocab_size": r.randrange(300, 900), "hidden_size": 32 * kv * group * r.choice([2, 4]),
        "intermediate_size": 32 * r.randrange(7, 21), "num_hidden_layers": layers or r.randint(2, 5),
        "num_attention_heads": kv * group, "num_key_value_heads": kv, "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": r.random() < 0.5,
    }  # fmt: skip


def llama(r: Random) -> dict[str, Any]:
    return transformer(r) | {"attention_bias": r.random() < 0.5, "mlp_bias": r.random() < 0.5, "head_dim": 96}


def mistral(r: Random) -> dict[str, Any]:
    return transformer(r) | {"sliding_window": r.choice([None, 50, 131]), "head_dim": 32}


def experts(r: Random) -> dict[str, Any]:
    k = r.randint(1, 3)
    return {"num_experts_per_tok": k, "num_local_experts": k + r.randint(1, 6)}


def qwen(r: Random) -> dict[str, Any]:
    window = {"use_sliding_window": r.random() < 0.5, "sliding_window": 77, "max_window_layers": 1}
    return transformer(r) | window | {"head_dim": 128}


def qwen2(r: Random) -> dict[str, Any]:
    return {key: value for key, value in qwen(r).items() if key != "head_dim"}


def qwen3_moe(r: Random) -> dict[str, Any]:
    moe = {"moe_intermediate_size": 96, "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []}
    found = experts(r)
    return qwen(r) | moe | found | {"num_experts": found["num_local_experts"]}


def mixture(r: Random, count: str = "num_experts", used: str = "num_experts_per_tok") -> dict[str, Any]:
    k = r.randint(1, 3)
    return transformer(r, layers=3) | {"head_dim": None, used: k, count: k + r.randint(1, 6)}


def qwen2_moe(r: Random) -> dict[str, Any]:
    widths = {"moe_intermediate_size": 96, "shared_expert_intermediate_size": 160}
    return mixture(r) | widths | {"norm_topk_prob": False, "decoder_sparse_step": 1, "mlp_only_layers": []}


def glm4_moe(r: Random) -> dict[str, Any]:
    found = {"n_shared_experts": r.choice([0, 1, 2]), "first_k_dense_replace": r.choice([0, 1, 2])}
    flags = {"attention_bias": r.random() < 0.5, "use_qk_norm": r.random() < 0.5, "norm_topk_prob": True}
    return mixture(r, "n_routed_experts") | found | flags | {"moe_intermediate_size": 96, "head_dim": 64}


def deepseek_moe(r: Random) -> dict[str, Any]:
    """dots.llm1, and with other ways of picking the first DeepSeek."""
    found = {"n_shared_experts": r.choice([0, 1, 2]), "first_k_dense_replace": r.choice([0, 1, 2])}
    flags = {"norm_topk_prob": True, "routed_scaling_factor": 2.5, "scoring_func": "noaux_tc"}
    return mixture(r, "n_routed_experts") | found | flags | {"moe_intermediate_size": 96, "head_dim": 64}


def ernie_moe(r: Random) -> dict[str, Any]:
    found = {"moe_num_shared_experts": r.choice([1, 2]), "moe_layer_start_index": r.choice([0, 1]), "use_bias": False}
    return mixture(r, "moe_num_experts", "moe_k") | found | {"moe_intermediate_size": 96}


def granite_moe(r: Random) -> dict[str, Any]:
    names = ("embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling")
    return mixture(r, "num_local_experts") | dict.fromkeys(names, 0.5)


def gemma2(r: Random) -> dict[str, Any]:
    return transformer(r) | {"head_dim": 128, "sliding_window": r.choice([20, 60]), "query_pre_attn_scalar": 128}


def gemma3(r: Random) -> dict[str, Any]:
    return gemma2(r) | {"num_hidden_layers": 7, "sliding_window_pattern": r.choice([3, 6])}


def gemma4(r: Random) -> dict[str, Any]:
    """As the large ones, as the small ones, or with experts."""
    kinds = ["sliding_attention", "sliding_attention", "full_attention"] * 2
    rope = {"full_attention": {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.25}}
    found = transformer(r, layers=6) | {
        "head_dim": 32, "global_head_dim": 96, "sliding_window": r.choice([20, 60]), "layer_types": kinds,
        "rope_parameters": rope | {"sliding_attention": {"rope_type": "default", "rope_theta": 1e4}},
        "attention_k_eq_v": False, "enable_moe_block": False,
    }  # fmt: skip
    del found["rope_theta"]
    more: tuple[dict[str, Any], ...] = (
        {"attention_k_eq_v": True, "num_global_key_value_heads": 1},
        {"hidden_size_per_layer_input": 64, "num_kv_shared_layers": 2, "use_double_wide_mlp": r.random() < 0.5},
        {"enable_moe_block": True, "num_experts": 5, "top_k_experts": 2, "moe_intermediate_size": 224},
    )
    return found | r.choice(more)


def granite(r: Random) -> dict[str, Any]:
    names = ("embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling")
    return transformer(r) | dict.fromkeys(names, 0.5) | {"attention_bias": r.random() < 0.5}


def gpt_oss(r: Random) -> dict[str, Any]:
    more = {"tie_word_embeddings": False, "attention_bias": True, "head_dim": 64, "sliding_window": 70}
    scaling = {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 128}
    return transformer(r, layers=3) | more | experts(r) | {"rope_scaling": scaling}


def llama4(r: Random) -> dict[str, Any]:
    found = mixture(r, "num_local_experts") | {"num_hidden_layers": 5, "head_dim": 64, "tie_word_embeddings": False}
    return found | {
        "intermediate_size_mlp": 32 * r.randint(7, 21), "interleave_moe_layer_step": r.choice([1, 2]),
        "attention_chunk_size": r.choice([50, 64, 131]), "no_rope_layer_interval": r.choice([3, 4]),
        "use_qk_norm": r.random() < 0.5, "attn_temperature_tuning": r.choice([True, 4]),
    }  # fmt: skip


def deepseek(r: Random) -> dict[str, Any]:
    found, k = transformer(r, layers=4), r.randint(1, 3)
    return found | {
        "num_key_value_heads": found["num_attention_heads"], "kv_lora_rank": 64, "qk_rope_head_dim": 32,
        "qk_nope_head_dim": 96, "v_head_dim": 128, "q_lora_rank": r.choice([None, 160]),
        "n_routed_experts": k + r.randint(1, 6), "num_experts_per_tok": k, "moe_intermediate_size": 224,
        "n_shared_experts": r.choice([1, 2]), "first_k_dense_replace": r.choice([1, 2]),
        "routed_scaling_factor": 1.0, "norm_topk_prob": False, "topk_method": "greedy",
    }  # fmt: skip


def deepseek_v3(r: Random) -> dict[str, Any]:
    third = {"topk_method": "noaux_tc", "scoring_func": "sigmoid", "norm_topk_prob": True}
    return deepseek(r) | third | {"n_group": 1, "topk_group": 1}


def state_space(r: Random) -> dict[str, Any]:
    return {
        "vocab_size": r.randrange(300, 900), "hidden_size": 32 * r.randint(2, 5), "num_hidden_layers": r.randint(2, 5),
        "conv_kernel": r.choice([3, 4, 5]), "layer_norm_epsilon": 1e-5, "use_bias": False, "use_conv_bias": True,
        "tie_word_embeddings": r.random() < 0.5,
    }  # fmt: skip


def mamba(r: Random) -> dict[str, Any]:
    found = state_space(r)
    sizes = {"intermediate_size": 2 * found["hidden_size"], "state_size": r.choice([8, 16, 24]), "expand": 16}
    return found | sizes | {"time_step_rank": r.choice(["auto", 5])}


def mamba2(r: Random) -> dict[str, Any]:
    found, groups = state_space(r), r.choice([1, 2])
    sizes = {"expand": 2, "head_dim": 16, "num_heads": found["hidden_size"] // 8, "n_groups": groups}
    return found | sizes | {"state_size": r.choice([24, 32, 128])}


def rwkv6(r: Random) -> dict[str, Any]:
    width = 64 * r.randint(1, 3)
    return {
        "vocab_size": r.randrange(300, 900), "hidden_size": width, "num_hidden_layers": r.randint(2, 4),
        "head_size": r.choice([32, 64]), "intermediate_size": r.choice([None, 160]), "tie_word_embeddings": False,
    }  # fmt: skip


def rwkv7(r: Random) -> dict[str, Any]:
    names = {"decay": 8, "a": 12, "v": 20, "gate": 28}
    ranks = {f"{name}_low_rank_dim": rank for name, rank in names.items()}
    found = rwkv6(r) | ranks | {"intermediate_size": 288, "norm_eps": 1e-5}
    return found | {"head_dim": found.pop("head_size")}


def jamba(r: Random) -> dict[str, Any]:
    found = transformer(r, layers=9)
    del found["rope_theta"]
    return found | {
        "attn_layer_period": 4, "attn_layer_offset": r.choice([0, 1, 3]), "expert_layer_period": r.choice([2, 3]),
        "expert_layer_offset": 1, "mamba_conv_bias": True, "mamba_d_conv": 4, "mamba_d_state": 16, "mamba_expand": 2,
        "mamba_dt_rank": 12, "num_experts": r.choice([1, 4, 7]), "num_experts_per_tok": 1,
    }  # fmt: skip


def granite_hybrid(r: Random) -> dict[str, Any]:
    found = transformer(r, layers=6)
    width, attends = 2 * found["hidden_size"], r.choice([(1,), (2, 5), (0, 3, 4)])
    return found | {
        "layer_types": ["attention" if i in attends else "mamba" for i in range(6)], "mamba_n_heads": width // 16,
        "mamba_d_head": 16, "mamba_d_state": 32, "mamba_n_groups": 1, "mamba_d_conv": 4, "mamba_expand": 2,
        "mamba_conv_bias": True, "num_local_experts": r.choice([0, 5]), "num_experts_per_tok": 2,
        "shared_intermediate_size": 416, "position_embedding_type": "nope",
    }  # fmt: skip


def delta(r: Random, routed: bool) -> dict[str, Any]:
    found, keys = transformer(r, layers=5), r.choice([1, 2])
    moe = experts(r) | {"moe_intermediate_size": 96, "shared_expert_intermediate_size": 160}
    moe["num_experts"] = moe.pop("num_local_experts")
    kinds = ["linear_attention", "full_attention", "linear_attention", "linear_attention", "full_attention"]
    return found | (moe if routed else {}) | {
        "head_dim": 64, "linear_num_key_heads": keys, "linear_num_value_heads": keys * r.choice([1, 2, 3]),
        "linear_key_head_dim": 32, "linear_value_head_dim": r.choice([16, 32, 64]),
        "linear_conv_kernel_dim": r.choice([3, 4]), "layer_types": r.choice([None, kinds]),
    }  # fmt: skip


def lfm2(r: Random, routed: bool) -> dict[str, Any]:
    found = transformer(r, layers=5)
    found["norm_eps"] = found.pop("rms_norm_eps")
    kinds = ["conv", "full_attention", "conv", "conv", "full_attention"]
    moe = {
        "num_dense_layers": r.choice([1, 2]),
        "num_experts": 5,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 96,
    }
    adjusted = {"block_multiple_of": 32, "block_auto_adjust_ff_dim": r.random() < 0.5}
    return found | {"layer_types": kinds, "conv_L_cache": r.choice([3, 4])} | (moe if routed else adjusted)


def nemotron_h(r: Random) -> dict[str, Any]:
    found, groups = transformer(r, layers=6), r.choice([1, 2])
    del found["rms_norm_eps"], found["rope_theta"]
    inner = r.choice(["mlp", "moe"])
    kinds = ["linear_attention", inner, "full_attention", inner, "linear_attention", "full_attention"]
    return found | {
        "layers_block_type": kinds, "head_dim": 96, "layer_norm_epsilon": 1e-5, "mamba_num_heads": 6,
        "mamba_head_dim": 32, "ssm_state_size": 24, "n_groups": groups, "conv_kernel": r.choice([3, 4]),
        "n_routed_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 96, "n_group": 1, "topk_group": 1,
        "moe_shared_expert_intermediate_size": 160, "moe_latent_size": r.choice([None, 64]),
    }  # fmt: skip


def falcon_h1(r: Random) -> dict[str, Any]:
    heads, groups = 2 * r.randint(1, 4), r.choice([1, 2])
    stated = r.random() < 0.7
    found = transformer(r) | {
        "head_dim": 96, "mamba_n_groups": groups, "mamba_d_state": r.choice([16, 32]), "mamba_d_conv": r.choice([3, 4]),
        "mamba_rms_norm": r.random() < 0.5, "mamba_norm_before_gate": False, "mamba_expand": 2, "key_multiplier": 0.4,
        "ssm_multipliers": [0.5, 0.25, 2.0, 1.0, 1.5], "ssm_out_multiplier": 0.2, "mlp_multipliers": [0.9, 0.6],
    }  # fmt: skip
    sizes = {"mamba_n_heads": heads, "mamba_d_ssm": 32 * heads, "mamba_d_head": 32}
    unstated = {"mamba_n_heads": found["hidden_size"] // 16, "mamba_d_ssm": None, "mamba_d_head": "auto"}
    return found | (sizes if stated else unstated)


def olmo2(r: Random) -> dict[str, Any]:
    return transformer(r) | {"head_dim": None}


def windowed(r: Random) -> dict[str, Any]:
    return transformer(r, layers=5) | {"head_dim": None, "sliding_window": r.choice([20, 60])}


def exaone4(r: Random) -> dict[str, Any]:
    return transformer(r, layers=5) | {"head_dim": 128, "sliding_window": r.choice([None, 33])}


def cohere2(r: Random) -> dict[str, Any]:
    return layer_norms(r, "layer_norm_eps", 6) | {"sliding_window": r.choice([20, 60]), "logit_scale": 0.25}


def layer_norms(r: Random, eps: str, layers: int = 0) -> dict[str, Any]:
    found = transformer(r, layers)
    del found["rms_norm_eps"], found["tie_word_embeddings"]
    return found | {eps: 1e-5}


def ungated(r: Random) -> dict[str, Any]:
    return transformer(r) | {"head_dim": 96, "attention_bias": r.random() < 0.5, "mlp_bias": r.random() < 0.5}


def cohere(r: Random) -> dict[str, Any]:
    return layer_norms(r, "layer_norm_eps") | {"logit_scale": 0.25, "use_qk_norm": False}


def seed_oss(r: Random) -> dict[str, Any]:
    biases = {"attention_bias": r.random() < 0.7, "attention_out_bias": r.random() < 0.3}
    return transformer(r) | {"head_dim": 96} | biases


def glm4(r: Random) -> dict[str, Any]:
    return transformer(r) | {"head_dim": 64, "attention_bias": r.random() < 0.5, "tie_word_embeddings": False}


def ernie(r: Random) -> dict[str, Any]:
    return transformer(r) | {"head_dim": 128, "use_bias": r.random() < 0.5}


def ministral3(r: Random) -> dict[str, Any]:
    scaling = {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 128}
    return mistral(r) | {"rope_parameters": scaling | {"rope_theta": 1e6, "llama_4_scaling_beta": 0.1}}


def starcoder2(r: Random) -> dict[str, Any]:
    return layer_norms(r, "norm_epsilon") | {"sliding_window": r.choice([None, 44])}


def stablelm(r: Random) -> dict[str, Any]:
    return layer_norms(r, "layer_norm_eps") | {"use_qkv_bias": r.random() < 0.5, "partial_rotary_factor": 0.25}


def phi2(r: Random) -> dict[str, Any]:
    return layer_norms(r, "layer_norm_eps") | {"num_key_value_heads": None, "partial_rotary_factor": 0.5}


CONFIGS: dict[str, Callable[[Random], dict[str, Any]]] = {
    "llama": llama, "mistral": mistral, "mixtral": lambda r: mistral(r) | experts(r), "qwen2": qwen2, "qwen3": qwen,
    "qwen3_moe": qwen3_moe, "gemma2": gemma2, "gemma3_text": gemma3, "gemma4_text": gemma4,
    "phi3": lambda r: mistral(r) | {"head_dim": None},
    "ministral": mistral, "ministral3": ministral3, "olmo2": olmo2, "olmo3": windowed, "exaone4": exaone4,
    "seed_oss": seed_oss, "hunyuan_v1_dense": lambda r: transformer(r) | {"head_dim": 128}, "ernie4_5": ernie,
    "glm4": glm4, "cohere2": cohere2, "cohere": cohere, "arcee": ungated,
    "gemma": lambda r: transformer(r) | {"head_dim": 128}, "starcoder2": starcoder2, "stablelm": stablelm, "phi": phi2,
    "qwen2_moe": qwen2_moe, "olmoe": lambda r: mixture(r) | {"norm_topk_prob": False}, "glm4_moe": glm4_moe,
    "dots1": deepseek_moe,
    "deepseek": lambda r: deepseek_moe(r) | {
        "norm_topk_prob": False, "routed_scaling_factor": 1.0, "scoring_func": "softmax", "head_dim": None},
    "llama4_text": llama4,
    "minimax_m2": lambda r: mixture(r, "num_local_experts") | {"head_dim": 64, "rotary_dim": 32},
    "ernie4_5_moe": ernie_moe, "granitemoe": granite_moe,
    "granitemoeshared": lambda r: granite_moe(r) | {"shared_intermediate_size": 160},
    "hunyuan_v1_moe": lambda r: mixture(r, used="moe_topk") | {"head_dim": 64},
    "granite": granite, "smollm3": transformer, "gpt_oss": gpt_oss, "deepseek_v2": deepseek,
    "deepseek_v3": deepseek_v3, "kimi_k2": deepseek_v3, "glm4_moe_lite": deepseek_v3,
    "mamba": mamba, "falcon_mamba": mamba, "mamba2": mamba2, "rwkv6": rwkv6,
    "rwkv7": rwkv7, "jamba": jamba, "granitemoehybrid": granite_hybrid,
    "qwen3_next": lambda r: delta(r, routed=True), "qwen3_5_text": lambda r: delta(r, routed=False),
    "qwen3_5_moe_text": lambda r: delta(r, routed=True),
    "nemotron_h": nemotron_h, "falcon_h1": falcon_h1,
    "lfm2": lambda r: lfm2(r, routed=False), "lfm2_moe": lambda r: lfm2(r, routed=True),
}  # fmt: skip
"""By model_type."""
