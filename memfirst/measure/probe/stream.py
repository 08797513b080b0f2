"""One streamed completion: when each token arrived, by the server's own count of tokens where it gives one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from memfirst.errors import FormatError, ProbeError
from memfirst.formats.json_file import parse_object
from memfirst.measure.probe.client import Answer, error_text, shown

MOST_LINE = 1 << 20
MOST_BYTES = 16 << 20
"""Of a whole stream: 64 tokens come to about 40 kB, the 4096 that can be asked for to 3 MB."""

_READ = 64 << 10
_BLANK = (b"", b"\r")
_TEXTS = ("content", "reasoning_content", "reasoning")
"""Where a chat's delta may hold what the model wrote."""

BY_CHUNK = "each chunk's own count"
BY_USAGE = "the usage at the end"
BY_CHUNKS = "one token a chunk, as the server gives no usage"


@dataclass(frozen=True)
class Event:
    """By the time `at` (seconds), `tokens` had arrived; a fraction where chunks were counted by their mean."""

    at: float
    tokens: float


@dataclass(frozen=True)
class Stream:
    """A whole completion.

    sent           when the request was sent, on the events' clock
    prompt_tokens  as the server counts them, None where it does not say; cached: those it had kept
    finished       the reason that it gave: "length", "stop", …
    counted        how the events' tokens are known: one of the three texts above
    server_s       seconds per token by the server's own clock (llama.cpp's timings), where it says
    """

    sent: float
    events: tuple[Event, ...]
    prompt_tokens: int | None
    cached: int
    finished: str
    counted: str
    server_s: float | None

    @property
    def first_s(self) -> float:
        """Seconds to the first token."""
        return self.events[0].at - self.sent


def lines(answer: Answer) -> Iterator[tuple[float, bytes]]:
    """The stream's lines but comments, each with the time at which its end arrived; of blank ones in a row the first.

    ProbeError above MOST_LINE or MOST_BYTES, or when the time is over.
    """
    rest, total, blank = b"", 0, True
    while data := answer.response.read1(_READ):
        now = answer.watch.limits.now()
        total += len(data)
        *whole, rest = (rest + data).split(b"\n")
        if len(rest) > MOST_LINE or total > MOST_BYTES:
            raise ProbeError(f"the server sends lines or streams without end: {total} bytes so far", "short events")
        answer.watch.check()
        for line in whole:
            if line[:1] == b":" or (blank and line in _BLANK):
                continue
            blank = line in _BLANK
            yield now, line.rstrip(b"\r")
    if rest:
        yield answer.watch.limits.now(), rest


@dataclass
class _Seen:
    """What a stream has said so far. `counts` has a total for each chunk with text, None where it had none."""

    times: list[float] = field(default_factory=list)
    counts: list[int | None] = field(default_factory=list)
    usage: dict[str, Any] = field(default_factory=dict)
    server: list[tuple[int, float]] = field(default_factory=list)
    finished: str = ""
    done: bool = False
    begun: bytearray = field(default_factory=bytearray)
    """Lines of an event's data that goes on."""


def read_stream(answer: Answer, most: int) -> Stream:
    """Read a completion of at most `most` tokens. ProbeError for whatever is not one, or does not end."""
    check_kind(answer)
    seen = _Seen()
    for now, line in lines(answer):
        answer.watch.check()
        if _take(seen, now, line):
            answer.watch.progressed()
        if len(seen.times) > 2 * most + 16:  # a few chunks may carry half a character or a role
            found = f"the server sent {len(seen.times)} pieces of text where {most} tokens were asked for"
            raise ProbeError(found, "a server that keeps to max_tokens")
        if seen.done:
            break
    if seen.begun:
        _take(seen, answer.watch.limits.now(), b"")
    return _finish(seen, answer.sent)


def collected(answer: Answer) -> list[tuple[float, bytes]]:
    """A stream's lines up to its end, each with the time when it came: looked at by `stream_of` once nothing is timed
    any more, as reading the JSON of many streams takes from the processor that the server may be using."""
    check_kind(answer)
    found = []
    for now, line in lines(answer):
        found.append((now, line))
        if line.startswith(b"data:"):
            answer.watch.progressed()
            if line[5:].strip() == b"[DONE]":
                break
    return found


def stream_of(found: list[tuple[float, bytes]], sent: float) -> Stream:
    """What `collected` lines say. ProbeError as of `read_stream`."""
    seen = _Seen()
    for now, line in found:
        _take(seen, now, line)
    if seen.begun:
        _take(seen, found[-1][0], b"")
    return _finish(seen, sent)


def check_kind(answer: Answer) -> None:
    """ProbeError for a page where a stream was asked for."""
    if "html" in answer.kind:
        raise ProbeError("the server answers a completion with an HTML page", "a stream of events")


def _take(seen: _Seen, now: float, line: bytes) -> bool:
    """Note one line; True if it brought text.

    An event's data may stand on several lines and end with a blank one; nearly all servers write one line, which is
    noted as it comes.
    """
    if not line and seen.begun:
        begun, seen.begun = bytes(seen.begun), bytearray()
        return _note(seen, now, _event(begun))
    if line.startswith((b"{", b"error:")):
        raise _not_an_event(line.removeprefix(b"error:"))
    if not line.startswith(b"data:"):  # comments, event names, the blank lines between
        return False
    data = line[5:].strip()
    if data == b"[DONE]":
        seen.done = True
        return False
    whole = None if seen.begun else _whole(data)
    if whole is None:
        seen.begun += data + b"\n"
        if len(seen.begun) > MOST_LINE:
            raise ProbeError(f"the server sends an event without end: {len(seen.begun)} bytes so far", "short events")
        return False
    return _note(seen, now, whole)


def _whole(data: bytes) -> dict[str, Any] | None:
    """The object of one line; None of a line that is but the beginning of one, or no object at all."""
    try:
        return _checked(parse_object(data, ""))
    except FormatError:
        return None


def _event(data: bytes) -> dict[str, Any]:
    """The object of an event of several lines."""
    try:
        event = parse_object(data, "an event of the stream")
    except FormatError as error:
        raise ProbeError(shown(error.found), "JSON in each event") from error
    return _checked(event)


def _checked(event: dict[str, Any]) -> dict[str, Any]:
    """An event that reports no error."""
    if event.get("error"):
        raise ProbeError(f"the server reports an error: {error_text(event['error'])}", do="look at its log")
    return event


def _not_an_event(data: bytes) -> ProbeError:
    """One JSON object where a stream was asked for: an error, or a server that does not stream."""
    if b'"error"' in data[:200]:
        return ProbeError(f"the server reports an error: {shown(data[:300].decode('utf-8', 'replace'))}")
    return ProbeError("the server answers all at once", "a stream of events, as asked for", "turn on streaming")


def _note(seen: _Seen, now: float, event: dict[str, Any]) -> bool:
    usage, timings = event.get("usage"), event.get("timings")
    if isinstance(usage, dict):
        seen.usage = usage
    total = _number(usage, "completion_tokens")
    if isinstance(timings, dict):
        total = _number(timings, "predicted_n") if total is None else total
        _note_timings(seen, timings)
    text, finished = _text(event.get("choices"))
    seen.finished = finished or seen.finished
    if text:
        seen.times.append(now)
        seen.counts.append(total)
    return text


def _note_timings(seen: _Seen, timings: dict[str, Any]) -> None:
    """llama.cpp's own clock: tokens and milliseconds of decoding so far."""
    tokens, ms = _number(timings, "predicted_n"), timings.get("predicted_ms")
    if tokens is not None and isinstance(ms, int | float) and 0 <= ms < 1e9:
        seen.server.append((tokens, ms / 1e3))


def _text(choices: object) -> tuple[bool, str]:
    """Whether the first choice holds text, and why it ended."""
    first = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(first, dict):
        return False, ""
    delta = first.get("delta")
    found = [delta.get(key) for key in _TEXTS] if isinstance(delta, dict) else [first.get("text")]
    reason = first.get("finish_reason")
    return any(isinstance(t, str) and t for t in found), reason if isinstance(reason, str) else ""


def _number(of: object, key: str) -> int | None:
    """A count that a server gave; None where it gave none, or nonsense."""
    value = of.get(key) if isinstance(of, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31 else None


def _finish(seen: _Seen, sent: float) -> Stream:
    if not seen.done and not seen.finished:
        raise ProbeError(
            f"the stream broke off after {len(seen.times)} pieces of text",
            "an end ([DONE] or a finish_reason)",
            "look at the server's log",
        )
    if not seen.times:
        raise ProbeError("the stream holds no text", "tokens of a completion", "is this a chat or text model?")
    totals, counted = _totals(seen)
    events = tuple(Event(at, n) for at, n in zip(seen.times, totals, strict=True))
    cached = _number(seen.usage.get("prompt_tokens_details"), "cached_tokens") or 0
    prompt = _number(seen.usage, "prompt_tokens")
    return Stream(sent, events, prompt, cached, seen.finished, counted, _server_s(seen.server))


def _totals(seen: _Seen) -> tuple[list[float], str]:
    """Tokens that had arrived with each chunk: as the chunks say, else the usage spread over them evenly."""
    chunks, total = len(seen.counts), _number(seen.usage, "completion_tokens")
    known = [float(n) for n in seen.counts if n is not None]
    if len(known) == chunks and known == sorted(set(known)) and known[0] > 0:
        return known, BY_CHUNK
    if total is None:
        return [float(i) for i in range(1, chunks + 1)], BY_CHUNKS
    # One more: the end token shows no text. At the limit there is none, and two tokens came in one chunk.
    per_chunk = 1.0 if total == chunks + 1 and seen.finished != "length" else total / chunks
    return [i * per_chunk for i in range(1, chunks + 1)], BY_USAGE


def _server_s(said: list[tuple[int, float]]) -> float | None:
    """Seconds per token between the first and the last of the server's readings."""
    if len(said) < 2 or said[-1][0] <= said[0][0]:
        return None
    (first, start), (last, end) = said[0], said[-1]
    return (end - start) / (last - first) if end > start else None
