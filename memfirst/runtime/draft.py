"""A draft model: a small one of the same vocabulary proposes tokens that the model checks several to a step.

It has a KV cache of its own, one slot for each answer that it drafts for. A slot knows the tokens that it holds: what
was proposed and not kept is cut off before the next proposal. So whatever becomes of an answer (preempted, cancelled,
interrupted in the middle of a step), its slot is never wrong, at most behind.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from memfirst.backends.cpu.backend import CpuBackend, CpuOptions
from memfirst.errors import ConfigError, UnsupportedError
from memfirst.formats.checkpoint import Checkpoint
from memfirst.graph import Graph, Step, decode
from memfirst.graph import Sequence as Row
from memfirst.graph.traffic import STREAMED
from memfirst.ledger import Memory
from memfirst.lower.cpu import Lowering
from memfirst.models import build
from memfirst.progress import Progress
from memfirst.runtime.accounts import divided
from memfirst.runtime.placing import needed
from memfirst.runtime.request import Origin, Request
from memfirst.runtime.sharing import Sharing, context_bytes
from memfirst.runtime.speculation import OFF
from memfirst.speculate.account import MODEL_PRIOR, Costs, alike
from memfirst.text import Tokenizer

SLOTS = 4
"""Answers that it drafts for at a time: with four in a step, eight rows leave one drafted token for each."""

NEAR = 8
"""Tokens that a slot may be behind and still propose: they are computed with the first proposal."""

LEAST_RATIO = 8
"""How many times as many bytes as the draft's a token of the model must read. A proposal costs a row, 0.2 to 0.3 of a
step, and the draft's part of one: with 0.7 of them kept and rows of 0.27, two make 1.22 times the tokens a time at 1/8,
0.99 times at 1/3."""

WEIGHT, MEMORY, AGAIN = 8.0, 0.995, 8
"""Drafted tokens that the prior share counts for, what is left of a count with each later draft, and after how many
answers a model is tried again that did not pay."""

TIMES = 31
"""Proposals that the median of their seconds is over."""


@dataclass(frozen=True)
class DraftStep:
    """A step of a draft model, the requests that it was for in its order, and each one's part of the streamed bytes."""

    origins: tuple[Origin, ...]
    requests: tuple[Request, ...]
    parts: tuple[int, ...]


@dataclass
class Slot:
    """Tokens whose keys and values it holds, and whose they are."""

    tables: tuple[tuple[int, ...], ...]
    ids: list[int] = field(default_factory=list)
    owner: Request | None = None


@dataclass(frozen=True)
class Opened:
    """A draft model before its weights are read.

    need  what it takes besides the model that it drafts for
    """

    checkpoint: Checkpoint
    lowering: Lowering
    options: CpuOptions
    need: Memory

    @classmethod
    def of(cls, checkpoint: Checkpoint, target: Graph, context: int, slots: int, threads: int) -> Opened:
        """As large as it must be for so many answers at a time; UnsupportedError where it cannot draft for `target`."""
        graph = build(checkpoint)
        for name, one in (("draft model", graph), ("model", target)):
            if one.states:
                raise UnsupportedError(
                    f"the {name} is recurrent ({one.architecture})",
                    "one whose cache can be cut where a proposal was wrong",
                    "load the model without a draft",
                    "leave out --draft",
                )
        context = min(context, graph.context)
        lowering, options = Lowering(graph, context), CpuOptions(threads, context, slots, drafts=True)
        need = needed(lowering, Sharing(slots, options.blocks(graph), 0), threads)
        return cls(checkpoint, lowering, options, need)

    def load(self, target: CpuBackend, progress: Progress) -> DraftModel:
        """Read its weights; it steps with the threads of `target`, which waits meanwhile."""
        made = CpuBackend(
            self.lowering.graph, self.checkpoint, self.options, self.lowering, progress, pool=target.pool
        )  # fmt: skip
        found = DraftModel(made, target)
        if found.ratio * LEAST_RATIO > 1:
            progress.note(
                f"the draft model reads 1/{1 / found.ratio:.1f} of the model's bytes a token: below 1/{LEAST_RATIO}"
                " it seldom pays, and is left alone where it does not"
            )
        return found


def check_vocabulary(model: Tokenizer, draft: Tokenizer) -> None:
    """ConfigError unless each token means the same to both; either may have more of them at its end, as padding."""
    for id in range(min(model.vocab_size, draft.vocab_size)):
        ours, its = model.token(id), draft.token(id)
        if ours != its and ours and its:
            raise ConfigError(
                f"token {id} of the draft model is {its!r:.40}",
                f"{ours!r:.40}, as of the model: the same vocabulary",
                "draft with a smaller model of the same family",
                "give --draft a smaller model of the same family",
            )


def opened(
    draft: Checkpoint, checkpoint: Checkpoint, graph: Graph, context: int, sharing: Sharing, threads: int,
    backend: str, speculate: str,
) -> tuple[Opened, Tokenizer]:  # fmt: skip
    """A draft model for another, and the other's tokenizer; ConfigError or UnsupportedError where it cannot be one.

    It drafts for as many answers as the model's cache holds whole contexts, `SLOTS` at most.
    """
    if backend != "cpu":
        raise ConfigError(f"a draft model with the {backend} backend", "the cpu backend: its rows are exact")
    if speculate == OFF:
        raise ConfigError('a draft model with speculate="off"', "one of the two")
    if not draft.has_bytes:
        raise UnsupportedError(f"{draft.path} holds shapes but no weights", "a draft model with weights")
    contexts = sharing.nbytes(graph) // max(1, context_bytes(graph, context))
    slots = max(1, min(SLOTS, sharing.sequences, contexts))
    found, words = Opened.of(draft, graph, context, slots, threads), Tokenizer.of(checkpoint)
    check_vocabulary(words, Tokenizer.of(draft))
    return found, words


class DraftModel:
    """Proposes tokens. It belongs to whoever steps the engine."""

    def __init__(self, backend: CpuBackend, target: CpuBackend) -> None:
        self.backend = backend
        self.context = backend.options.context
        self.vocab = min(backend.graph.vocab_size, target.graph.vocab_size)
        self.ratio = (
            backend.predicted(decode(0)).streamed.mean / target.predicted(decode(0)).streamed.mean
        )  # fmt: skip
        """Its bytes a token by those of the model."""
        self.slots = [Slot(backend.own_tables(i)) for i in range(backend.options.sequences)]
        self._seconds: deque[float] = deque(maxlen=TIMES)
        self._hits, self._misses = WEIGHT * MODEL_PRIOR, WEIGHT * (1 - MODEL_PRIOR)
        self._answers, self._latest = 0, -1
        self._steps: list[DraftStep] = []

    @property
    def share(self) -> float:
        """Of its proposals, those that were kept, given that all before them were; of all answers."""
        return self._hits / (self._hits + self._misses)

    def learn(self, drafted: int, kept: int) -> None:
        """Of so many proposals so many were kept."""
        if drafted:
            self._hits = self._hits * MEMORY + kept
            self._misses = self._misses * MEMORY + (kept < drafted)

    def each(self, costs: Costs) -> float:
        """What a proposal takes, where t(1) is 1: as measured, else by bytes."""
        known = len(self._seconds) >= 5 and costs.unit
        return median(self._seconds) / costs.unit if known else self.ratio

    def owns(self, request: Request) -> bool:
        """Whether a slot is the request's."""
        return any(slot.owner is request for slot in self.slots)

    def takes(self, request: Request, pays: bool) -> bool:
        """Whether it drafts for a request that begins: a slot is its own, or to be had. `pays`: proposals were worth
        their time in other answers."""
        if self.owns(request):
            return True
        free = [slot for slot in self.slots if slot.owner is None or slot.owner.done]
        if not free or max(request.ids, default=0) >= self.backend.graph.vocab_size:
            return False
        self._answers, self._latest = self._answers + (self._latest != request.number), request.number
        if not pays and self._answers % AGAIN:
            return False
        slot = max(free, key=lambda slot: alike(slot.ids, request.ids))  # the last turn of the same conversation
        slot.owner = request
        return True

    def follow(self, request: Request, end: int) -> None:
        """Compute some of its tokens up to `end`, as many as a step holds: the prompt, beside the model's own steps."""
        slot = self._of(request)
        end = min(end, len(slot.ids) + self.backend.max_tokens)
        if len(slot.ids) < end <= self.context:
            self._step([(request, slot, request.ids[len(slot.ids) : end])], logits=False)

    def room(self, request: Request) -> int:
        """How many proposals it may be asked for: as its context has room for after what came. None behind tokens that
        it does not know, and while it has much to compute before."""
        if not self.owns(request):
            return 0
        coming = request.ids[len(self._of(request).ids) :]
        if max(coming) >= self.backend.graph.vocab_size:
            return 0
        if len(coming) > NEAR:
            self.follow(request, len(request.ids))
            return 0
        return max(0, self.context - len(request.ids))

    def propose(self, asked: Sequence[tuple[Request, int]]) -> list[list[int]]:
        """So many likeliest next tokens for each, one after the other; in steps that all of them share."""
        begin, out = time.perf_counter(), [list[int]() for _ in asked]
        waiting = [(r, slot, r.ids[len(slot.ids) :]) for r, slot in ((r, self._of(r)) for r, _ in asked)]
        rounds = max(n for _, n in asked)
        for i in range(rounds):
            active = [j for j, (_, n) in enumerate(asked) if n > i]
            rows = self._step([waiting[j] for j in active], logits=True)
            for j, row in zip(active, rows, strict=True):
                out[j].append(row)
                waiting[j] = (*waiting[j][:2], [row])
        self._seconds.append((time.perf_counter() - begin) / rounds)
        return out

    def taken(self) -> list[DraftStep]:
        """Its steps since the last call."""
        steps, self._steps = self._steps, []
        return steps

    def _of(self, request: Request) -> Slot:
        """The request's slot, cut to what it has in common with its tokens; the last one is always computed again."""
        slot = next(slot for slot in self.slots if slot.owner is request)
        had = len(slot.ids)
        common = had if request.ids[:had] == slot.ids else alike(slot.ids, request.ids)
        slot.ids = slot.ids[: min(common, len(request.ids) - 1)]
        return slot

    def _step(self, parts: Sequence[tuple[Request, Slot, list[int]]], logits: bool) -> list[int]:
        """Compute tokens of each, and the likeliest next one of each where logits are wanted."""
        rows = [Row(len(slot.ids), len(part), slot.tables, logits=None if logits else ()) for _, slot, part in parts]
        step = Step(tuple(rows))
        result = self.backend.step(step, [id for _, _, part in parts for id in part])
        for _, slot, part in parts:
            slot.ids = [*slot.ids, *part]
        read = sum(n for purpose, n in self.backend.by_purpose(result).items() if purpose in STREAMED)
        shares = divided(read, [len(part) for _, _, part in parts])
        origins = tuple(Origin(step, i, self.backend, result) for i in range(len(parts)))
        self._steps.append(DraftStep(origins, tuple(request for request, _, _ in parts), tuple(shares)))
        return result.logits[:, : self.vocab].argmax(1).tolist() if logits else []

    def close(self) -> None:
        """End it, and the threads that it shares."""
        self.backend.close()
