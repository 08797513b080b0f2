"""What a model needs on one device or several, whether it fits, and the longest context and largest batch that do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from memfirst.errors import ConfigError
from memfirst.graph import Graph
from memfirst.plan.fit.allocators import Allocator, Memfirst
from memfirst.plan.fit.needs import Needs, in_codecs, needs
from memfirst.plan.fit.spread import parts
from memfirst.predict.fitted import TENSOR

if TYPE_CHECKING:
    from memfirst.lower.program import Program

LARGEST_BATCH = 1 << 16


@dataclass(frozen=True)
class MemoryPlan:
    """Needs of each device beside the memory that it has (none: unknown)."""

    allocator: Allocator
    devices: tuple[Needs, ...]
    memories: tuple[int, ...] = ()

    @property
    def needs(self) -> Needs:
        """Those of the device that has the least to spare."""
        spare = self._spare()
        return self.devices[spare.index(min(spare))] if spare else self.devices[0]

    @property
    def spare(self) -> int:
        """Bytes left on the tightest device; negative: missing there. ConfigError where no memory was given."""
        if not self.memories:
            raise ConfigError("no device was given", "the bytes of each device's memory")
        return min(self._spare())

    @property
    def fits(self) -> bool:
        """Whether every device holds its part."""
        return self.spare >= 0

    @property
    def total(self) -> int:
        """Bytes on all devices together."""
        return sum(d.total for d in self.devices)

    def _spare(self) -> list[int]:
        """Of what the engine may take of each device."""
        each = zip(self.memories, self.devices, strict=False)
        return [int(memory * self.allocator.share) - d.total for memory, d in each]


def plan_memory(
    model: Graph | Program,
    contexts: Sequence[int],
    *,
    allocator: Allocator | None = None,
    kv: tuple[str, str] = ("f16", "f16"),
    memories: Sequence[int] = (),
    parallel: str = TENSOR,
    workers: int = 1,
) -> MemoryPlan:
    """Memory for sequences that reach `contexts` tokens each.

    kv        codecs of keys and of values
    memories  bytes that each device has to give; without any, what one device would need
    parallel  how several devices share the layers, see `memfirst.plan.fit.spread.parts`
    workers   threads of memfirst, for a Program's private buffers

    Raises ConfigError for impossible lengths or parallelism, UnsupportedError for what the engine cannot do.
    """
    allocator = allocator or Memfirst()
    model = in_codecs(model, *kv)
    if len(memories) < 2:
        return MemoryPlan(allocator, (needs(model, contexts, allocator, workers),), tuple(memories))
    if not isinstance(model, Graph):
        raise ConfigError("a program for one device", "the graph, to be shared by several")
    allocator = allocator.shared(parallel)
    shares = parts(model, memories, parallel, contexts, allocator)
    return MemoryPlan(allocator, tuple(needs(g, contexts, allocator) for g in shares), tuple(memories))


def largest_context(
    graph: Graph,
    memories: Sequence[int],
    *,
    batch: int = 1,
    allocator: Allocator | None = None,
    kv: tuple[str, str] = ("f16", "f16"),
    parallel: str = TENSOR,
) -> int:
    """Most tokens that each of `batch` sequences may reach, up to what the model was trained for; 0: not even one."""

    def fits(tokens: int) -> bool:
        plan = plan_memory(graph, [tokens] * batch, allocator=allocator, kv=kv, memories=memories, parallel=parallel)
        return plan.fits

    return largest(fits, graph.context)


def largest_batch(
    graph: Graph,
    memories: Sequence[int],
    *,
    context: int,
    allocator: Allocator | None = None,
    kv: tuple[str, str] = ("f16", "f16"),
    parallel: str = TENSOR,
) -> int:
    """Most sequences of `context` tokens, up to LARGEST_BATCH; 0: not even one."""

    def fits(sequences: int) -> bool:
        plan = plan_memory(
            graph, [context] * sequences, allocator=allocator, kv=kv, memories=memories, parallel=parallel
        )
        return plan.fits

    return largest(fits, LARGEST_BATCH)


def largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest n in 0..most that fits, where needs never shrink with n: doubling, then halving the gap."""
    if not fits(1):
        return 0
    low = 1
    while low < most and fits(min(2 * low, most)):
        low = min(2 * low, most)
    high = min(2 * low, most)  # does not fit, unless it is the low end
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
