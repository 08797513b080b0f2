"""Bytes that steps read, added up by purpose: of all requests, and of each by itself.

What a step reads once for all is divided among its sequences; a request's KV cache and state are its own. Integers: the
requests' sums are the total, to the byte.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from memfirst.backends.base import Backend, StepResult
from memfirst.graph import Graph, KVCache, Step
from memfirst.graph.traffic import DRAFT, HEAD, KV_READ, KV_WRITE, STATE_READ, STATE_WRITE
from memfirst.runtime.request import Request


class Accounts:
    """What the steps of one engine read so far.

    seconds  that steps took; steps, tokens, rows: how many steps, new tokens without drafts in vain, rows of logits
             there were
    """

    def __init__(self, backend: Backend, graph: Graph | None = None) -> None:
        """`graph`: the whole model, where the backend has a part of it."""
        self._backend = backend
        self._groups = [(len(group.caches), group.cache) for group in (graph or backend.graph).cache_groups]
        self._bytes = Counter[str]()
        self._open: tuple[Request, StepResult, StepResult] | None = None
        """A request with the first and the last of the steps that it had for itself, which are not added up yet."""
        self.steps, self.tokens, self.rows, self.seconds = 0, 0, 0, 0.0
        self.prompt_tokens = 0

    def add(
        self, step: Step, requests: Sequence[Request], result: StepResult, seconds: float, wrong: int = 0
    ) -> None:  # fmt: skip
        """A step is done, of whose tokens `wrong` were drafted in vain: adds to the total and to each request's
        `bytes`. Steps of one request are added up when it ends, or somebody asks: it takes 2 % of a token."""
        self.steps, self.tokens, self.rows = self.steps + 1, self.tokens + step.tokens - wrong, self.rows + step.logits
        self.seconds += seconds
        self.prompt_tokens += sum(s.new for s in step.sequences if s.new > max(1, len(s.logit_rows)))
        if len(requests) == 1 and not result.disk.bytes:
            self._add_one(requests[0], result)
            return
        self.settle()
        read = self._backend.by_purpose(result)
        self._bytes.update(read)
        for request, part in zip(requests, self._parts(step, read), strict=True):
            request.bytes.update(part)

    def add_draft(self, request: Request, nbytes: int) -> None:
        """A draft model read so many bytes for a request."""
        self._bytes[DRAFT] += nbytes
        request.bytes[DRAFT] += nbytes

    def _add_one(self, request: Request, result: StepResult) -> None:
        """The step of one request; one that begins where its last one ended is joined to it."""
        if self._open and self._open[0] is request and self._open[2].counts[1] is result.counts[0]:
            self._open = request, self._open[1], result
        else:
            self.settle()
            self._open = request, result, result
        if request.done:
            self.settle()

    def settle(self) -> None:
        """Add up what is not yet."""
        if self._open is None:
            return
        (request, first, last), self._open = self._open, None
        read = self._backend.by_purpose(first.joined(last))
        self._bytes.update(read)
        request.bytes.update(read)

    @property
    def bytes(self) -> Counter[str]:
        """By purpose, as the kernels counted."""
        self.settle()
        return self._bytes

    def _parts(self, step: Step, read: dict[str, int]) -> list[dict[str, int]]:
        """Each sequence's part of what was read by purpose."""
        parts: list[dict[str, int]] = [{} for _ in step.sequences]
        for purpose, total in read.items():
            for part, n in zip(parts, divided(total, self._weights(step, purpose)), strict=True):
                part[purpose] = n
        return parts

    def _weights(self, step: Step, purpose: str) -> list[int]:
        """In which proportion sequences share a purpose."""
        sequences = step.sequences
        if purpose in (KV_READ, KV_WRITE):
            return [
                sum(n * (c.read_bytes(s) if purpose == KV_READ else c.write_bytes(s)) for n, c in self._groups)
                for s in sequences
            ]
        if purpose == HEAD:
            return [len(s.logit_rows) for s in sequences]
        return [1 if purpose in (STATE_READ, STATE_WRITE) else s.new for s in sequences]


def divided(total: int, weights: Sequence[int]) -> list[int]:
    """`total` in proportion to `weights`; what does not divide goes to the first that has any."""
    whole = sum(weights)
    if not whole:
        return [total, *[0] * (len(weights) - 1)]
    parts = [total * weight // whole for weight in weights]
    parts[next(i for i, weight in enumerate(weights) if weight)] += total - sum(parts)
    return parts


def position_bytes(graph: Graph) -> int:
    """Bytes of KV cache that a position takes."""
    return sum(cache.position_bytes for cache in graph.caches if isinstance(cache, KVCache))
