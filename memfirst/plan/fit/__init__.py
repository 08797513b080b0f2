"""What must be held in memory, by purpose and engine; whether it fits; what may lie in slower memory or on disk."""

from __future__ import annotations

from memfirst.plan.fit.engines import ENGINES, Engine, Estimate, LlamaCpp, Memfirst, Vllm, engine_named
from memfirst.plan.fit.needs import Needs
from memfirst.plan.fit.plan import LARGEST_BATCH, MemoryPlan, largest_batch, largest_context, plan_memory
from memfirst.plan.fit.tiers import Placement, place

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
