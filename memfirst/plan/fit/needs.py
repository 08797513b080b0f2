"""What one device must hold to run a graph, in bytes, by purpose and by engine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from memfirst.errors import ConfigError, UnsupportedError
from memfirst.graph import Graph
from memfirst.graph import Sequence as Tokens
from memfirst.graph.ops.embed import Embed
from memfirst.graph.ops.linear import Linear
from memfirst.ledger import required
from memfirst.plan.fit.allocators import PROCESS, Allocator, Estimate, kv_caches, kv_reads, state_caches
from memfirst.transform.recode import with_kv

if TYPE_CHECKING:
    from memfirst.lower.program import Program

MAX_CONTEXT, MAX_SEQUENCES = 1 << 28, 1 << 20


@dataclass(frozen=True)
class Needs:
    """Bytes. KV is three numbers that are never mixed, state likewise.

    weights          in this device's memory; `host`: those that the engine leaves in the host's
    kv_read          by one step that adds a token to each sequence, after which they are as long as planned
    kv_held          live positions; kv_allocated: what the engine sets aside for them
    state_read       by one step, once a sequence; as much is written
    buffers          working memory of the largest step
    overhead         what the engine takes whatever the model
    """

    engine: str
    weights: int
    host: int
    kv_read: int
    kv_held: int
    kv_allocated: int
    state_read: int
    state_allocated: int
    buffers: Estimate
    overhead: Estimate

    @property
    def total(self) -> int:
        """What must be there to start."""
        fixed = self.buffers.nbytes + self.overhead.nbytes
        return self.weights + self.kv_allocated + self.state_allocated + fixed

    @property
    def resident(self) -> int:
        """What is in use: cache pages that nothing was written to are not there yet."""
        fixed = self.buffers.nbytes + self.overhead.nbytes
        return self.weights + self.kv_held + self.state_read + fixed


def needs(model: Graph | Program, contexts: Sequence[int], allocator: Allocator, workers: int = 1) -> Needs:
    """For sequences that reach `contexts` tokens each, on one device.

    model  a Graph, or a Program of memfirst, whose packed weights and buffers are then exact

    Raises ConfigError for lengths below 1, UnsupportedError for a cache in codecs that the engine does not have.
    """
    graph = model if isinstance(model, Graph) else model.graph
    _check(graph, contexts, allocator)
    if not isinstance(model, Graph):
        return _required(model, contexts, workers)
    stored, lengths = stored_weights(graph), Counter(contexts).items()
    host = sum(stored[name] for name in looked_up(graph)) if allocator.embedding_on_host() else 0
    return Needs(
        engine=allocator.name,
        weights=sum(stored.values()) - host + (host if _tied(graph) else 0),
        host=host,
        kv_read=sum(times * c.read_bytes(Tokens(n - 1)) for c in kv_reads(graph) for n, times in lengths),
        kv_held=sum(times * c.held_bytes(n) for c in kv_caches(graph) for n, times in lengths),
        kv_allocated=allocator.kv(graph, contexts),
        state_read=len(contexts) * sum(c.state_bytes for c in state_caches(graph)),
        state_allocated=allocator.state(graph, len(contexts)),
        buffers=allocator.buffers(graph, contexts),
        overhead=allocator.overhead(graph),
    )


def in_codecs(model: Graph | Program, k_codec: str, v_codec: str) -> Graph | Program:
    """The model with its KV cache in those codecs; a Program only in its own."""
    if not isinstance(model, Graph):
        caches = kv_caches(model.graph)
        same = all(c.k_codec == k_codec and (not c.v_dim or c.v_codec == v_codec) for c in caches)
        if not same:
            raise ConfigError(f"a program with its cache in {k_codec} and {v_codec}", "the graph, or its own codecs")
        return model
    return with_kv(model, k_codec, v_codec)


def stored_weights(graph: Graph) -> dict[str, int]:
    """Bytes of each tensor in this device's own memory, by the name that it is stored under: a tied head once."""
    found: dict[str, int] = {}
    for weight in (w for op in graph.ops for w in op.weights if w.tier == "fast"):
        name = weight.alias or weight.name
        found[name] = max(found.get(name, 0), weight.nbytes)  # a device may read a part of a table that it looks up
    return found


def looked_up(graph: Graph) -> set[str]:
    """Names of the tensors of which only rows are read."""
    return {op.weight.name for op in graph.of(Embed)}


def _tied(graph: Graph) -> bool:
    """Whether a table that is looked up is read in full too."""
    tables = looked_up(graph)
    return any(w.alias in tables for op in graph.of(Linear) for w in op.weights if w.alias)


def _required(program: Program, contexts: Sequence[int], workers: int) -> Needs:
    """Of this engine's own program: what it asks for when it loads the model."""
    from memfirst.lower.cpu import CAPACITIES

    graph, found = program.graph, required(program, contexts, workers, CAPACITIES[-1])
    state = len(contexts) * sum(c.allocated_bytes(1) for c in graph.states)
    return Needs(
        engine="memfirst",
        weights=found.weights + found.streaming,
        host=0,
        kv_read=sum(c.read_bytes(Tokens(n - 1)) for c in kv_reads(graph) for n in contexts),
        kv_held=sum(c.held_bytes(n) for c in kv_caches(graph) for n in contexts),
        kv_allocated=found.kv_allocated - state,
        state_read=len(contexts) * sum(c.state_bytes for c in graph.states),
        state_allocated=state,
        buffers=Estimate(found.buffers, "the program's own buffers, and those of its largest step"),
        overhead=Estimate(found.process, PROCESS),
    )


def _check(graph: Graph, contexts: Sequence[int], allocator: Allocator) -> None:
    wrong = [n for n in contexts if not 1 <= n <= MAX_CONTEXT]
    if wrong or not 1 <= len(contexts) <= MAX_SEQUENCES:
        found = f"a sequence of {wrong[0]} tokens" if wrong else f"{len(contexts)} sequences"
        raise ConfigError(found, f"1 to {MAX_SEQUENCES} sequences of 1 to {MAX_CONTEXT} tokens")
    used = {codec for c in kv_caches(graph) for codec in (c.k_codec, *([c.v_codec] if c.v_dim else []))}
    if odd := sorted(used - set(allocator.kv_codecs)):
        raise UnsupportedError(
            f"{allocator.name} with keys or values in {odd[0]}", f"one of {', '.join(allocator.kv_codecs)}"
        )
