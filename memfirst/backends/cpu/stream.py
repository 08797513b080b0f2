"""Weights that every step reads from disk: a ring that readers fill ahead of the walk.

The weights of all steps are one endless sequence: those of step s are numbers s * count to (s + 1) * count - 1. Slices
are handed out in that order; a weight is begun when the place that it overwrites has been given free, also where that
belongs to the step before: the disk goes on while a token is sampled.
"""

from __future__ import annotations

from collections.abc import Mapping

from memfirst.backends.cpu.readers import Job, Source
from memfirst.formats.checkpoint import Checkpoint
from memfirst.kernels.cpu import arena
from memfirst.lower.program import Program


class Stream:
    """The ring of one program's weights, as a queue of what is to be read into it."""

    def __init__(self, program: Program, checkpoint: Checkpoint) -> None:
        self._weights = program.streaming.weights
        ring = arena.allocate(program.streaming.ring)
        self.places = {w.name: ring[w.at : w.at + w.nbytes] for w in self._weights}
        """Where each weight is while phases need it."""
        self._sources = [Source(program.weights[w.name], checkpoint) for w in self._weights]
        self._slices = [
            [
                part
                for m, matrix in enumerate(self.places[w.name].reshape(program.weights[w.name].matrices, -1))
                for part in source.slices(matrix, m)
            ]
            for w, source in zip(self._weights, self._sources, strict=True)
        ]
        self.restart()

    def restart(self) -> None:
        self._steps = 0
        """Begun so far."""
        self._logits: dict[int, bool] = {}
        """Of the steps that run, whether they read the head."""
        self._next, self._slice = 0, 0
        """What is handed out next."""
        self._open: dict[int, int] = {}
        """Slices that are not there yet of each weight that was begun."""
        self._there, self._freed = 0, 0
        """All weights before this one are in memory; nobody needs those before that one."""
        self._read: dict[int, int] = {}
        """Bytes read of each weight that was begun."""

    def begin(self, logits: bool) -> None:
        """A step begins; `logits`: it reads the head."""
        self._steps += 1
        self._logits = {self._steps - 1: logits}

    def has(self, needs: int) -> bool:
        """Whether the first `needs` weights of the step are there."""
        return self._there >= self._first + needs

    def free(self, frees: int) -> None:
        """The step needs the first `frees` of its weights no more."""
        self._freed = self._first + frees

    def end(self) -> Mapping[str, int]:
        """The step is over; bytes that were read for it, by weight."""
        return {w.name: n for i, w in enumerate(self._weights) if (n := self._read.pop(self._first + i, 0))}

    @property
    def _first(self) -> int:
        """The number of the step's first weight."""
        return (self._steps - 1) * len(self._weights)

    def next(self) -> Job | None:
        while self._weights:
            step, i = divmod(self._next, len(self._weights))
            weight, slices, number = self._weights[i], self._slices[i], self._next
            if weight.head and step >= self._steps:
                return None  # nobody has said whether it is wanted
            if weight.head and not self._logits.get(step):
                self._open[number] = 0
                self._next += 1
                self._advance()
                continue
            if number - weight.behind >= self._freed:
                return None
            if self._slice == 0:
                self._open[number] = len(slices)
            part = slices[self._slice]
            self._slice += 1
            if self._slice == len(slices):
                self._next, self._slice = number + 1, 0
            return Job(self, self._sources[i], part, number)
        return None

    def arrived(self, job: Job) -> None:
        self._open[job.weight] -= 1
        self._read[job.weight] = self._read.get(job.weight, 0) + job.part.nbytes
        self._advance()

    def _advance(self) -> None:
        while self._open.get(self._there) == 0:
            del self._open[self._there]
            self._there += 1
