"""What the planner knows of each framework: how it allocates, whose speeds it has, what it can do, its command."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from memfirst.errors import UnsupportedError
from memfirst.hardware.machines import Machine
from memfirst.plan import commands
from memfirst.plan.fit.allocators import Allocator, LlamaCpp, Memfirst, Vllm
from memfirst.predict.fitted import PIPELINE, TENSOR

if TYPE_CHECKING:
    from memfirst.plan.result import Plan

CODEC, KV, CONTEXT, BATCH = "codec", "kv", "context", "batch"
SPECULATION, THREADS, DEVICES = "speculation", "threads", "devices"
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

    def line(self, change: str, plan: Plan) -> str:
        """What to type for a change of a plan of which this is the outcome; "" where there is no command."""
        if change == CODEC and self.requantizes and (made := commands.requantized(plan)):
            return made
        return self.says(plan) if self.says else ""

    def runs_on(self, machine: Machine) -> bool:
        """Whether it runs there at all."""
        kind = not self.kinds or machine.kind in self.kinds
        return kind and not machine.family.startswith(self.not_on or ("-",))


def framework(name: str) -> Framework:
    """The framework of that name; UnsupportedError, listing those there are."""
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
        Framework("memfirst", Memfirst(), Memfirst(), "memfirst", gguf=True, kinds=("cpu", "board"),
                  says=commands.memfirst),
        _LLAMA,
        Framework("ollama", _CPU, _GPU, "ollama", gguf=True, offloads=True, says=commands.ollama),
        replace(_LLAMA, name="ik_llama.cpp", speeds="ik_llama.cpp", says=commands.ik_llama_cpp),
        _VLLM,
        replace(_VLLM, name="vllm-hybrid", allocator=_HYBRID, on_gpu=_HYBRID),
    )
}  # fmt: skip
"""Those that can be planned, by name."""
