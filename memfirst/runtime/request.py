"""A request: tokens asked for and given, the sequence that caches them, how the next is chosen, why it ended."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from memfirst.backends.base import Backend, FromDisk, StepResult, observed
from memfirst.codecs.base import F32
from memfirst.errors import MemfirstError
from memfirst.graph import Step
from memfirst.ledger import Ledger, share, with_drafts
from memfirst.runtime.allowed import Allowed
from memfirst.runtime.grammar import Constraint
from memfirst.runtime.kv_memory import SequenceState
from memfirst.runtime.logprobs import Logprob
from memfirst.runtime.prefix_page import Page
from memfirst.runtime.sampling import Sampler
from memfirst.speculate.drafter import Drafter
from memfirst.text import StopStrings, StreamDecoder, Tokenizer

EOS, LENGTH, STOP, CONTEXT = "eos", "length", "stop", "context"
"""Why an answer ended: the model said so, `max_tokens`, a stop string, or a full context."""

MOST_AHEAD = 8
"""Tokens that a request may be ahead of its reader: who reads slowly does not fill memory, nor take others' steps."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The step that gave a token: its sequence there, the backend, and what the step gave; and the steps of a draft
    model since the one before."""

    step: Step
    index: int
    backend: Backend
    result: StepResult
    drafts: tuple[Origin, ...] = ()

    @property
    def predicted(self) -> Ledger:
        """The sequence's share of the price, once it is known what was left to chance."""
        step = observed(self.backend, self.step, self.result)
        own = share(self.backend.graph, self.backend.predicted(step), step, self.index)
        return with_drafts(own, (draft.predicted for draft in self.drafts))

    @property
    def recorded(self) -> Ledger:
        """Its share of what the kernels counted."""
        own = share(self.backend.graph, self.backend.recorded(self.step, self.result), self.step, self.index)
        return with_drafts(own, (draft.recorded for draft in self.drafts))


class Token:
    """One generated token.

    text  what can be shown now: a token that ends inside a character gives "", the next one the whole
    id    the token; the one that ended the answer is not given
    origin  None for a token that its grammar left no choice of: it is computed with the next one
    logprobs  its own, and those of the likeliest tokens in its place; none unless they were asked for
    """

    __slots__ = ("_origin", "id", "logprobs", "text")

    def __init__(
        self,
        text: str,
        id: int,
        origin: Origin | None,
        logprobs: tuple[Logprob, ...] = (),
    ) -> None:
        self.text, self.id = text, id
        self.logprobs = logprobs
        self._origin = origin

    def __repr__(self) -> str:
        return f"Token(text={self.text!r}, id={self.id})"

    def __str__(self) -> str:
        return self.text

    @property
    def logprob(self) -> float | None:
        """The logarithm of its probability; None unless `logprobs=` was given."""
        return self.logprobs[0].logprob if self.logprobs else None

    @property
    def top_logprobs(self) -> tuple[Logprob, ...]:
        """Of the likeliest tokens in its place, the likeliest first; as many as were asked for."""
        return self.logprobs[1:]

    @property
    def predicted(self) -> Ledger:
        """Where its step's bytes go, from the program and the recorded routing; of a step for several sequences this
        one's share: its own KV cache and state, and its part of what is read once for all. The shares sum to the step,
        as integers. Nothing for a token without a step of its own."""
        return self._origin.predicted if self._origin else Ledger((), 0)

    @property
    def recorded(self) -> Ledger:
        """Where they went, counted by the kernels that ran; shared as `predicted`. Empty where nothing is counted."""
        return self._origin.recorded if self._origin else Ledger((), 0)


@dataclass
class Timing:
    """Seconds and tokens of an answer. Time that the caller takes between tokens does not count.

    queued_s   from being submitted to its first step
    prefill_s  of its steps up to the first token
    decode_s   of its steps after that, sampling and text included; steps_s: of these, in the backend
    drafted    tokens that were checked beside those of decode_steps; kept: of these, tokens of the answer
    forced     tokens without a step that ends in their logits, as a grammar left no choice
    draft_steps, draft_bytes  of a draft model since the first token, and its part of what they read from memory
    """

    prompt_tokens: int = 0
    reused_tokens: int = 0
    queued_s: float = 0.0
    prefill_s: float = 0.0
    tokens: int = 0
    decode_s: float = 0.0
    steps_s: float = 0.0
    decode_steps: int = 0
    drafted: int = 0
    kept: int = 0
    forced: int = 0
    draft_steps: int = 0
    draft_bytes: int = 0
    disk_bytes: int = 0
    """Read from disk by its steps after the first token, also for others."""
    sketched: int = 0
    """Of decode_steps, those that went by the sketch of the output head; listed: tiles that these read in full."""
    listed: int = 0
    experts_found: int = 0
    experts_missing: int = 0
    """Of the routed experts on disk that these steps needed, those that memory held and those that it did not."""

    def add_disk(self, read: FromDisk) -> None:
        """What one more of these steps read from disk."""
        self.disk_bytes += read.total
        self.experts_found += sum(read.resident.values())
        self.experts_missing += read.missing

    @property
    def decoded(self) -> int:
        """Tokens after the first."""
        return self.decode_steps + self.kept + self.forced


@dataclass(slots=True)
class Counted:
    """Bytes counted from an answer's first decoding step to its last, `steps` of the engine.

    shared  some of them were for others too
    """

    before: NDArray[np.int64]
    first: int
    after: NDArray[np.int64]
    last: int
    shared: bool

    @property
    def steps(self) -> int:
        """Of the engine, for whomever."""
        return self.last - self.first + 1


@dataclass(eq=False)
class Request:
    """One answer to be made. All but `take` belongs to the thread that steps the engine.

    prompt        its tokens, at least one
    make_sampler  gives the same sampler each time: an answer can be begun again
    max_tokens    most tokens to generate; None: as many as fit
    limit         positions that the context has
    logprobs      how many likeliest tokens are wanted with their log-probabilities; None: not the chosen one's either
    ahead         tokens that it may be ahead of its reader; None: any, as for one of a list that is read in order
    end_ids       tokens that end the answer besides the tokenizer's
    least         tokens to generate before one may end the answer; `endless`: none may
    speculate     check drafted tokens in its steps, where that is faster: the answer is the same
    prediction    tokens that the answer may be like, for drafts
    constrain     gives the beginning of the grammar that the answer follows, each time; None: it follows none
    special       control tokens are part of its text, as who reads calls of tools needs them
    client        whose it is: clients take turns; priority: the lowest of a client's goes first
    """

    prompt: Sequence[int]
    make_sampler: Callable[[], Sampler]
    tokenizer: Tokenizer
    max_tokens: int | None
    stop: Sequence[str]
    limit: int
    logprobs: int | None = None
    ahead: int | None = MOST_AHEAD
    end_ids: Sequence[int] = ()
    least: int = 0
    endless: bool = False
    speculate: bool = False
    prediction: Sequence[int] = ()
    constrain: Callable[[], Constraint] | None = None
    special: bool = False
    client: str = ""
    priority: int = 0
    timing: Timing = field(default_factory=Timing)
    number: int = -1
    """Its place in the order of arrival; `turn`: in that in which requests were begun, None before."""
    turn: int | None = None
    sequence: SequenceState | None = None
    events: deque[Token] = field(default_factory=deque)
    stop_reason: str = ""
    error: BaseException | None = None
    cancelled: bool = False
    paused: bool = False
    """Its reader had enough to read when the step was scheduled: readers go on reading meanwhile."""
    preempted: bool = False
    """Whether it had to make room once: what it goes on from then is its own."""
    parked: Page | None = None
    """The page that it ended in when it made room: it and those before it are wanted until it goes on."""
    cached: int = 0
    """Positions that it had cached after its last step; `reached`: after any."""
    reached: int = 0
    last_step: Origin | None = None
    """The last step that decoded a token of it."""
    bytes: Counter[str] = field(default_factory=Counter)
    """Its part of what its steps read, by purpose, where accounts are kept: all of it once it has ended, or they are
    settled."""
    submitted_at: float = 0.0
    drafter: Drafter | None = None
    """Made when a token is first drafted, and again after an interruption."""
    counted: Counted | None = None
    """What kernels counted over the steps of its answer."""
    _given: int = 0
    _skip: int = 0

    def __post_init__(self) -> None:
        self.timing.prompt_tokens = len(self.prompt)
        self.stop_ids: frozenset[int] = self.tokenizer.stop_ids.union(self.end_ids)
        self.begin()

    def begin(self) -> None:
        """Start the answer, or start it again: what its reader has had already is not given twice."""
        self.ids = list(self.prompt)
        self.sampler = self.make_sampler()
        self.sampler.accept_prompt(self.prompt)
        self.decoder, self.stops = StreamDecoder(self.tokenizer, self.special), StopStrings(self.stop)
        self._constraint: Constraint | None = None  # made when a token is chosen: it takes memory
        self._allowed: Allowed | None = None
        self.events.clear()
        self.stop_reason, self._skip = "", self._given

    @property
    def done(self) -> bool:
        """Nothing will be added to `events`."""
        return bool(self.stop_reason or self.error or self.cancelled)

    @property
    def generated(self) -> int:
        """Tokens generated so far."""
        return len(self.ids) - len(self.prompt)

    @property
    def longest(self) -> int:
        """Tokens that it has to compute yet, at most."""
        most = self.limit - len(self.ids) if self.max_tokens is None else self.max_tokens - self.generated
        return self.remaining + min(most, self.limit - len(self.ids))

    @property
    def banned(self) -> Iterable[int]:
        """Tokens that may not come next."""
        return self.stop_ids if self.endless or self.generated < self.least else ()

    @property
    def remaining(self) -> int:
        """Tokens that are to be computed before the next one is known."""
        return len(self.ids) - (len(self.sequence.ids) if self.sequence else 0)

    @property
    def reusable(self) -> int:
        """Tokens at its beginning that may come from the cache: all but the last, whose logits are wanted."""
        return len(self.ids) - 1

    def rows(self, past: int, new: int) -> tuple[int, ...]:
        """Which of `new` tokens after `past` give hidden rows that are wanted (`embedding`): none of an answer's."""
        return ()

    def take_rows(self, past: int, rows: Sequence[int], values: Sequence[F32]) -> None:
        """These rows."""

    def take(self) -> Token | None:
        """The next token for the reader; None at the end. Raises what ended the request."""
        if self.events:
            self._given += 1
            return self.events.popleft()
        if self.error is not None:
            raise self.error
        return None

    def give(self, token: Token) -> None:
        """A token for the reader, unless it had it before the answer was begun again."""
        if self._skip:
            self._skip -= 1
        else:
            self.events.append(token)

    def choose(self, logits: F32) -> int:
        """The next token for logits f32 [vocab]."""
        allowed = self._next()
        if allowed is None:
            return self.sampler.sample(logits, self.banned)
        # Where its grammar is complete the answer ends, `endless` or not.
        return self.sampler.sample(logits, () if allowed.within(self.stop_ids) else self.banned, allowed)

    def forced(self) -> int | None:
        """The next token where the grammar leaves no choice, so that no logits are needed; they are where somebody
        wants log-probabilities."""
        if self._constraint is None or self.done or self.logprobs is not None:
            return None
        allowed = self._next()
        id = allowed.only if allowed is not None else None
        if id is not None:
            self.sampler.skip()
        return id

    def tiles(self) -> frozenset[int] | None:
        """Tiles of the output head with all tokens that may come next; None where its whole is wanted: without a
        grammar, where it allows nearly all, and for log-probabilities."""
        if self.constrain is None or self.logprobs is not None:
            return None
        try:
            allowed = self._next()
        except MemfirstError:  # said where the token is chosen, which ends the request and no step of others
            return None
        return allowed.tiles if allowed is not None and allowed.are_few else None

    @property
    def likeliest(self) -> bool:
        """Whether its next token is that of the largest logit, whatever the others are."""
        free = self.constrain is None and self.logprobs is None and not self.banned
        return free and self.sampler.likeliest

    def _next(self) -> Allowed | None:
        """What the grammar allows next; None without one."""
        if self.constrain is None:
            return None
        self._constraint = self._constraint or self.constrain()
        self._allowed = self._allowed or self._constraint.allowed()
        return self._allowed

    def accept(self, id: int) -> str | None:
        """Take a sampled token in, and set `stop_reason` where the answer ends; the text to show, None for none."""
        if id in self.stop_ids:
            text = self._rest()
            self.stop_reason = EOS
            return text or None
        self.sampler.accept(id)
        self.ids.append(id)
        if self._constraint is not None:
            self._constraint.accept(id)
            self._allowed = None
        text, stopped = self.stops.push(self.decoder.push(id))
        if stopped:
            self.stop_reason = STOP
        elif self._constraint is not None and self._constraint.ended:  # only the end could follow
            text += self._rest()
            self.stop_reason = EOS
        elif self.max_tokens is not None and self.generated >= self.max_tokens:
            text += self._rest()
            self.stop_reason = LENGTH
        elif len(self.ids) > self.limit:  # the last one is shown, but has no place in the cache
            text += self._rest()
            self.stop_reason = CONTEXT
        return text

    def _rest(self) -> str:
        """Text that was held back."""
        shown, stopped = self.stops.push(self.decoder.flush())
        return shown if stopped else shown + self.stops.flush()
