"""The probe: which requests, in which order, and what to make of a server that refuses some of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

from memfirst.errors import ProbeError
from memfirst.measure.probe.address import parse
from memfirst.measure.probe.ask import Dialect
from memfirst.measure.probe.client import Client, StatusError, shown
from memfirst.measure.probe.fit import Line, robust_line
from memfirst.measure.probe.limits import Limits, TimeUpError
from memfirst.measure.probe.prompt import Prompts
from memfirst.measure.probe.sample import LEAST, Sample, pooled, sample
from memfirst.measure.probe.server import Server, discover
from memfirst.measure.probe.stream import Stream
from memfirst.measure.probe.together import Row, row, together
from memfirst.progress import Progress, Silent

T = TypeVar("T")

ROUNDS = 3
"""Each context three times, up and down again, so that a server that warms or throttles bends no line."""

_WARM_WORDS, _WARM_TOKENS = 64, 16
_TOO_MUCH = (400, 413, 422)
"""What servers answer to a prompt that is longer than they take."""
_BUSY = (429, 503)
_WAIT_S, _WAITS = 1.0, 5
"""Between two requests where a busy server names no time, and how often in a row it may be busy."""
_SHORT = 8
"""Answers that are timed together where each ends too early to be timed alone."""


@dataclass(frozen=True)
class Options:
    """What to measure, and within which limits.

    contexts  tokens of the prompts; concurrency: streams at a time
    tokens    of each answer; fewer where the server is slow
    same_prompt  let a prefix cache serve the prompts
    """

    contexts: tuple[int, ...] = (16, 512, 1024, 2048)
    concurrency: tuple[int, ...] = (1, 2, 4)
    tokens: int = 64
    seconds: float = 60.0
    requests: int = 60
    served: str = ""
    same_prompt: bool = False


@dataclass(frozen=True)
class Measured:
    """What a probe found.

    decode   seconds per token against tokens of context; None where only one context was measured
    prefill  seconds to the first token against tokens of the prompt that were not cached
    rows     streams side by side, at the shortest context
    counted  how tokens were counted; notes: what was left out, and why
    """

    address: str
    server: Server
    samples: tuple[Sample, ...]
    decode: Line | None
    prefill: Line | None
    rows: tuple[Row, ...]
    counted: str
    notes: tuple[str, ...]
    requests: int
    seconds: float


def probe(url: str, options: Options, key: str = "", progress: Progress | None = None) -> Measured:
    """Measure the server at `url`. ProbeError where it cannot be reached, refuses, breaks off, or is something else."""
    limits = Limits(options.seconds, options.requests)
    return _Probe(Client(parse(url), limits, key), options, progress or Silent()).run()


class _Probe:
    """One probe of one server."""

    def __init__(self, client: Client, options: Options, progress: Progress) -> None:
        self.client, self.options, self.progress = client, options, progress
        self.limits = client.limits
        self.samples: list[Sample] = []
        self.streams: dict[int, list[Row]] = {}
        self.notes: list[str] = []
        self.counted = ""
        self.dropped: set[int] = set()
        self.waited = 0.0
        self.short = False
        self.uncounted: dict[int, str] = {}
        self.steps = 0

    def run(self) -> Measured:
        """Discover, warm up, measure until all is done or the limits are reached."""
        self.progress.note(f"asking {self.client.address} what it serves")
        server = discover(self.client, self.options.served)
        if server.busy:
            self.note(f"the server was busy with {server.busy} other requests when the probe began")
        self.dialect = Dialect(self.client, server, Prompts(same=self.options.same_prompt))
        self.warm_up()
        try:
            for number in range(ROUNDS):
                self.sweep(reverse=number % 2 == 1)
                self.crowd()
        except TimeUpError as error:
            if not self.samples:
                raise
            self.note(str(error))
        for streams in self.uncounted.keys() - self.streams.keys():
            self.note(f"{streams} streams {self.uncounted[streams]}")
        if self.waited:
            self.note(f"the server limits how often it is asked: the probe waited {self.waited:.0f} s for it in all")
        return self.result(server)

    def patient(self, ask: Callable[[], T]) -> T:
        """What `ask` gives; asked again after the time that a busy server names, as often as _WAITS in a row."""
        for _ in range(_WAITS):
            try:
                return ask()
            except StatusError as error:
                seconds = _WAIT_S if error.wait_s is None else error.wait_s
                if error.status not in _BUSY or (seconds >= self.limits.left_s and not self.samples):
                    raise
                if seconds >= self.limits.left_s:
                    raise TimeUpError(str(error)) from error
                self.limits.pause(seconds)
                self.waited += seconds
        return ask()

    def warm_up(self) -> None:
        """The first answer: the dialect, the tokens of a word, and how long answers may be."""
        stream = self.patient(lambda: self.dialect.settle(_WARM_WORDS, _WARM_TOKENS))
        self.dialect.prompts.learn(_WARM_WORDS, self.prompt_tokens(stream, _WARM_WORDS))
        self.counted = stream.counted
        self.first_s = stream.first_s / _WARM_WORDS  # per token of prompt; every longer prompt says better
        span = stream.events[-1].at - stream.events[0].at
        self.token_s = span / max(1.0, stream.events[-1].tokens - 1)
        planned = ROUNDS * (len(self.options.contexts) + sum(self.options.concurrency))
        self.planned = ROUNDS * (len(self.options.contexts) + len([k for k in self.options.concurrency if k > 1]))
        afford = self.limits.left_s / 2 / max(1e-6, self.token_s) / planned
        self.tokens = round(min(self.options.tokens, max(afford, LEAST)))

    def prompt_tokens(self, stream: Stream, words: int) -> int:
        """Tokens of the stream's prompt, asked for where the stream does not say."""
        if stream.prompt_tokens is not None:
            return stream.prompt_tokens
        known = self.dialect.prompts.seen
        return known[words] if words in known else self.patient(lambda: self.dialect.count(words))

    def sweep(self, reverse: bool) -> None:
        """One stream at each context, alone."""
        for context in sorted(self.options.contexts, reverse=reverse):
            if context in self.dropped or not self.affords(context):
                continue
            try:
                self.alone(context)
            except StatusError as error:
                if error.status not in _TOO_MUCH or not self.samples:
                    raise
                self.drop(context, str(error))
            self.stepped()

    def affords(self, context: int) -> bool:
        """Whether the server has room for `context`, and the limits for its answer; what has not is noted once."""
        room = self.dialect.server.context
        if room is not None and context + self.tokens + 16 > room:
            self.drop(context, f"the server holds {room} tokens a request")
            return False
        seconds = self.first_s * context + self.token_s * self.tokens
        if seconds > self.limits.left_s and not self.samples:
            return True  # rather try than end with nothing
        if seconds > self.limits.left_s:
            self.drop(context, f"it would take about {seconds:.0f} s more; allow more with --seconds")
            return False
        return True

    def drop(self, context: int, why: str) -> None:
        """Leave a context out from now on."""
        self.dropped.add(context)
        if not any(abs(s.prompt_tokens - context) < 0.1 * context for s in self.samples):
            self.note(f"context {context} is left out: {why}")

    def alone(self, context: int) -> None:
        """One stream; where answers end by themselves before they can be timed, several."""
        words = self.dialect.prompts.words(context)
        stream = self.stream(words)
        tokens = self.prompt_tokens(stream, words)
        found = sample(stream, tokens)
        if found is None and stream.finished != "length":
            found = self.of_short(stream, words)
        if found is None:
            count, why = f"{stream.events[-1].tokens:.0f} tokens", shown(stream.finished, 30)
            too_few = f"an answer of {count} came in {len(stream.events)} pieces, too few to time"
            self.note(too_few if why == "length" else f"an answer ended after {count} ({why})")
            return
        self.samples.append(found)
        if found.cached > tokens / 2 and not self.options.same_prompt:
            self.note("the server served prompts from a cache: its first tokens come sooner than they would")

    def stream(self, words: int) -> Stream:
        """One answer after so many words, and what it teaches of prompts."""
        stream = self.patient(lambda: self.dialect.ask(words, self.tokens))
        tokens = self.prompt_tokens(stream, words)
        self.dialect.prompts.learn(words, tokens)
        self.first_s = min(self.first_s, stream.first_s / max(1, tokens))
        return stream

    def of_short(self, first: Stream, words: int) -> Sample | None:
        """The pace of `first` and as many answers more as give enough tokens to time; None where _SHORT do not."""
        streams = [first]
        if first.events[-1].tokens <= first.events[0].tokens:
            return None
        while len(streams) <= _SHORT:
            if found := pooled(streams, [self.prompt_tokens(stream, words) for stream in streams]):
                self.short = True
                self.note("answers end by themselves after a few tokens: several are timed together")
                return found
            streams.append(self.stream(words))
        return None

    def crowd(self) -> None:
        """Several streams side by side, at the shortest context."""
        if self.short:
            self.note("streams side by side are left out: answers are too short")
            return
        words = self.dialect.prompts.words(min(self.options.contexts))
        for streams in [k for k in self.options.concurrency if k > 1]:
            if self.dialect.server.slots is not None and streams > self.dialect.server.slots:
                self.note(f"{streams} streams are left out: the server has {self.dialect.server.slots} slots")
                continue
            if self.limits.requests_left < streams:
                raise TimeUpError(f"all {self.limits.requests} requests are used", do="allow more: --max-requests")
            self.side_by_side(streams, words)
            self.stepped()

    def side_by_side(self, streams: int, words: int) -> None:
        """One row of several streams; a server that refuses or queues them is noted."""
        try:
            answers = together(lambda: self.dialect.ask(words, self.tokens), streams, self.limits)
        except StatusError as error:
            if error.status not in (429, 503):
                raise
            self.uncounted[streams] = f"are left out: {error}"
            return
        tokens = [self.prompt_tokens(stream, words) for stream in answers]
        found = row(answers, tokens)
        if found is None:
            self.uncounted[streams] = "were served one after another: their times are left out"
        else:
            self.streams.setdefault(streams, []).append(found)

    def stepped(self) -> None:
        """Draw the progress."""
        self.steps += 1
        self.progress.update("probing", min(self.steps, self.planned), self.planned, unit="")

    def note(self, text: str) -> None:
        """Say a thing once."""
        if text not in self.notes:
            self.notes.append(text)

    def result(self, server: Server) -> Measured:
        """The lines through what was measured."""
        if not self.samples:
            reason = self.notes[-1] if self.notes else "no stream was long enough"
            raise ProbeError(
                reason, f"answers of at least {LEAST} tokens, each by itself", "ask another model, or --tokens"
            )
        xs = [s.context for s in self.samples]
        decode = robust_line(xs, [s.seconds for s in self.samples]) if _spread(xs) else None
        fresh = [float(s.prompt_tokens - s.cached) for s in self.samples]
        prefill = robust_line(fresh, [s.first_s for s in self.samples]) if _spread(fresh) else None
        rows = [_middle(rows) for _, rows in sorted(self.streams.items())]
        first = [s for s in self.samples if s.prompt_tokens == min(t.prompt_tokens for t in self.samples)]
        used = self.limits.requests - self.limits.requests_left
        return Measured(
            str(self.client.address), server, tuple(self.samples), decode, prefill, (_alone(first), *rows),
            self.counted, tuple(self.notes), used, self.limits.seconds - self.limits.left_s,
        )  # fmt: skip


def _spread(xs: list[float]) -> bool:
    """Contexts apart enough for a slope: the largest at least twice the smallest."""
    return max(xs) >= 2 * min(xs)


def _middle(rows: list[Row]) -> Row:
    """The row of the median pace."""
    return sorted(rows, key=lambda r: r.seconds)[len(rows) // 2]


def _alone(samples: list[Sample]) -> Row:
    """The row of one stream."""
    seconds = median(s.seconds for s in samples)
    return Row(1, median(s.context for s in samples), seconds, 1 / seconds, median(s.first_s for s in samples))
