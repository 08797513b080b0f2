"""Whose request is begun next: turns of clients by the bytes that were read for them, within a client by priority.

Start-time fair queueing (Goyal, Vin and Cheng 1996) with bytes for packets' lengths: the next request is of the client
for whom least was read while it had something to ask. Who was away gets no credit for it, so that nobody is kept out by
a burst of who comes back; a hundred requests of one client delay another's single one by at most the places taken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from memfirst.runtime.request import Request

CHUNK = 64
"""Tokens of a prompt that read the weights once, as in a step beside others."""

ANSWER = 128
"""Tokens of an answer that has no limit but the context: what is charged for it in advance."""

MOST_AWAY = 1024
"""Clients without requests of whom it is remembered what was read for them."""


class Turns:
    """Bytes that were read for each client with requests, those in advance that its begun requests are predicted to
    read.

    weights   bytes of all weights; position: of KV cache that a position takes
    """

    def __init__(self, weights: int, position: int) -> None:
        self._weights, self._position = weights, position
        self._read: dict[str, float] = {}
        self._now = 0.0
        """What had been read for the client of the latest begun request before it."""
        self._live = Counter[str]()
        self._charged: dict[int, float] = {}
        self._begun = 0

    def arrive(self, request: Request) -> None:
        """A request is there."""
        client = request.client
        if len(self._read) > MOST_AWAY + len(self._live):
            self._read = {c: n for c, n in self._read.items() if c in self._live or n > self._now}
        if not self._live[client]:
            self._read[client] = max(self._read.get(client, 0.0), self._now)
        self._live[client] += 1

    def begin(self, request: Request) -> None:
        """It is its turn: its client is charged what it is predicted to read. Taken up again, it was charged already,
        and keeps its place."""
        if request.turn is not None:
            return
        request.turn, self._begun = self._begun, self._begun + 1
        before = self._of(request.client)
        self._now = max(self._now, before)
        charge = self._charged[request.number] = self.predicted(request)
        self._read[request.client] = before + charge

    def leave(self, request: Request) -> None:
        """It ended, or was given up: its client has read what it has come to."""
        client = request.client
        charge = self._charged.pop(request.number, None)
        if charge is not None:
            prompt = min(request.reached, len(request.prompt))
            self._read[client] = self._of(client) + self._cost(request, prompt, request.generated) - charge
        self._live[client] -= 1
        if self._live[client] > 0:
            return
        self._live.pop(client, None)
        if not self._live:
            self._read.clear()
            self._now = 0.0
        elif self._of(client) <= self._now:  # as if it had never been here
            self._read.pop(client, None)

    def rebuild(self, live: Iterable[Request]) -> None:
        """After an interruption: who has requests, and which of them are charged. What was read for them is as good."""
        requests = list(live)
        self._live = Counter(request.client for request in requests)
        numbers = {request.number for request in requests}
        self._charged = {number: charge for number, charge in self._charged.items() if number in numbers}

    def _of(self, client: str) -> float:
        """What was read for a client; one of whom nothing is known begins beside the others."""
        return self._read.get(client, self._now)

    def predicted(self, request: Request) -> float:
        """Bytes that a request reads at most, of one without a limit in all likelihood."""
        most = min(ANSWER if request.max_tokens is None else request.max_tokens, request.limit - len(request.prompt))
        return self._cost(request, len(request.prompt), max(1, most))

    def _cost(self, request: Request, prompt: int, answer: int) -> float:
        """Bytes that so much of a request reads alone: weights for each part of what is computed of its prompt and for
        each token, and for these what is cached."""
        computed = max(0, prompt - request.timing.reused_tokens)
        return self._weights * (computed / CHUNK + answer) + self._position * answer * (prompt + answer / 2)

    def order(self, waiting: Sequence[Request]) -> Iterator[Request]:
        """Requests in the order in which they are to be begun: first who had to make room, the oldest first, then by
        turns of their clients."""
        again = sorted((r for r in waiting if r.turn is not None), key=age)
        yield from again
        lines: dict[str, list[Request]] = {}
        for request in waiting:
            if request.turn is None:
                lines.setdefault(request.client, []).append(request)
        for line in lines.values():
            line.sort(key=age, reverse=True)
        read = {client: self._of(client) for client in lines}
        while lines:
            client = min(lines, key=lambda name: (read[name], age(lines[name][-1])))
            request = lines[client].pop()
            read[client] += self.predicted(request)
            if not lines[client]:
                del lines[client]
            yield request


def age(request: Request) -> tuple[int, int, int]:
    """Sorts begun requests in the order in which they were begun; behind them others by priority, then arrival."""
    return (1 << 62 if request.turn is None else request.turn, request.priority, request.number)
