"""What the planner knows of each framework: how it allocates, whose speeds it has, what it can do, and its switches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from memfirst.errors import UnsupportedError
from memfirst.plan.fit.allocators import Allocator, LlamaCpp, Memfirst, Vllm
from memfirst.predict.fitted import TENSOR

if TYPE_CHECKING:
    from memfirst.plan.result import Plan

CODEC, KV, CONTEXT, BATCH = "codec", "kv", "context", "batch"
SPECULATION, THREADS, DEVICES = "speculation", "threads", "devices"
"""Changes that a framework may have a switch for."""

Switches = Mapping[str, "Callable[[Plan], str]"]
"""By change, the line that makes it."""


@dataclass(frozen=True)
class Framework:
    """One framework, by the name that a user gives (`--engine`)."""

    name: str
    allocator: Allocator
    """Its memory where it computes on a processor, or shares the memory with one."""
    on_gpu: Allocator
    """Its memory on a GPU with memory of its own."""
    speeds: str
    """Whose published speeds tell its own (`predict.fitted.FITTED`); others are predicted with a wide interval."""
    gguf: bool = False
    """It reads GGUF files, so any codec mix."""
    speculates: bool = False
    offloads: bool = False
    """Its CPU kernels compute what a GPU has no room for; others stream weights over the bus."""
    server: str = ""
    """The command that takes `-ngl` and `--n-cpu-moe`; "" where it decides itself."""
    switches: Switches = field(default_factory=dict)

    def line(self, change: str, plan: Plan) -> str:
        """What to type for a change; "" where there is no switch for it."""
        say = self.switches.get(change)
        return say(plan) if say else ""


def framework(name: str) -> Framework:
    """The framework of that name; UnsupportedError, listing those there are."""
    if name not in FRAMEWORKS:
        raise UnsupportedError(f"the engine {name[:40]!r}", f"one of {', '.join(FRAMEWORKS)}")
    return FRAMEWORKS[name]


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


_LLAMA: Switches = {
    CODEC: lambda p: f"llama-quantize model-f16.gguf model.gguf {p.subject.codec.upper()}",
    KV: lambda p: f"llama-server -fa on -ctk {p.options.kv} -ctv {p.options.kv}",
    CONTEXT: lambda p: f"llama-server -c {p.context * p.options.batch} -np {p.options.batch}",
    BATCH: lambda p: f"llama-server -np {p.options.batch} -c {p.context * p.options.batch}",
    SPECULATION: _llama_speculation,
    THREADS: lambda p: f"llama-server -t {p.options.threads}",
    DEVICES: lambda p: f"llama-server -ngl 999 -sm {'row' if p.options.parallel == TENSOR else 'layer'}",
}
_VLLM: Switches = {
    KV: lambda p: "vllm serve --kv-cache-dtype fp8",
    CONTEXT: lambda p: f"vllm serve --max-model-len {p.context}",
    BATCH: lambda p: f"vllm serve --max-num-seqs {p.options.batch}",
    SPECULATION: _vllm_speculation,
    DEVICES: lambda p: f"vllm serve --{p.options.parallel}-parallel-size {p.options.devices}",
}
_OLLAMA: Switches = {
    KV: lambda p: f"OLLAMA_FLASH_ATTENTION=1 OLLAMA_KV_CACHE_TYPE={p.options.kv} ollama serve",
    CONTEXT: lambda p: f"OLLAMA_CONTEXT_LENGTH={p.context} ollama serve",
    BATCH: lambda p: f"OLLAMA_NUM_PARALLEL={p.options.batch} ollama serve",
}
_MEMFIRST: Switches = {
    KV: lambda p: f"memfirst run {p.subject.name} --kv {p.options.kv}",
    CONTEXT: lambda p: f"memfirst run {p.subject.name} --ctx {p.context}",
    THREADS: lambda p: f"memfirst run {p.subject.name} --threads {p.options.threads}",
}

_CPU, _GPU = LlamaCpp(), LlamaCpp(gpu=True)
_BLOCKS, _HYBRID = Vllm(), Vllm(hybrid=True)

FRAMEWORKS: Mapping[str, Framework] = {
    f.name: f
    for f in (
        Framework("memfirst", Memfirst(), Memfirst(), "memfirst", gguf=True, switches=_MEMFIRST),
        Framework("llama.cpp", _CPU, _GPU, "llama.cpp", True, True, True, "llama-server", _LLAMA),
        Framework("ollama", _CPU, _GPU, "ollama", gguf=True, offloads=True, switches=_OLLAMA),
        Framework("ik_llama.cpp", _CPU, _GPU, "ik_llama.cpp", True, True, True, "llama-server", _LLAMA),
        Framework("vllm", _BLOCKS, _BLOCKS, "vllm", speculates=True, switches=_VLLM),
        Framework("vllm-hybrid", _HYBRID, _HYBRID, "vllm", speculates=True, switches=_VLLM),
    )
}
"""Those that can be planned, by name."""
