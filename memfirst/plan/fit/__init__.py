"""What must be held in memory, by purpose and framework; whether it fits; what may lie in slower memory or on disk."""

from __future__ import annotations

from memfirst.plan.fit.allocators import Allocator, Estimate, LlamaCpp, Memfirst, Vllm
from memfirst.plan.fit.needs import Needs
from memfirst.plan.fit.plan import LARGEST_BATCH, MemoryPlan, largest_batch, largest_context, plan_memory
from memfirst.plan.fit.tiers import Placement, place

__all__ = [
    "LARGEST_BATCH",
    "Allocator",
    "Estimate",
    "LlamaCpp",
    "Memfirst",
    "MemoryPlan",
    "Needs",
    "Placement",
    "Vllm",
    "largest_batch",
    "largest_context",
    "place",
    "plan_memory",
]
