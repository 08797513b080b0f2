"""Writes data/llama_cpp_mixes_moe.json: what llama.cpp's quantizer chooses for every tensor of catalogue models.

    python tests/support/make_mixes_fixture.py

Needs llama-cpp-python, whose libllama exports the quantizer's rules.

No weights are made: the library is given names and shapes, as its own tests do (llama-ext.h).
"""

from __future__ import annotations

import ctypes
import itertools
import json
from pathlib import Path
from typing import Any

import llama_cpp  # type: ignore[import-not-found]

from memfirst import models
from memfirst.catalog.configs import catalog_checkpoint
from memfirst.codecs import block_type
from memfirst.convert.mixes import PRICED, described
from memfirst.graph import Graph

NAMES = ("mixtral:8x7b", "qwen3:30b-a3b", "gpt-oss:20b", "deepseek-v2:lite", "deepseek-v3:671b", "gemma-3:4b",
         "phi-3.5:mini", "mamba:130m", "falcon-mamba:7b", "mamba2:130m", "rwkv-6:1.6b", "rwkv-7:0.1b", "jamba:52b",
         "granite-4.0-h:tiny", "llama-3:70b")  # fmt: skip
OUT = Path(__file__).parent.parent / "data" / "llama_cpp_mixes_moe.json"
LIB = Path(llama_cpp.__file__).parent / "lib"


class Description(ctypes.Structure):
    """llama_quant_model_desc"""

    _fields_ = [("architecture", ctypes.c_char_p)] + [
        (name, ctypes.c_uint32)
        for name in ("embd", "ff", "layer", "head", "head_kv", "expert", "head_k", "head_v")
    ]  # fmt: skip


class InitParams(ctypes.Structure):
    """ggml_init_params"""

    _fields_ = (("size", ctypes.c_size_t), ("buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


def library(name: str, **results: Any) -> ctypes.CDLL:
    """libNAME.so with the result types of functions that return pointers or flags."""
    lib = ctypes.CDLL(str(LIB / f"lib{name}.so"))
    for function, kind in results.items():
        getattr(lib, function).restype = kind
    return lib


GGML = library("ggml-base", ggml_init=ctypes.c_void_p, ggml_new_tensor=ctypes.c_void_p)
INIT, MODEL, ALLOWS, TYPES = ("_Z16llama_quant_initPK11llama_modelPK27llama_model_quantize_params",
                              "_Z31llama_quant_model_from_metadataPK22llama_quant_model_desc",
                              "_Z38llama_quant_tensor_allows_quantizationPK19quantize_state_implPK11ggml_tensor",
                              "_Z25llama_quant_compute_typesP19quantize_state_impl11llama_ftypePP11ggml_tensor"
                              "P9ggml_typem")  # fmt: skip
LLAMA = library("llama", **{INIT: ctypes.c_void_p, MODEL: ctypes.c_void_p, ALLOWS: ctypes.c_bool})


def tensors(graph: Graph) -> dict[str, ctypes.c_void_p]:
    """Each weight of more than one axis as a ggml tensor without data, in the order of its layers."""
    context = ctypes.c_void_p(GGML.ggml_init(InitParams(1 << 26, None, True)))
    made = {}
    for name, weight in graph.weights().items():
        if len(weight.shape) > 1:
            axes = (ctypes.c_int64 * len(weight.shape))(*reversed(weight.shape))
            made[name] = ctypes.c_void_p(GGML.ggml_new_tensor(context, 1, len(weight.shape), axes))
            GGML.ggml_set_name(made[name], name.encode())
    return made


def chosen(graph: Graph, mixes: dict[str, int]) -> dict[str, dict[str, str]]:
    """By mix and role: the codec of each layer in order, runs written once; "-" is not quantized."""
    found = described(graph)
    given = (found.layers, found.heads, found.kv_heads, found.experts)
    layers, heads, kv_heads, experts = given
    model = Description(graph.architecture.encode(), graph.hidden_size, 0, layers, heads, kv_heads, experts, 0, 0)
    params = llama_cpp.llama_model_quantize_default_params()
    mock = ctypes.c_void_p(getattr(LLAMA, MODEL)(ctypes.byref(model)))
    state = ctypes.c_void_p(getattr(LLAMA, INIT)(mock, ctypes.byref(params)))
    made = tensors(graph)
    allowed = {name: t for name, t in made.items() if getattr(LLAMA, ALLOWS)(state, t)}
    table = {}
    for mix, file_type in mixes.items():
        pointers = (ctypes.c_void_p * len(allowed))(*[t.value for t in allowed.values()])
        types = (ctypes.c_int * len(allowed))()
        getattr(LLAMA, TYPES)(state, file_type, pointers, types, ctypes.c_size_t(len(allowed)))
        codecs = dict(zip(allowed, (block_type(t).name for t in types), strict=True))
        table[mix] = by_role({name: codecs.get(name, "-") for name in made})
    return table


def by_role(codecs: dict[str, str]) -> dict[str, str]:
    """ "q6_k*2 q4_k" for each role."""
    roles: dict[str, list[str]] = {}
    for name, codec in codecs.items():
        roles.setdefault(name.split(".", 2)[-1] if name.startswith("blk.") else name, []).append(codec)
    runs = {role: [(k, len(list(g))) for k, g in itertools.groupby(found)] for role, found in roles.items()}
    return {role: " ".join(k if n == 1 else f"{k}*{n}" for k, n in run) for role, run in runs.items()}


if __name__ == "__main__":
    same = {"q4_1", "q5_0", "q5_1", "q5_k_s", "iq3_xxs"}  # rules as of q4_0; with an importance matrix, which it needs
    quantizing = {name: mix.file_type for name, mix in PRICED.items() if not (mix.plain or mix.dynamic or name in same)}
    table = {name: chosen(models.build(catalog_checkpoint(name)), quantizing) for name in NAMES}
    made_by = f"Made by make_mixes_fixture.py with llama-cpp-python {llama_cpp.__version__}."
    lines = {name: [f'    "{mix}": {json.dumps(found[mix])}' for mix in found] for name, found in table.items()}
    rows = ",\n".join(f'  "{name}": {{\n' + ",\n".join(text) + "\n  }" for name, text in lines.items())
    OUT.write_text(f'{{\n  "_": {json.dumps(made_by)},\n{rows}\n}}\n')
