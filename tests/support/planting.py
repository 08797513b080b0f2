"""Plants a wrong formula in one of memfirst's own functions, and takes it back: whoever holds the function, by
whatever name, then runs other code."""

from __future__ import annotations
import __future__

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from textwrap import dedent, indent
from types import CodeType, FunctionType

from tests.support.byte_cases import Case, tiny

WINDOWED = {"sliding_window": 50, "max_position_embeddings": 4096}
QWEN = {"sliding_window": 77, "max_window_layers": 1}

NEMOTRON = {"n_groups": 2, "moe_latent_size": 64}


def _nemotron(inner: str) -> list[str]:
    return ["linear_attention", inner, "full_attention", inner, "linear_attention", "full_attention"]


PROBES: dict[str, Callable[[], Case]] = {
    "llama": lambda: tiny("llama", 0, {"attention_bias": True, "tie_word_embeddings": True}),
    "untied": lambda: tiny("llama", 1, {"mlp_bias": True, "tie_word_embeddings": False}),
    "cached in q8_0 and q4_0": lambda: tiny("llama", 2, kv=("q8_0", "q4_0")),
    "packed": lambda: tiny("llama", 3, {"vocab_size": 333}, cpu=True),
    "mistral": lambda: tiny("mistral", 0, WINDOWED),
    "phi3": lambda: tiny("phi3", 0, WINDOWED),
    "qwen2, window off": lambda: tiny("qwen2", 0, QWEN | {"use_sliding_window": False}),
    "qwen2, window on": lambda: tiny("qwen2", 0, QWEN | {"use_sliding_window": True}),
    "qwen3": lambda: tiny("qwen3", 0),
    "gemma2": lambda: tiny("gemma2", 0),
    "gemma3": lambda: tiny("gemma3_text", 0),
    "gemma4": lambda: tiny("gemma4_text", 0, {"attention_k_eq_v": True, "num_global_key_value_heads": 1}),
    "gemma4, shared": lambda: tiny("gemma4_text", 0, {"hidden_size_per_layer_input": 64, "num_kv_shared_layers": 2}),
    "olmo2": lambda: tiny("olmo2", 0),
    "glm4": lambda: tiny("glm4", 0),
    "cohere2": lambda: tiny("cohere2", 0),
    "gemma": lambda: tiny("gemma", 0, {"tie_word_embeddings": True}),
    "cohere": lambda: tiny("cohere", 0),
    "arcee": lambda: tiny("arcee", 0, {"mlp_bias": True}),
    "starcoder2": lambda: tiny("starcoder2", 0),
    "phi2": lambda: tiny("phi", 0),
    "mixtral": lambda: tiny("mixtral", 0),
    "mixtral, recorded": lambda: tiny("mixtral", 0, recorded=True),
    "gpt-oss": lambda: tiny("gpt_oss", 0),
    "qwen2-moe": lambda: tiny("qwen2_moe", 0),
    "glm4-moe": lambda: tiny("glm4_moe", 0, {"first_k_dense_replace": 1, "n_shared_experts": 2, "use_qk_norm": True}),
    "minimax-m2": lambda: tiny("minimax_m2", 0),
    "dots1": lambda: tiny("dots1", 0, {"first_k_dense_replace": 1, "n_shared_experts": 2}),
    "deepseek-moe": lambda: tiny("deepseek", 0, {"first_k_dense_replace": 1, "n_shared_experts": 2}),
    "llama4": lambda: tiny("llama4_text", 0, {"attention_chunk_size": 131, "interleave_moe_layer_step": 2}),
    "deepseek": lambda: tiny("deepseek_v3", 0, {"first_k_dense_replace": 1, "q_lora_rank": 160}),
    "falcon-mamba": lambda: tiny("falcon_mamba", 0),
    "mamba2": lambda: tiny("mamba2", 0, {"n_groups": 2}),
    "rwkv6": lambda: tiny("rwkv6", 0, {"head_size": 64}),
    "qwen3.5": lambda: tiny(
        "qwen3_5_text", 0, {"layer_types": None, "linear_num_key_heads": 2, "linear_num_value_heads": 6}
    ),
    "rwkv7": lambda: tiny("rwkv7", 0),
    "jamba": lambda: tiny("jamba", 0, {"num_experts": 4, "attn_layer_offset": 1}),
    "falcon-h1": lambda: tiny("falcon_h1", 0, {"mamba_rms_norm": True}),
    "granite hybrid": lambda: tiny("granitemoehybrid", 0, {"num_local_experts": 5}),
    "granite": lambda: tiny("granite", 0, {"mlp_bias": True}),
    "granite-moe, shared": lambda: tiny("granitemoeshared", 0),
    "smollm3": lambda: tiny("smollm3", 0, {"num_hidden_layers": 5, "num_attention_heads": 4, "num_key_value_heads": 2}),
    "olmoe": lambda: tiny("olmoe", 0),
    "hunyuan dense": lambda: tiny("hunyuan_v1_dense", 0),
    "hunyuan-moe": lambda: tiny("hunyuan_v1_moe", 0, {"num_shared_expert": 2}),
    "ernie4.5": lambda: tiny("ernie4_5", 0, {"use_bias": True}),
    "ernie4.5-moe": lambda: tiny(
        "ernie4_5_moe", 0, {"moe_num_shared_experts": 2, "moe_layer_start_index": 1, "moe_layer_interval": 1}
    ),
    "seed-oss": lambda: tiny("seed_oss", 0, {"attention_out_bias": True}),
    "exaone4": lambda: tiny("exaone4", 0, {"sliding_window": 33}),
    "stablelm": lambda: tiny("stablelm", 0),
    "ministral3": lambda: tiny("ministral3", 0),
    "qwen3-moe": lambda: tiny("qwen3_moe", 0),
    "qwen3-next": lambda: tiny("qwen3_next", 0),
    "qwen3.5-moe": lambda: tiny("qwen3_5_moe_text", 0),
    "lfm2": lambda: tiny("lfm2", 0, {"block_auto_adjust_ff_dim": True}),
    "lfm2-moe": lambda: tiny("lfm2_moe", 0, {"num_dense_layers": 1}),
    "nemotron-h": lambda: tiny("nemotron_h", 0, NEMOTRON | {"layers_block_type": _nemotron("mlp")}),
    "nemotron-h-moe": lambda: tiny("nemotron_h", 0, NEMOTRON | {"layers_block_type": _nemotron("moe")}),
}
"""Cases in which a mistake would show, each built when it is asked for."""


@dataclass(frozen=True)
class Mutant:
    """`old` becomes `new` in the function `where` ("module:Class.method"); it shows in `figures` of PROBES[probe]."""

    name: str
    where: str
    old: str
    new: str
    probe: str
    figures: str


def function(where: str) -> FunctionType:
    """The function behind "module:Class.method", of a property its getter."""
    module, path = where.split(":")
    found: object = import_module(module)
    for name in path.split("."):
        found = inspect.getattr_static(found, name)
    found = found.fget if isinstance(found, property) else found
    assert isinstance(found, FunctionType), where
    return found


def compiled(source: str, target: FunctionType) -> CodeType:
    """The code of a function from its source. What it takes from around it (super()'s class) becomes a parameter
    of a function around it."""
    around = f"def around({', '.join(target.__code__.co_freevars)}):\n"
    flags = __future__.annotations.compiler_flag
    module = compile(around + indent(source, "    "), "<mutant>", "exec", flags, dont_inherit=True)
    return inner(inner(module, "around"), target.__name__)


def inner(code: CodeType, name: str) -> CodeType:
    """The code of the function of that name that `code` defines."""
    return next(c for c in code.co_consts if isinstance(c, CodeType) and c.co_name == name)


@contextmanager
def planted(mutant: Mutant) -> Iterator[None]:
    """memfirst with the mistake in it, whoever holds the function; afterwards as it was."""
    target = function(mutant.where)
    source = dedent(inspect.getsource(target))
    assert mutant.old in source, f"{mutant.where} has changed: plant {mutant.name!r} another way"
    wrong = source.replace(mutant.old, mutant.new)
    right = target.__code__
    target.__code__ = compiled(wrong, target)
    try:
        yield
    finally:
        target.__code__ = right
