"""How each engine is told: its own switches for a change."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from memfirst.plan import Plan
from memfirst.plan.advice.change import BATCH, CODEC, CONTEXT, DEVICES, KV, SPECULATION, THREADS
from memfirst.predict.fitted import TENSOR

Say = Callable[[Plan], str]


def _llama_speculation(plan: Plan) -> str:
    by = plan.options.speculation
    if by is None or not by.draft:
        return ""
    return f"llama-server -md {by.draft.replace(':', '-')}.gguf --draft-max {by.tokens}"


def _vllm_speculation(plan: Plan) -> str:
    by = plan.options.speculation
    if by is None:
        return ""
    how = f'"model": "{by.draft}"' if by.draft else '"method": "ngram", "prompt_lookup_max": 4'
    return f"vllm serve --speculative-config '{{{how}, \"num_speculative_tokens\": {by.tokens}}}'"


_LLAMA: Mapping[str, Say] = {
    CODEC: lambda p: f"llama-quantize model-f16.gguf model.gguf {p.subject.codec.upper()}",
    KV: lambda p: f"llama-server -fa on -ctk {p.options.kv} -ctv {p.options.kv}",
    CONTEXT: lambda p: f"llama-server -c {p.context * p.options.batch} -np {p.options.batch}",
    BATCH: lambda p: f"llama-server -np {p.options.batch} -c {p.context * p.options.batch}",
    SPECULATION: _llama_speculation,
    THREADS: lambda p: f"llama-server -t {p.options.threads}",
    DEVICES: lambda p: f"llama-server -ngl 999 -sm {'row' if p.options.parallel == TENSOR else 'layer'}",
}

_VLLM: Mapping[str, Say] = {
    KV: lambda p: "vllm serve --kv-cache-dtype fp8",
    CONTEXT: lambda p: f"vllm serve --max-model-len {p.context}",
    BATCH: lambda p: f"vllm serve --max-num-seqs {p.options.batch}",
    SPECULATION: _vllm_speculation,
    DEVICES: lambda p: f"vllm serve --{p.options.parallel}-parallel-size {p.options.devices}",
}

_OLLAMA: Mapping[str, Say] = {
    KV: lambda p: f"OLLAMA_FLASH_ATTENTION=1 OLLAMA_KV_CACHE_TYPE={p.options.kv} ollama serve",
    CONTEXT: lambda p: f"OLLAMA_CONTEXT_LENGTH={p.context} ollama serve",
    BATCH: lambda p: f"OLLAMA_NUM_PARALLEL={p.options.batch} ollama serve",
}

_MEMFIRST: Mapping[str, Say] = {
    CONTEXT: lambda p: f"memfirst run {p.subject.name} --ctx {p.context}",
    THREADS: lambda p: f"memfirst run {p.subject.name} --threads {p.options.threads}",
}

BY_ENGINE: Mapping[str, Mapping[str, Say]] = {
    "memfirst": _MEMFIRST, "llama.cpp": _LLAMA, "ollama": _OLLAMA, "ik_llama.cpp": _LLAMA, "vllm": _VLLM,
    "vllm-hybrid": _VLLM,
}  # fmt: skip


def flags(kind: str, plan: Plan) -> str:
    """The line for the plan's engine, "" where it has none for this kind of change."""
    say = BY_ENGINE.get(plan.engine, {}).get(kind)
    return say(plan) if say else ""
