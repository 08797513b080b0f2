"""One model over several processes: the first is asked and tells the others what to do, the others follow.

The first process has the scheduler, the tokenizer and the samplers. Of each step it sends the others the step's tables
and tokens; then all run their part, and exchange values on the way. At the step's end the bytes that the others read
are added up.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from memfirst.backends.base import StepResult
from memfirst.backends.cpu.backend import CpuBackend, CpuOptions
from memfirst.backends.cpu.step_log import StepLog
from memfirst.distributed import words
from memfirst.distributed.mpi import Group, group, leave
from memfirst.errors import UnsupportedError
from memfirst.formats.checkpoint import Checkpoint
from memfirst.formats.open import open_checkpoint
from memfirst.graph import Graph, Step
from memfirst.lower.cpu import Lowering
from memfirst.models import build
from memfirst.progress import Progress, Silent
from memfirst.runtime.arguments import check_threads
from memfirst.runtime.loading import cached_as
from memfirst.runtime.placing import check_memory, needed
from memfirst.runtime.sharing import Sharing
from memfirst.transform.split import check_kind, split


def part_of(graph: Graph, kind: str) -> Graph:
    """This process's part."""
    return split(graph, check_kind(kind), group().index, group().size)


class LeadingBackend(CpuBackend):
    """The first process's backend: it tells the others before it does its own part."""

    def __init__(
        self, lowering: Lowering, checkpoint: Checkpoint, options: CpuOptions, progress: Progress,
        stage: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._group, self._left = group(), False
        self._others = words.no_bytes()
        numbers = options.context, options.sequences, options.snapshots, *options.blocks(lowering.graph)
        self._group.tell(words.of(words.SETUP, *numbers))
        super().__init__(lowering.graph, checkpoint, options, lowering, progress, stage, peers=self._group)

    def step(
        self, step: Step, tokens: Sequence[int] | NDArray[np.int32], log: StepLog | None = None
    ) -> StepResult:  # fmt: skip
        """As of `Backend`; `log` is of this process's part."""
        if step.hidden:
            raise UnsupportedError("embeddings of a model in several processes", "one process")
        self.check(step, tokens)  # what it refuses the others must not begin
        self._group.tell(words.of_step(step, tokens))
        try:
            result = super().step(step, tokens, log)
            before, self._others = self._others, self._others + self._group.sum(words.no_bytes())
        except BaseException:
            self._group.abort()  # the others are within the step, and wait for values that will not come
            raise
        return replace(result, others=(words.bytes_of(before), words.bytes_of(self._others)))

    def by_purpose(self, result: StepResult) -> dict[str, int]:
        """What the kernels of all processes read in a step, by purpose."""
        read = Counter(super().by_purpose(result))
        if result.others is not None:
            before, after = result.others
            read.update({purpose: after[purpose] - before[purpose] for purpose in after})
        return {purpose: n for purpose, n in read.items() if n}

    def copy_block(self, group: int, source: int, target: int) -> None:
        """As of `Backend`."""
        self._group.tell(words.of(words.COPY, group, source, target))
        super().copy_block(group, source, target)

    def warm_up(self) -> None:
        """As of `Backend`."""
        self._group.tell(words.of(words.WARM))
        super().warm_up()

    def close(self) -> None:
        """As of `Backend`; the others end."""
        if not self._left:
            self._left = True
            self._group.tell(words.of(words.END))
            super().close()
            self._group.close()


def leading(
    graph: Graph, checkpoint: Checkpoint, threads: int, context: int, sharing: Sharing, progress: Progress,
    stage: Callable[[str], None],
) -> LeadingBackend:  # fmt: skip
    """The first process's backend of its part `graph`."""
    try:
        lowering = Lowering(graph, context)
        check_memory(needed(lowering, sharing, threads), context)
        options = CpuOptions(
            threads, context, sharing.sequences, drafts=True, given=sharing.blocks, snapshots=sharing.snapshots
        )
        return LeadingBackend(lowering, checkpoint, options, progress, stage)
    except BaseException:
        leave()
        raise


def follow(graph: Graph, checkpoint: Checkpoint, threads: int, progress: Progress | None = None) -> None:
    """Another process's life: its part `graph`, until the first says that it ends.

    Raises:
        MemfirstError: It cannot run its part: the caller is to end all processes by `group().abort()`.
    """
    peers = group()
    told = peers.told().tolist()
    if told[0] == words.SETUP:
        _, context, sequences, snapshots, *blocks = told
        options = CpuOptions(threads, context, sequences, drafts=True, given=tuple(blocks), snapshots=snapshots)
        lowering = Lowering(graph, context)
        check_memory(needed(lowering, Sharing(sequences, tuple(blocks), snapshots), threads), context)
        backend = CpuBackend(graph, checkpoint, options, lowering, progress or Silent(), peers=peers)
        try:
            _obey(peers, backend)
        finally:
            backend.close()
    peers.close()


def _obey(peers: Group, backend: CpuBackend) -> None:
    while True:
        message = peers.told()
        kind = int(message[0])
        if kind == words.STEP:
            result = backend.step(*words.to_step(message))
            peers.sum(words.of_bytes(backend.by_purpose(result)))
        elif kind == words.COPY:
            backend.copy_block(*message[1:].tolist())
        elif kind == words.WARM:
            backend.warm_up()
        elif kind == words.END:
            return


def follow_model(
    model: str | os.PathLike[str], kind: str, threads: int | None = None, kv: str = "f16",
    progress: Progress | None = None,
) -> None:  # fmt: skip
    """Run this process's part of a model until the first process ends; for all processes but the first.

    Args:
        model: The path that the first process loads.
        kind: "pipeline" or "tensor", as there; likewise `kv`.
        threads: Worker threads of this process; default its share of the physical cores.

    Raises:
        MemfirstError: The part cannot be run: the caller is to end all processes by `group().abort()`.
    """
    checkpoint = open_checkpoint(model)
    try:
        graph = part_of(cached_as(build(checkpoint), kv, "cpu"), kind)
        follow(graph, checkpoint, check_threads(threads), progress)
    finally:
        checkpoint.close()
