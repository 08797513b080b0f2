"""What a model means: its types, its operations and the memory that each moves. Imports errors and codecs only."""

from __future__ import annotations

from memfirst.graph.types import (
    BLOCK,
    DISK,
    FAST,
    RELEASED,
    SLOW,
    Cache,
    CacheGroup,
    Graph,
    KVCache,
    Op,
    Sequence,
    Shard,
    StateCache,
    Step,
    Weight,
    decode,
    prefill,
)

__all__ = [
    "BLOCK",
    "DISK",
    "FAST",
    "RELEASED",
    "SLOW",
    "Cache",
    "CacheGroup",
    "Graph",
    "KVCache",
    "Op",
    "Sequence",
    "Shard",
    "StateCache",
    "Step",
    "Weight",
    "decode",
    "prefill",
]
