"""Requests to one server: bounded answers, and for everything that can go wrong a line that says what to do."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from memfirst.errors import FormatError, ProbeError
from memfirst.formats.json_file import parse, parse_object
from memfirst.measure.probe.address import Address
from memfirst.measure.probe.connection import connect
from memfirst.measure.probe.limits import Limits, Watch

T = TypeVar("T")

KEY_VARIABLE = "MEMFIRST_API_KEY"
MOST_JSON = 8 << 20
"""Bytes of an answer that is read whole; a list of 400 models with their prices takes 1 MB."""

_MOST_ERROR = 64 << 10
_API = "an OpenAI-compatible server (llama.cpp's server, vLLM, Ollama, …)"


class StatusError(ProbeError):
    """The server answered with an HTTP status other than 200; `wait_s` as its Retry-After says, None without one."""

    def __init__(self, status: int, found: str, expected: str = "", do: str = "", wait_s: float | None = None) -> None:
        super().__init__(found, expected, do)
        self.status, self.wait_s = status, wait_s


class NotJsonError(ProbeError):
    """The server answered with something that is no JSON object."""


@dataclass(frozen=True)
class Answer:
    """A response whose headers are read: status 200, body to come."""

    response: http.client.HTTPResponse
    watch: Watch
    sent: float
    kind: str


def shown(text: object, most: int = 160) -> str:
    """What a server said, safe for a terminal and short."""
    line = " ".join(str(text).split())
    line = "".join(c if c.isprintable() else "\ufffd" for c in line)
    return line if len(line) <= most else f"{line[: most - 1]}…"


@dataclass(frozen=True)
class Client:
    """Asks one server, within limits. A key goes to that server only: no redirect is followed."""

    address: Address
    limits: Limits
    key: str = field(default="", repr=False)

    def get(self, path: str) -> dict[str, Any]:
        """The JSON object at `path`; StatusError for another status than 200, ProbeError for anything else."""
        return self._parsed(self.text(path), path, parse_object)

    def value(self, path: str) -> Any:
        """The JSON value at `path`, of any kind; errors as of `get`."""
        return self._parsed(self.text(path), path, parse)

    def text(self, path: str) -> bytes:
        """At most MOST_JSON bytes at `path`."""
        with self.open("GET", path) as answer:
            return _whole(answer, path)

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON object that answers `body`."""
        with self.open("POST", path, body) as answer:
            return self._parsed(_whole(answer, path), path, parse_object)

    def _parsed(self, data: bytes, path: str, parse: Callable[[bytes, str], T]) -> T:
        where = f"{self.address}{path}"
        try:
            return parse(data, where)
        except FormatError as error:
            found = f"{where} is an HTML page" if _is_html(data) else shown(error.found)
            raise NotJsonError(found, f"JSON from {_API}") from error

    @contextmanager
    def open(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Iterator[Answer]:
        """Send one request and read the headers; what fails then or while the body is read becomes a ProbeError."""
        self.limits.take()
        watch = Watch(self.limits)
        with _explained(self.address):
            connection = connect(self.address, watch)
            try:
                yield self._ask(connection, watch, method, path, body)
            finally:
                connection.watched.shut()
                connection.close()

    def _ask(
        self,
        connection: http.client.HTTPConnection,
        watch: Watch,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
    ) -> Answer:
        data = None if body is None else json.dumps(body).encode()
        sent = watch.limits.now()
        connection.request(method, self.address.path + path, data, self._headers())
        response = connection.getresponse()
        if response.status != 200:
            raise self._refused(response, path)
        if response.getheader("Content-Encoding", "identity") != "identity":
            raise ProbeError(f"{self.address}{path} sends a compressed answer that nobody asked for")
        return Answer(response, watch, sent, (response.getheader("Content-Type") or "").lower())

    def _headers(self) -> dict[str, str]:
        fixed = {"Content-Type": "application/json", "Accept-Encoding": "identity", "Connection": "close"}
        return fixed | ({"Authorization": f"Bearer {self.key}"} if self.key else {})

    def _refused(self, response: http.client.HTTPResponse, path: str) -> StatusError:
        status, where = response.status, f"{self.address}{path}"
        said = f"{status} {shown(response.reason, 40)}".strip()
        if 300 <= status < 400:
            target = shown(response.getheader("Location", "nowhere"))
            return StatusError(
                status, f"{where} redirects to {target}", "the API itself", "if you trust that address, give it"
            )
        if status in (401, 403):
            found = f"{where} refuses {'this key' if self.key else 'without a key'}: {said}"
            return StatusError(status, found, do=f"set {KEY_VARIABLE} or give --api-key")
        if status == 429:
            wait = _seconds(response.getheader("Retry-After"))
            after = f"try again in {wait:.0f} s" if wait is not None else "try again later"
            return StatusError(status, f"{where} says {said}: it is busy or limits requests", do=after, wait_s=wait)
        message = _message(response.read(_MOST_ERROR))
        found = f"{where} answers {said}" + (f": {message}" if message else "")
        return StatusError(status, found, _API if status == 404 else "", "" if status < 500 else "look at its log")


def _whole(answer: Answer, path: str) -> bytes:
    data = answer.response.read(MOST_JSON + 1)
    if len(data) > MOST_JSON:
        raise ProbeError(f"the answer at {path} is longer than {MOST_JSON >> 20} MiB", _API)
    if answer.response.length:  # bytes that were announced and did not come
        raise ProbeError(f"the answer at {path} broke off after {len(data)} bytes", "a whole answer", "try again")
    return data


def _seconds(retry_after: str | None) -> float | None:
    """Of a Retry-After in seconds; its other form, a date, counts as none."""
    text = (retry_after or "").strip()
    return float(text) if text.isascii() and text.isdecimal() and len(text) <= 6 else None


def _is_html(data: bytes) -> bool:
    return data.lstrip()[:1] == b"<"


def _message(data: bytes) -> str:
    """The server's own words in the body of an error."""
    try:
        error = parse_object(data, "")
    except FormatError:
        return "an HTML page" if _is_html(data) else shown(data[:200].decode("utf-8", "replace"))
    return error_text(error.get("error", error))


def error_text(error: object) -> str:
    """What an error object says: `{"message": …}`, `{"detail": …}` or plain text."""
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or error
    return shown(error)


@contextmanager
def _explained(address: Address) -> Iterator[None]:
    """Exceptions of sockets and of HTTP as a ProbeError."""
    try:
        yield
    except socket.gaierror as error:
        raise ProbeError(f"no host is called {address.host!r}: {error.strerror}", do="check the URL") from error
    except ConnectionRefusedError as error:
        raise ProbeError(f"nothing listens at {address}", _API, "start it, or check the port") from error
    except ssl.SSLCertVerificationError as error:
        raise ProbeError(
            f"{address} has a certificate that is not trusted: {shown(error.verify_message)}",
            "one that an authority known to this machine signed",
            "if you trust that server, name its certificate in the environment: SSL_CERT_FILE=cert.pem",
        ) from error
    except ssl.SSLError as error:
        raise ProbeError(
            f"{address} does not speak TLS as expected: {shown(error.reason)}", do="try http://"
        ) from error
    except (ConnectionError, http.client.IncompleteRead, http.client.RemoteDisconnected) as error:
        raise ProbeError(f"{address} broke off: {shown(error)}", "a whole answer", "look at its log") from error
    except TimeoutError as error:
        raise ProbeError(f"{address} does not answer", "a connection", "check host and port") from error
    except (http.client.HTTPException, UnicodeError, ValueError) as error:
        name = type(error).__name__
        raise ProbeError(f"{address} does not speak HTTP: {name} {shown(error, 80)}", _API) from error
    except OSError as error:
        raise ProbeError(f"{address} cannot be reached: {shown(error.strerror or error)}", _API) from error
