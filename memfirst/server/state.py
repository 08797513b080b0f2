"""How a server is doing: the one snapshot that the page, /memfirst/stats and the metrics show."""

from __future__ import annotations

import time
from typing import Any

from memfirst.graph.traffic import EMBEDDING, EXPERTS, HEAD, KV_READ, STATE_READ, WEIGHTS
from memfirst.server.service import Service

READS = (WEIGHTS, HEAD, EXPERTS, EMBEDDING, KV_READ, STATE_READ)


def snapshot(served: Service) -> dict[str, Any]:
    """The model, counters since it was loaded, what is held and free, and who is worked on. No prompt, no answer."""
    link = served.link
    base: dict[str, Any] = {
        "model": served.settings.name, "state": link.state, "up_s": round(time.time() - served.started, 1),
        "live": link.live, "waiting": link.waiting, "engine_restarts": link.deaths,
    }  # fmt: skip
    loaded, stats = link.loaded, link.stats
    if loaded is None or stats is None:
        return base
    total = sum(n * size for n, size in zip(loaded.blocks, loaded.block_bytes, strict=True))
    used = sum(n * size for n, size in zip(stats.used, loaded.block_bytes, strict=True))
    kept = sum(n * size for n, size in zip(stats.kept, loaded.block_bytes, strict=True))
    per_position = sum(loaded.block_bytes) // loaded.block if loaded.block else 0
    return base | {
        "threads": loaded.threads, "context": loaded.context, "sequences": loaded.sequences,
        "steps": stats.steps, "tokens": stats.tokens, "prompt_tokens": stats.prompt_tokens,
        "generated_rows": stats.rows, "step_seconds": stats.seconds, "bytes": stats.bytes,
        "read_bandwidth": stats.read_bandwidth, "predicted_wait": round(stats.wait, 3), **stats.counts,
        "memory": {
            "weights": loaded.memory["weights"], "kv_requests": used - kept, "kv_kept": kept, "kv_free": total - used,
            "buffers": loaded.memory["buffers"], "state": loaded.memory["state"],
        },
        "context_bytes": -(-loaded.context // loaded.block) * sum(loaded.block_bytes) if loaded.block else 0,
        "requests": [request._asdict() | {"kv_bytes": request.cached * per_position} for request in stats.requests],
    }  # fmt: skip
