"""Architectures that are priced and not run, as their publishers' code has them: the tensors that a config.json
implies, and what each layer keeps of a sequence.

Sources: transformers 5.24's models of the same names, and llama.cpp's src/models as of llama-cpp-python 0.3.36, whose
names tensors have here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module

from memfirst.models.described.parts import Described
from memfirst.models.usual import Stated

__all__ = ["Described", "describe"]

_FILES: Mapping[str, str] = {
    name: file
    for file, names in {
        "latent": "deepseek_v32 glm_moe_dsa mistral4 longcat_flash minicpm3 youtu",
        "linear": "kimi_linear bailing_hybrid qwen4_exp",
        "compressed": "deepseek_v4",
        "grouped": "minimax_m3 laguna step3p5 muse_glimmer gemma3n",
        "plain": "afmoe apertus baichuan bailing_moe bamba cohere cohere2_moe exaone exaone_moe "
        "falcon gpt_neox hy_v3 internlm2 internlm3 mimo_v2_flash minicpm nemotron nemotron_nas olmo phimoe "
        "solar_open",
    }.items()
    for name in names.split()
}
"""By config.json's `model_type`: the file with a function of that name."""

_SAME = {
    "nemotron-nas": "nemotron_nas",
    "command-r-plus": "cohere",
    "mimo_v2": "mimo_v2_flash",
    "kimi_k3": "kimi_linear",
    "step3p7": "step3p5",
    "minimax_m3_vl": "minimax_m3",
}


def describe(stated: Stated, model_type: str) -> Described | None:
    """The model that a config.json states; None for an architecture that nobody has described.

    Raises ConfigError where a size is missing or makes no sense.
    """
    plain = model_type.removesuffix("_text")
    name = _SAME.get(plain, plain)
    if stated.gguf or name not in _FILES:
        return None
    read: Callable[[Stated], Described] = getattr(import_module(f"{__name__}.{_FILES[name]}"), name)
    return read(stated)
