"""A load on a server: as many clients as asked for, or requests at random moments at a rate."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise

from memfirst.errors import ConfigError, MemfirstError
from memfirst.measure.load.ask import Form
from memfirst.measure.load.steps import Behind, Counted, Queue
from memfirst.measure.load.workload import Wanted, Workload
from memfirst.measure.probe.address import Address, parse
from memfirst.measure.probe.client import Client, shown
from memfirst.measure.probe.limits import Limits, TimeUpError
from memfirst.measure.probe.prompt import Prompts
from memfirst.measure.probe.server import Server, discover
from memfirst.measure.probe.stream import BY_CHUNKS, Stream
from memfirst.plan.load import arrivals
from memfirst.predict.load import Answered, Ask, Figures, Slo, figures
from memfirst.progress import Progress

SETTLE_S, SETTLE_TOKENS, STALL_S = 120.0, 8, 120.0
"""For the first answers, and their length; a stream may pause so long when its request has to make room for others."""

LEAST_REQUESTS, EACH = 16, 4
"""Requests of a level at least, and of each client, where no number is asked for."""

AT_RATE = 64
"""Requests of a level at a rate, where no number is asked for."""

MOST_AT_ONCE = 1024
"""Requests under way at the same time: each has a thread."""


@dataclass(frozen=True)
class Options:
    """A load.

    clients   levels of a closed loop: so many clients, each of which asks again once it is answered
    rates     levels of an open loop: requests a second in the mean, at random moments (Poisson)
    requests  of each level; 0: as many as the level needs
    seconds   of each level at most; answers that are not there by then do not count
    """

    clients: tuple[int, ...] = (1, 4, 8, 16)
    rates: tuple[float, ...] = ()
    workload: Workload = field(default_factory=Workload)
    requests: int = 0
    seconds: float = 120.0
    slo: Slo | None = None
    served: str = ""


@dataclass(frozen=True)
class Level:
    """What one level gave.

    clients, rate  which of the two it was; the other is 0
    figures     of the answers; None without any
    asked       those that were answered, in the order in which they were sent, with the lengths that the server counted
    errors      requests that were refused or broke off, by what was said; unfinished: those that time ran out for
    engine      what the engine did meanwhile, where the server says
    stopped     it was interrupted
    """

    clients: int
    rate: float
    figures: Figures | None
    asked: tuple[Ask, ...]
    cached: int
    errors: Counter[str]
    unfinished: int
    engine: Counted | None
    stopped: bool

    @property
    def label(self) -> str:
        """ "4 clients", "2 req/s"."""
        if not self.clients:
            return f"{self.rate:g} req/s"
        return f"{self.clients} client{'s' * (self.clients > 1)}"


def between(times: Sequence[float]) -> tuple[float, ...]:
    """Seconds from piece to piece that came at `times`. Those of one read, of which each but the first would have come
    in no time, share what had passed since the read before."""
    reads = [(at, len(list(same))) for at, same in groupby(times)]
    gaps = [0.0] * (reads[0][1] - 1) if reads else []
    for (before, _), (at, pieces) in pairwise(reads):
        gaps += [(at - before) / pieces] * pieces
    return tuple(gaps)


@dataclass
class Found:
    """What a load found of a server, level by level; `counted` says how tokens were counted."""

    address: str
    server: Server
    snapshot: dict[str, object] | None
    options: Options
    levels: list[Level] = field(default_factory=list)
    counted: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def interrupted(self) -> bool:
        """Ctrl-C came before all was done."""
        return any(level.stopped for level in self.levels)


def load(url: str, options: Options, key: str, progress: Progress) -> Found:
    """Put the load on the server at `url`. Ctrl-C ends it early, with what there is. ProbeError where the server cannot
    be reached or refuses the first request."""
    return _Load(parse(url), options, key, progress).run()


class _Load:
    """One load."""

    def __init__(self, address: Address, options: Options, key: str, progress: Progress) -> None:
        self.address, self.options, self.key, self.progress = address, options, key, progress
        client = self.client(SETTLE_S)
        progress.note(f"asking {address} what it serves")
        self.server = discover(client, options.served)
        self.behind = Behind(client)
        self.form, self.prompts = Form(self.server), Prompts()
        self.found = Found(str(address), self.server, self.behind.snapshot, options)

    def client(self, seconds: float) -> Client:
        """Requests within so many seconds."""
        return Client(self.address, Limits(seconds, 1 << 30, STALL_S), self.key)

    def run(self) -> Found:
        """All levels."""
        try:
            self.settle()
            levels = [(n, 0.0) for n in self.options.clients] + [(0, rate) for rate in self.options.rates]
            for index, (clients, rate) in enumerate(levels):
                self.level(index, clients, rate)
                if self.found.interrupted:
                    break
        except KeyboardInterrupt:
            if not self.found.levels:
                raise
        return self.found

    def settle(self) -> None:
        """The form of requests, and how many tokens a word is: three answers, which warm the server up too."""
        client, tokens = self.client(SETTLE_S), min(256, (self.server.context or 256) // 2)
        for number, few in enumerate((4, 24, 0)):
            words = few or self.prompts.words(tokens)
            text = self.options.workload.text(-1, number, 0, words, self.form.chat)
            stream = (
                self.form.settle(client, text, SETTLE_TOKENS)
                if not number
                else self.form.ask(client, text, SETTLE_TOKENS, 1)
            )
            if stream.prompt_tokens is not None:
                self.prompts.learn(words, stream.prompt_tokens)
            self.found.counted = stream.counted
        if self.found.counted == BY_CHUNKS:
            self.found.notes.append("the server gives no usage: tokens are counted by the pieces that come")
        if self.form.plain:
            self.found.notes.append("the server is not asked to ignore end tokens: answers may be shorter than stated")

    def level(self, index: int, clients: int, rate: float) -> None:
        """One level, with words of its own: what an earlier one left in a prefix cache is not found."""
        options = self.options
        count = options.requests or (max(LEAST_REQUESTS, EACH * clients) if clients else AT_RATE)
        wanted = options.workload.requests(count, index, self.server.context)
        self.check_fits(wanted)
        before = self.behind.counted()
        run = _Level(self, index, wanted, self.client(options.seconds))
        with Queue(self.behind) as queue:
            stopped = run.closed(clients) if clients else run.open(rate)
        after = self.behind.counted()
        engine = after - before if before is not None and after is not None else None
        done = sorted(run.done, key=lambda pair: pair[0].at)
        asked = tuple(ask for _, ask in done)
        self.found.levels.append(
            Level(
                clients,
                rate,
                figures([one for one, _ in done], queue.longest, options.slo),
                asked,
                run.cached,
                run.errors,
                run.unfinished,
                engine,
                stopped,
            )
        )

    def check_fits(self, wanted: Sequence[Wanted]) -> None:
        """ConfigError for requests that the server's context cannot hold."""
        longest, room = max(w.prompt + w.answer for w in wanted), self.server.context
        if room is not None and longest > room:
            raise ConfigError(
                f"requests of {longest} tokens", f"at most the {room} that the server holds a request",
                "shorten prompts or answers", "lower --prompt or --generate, or serve with a larger --ctx",
            )  # fmt: skip


class _Level:
    """The requests of one level, from many threads."""

    def __init__(self, load: _Load, index: int, wanted: Sequence[Wanted], client: Client) -> None:
        self.load, self.index, self.wanted, self.client = load, index, wanted, client
        self.done: list[tuple[Answered, Ask]] = []
        self.errors = Counter[str]()
        self.unfinished = self.cached = self.ended = 0
        self._lock = threading.Lock()
        self._began = 0.0

    def closed(self, clients: int) -> bool:
        """So many clients; whether it was interrupted."""
        numbers = iter(range(len(self.wanted)))

        def work() -> None:
            limits = self.client.limits
            while not limits.stop.is_set() and limits.left_s and (number := self._next(numbers)) is not None:
                self._one(number)

        return self._joined([threading.Thread(target=work, daemon=True) for _ in range(clients)])

    def open(self, rate: float) -> bool:
        """At random moments; a request counts from the moment at which it should have been sent."""
        times = arrivals([Ask(w.prompt, w.answer) for w in self.wanted], rate, self.load.options.workload.seed)
        start = self.client.limits.now()
        threads = [
            threading.Thread(target=self._one, args=(number, start + ask.at), daemon=True)
            for number, ask in enumerate(times)
        ]
        return self._joined(threads, [start + ask.at for ask in times])

    def _joined(self, threads: Sequence[threading.Thread], at: Sequence[float] = ()) -> bool:
        """Start all, each at its time, and wait for them; whether Ctrl-C came. The streams are left then."""
        started: list[threading.Thread] = []
        try:
            for number, thread in enumerate(threads):
                if at:
                    self._sleep(at[number] - self.client.limits.now())
                if self.client.limits.left_s <= 0:
                    self.unfinished += len(threads) - number if at else 0
                    break
                started.append(thread)
                thread.start()
                if len(started) > MOST_AT_ONCE and sum(t.is_alive() for t in started) > MOST_AT_ONCE:
                    raise ConfigError(f"more than {MOST_AT_ONCE} requests at once", "a rate that the server can follow")
            while any(thread.is_alive() for thread in started):
                self._show()
                time.sleep(0.05)
        except KeyboardInterrupt:
            self.client.limits.stop.set()
            for thread in started:
                thread.join(2.0)
            return True
        finally:
            self._show(whole=True)
        return False

    def _sleep(self, seconds: float) -> None:
        """Until the next request is due, showing how far it is."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._show()
            time.sleep(min(left, 0.1))

    def _show(self, whole: bool = False) -> None:
        total = len(self.wanted)
        level = f"level {self.index + 1} of {len(self.load.options.clients) + len(self.load.options.rates)}"
        self.load.progress.update(level, total if whole else min(self.ended, total), total, unit="requests")

    def _next(self, numbers: Iterator[int]) -> int | None:
        with self._lock:
            return next(numbers, None)

    def _one(self, number: int, at: float | None = None) -> None:
        """One request, which counts from `at` on; None: from when it is sent."""
        wanted, load = self.wanted[number], self.load
        prefix = load.prompts.words(wanted.shared) if wanted.shared else 0
        own = max(1, load.prompts.words(wanted.prompt) - prefix)
        text = load.options.workload.text(self.index, number, prefix, own, load.form.chat)
        at = self.client.limits.now() if at is None else at
        self._told(lambda: load.form.ask(self.client, text, wanted.answer, number), at, wanted)

    def _told(self, ask: Callable[[], Stream], at: float, wanted: Wanted) -> None:
        """Note what came of a request."""
        try:
            stream = ask()
        except TimeUpError:
            with self._lock:
                self.unfinished += 1
        except MemfirstError as error:
            with self._lock:
                self.errors[shown(error.found, 100)] += 1
        else:
            times = [event.at for event in stream.events]
            gaps = between(times)
            tokens = max(1, round(stream.events[-1].tokens))
            prompt = wanted.prompt if stream.prompt_tokens is None else stream.prompt_tokens
            with self._lock:
                self.cached += stream.cached
                answered = Answered(at, times[0], times[-1], gaps, tokens)
                self.done.append((answered, Ask(prompt, tokens, wanted.shared, at)))
        finally:
            with self._lock:
                self.ended += 1
