"""The longest context and the most sequences that fit beside a plan's weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from memfirst.graph import Graph
from memfirst.plan.fit import MemoryPlan, largest_batch, largest_context
from memfirst.plan.fit.plan import largest
from memfirst.plan.options import MOST_SEQUENCES, Options
from memfirst.predict.fitted import TENSOR

STEP, TRIES = 64, 3
"""Tokens to which the longest context is told: a block; times that it is corrected."""


@dataclass(frozen=True)
class Limits:
    """Tokens that each of the plan's sequences may reach, at most as many as the model was trained for; sequences of
    the plan's context. 0: not even one."""

    context: int
    sequences: int
    trained: int


Total = Callable[[int, int], int]
"""(tokens, sequences) -> bytes of one device that are needed."""


def limits(graph: Graph, memory: MemoryPlan, context: int, options: Options, exact: Total | None) -> Limits | None:
    """Beside what `memory` holds; None where no memory is known.

    exact  of an engine whose needs the graph alone does not tell to the byte, as memfirst's own
    """
    if not memory.memories:
        return None
    tokens = most_tokens(graph, memory, context, options)
    count = most_sequences(graph, memory, context, options)
    if exact is not None:
        tokens, count = _exact(memory, context, options, exact, tokens, graph.context)
    return Limits(tokens, count, graph.context)


def most_tokens(graph: Graph, memory: MemoryPlan, context: int, options: Options) -> int:
    """Of each sequence."""
    if len(memory.memories) > 1 and options.parallel != TENSOR:
        return largest_context(graph, memory.memories, batch=options.batch, allocator=memory.allocator,
                               kv=options.codecs, parallel=options.parallel)  # fmt: skip
    now, devices = [context] * options.batch, _devices(graph, memory, options)
    return largest(lambda tokens: _fit(devices, memory, now, [tokens] * options.batch), graph.context)


def most_sequences(graph: Graph, memory: MemoryPlan, context: int, options: Options) -> int:
    """Of `context` tokens."""
    if len(memory.memories) > 1 and options.parallel != TENSOR:
        found = largest_batch(graph, memory.memories, context=context, allocator=memory.allocator,
                              kv=options.codecs, parallel=options.parallel)  # fmt: skip
        return min(found, MOST_SEQUENCES)
    now, devices = [context] * options.batch, _devices(graph, memory, options)
    return largest(lambda count: _fit(devices, memory, now, [context] * count), MOST_SEQUENCES)


def _devices(graph: Graph, memory: MemoryPlan, options: Options) -> list[Graph]:
    """Each device's part; cut layers are alike, so those of the first and of the last tell all."""
    count = len(memory.memories)
    if count == 1:
        return [graph]
    from memfirst.transform.shard import shard  # few plans cut layers

    return [shard(graph, i, count) for i in (0, count - 1)]


def _fit(devices: list[Graph], memory: MemoryPlan, now: list[int], then: list[int]) -> bool:
    """Whether sequences of those lengths fit, by what differs from the plan's own: cache, state and buffers."""
    allocator = memory.allocator

    def varies(graph: Graph, contexts: list[int]) -> int:
        buffers = allocator.buffers(graph, contexts).nbytes
        return allocator.kv(graph, contexts) + allocator.state(graph, len(contexts)) + buffers

    return all(memory.spare >= varies(graph, then) - varies(graph, now) for graph in devices)


def _exact(
    memory: MemoryPlan, context: int, options: Options, total: Total, tokens: int, trained: int
) -> tuple[int, int]:
    """Both limits by the engine's own count, from estimates: what it needs grows evenly, but not as estimated."""
    room, batch = int(memory.memories[0] * memory.allocator.share), options.batch
    used = total(context, batch)
    count = batch
    if each := total(context, batch + 1) - used:
        count = max(0, min(batch + (room - used) // each, MOST_SEQUENCES))
    if tokens == trained and total(trained, batch) <= room:
        return trained, count
    for _ in range(TRIES):
        if tokens < STEP or tokens == context:
            break
        needed = total(tokens, batch)
        if 0 <= room - needed < STEP * max(1, needed - used) // abs(tokens - context):
            break
        each = max(1, (needed - used) // (tokens - context))
        tokens = min(tokens + (room - needed) // each, trained) // STEP * STEP
    return (tokens if tokens >= 1 and total(tokens, batch) <= room else max(0, tokens - 2 * STEP)), count
