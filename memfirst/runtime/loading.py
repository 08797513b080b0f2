"""What a model is loaded with: its checkpoint by name or path, its graph's caches, its backend."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

from memfirst.errors import ConfigError, UnsupportedError
from memfirst.formats.checkpoint import Checkpoint
from memfirst.formats.open import open_checkpoint
from memfirst.graph import Graph, KVCache
from memfirst.hardware import host
from memfirst.progress import Progress
from memfirst.runtime.placing import Limit, check_memory, from_disk, needed
from memfirst.runtime.sharing import Sharing
from memfirst.runtime.startup import Stages
from memfirst.transform.recode import parse_kv, with_kv
from memfirst.transform.sketched import HEAD_AUTO, HEAD_FULL

if TYPE_CHECKING:
    from memfirst.runtime.draft import Opened


def cached_as(graph: Graph, kv: str, backend: str) -> Graph:
    """The graph with its KV cache in other codecs; UnsupportedError where heads are no whole blocks of one."""
    codecs = parse_kv(kv)
    if codecs == ("f16", "f16"):
        return graph
    if backend == "reference":
        raise ConfigError(f"a KV cache of {kv} on the reference backend", "f16: it keeps all in float32")
    made = with_kv(graph, *codecs)
    for cache in (c for c in made.caches if isinstance(c, KVCache)):
        if (cache.k_codec, cache.v_codec if cache.v_dim else codecs[1]) != codecs:
            raise UnsupportedError(
                f"heads of {cache.k_dim} and {cache.v_dim} in {kv}",
                "multiples of 32",
                'load it with kv="f16"',
                "--kv f16",
            )
    return made


def open_model(model: str | os.PathLike[str] | Checkpoint, progress: Progress) -> Checkpoint:
    """A checkpoint by path or name; downloaded where it is not here."""
    if not isinstance(model, str | os.PathLike):
        if not hasattr(model, "has_bytes"):
            raise ConfigError(f"a model of type {type(model).__name__}", "a name, a path or a Checkpoint")
        return model
    if os.path.exists(model):
        return open_checkpoint(model)
    from memfirst import hub

    return open_checkpoint(hub.resolve(os.fspath(model), progress=progress))


def make_backend(
    name: str, graph: Graph, checkpoint: Checkpoint, threads: int, context: int, sharing: Sharing, progress: Progress,
    stages: Stages, limit: Limit | None, pack: str, draft: Opened | None = None, head: str = HEAD_FULL,
) -> Any:  # fmt: skip
    """The backend of that name, with the model's weights loaded."""
    if limit is not None and name != "cpu":
        raise ConfigError(f"a limit on memory with the {name} backend", "the cpu backend")
    if name == "reference":
        from memfirst.backends.reference.generating import SlowBackend, slow_memory

        check_memory(slow_memory(graph, context), context)
        return SlowBackend(graph, checkpoint, context)
    if name == "leading":
        from memfirst.runtime.split import leading

        return leading(graph, checkpoint, threads, context, sharing, progress, stages.done)
    if name != "cpu":
        raise ConfigError(f"the backend {name!r}", "cpu or reference")
    if host.visible_gpu():
        progress.note("a GPU is visible; it is not used yet")
    beside = 0 if draft is None else draft.need.total
    from memfirst.backends.cpu.backend import CpuBackend, CpuOptions
    from memfirst.runtime.packing import lowered, with_sketched_head

    lowering, found = lowered(graph, checkpoint, context, sharing, threads, limit, pack, progress, beside)
    if head == HEAD_AUTO and limit is None:  # a limit is for what must be there
        lowering = with_sketched_head(lowering, sharing, threads, beside, progress)
    offer = partial(from_disk, lowering, checkpoint, sharing, threads, beside) if limit is None else lambda: None
    check_memory(needed(lowering, sharing, threads), context, offer, beside)
    options = CpuOptions(
        threads, context, sharing.sequences, drafts=True, given=sharing.blocks, snapshots=sharing.snapshots
    )
    return CpuBackend(lowering.graph, checkpoint, options, lowering, progress, stages.done, twelve_bits=found)
