"""What must be held in memory, by purpose and engine; whether it fits; what may lie in slower memory or on disk."""

from __future__ import annotations

from memfirst.memory.engines import ENGINES, Engine, Estimate, LlamaCpp, Memfirst, Vllm, engine_named
from memfirst.memory.needs import Needs
from memfirst.memory.plan import LARGEST_BATCH, MemoryPlan, largest_batch, largest_context, plan_memory
from memfirst.memory.tiers import Placement, place

__all__ = [
    "ENGINES",
    "LARGEST_BATCH",
    "Engine",
    "Estimate",
    "LlamaCpp",
    "Memfirst",
    "MemoryPlan",
    "Needs",
    "Placement",
    "Vllm",
    "engine_named",
    "largest_batch",
    "largest_context",
    "place",
    "plan_memory",
]
