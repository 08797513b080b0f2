"""Generating text: prefill in steps, then one token after another, each with the ledger of its step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from memfirst.backends.base import Backend, StepResult
from memfirst.graph import Sequence as Row
from memfirst.graph import Step
from memfirst.ledger import Ledger
from memfirst.runtime.cache import BlockTables
from memfirst.runtime.sampling import Sampler
from memfirst.text import StopStrings, StreamDecoder, Tokenizer

if TYPE_CHECKING:
    from memfirst.runtime.report import Report

EOS, LENGTH, STOP, CONTEXT = "eos", "length", "stop", "context"
"""Why an answer ended: the model said so, `max_tokens`, a stop string, or a full context (the policy: it stops)."""


@dataclass(frozen=True)
class Token:
    """One generated token.

    text       what can be shown now: a token that ends inside a character gives "", the next one the whole
    id         the token; the one that ended the answer is not given
    predicted  where its step's bytes go, from the program
    recorded   where they went, counted by the kernels that ran (empty on the reference backend)
    """

    text: str
    id: int
    _step: Step = field(repr=False)
    _backend: Backend = field(repr=False)
    _result: StepResult = field(repr=False)

    @property
    def predicted(self) -> Ledger:
        return self._backend.predicted(self._step)

    @property
    def recorded(self) -> Ledger:
        return self._backend.recorded(self._step, self._result)


class Context:
    """One sequence's tokens and blocks; keeps what a new prompt shares with the old one.

    recurrent  the model has state, which cannot be cut: it is kept whole or begun again. A step reads one slot of it
               and writes another, so that an interrupted one leaves what was there
    """

    def __init__(self, blocks: BlockTables, limit: int, recurrent: bool = False) -> None:
        self.blocks, self.limit, self.recurrent = blocks, limit, recurrent
        self.ids: list[int] = []
        self.state = (0, 0)  # tokens that it has seen, and its slot

    def rewind(self, ids: Sequence[int]) -> int:
        """Keep the longest common beginning with `ids`, except the last token (its logits are wanted)."""
        same = 0
        for a, b in zip(self.ids, ids[:-1], strict=False):
            if a != b:
                break
            same += 1
        if self.recurrent and same != self.state[0]:
            same = 0
        same = self.blocks.cut(same)
        self.ids = self.ids[:same]
        return same

    def run(
        self, backend: Backend, ids: Sequence[int], logits: tuple[int, ...] | None = None
    ) -> tuple[Step, StepResult]:
        """Do one step of new tokens. Interrupted, the context is as if it had not begun."""
        past = len(self.ids)
        self.blocks.reserve(past + len(ids))
        slot = self.state[1]
        other = 1 - slot if self.recurrent else slot
        row = Row(past, len(ids), self.blocks.tables, logits=logits, state_read=slot, state_write=other)
        step = Step((row,))
        out = backend.step(step, ids)
        self.state = (past + len(ids), other)
        self.ids += ids
        self.blocks.advance(len(self.ids))
        return step, out


@dataclass
class Timing:
    """Seconds and tokens of an answer. Time that the caller takes between tokens does not count."""

    prompt_tokens: int = 0
    reused_tokens: int = 0
    prefill_s: float = 0.0
    tokens: int = 0
    decode_s: float = 0.0
    steps_s: float = 0.0
    decoded_bytes: int = 0
    decode_steps: int = 0


class Generation:
    """An answer: iterate it for tokens; then `text`, `stop_reason`, `timing`, `report()`, `line()`."""

    def __init__(
        self,
        context: Context,
        backend: Backend,
        tokenizer: Tokenizer,
        prompt: Sequence[int],
        sampler: Sampler,
        max_tokens: int | None,
        stop: Sequence[str],
        describe: Callable[[Generation], Report],
    ) -> None:
        self.timing, self.stop_reason, self.text = Timing(), "", ""
        self.ids: list[int] = []
        self.first_token_at = 0.0
        self.last_step: Step | None = None
        self._context, self._backend, self._prompt = context, backend, list(prompt)
        self._sampler, self._decoder, self._stops = sampler, StreamDecoder(tokenizer), StopStrings(stop)
        self._stop_ids, self._limit, self._describe = tokenizer.stop_ids, max_tokens, describe
        self._final: Report | None = None
        self._tokens = self._run()

    def __iter__(self) -> Iterator[Token]:
        return self._tokens

    def report(self) -> dict[str, Any]:
        """Everything that is known of the answer, for JSON."""
        return self._report().json()

    def line(self) -> str:
        """The answer's cost in one line; its ceiling is measured once the answer is complete."""
        return self._report().line()

    def _report(self) -> Report:
        """Once the answer is complete, always the same: its ceiling is measured once."""
        if not self.stop_reason:
            return self._describe(self)
        if self._final is None:
            self._final = self._describe(self)
        return self._final

    def _prefill(self) -> tuple[Step, StepResult]:
        """The prompt in steps; logits of its last token. Returns to Python between steps, so that Ctrl-C is felt."""
        start = time.perf_counter()
        self.timing.reused_tokens = self._context.rewind(self._prompt)
        left = self._prompt[self.timing.reused_tokens :]
        self._sampler.accept_all(self._prompt)
        while len(left) > self._backend.max_tokens:
            self._context.run(self._backend, left[: self._backend.max_tokens], logits=())
            left = left[self._backend.max_tokens :]
        result = self._context.run(self._backend, left)
        self.timing.prompt_tokens = len(self._prompt)
        self.timing.prefill_s = time.perf_counter() - start
        return result

    def _run(self) -> Iterator[Token]:
        step, result = self._prefill()
        start = time.perf_counter()
        while True:
            row = result.logits[0]
            id = self._sampler.sample(row)
            text = self._accept(id)
            self.timing.tokens = len(self.ids)
            if not self.first_token_at:
                self.first_token_at = time.time()
            self.timing.decode_s += time.perf_counter() - start
            if text or self.stop_reason != EOS:
                yield Token(text, id, step, self._backend, result)
            if self.stop_reason:
                return
            start = time.perf_counter()
            step, result = self._context.run(self._backend, [id])
            self.timing.steps_s += time.perf_counter() - start
            self.timing.decode_steps += 1
            self.last_step = step

    def _accept(self, id: int) -> str:
        """Take a sampled token in; returns the text that can be shown, and sets `stop_reason` where it ends here."""
        if id in self._stop_ids:
            self.stop_reason = EOS
            return self._last()
        self._sampler.accept(id)
        self.ids.append(id)
        shown, stopped = self._stops.push(self._decoder.push(id))
        self.text += shown
        if stopped:
            self.stop_reason = STOP
        elif self._limit is not None and len(self.ids) >= self._limit:
            self.stop_reason = LENGTH
        elif len(self._context.ids) >= self._context.limit:
            self.stop_reason = CONTEXT
        return shown + self._last() if self.stop_reason in (LENGTH, CONTEXT) else shown

    def _last(self) -> str:
        """Text that was held back."""
        shown, stopped = self._stops.push(self._decoder.flush())
        rest = shown if stopped else shown + self._stops.flush()
        self.text += rest
        return rest
