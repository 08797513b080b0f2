"""Where a model's weights go when a limit on memory was given: what does not fit stays on disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from memfirst.errors import BackendError, CapacityError, ConfigError
from memfirst.formats.checkpoint import Checkpoint
from memfirst.graph import decode
from memfirst.hardware import host
from memfirst.ledger import Memory, required
from memfirst.lower.cpu import CAPACITIES, Lowering
from memfirst.lower.placement import place, unreadable
from memfirst.runtime.sharing import Sharing
from memfirst.transform.sketched import HEAD_AUTO, HEAD_FULL

Limit = int | Literal["auto"]
"""Bytes of memory, or all that is free but `SPARE`."""

SPARE = 0.1
"""Of the free memory, what "auto" leaves to everything else."""


PACK_AUTO, PACK_PLAIN = "auto", "plain"
"""BF16 matrices in 12 bits, or as in the file."""


def check_head(head: str) -> None:
    """ConfigError for what is neither "auto" nor "full"."""
    if head not in (HEAD_AUTO, HEAD_FULL):
        raise ConfigError(f"head is {head!r}", '"auto" or "full"')


def check_pack(pack: str) -> None:
    """ConfigError for what is neither "auto" nor "plain"."""
    if pack not in (PACK_AUTO, PACK_PLAIN):
        raise ConfigError(f"pack is {pack!r}", '"auto" or "plain"')


def check_limit(memory: Limit | None) -> Limit | None:
    """ConfigError for what is no number of bytes."""
    whole = isinstance(memory, int) and not isinstance(memory, bool)
    if memory not in (None, "auto") and not (whole and memory > 0):  # type: ignore[operator]
        raise ConfigError(f"memory is {memory!r}", 'bytes, as 4_000_000_000, or "auto"')
    return memory


def bytes_of(limit: Limit) -> int:
    """A limit in bytes."""
    return int(host.available_memory() * (1 - SPARE)) if limit == "auto" else limit


def within(
    lowering: Lowering, checkpoint: Checkpoint, sharing: Sharing, threads: int, limit: Limit, beside: int = 0
) -> Lowering:
    """The same model with as many of its weights in memory as fit `limit` with all else that it needs.

    beside  bytes that something else takes

    Raises:
        CapacityError: Not even what must be in memory fits.
    """
    program = lowering.program(1, threads)
    need = needed(lowering, sharing, threads)
    bytes_ = bytes_of(limit)
    beside += need.total - need.weights
    found = place(lowering, bytes_ - beside, unreadable(program, checkpoint))
    if found.missing:
        raise CapacityError(
            f"{bytes_ / 1e9:.2f} GB of memory",
            f"{(found.memory + beside) / 1e9:.2f} GB or more (KV cache"
            f" {need.kv_allocated / 1e9:.2f}, weights that must be there and room for the others"
            f" {found.memory / 1e9:.2f})",
            "give it more memory, or a smaller ctx",
            "raise --memory, or shorten the context with --ctx",
        )
    return found.of(lowering)


def needed(lowering: Lowering, sharing: Sharing, threads: int) -> Memory:
    """What the process holds when it runs the model."""
    graph, context = lowering.graph, lowering.context
    need = required(lowering.program(1, threads), [context], threads, CAPACITIES[-1])
    states = sum(cache.allocated_bytes(context) for cache in graph.states)
    return replace(need, kv_allocated=states + sharing.nbytes(graph))


def check_memory(
    need: Memory, context: int, offer: Callable[[], str | None] = lambda: None, draft: int = 0
) -> None:  # fmt: skip
    """CapacityError for a model that the machine (or the control group) cannot hold, before it is read.

    offer  says what reading the rest from disk would give; asked only where the model is refused
    draft  bytes of a draft model besides
    """
    free = host.available_memory()
    if need.total + draft > free:
        disk = offer()
        beside = f", a draft model {draft / 1e9:.2f}" if draft else ""
        raise CapacityError(
            f"{(need.total + draft) / 1e9:.1f} GB are needed (weights {need.weights / 1e9:.2f}, KV of {context}"
            f" tokens {need.kv_allocated / 1e9:.2f}{beside})",
            f"at most the {free / 1e9:.1f} GB that are free",
            "choose a smaller codec or a smaller ctx" + (f', or memory="auto": {disk}' if disk else ""),
            "choose a smaller codec, a shorter context with --ctx"
            + (f", or --memory auto: {disk}" if disk else ", or free some memory"),
        )


def from_disk(
    lowering: Lowering, checkpoint: Checkpoint, sharing: Sharing, threads: int, beside: int = 0
) -> str | None:  # fmt: skip
    """What `memory="auto"` would give here: bytes that a token reads from disk, and its speed as `plan` predicts it.

    None where not even what must be in memory fits.
    """
    try:
        found = within(lowering, checkpoint, sharing, threads, "auto", beside)
    except CapacityError:
        return None
    from memfirst.hardware.disk import file_rate  # a model that fits does without all this
    from memfirst.plan import Options, Priced, this_machine
    from memfirst.predict.disk import disk_bytes
    from memfirst.predict.disk import from_disk as with_disk

    program, step = found.program(1, threads), decode(lowering.context // 2)
    read = sum(amount.mean for amount in disk_bytes(program, [step]))
    said = f"{read / 1e9:.2g} GB a token are read from disk then"
    try:
        rate = file_rate(checkpoint.path)
    except BackendError:  # no file of its own, as a checkpoint that a program made: it says what is known
        return said
    options = Options(engine="memfirst", threads=threads)
    speed = with_disk(this_machine().time(Priced(lowering.graph), step, options), program, step, rate).tokens_per_second
    return f"{said}, at {rate / 1e9:.1f} GB/s as measured: about {speed:.2g} tokens/s" if speed else said
