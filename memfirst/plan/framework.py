"""What the planner knows of each framework: how it allocates, whose speeds it has, what it can do, its command."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from memfirst.errors import UnsupportedError
from memfirst.hardware.machines import Machine
from memfirst.plan import commands
from memfirst.plan.fit.allocators import Allocator, Exllama, LlamaCpp, Memfirst, Mlx, Sglang, TensorRT, Vllm
from memfirst.predict.fitted import PIPELINE, TENSOR
from memfirst.transform.weight_formats import SCHEMES

if TYPE_CHECKING:
    from memfirst.plan.result import Plan

CODEC, KV, CONTEXT, BATCH = "codec", "kv", "context", "batch"
SPECULATION, THREADS, DEVICES, HEAD = "speculation", "threads", "devices", "head"
"""Changes of a plan."""

ON_GPU = ("datacentre-gpu", "gpu", "laptop-gpu")
"""Kinds of machines with memory of their own beside the host's."""


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
    looks_up: bool = False
    """It drafts from the text itself whatever is asked, so that this is no change."""
    preempts: bool = False
    """Sequences that find no room wait, and take turns."""
    offloads: bool = False
    """Its CPU kernels compute what a GPU has no room for; others stream weights over the bus."""
    kinds: tuple[str, ...] = ()
    """Kinds of machines that it runs on; (): all. `not_on`: families that it does not run on."""
    not_on: tuple[str, ...] = ()
    parallel: str = PIPELINE
    """How its users share a model over several devices."""
    says: Callable[[Plan], str] | None = None
    """The whole command for a plan; "" where it has none."""
    splits: bool = False
    """It takes `-ngl` and `--n-cpu-moe`; others decide themselves."""
    requantizes: bool = False
    families: tuple[str, ...] = ()
    """How families that it runs on begin; (): all."""

    def line(self, change: str, plan: Plan) -> str:
        """What to type for a change of a plan of which this is the outcome; "" where there is no command."""
        if self.gguf and plan.subject.codec in SCHEMES:
            return ""  # no GGUF file holds it
        if change == CODEC and self.requantizes and (made := commands.requantized(plan)):
            return made
        return self.says(plan) if self.says else ""

    def runs_on(self, machine: Machine) -> bool:
        """Whether it runs there at all."""
        kind = not self.kinds or machine.kind in self.kinds
        known = not self.families or machine.family.startswith(self.families)
        return kind and known and not machine.family.startswith(self.not_on or ("-",))


def framework(name: str) -> Framework:
    """The framework of that name; UnsupportedError, listing those there are."""
    name = _CALLED.get(name, name)
    if name not in FRAMEWORKS:
        raise UnsupportedError(f"the engine {name[:40]!r}", f"one of {', '.join(FRAMEWORKS)}")
    return FRAMEWORKS[name]


_CPU, _GPU = LlamaCpp(), LlamaCpp(gpu=True)
_BLOCKS, _HYBRID = Vllm(), Vllm(hybrid=True)

_OLD = ("pascal", "gcn", "rdna1", "rdna2", "xe", "apple")
"""Families without kernels of vLLM's."""

_LLAMA = Framework(
    "llama.cpp", _CPU, _GPU, "llama.cpp", gguf=True, speculates=True, offloads=True, says=commands.llama_cpp,
    splits=True, requantizes=True,
)  # fmt: skip
_VLLM = Framework(
    "vllm", _BLOCKS, _BLOCKS, "vllm", speculates=True, preempts=True, kinds=ON_GPU, not_on=_OLD, parallel=TENSOR,
    says=commands.vllm,
)  # fmt: skip

FRAMEWORKS: Mapping[str, Framework] = {
    f.name: f
    for f in (
        Framework("memfirst", Memfirst(), Memfirst(), "memfirst", gguf=True, speculates=True, looks_up=True,
                  kinds=("cpu", "board"), says=commands.memfirst),
        _LLAMA,
        Framework("ollama", _CPU, _GPU, "ollama", gguf=True, offloads=True, says=commands.ollama),
        Framework("lm-studio", _CPU, _GPU, "llama.cpp", gguf=True, offloads=True, says=commands.lm_studio),
        replace(_LLAMA, name="ik_llama.cpp", speeds="ik_llama.cpp", says=commands.ik_llama_cpp),
        _VLLM,
        replace(_VLLM, name="vllm-hybrid", allocator=_HYBRID, on_gpu=_HYBRID),
        replace(_VLLM, name="sglang", allocator=Sglang(), on_gpu=Sglang(), speeds="sglang", says=commands.sglang),
        replace(_VLLM, name="tensorrt-llm", allocator=TensorRT(), on_gpu=TensorRT(), speeds="tensorrt-llm",
                not_on=(*_OLD, "rdna", "cdna", "turing", "volta"), says=commands.tensorrt_llm),
        Framework("mlx", Mlx(), Mlx(), "mlx", kinds=("unified",), families=("apple",), says=commands.mlx),
        Framework("exllama", Exllama(), Exllama(), "exllama", kinds=ON_GPU, not_on=(*_OLD, "rdna", "cdna")),
    )
}  # fmt: skip
"""Those that can be planned, by name."""

_CALLED = {
    "llamacpp": "llama.cpp", "llama-cpp": "llama.cpp", "llama-server": "llama.cpp", "ik-llama.cpp": "ik_llama.cpp",
    "ik_llama": "ik_llama.cpp", "lmstudio": "lm-studio", "lm studio": "lm-studio", "mlx-lm": "mlx", "mlx_lm": "mlx",
    "trt-llm": "tensorrt-llm", "trtllm": "tensorrt-llm", "tensorrt": "tensorrt-llm", "exllamav2": "exllama",
    "exllamav3": "exllama", "tabbyapi": "exllama",
}  # fmt: skip
"""Other names of theirs."""
