"""A front door over several servers: who gets a request, what happens when one dies, what they say together."""

from __future__ import annotations

import asyncio
import inspect
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from memfirst.cli.serve import OF_A_MODEL, serve
from memfirst.errors import ConfigError
from memfirst.progress import Silent
from memfirst.server.front import sums
from memfirst.server.front.choice import KNOWN, PAGE, Choice, pages_of
from memfirst.server.front.door import FrontDoor, _error
from memfirst.server.front.exchange import Address
from memfirst.server.front.replica import Replica
from memfirst.server.front.run import FrontServer
from memfirst.server.settings import Settings
from tests.support.serving import Served
from tests.support.tiny_served import tiny_model

KEY = "sesame"
SMALL = ["--ctx", "512", "--threads", "1", "--max-sequences", "4"]
WHOLE = {"prompt": "On and on", "max_tokens": 300, "ignore_eos": True, "temperature": 0}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that answers at once."""
    return tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def three(model: Path) -> Iterator[list[Served]]:
    """Two replicas with a key, and the front door before them."""
    options = [*SMALL, "--api-key", KEY]
    with ExitStack() as stack:
        one, two = (stack.enter_context(Served(model, options)) for _ in range(2))
        front = ["--replica", one.url, "--replica", f"{two.url}/v1", "--api-key", KEY]
        yield [one, two, stack.enter_context(Served(None, front))]


@pytest.fixture
def http(three: list[Served]) -> Iterator[httpx.Client]:
    """A client of the front door, with the key."""
    with httpx.Client(base_url=three[2].url, timeout=60, headers={"authorization": f"Bearer {KEY}"}) as client:
        yield client


# --- what it passes on


def test_an_answer_is_the_replicas_own(three: list[Served], http: httpx.Client) -> None:
    mine = http.post("/v1/completions", json=WHOLE)
    direct = httpx.post(f"{three[0].url}/v1/completions", json=WHOLE, headers=http.headers, timeout=60)
    assert mine.status_code == 200 and mine.json()["choices"] == direct.json()["choices"]
    assert mine.headers["x-memfirst-replica"] in ("1", "2")
    assert len(mine.headers.get_list("x-request-id")) == len(mine.headers.get_list("date")) == 1


def test_a_stream_is_passed_on_event_by_event(http: httpx.Client) -> None:
    parts = []
    with http.stream("POST", "/v1/completions", json=WHOLE | {"stream": True}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        parts = list(response.iter_raw())
    assert len(parts) > 3  # a lone answer's tokens come together for 12 ms; a front that keeps them has one part
    lines = [line for line in b"".join(parts).decode().splitlines() if line]
    text = "".join(json.loads(line[6:])["choices"][0]["text"] for line in lines[:-1])
    assert lines[-1] == "data: [DONE]" and text == http.post("/v1/completions", json=WHOLE).json()["choices"][0]["text"]


def test_refusals_are_passed_on_and_limits_are_the_servers(http: httpx.Client) -> None:
    refused = http.post("/v1/completions", json=WHOLE | {"temperature": -1})
    assert refused.status_code == 400 and "temperature" in refused.json()["error"]["message"]
    assert (
        http.post("/v1/completions", content=b"[" * 100, headers={"content-type": "application/json"}).status_code
        == 400
    )
    assert http.post("/v1/completions", content=b"{}", headers={"content-type": "text/plain"}).status_code == 415
    assert http.get("/health", headers={"host": "evil.example"}).status_code == 403
    assert http.get("/v1/nothing").status_code == 404
    assert http.post("/tokenize", json={"content": "a b"}).json()["count"] > 0


def test_the_key_is_asked_for_and_handed_on(three: list[Served]) -> None:
    assert httpx.post(f"{three[2].url}/v1/completions", json=WHOLE).status_code == 401
    assert httpx.get(f"{three[2].url}/metrics").status_code == 401
    assert httpx.get(f"{three[2].url}/health").json() == {"status": "ok", "replicas": {"up": 2, "all": 2}}


def test_a_front_door_without_the_replicas_key_says_so(three: list[Served]) -> None:
    with Served(None, ["--replica", three[0].url]) as front:
        answer = httpx.get(f"{front.url}/health")
        assert answer.status_code == 503 and "--api-key of its replicas" in answer.json()["error"]["message"]


# --- what they say together


def test_models_are_listed_once_and_numbers_are_summed(three: list[Served], http: httpx.Client) -> None:
    http.post("/v1/completions", json=WHOLE)
    assert [m["id"] for m in http.get("/v1/models").json()["data"]] == ["tested"]
    assert http.get("/v1/models/tested").json()["id"] == "tested"
    own = [httpx.get(f"{s.url}/memfirst/stats", headers=http.headers).json() for s in three[:2]]
    together = http.get("/memfirst/stats").json()
    assert together["tokens"] == sum(one["tokens"] for one in own) > 0
    assert together["bytes"] == {k: sum(one["bytes"].get(k, 0) for one in own) for k in together["bytes"]}
    assert [r["up"] for r in together["replicas"]] == [True, True] and together["model"] == "tested", three[2].lines

    def samples(url: str) -> dict[tuple[str, str], float]:
        text = httpx.get(f"{url}/metrics", headers=http.headers).text
        found = [s for family in text_string_to_metric_families(text) for s in family.samples]
        return {(s.name, str(s.labels)): s.value for s in found}

    a, b, both = (samples(s.url) for s in three)
    weights = ("memfirst_bytes_total", "{'purpose': 'weights'}")
    assert both[weights] == a.get(weights, 0) + b.get(weights, 0) > 0
    assert both["memfirst_up", "{}"] == 2
    done = sum(
        v for (name, labels), v in both.items() if name == "memfirst_replica_requests_total" and "done" in labels
    )
    assert done > 0


def test_metrics_and_stats_of_several() -> None:
    text = (
        '# TYPE memfirst_bytes counter\nmemfirst_bytes_total{purpose="kv"} %d\n'
        "# TYPE memfirst_predicted_wait_seconds gauge\nmemfirst_predicted_wait_seconds %d\n"
        '# TYPE q histogram\nq_bucket{le="1.0"} %d\nq_bucket{le="+Inf"} 9\nq_sum 2\nq_count 9\n'
    )
    found = {s.name: s.value for f in sums.metrics([text % (1, 4, 7), text % (2, 3, 1)]) for s in f.samples}
    assert found["memfirst_bytes_total"] == 3 and found["memfirst_predicted_wait_seconds"] == 3
    assert found["q_count"] == 18
    one = {"a": 1, "predicted_wait": 2.0, "bytes": {"kv": 3}, "requests": [1], "state": "ready"}
    other = {"a": 5, "predicted_wait": 1.0, "bytes": {"kv": 4, "head": 1}, "requests": [2], "state": "starting"}
    assert sums.stats([one, other]) == {
        "a": 6, "predicted_wait": 1.0, "bytes": {"kv": 7, "head": 1}, "requests": [1, 2], "state": "ready, starting",
    }  # fmt: skip


# --- who gets a request


def replicas(n: int, **stats: Any) -> list[Replica]:
    """Replicas that are up, as if they had been asked."""
    made = [Replica(i, f"http://127.0.0.1:{1000 + i}", "") for i in range(n)]
    for replica in made:
        replica.up, replica.models, replica.stats = True, {"m": {}}, {"sequences": 4, "predicted_wait": 0.0, **stats}
    return made


LONG_PROMPT = {"model": "m", "messages": [{"role": "system", "content": "be brief " * 200}]}


def test_least_wait_goes_before_a_prefix_and_a_prefix_before_load() -> None:
    a, b = replicas(2)
    choice, pages = Choice([a, b]), pages_of(LONG_PROMPT)
    choice.sent(b, pages)
    assert choice.best("m", pages) is b and choice.best("m", []) is a
    b.ours = 3  # its prompt is there whole: worth all places but one
    assert choice.best("m", pages) is b and choice.best("m", pages[:0]) is a
    b.stats["predicted_wait"] = 0.3
    assert choice.best("m", pages) is a
    assert choice.best("m", pages, {a}) is b and choice.best("m", pages, {a, b}) is None


def test_requests_since_it_was_asked_are_waited_for() -> None:
    a, b = replicas(2)
    a.ours, a.seconds = 6, 2.0  # 4 run, 2 wait, and one more: 3 of 4 places' worth of 2 s
    assert a.wait == pytest.approx(1.5) and b.wait == 0 and Choice([a, b]).best("m", []) is b


def test_a_part_of_a_prefix_does_not_crowd_one_replica() -> None:
    a, b = replicas(2)
    choice = Choice([a, b])
    system = {"role": "system", "content": "x" * 4 * PAGE}
    users = [pages_of({"messages": [system, {"role": "user", "content": c * 16 * PAGE}]}) for c in "stuv"]
    chosen = []
    for pages in users:
        best = choice.best("m", pages)
        assert best is not None
        best.ours += 1
        choice.sent(best, pages)
        chosen.append(best.index)
    assert sorted(chosen) == [0, 0, 1, 1]


def test_a_model_is_asked_of_who_has_it_and_a_restart_forgets() -> None:
    a, b = replicas(2)
    b.models = {"other": {}}
    choice, pages = Choice([a, b]), pages_of(LONG_PROMPT)
    assert choice.best("other", []) is b and choice.best("an alias", []) is a and choice.best(None, []) is a
    a.up = False
    assert choice.best("m", []) is None and choice.best("an alias", []) is b
    choice.sent(a, pages)
    choice.forget(a)
    assert choice._share(a, pages) == 0


def test_pages_follow_the_beginning_and_are_bounded() -> None:
    turn = {"role": "user", "content": "q" * 600}
    first, second = pages_of(LONG_PROMPT), pages_of({**LONG_PROMPT, "messages": [*LONG_PROMPT["messages"], turn]})
    assert first and second[: len(first)] == first and len(second) > len(first)
    assert pages_of(LONG_PROMPT | {"model": "n"})[0] != first[0]
    assert pages_of({"prompt": [1, 2, {"a": None}]}) == pages_of({"prompt": None}) == pages_of({"messages": 3}) == []
    choice, (a,) = Choice([]), replicas(1)
    for i in range(KNOWN + 10):
        choice.sent(a, [i.to_bytes(8)])
    assert len(choice._seen) == KNOWN


@pytest.mark.parametrize(
    "url", ["", "localhost:8080", "ftp://a", "http://", "http://a:99999", "http://u@a", "http://a?b"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="http://HOST:PORT"):
        Address.of(url)


def test_addresses() -> None:
    assert str(Address.of("http://[::1]:80/v1/")) == "http://[::1]:80"
    assert Address.of("https://a.example/x/v1") == Address("a.example", 443, True, "/x")


def test_replicas_are_given_once() -> None:
    with socket.socket() as unused, pytest.raises(ConfigError, match="each given once"):
        FrontServer(["http://a", "http://a:80/v1"], Settings(""), unused, Silent())


def test_options_of_a_model_are_for_its_own_server() -> None:
    command = [sys.executable, "-m", "memfirst", "serve", "--replica", "http://127.0.0.1:9", "--ctx", "512"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 2 and "--ctx is for a server of a model" in " ".join(ran.stderr.split())


def test_an_error_event_has_the_form_of_its_path() -> None:
    assert json.loads(_error("/v1/completions", 3, "lost")[6:])["error"]["message"] == "lost"
    name, data = _error("/v1/messages", 3, "lost").strip().split("\n")
    assert name == "event: error" and json.loads(data[6:])["error"] == {"type": "api_error", "message": "lost"}
    assert json.loads(_error("/api/chat", 3, "lost")) == {"error": "lost"}
    assert json.loads(_error("/v1/responses", 3, "lost").split("data: ")[1])["sequence_number"] == 3


# --- what happens when one dies


def test_a_killed_replica_loses_no_request(model: Path) -> None:
    """Requests of which nothing was sent are answered by the other; streams that had begun end with an error event."""
    with ExitStack() as stack:
        one, two = (stack.enter_context(Served(model, SMALL)) for _ in range(2))
        front = stack.enter_context(Served(None, ["--replica", one.url, "--replica", two.url]))
        http = stack.enter_context(httpx.Client(timeout=60))
        begun = [0]

        def stream(_: int) -> list[str]:
            lines = []
            with httpx.stream("POST", f"{front.url}/v1/completions", json=WHOLE | {"stream": True}, timeout=60) as r:
                for line in r.iter_lines():
                    if line:
                        begun[0] += not lines
                        lines.append(line)
            return lines

        def whole(_: int) -> httpx.Response:
            return httpx.post(f"{front.url}/v1/completions", json=WHOLE, timeout=60)

        with ThreadPoolExecutor(16) as pool:
            streams = [pool.submit(stream, i) for i in range(6)]
            wholes = [pool.submit(whole, i) for i in range(10)]
            while begun[0] < 4:
                time.sleep(0.002)
            one.process.kill()
            answers = [future.result() for future in wholes]
            ended = [future.result()[-1] for future in streams]
        assert [a.status_code for a in answers] == [200] * 10
        assert len({a.json()["choices"][0]["text"] for a in answers}) == 1
        assert all(last == "data: [DONE]" or '"error"' in last for last in ended)
        said = http.get(f"{front.url}/memfirst/stats").json()["replicas"]
        assert [r["up"] for r in said] == [False, True] and said[0]["moved"] > 0
        assert said[0]["broken"] == sum('"error"' in last for last in ended) > 0
        port = int(one.url.rsplit(":", 1)[1])
        with Served(model, SMALL, port):  # it comes back by itself
            deadline = time.monotonic() + 20
            while http.get(f"{front.url}/health").json()["replicas"]["up"] < 2:
                assert time.monotonic() < deadline
                time.sleep(0.05)


def test_who_hangs_up_ends_the_replicas_work(three: list[Served], http: httpx.Client) -> None:
    with http.stream("POST", "/v1/completions", json=WHOLE | {"stream": True}) as response:
        next(response.iter_lines())
    deadline = time.monotonic() + 5
    while any(httpx.get(f"{s.url}/memfirst/stats", headers=http.headers).json()["live"] for s in three[:2]):
        assert time.monotonic() < deadline


class Hung:
    """A server whose connections stand, and which stops answering."""

    def __init__(self, head: bytes) -> None:
        self.head, self.asked = head, 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        if b"POST" in line:
            self.asked += 1
            writer.write(self.head)
            await writer.drain()
            await asyncio.sleep(30)
        writer.close()


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: a"])
def test_a_replica_that_hangs_is_left(head: bytes) -> None:
    """Its stream ends with an error event, a request that it has not begun to answer is asked of another."""

    async def answered() -> tuple[list[dict[str, Any]], int]:
        hung = Hung(head)
        server = await asyncio.start_server(hung, "127.0.0.1", 0)
        (replica,) = replicas(1)
        replica.address = Address("127.0.0.1", server.sockets[0].getsockname()[1])
        replica.gone.clear()
        door = FrontDoor([replica], Settings(""))
        sent: list[dict[str, Any]] = []
        body = [{"type": "http.request", "body": b"{}"}]

        async def receive() -> Any:
            return body.pop() if body else await asyncio.sleep(60)

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": [], "query_string": b""}
        asking = asyncio.ensure_future(door(scope, receive, send))
        while not hung.asked or (head and not sent):
            await asyncio.sleep(0.01)
        replica.lost("no answer within 5 s")
        door.closing.set() if not head else None  # else it would wait for one that comes back
        async with asyncio.timeout(10):
            await asking
        server.close()
        return sent, hung.asked

    sent, asked = asyncio.run(answered())
    assert asked == 1
    if head:
        assert sent[0]["status"] == 200 and sent[-1]["body"].startswith(b"\n\ndata: ") and b"lost" in sent[-1]["body"]
    else:
        assert sent[0]["status"] == 503


def test_every_option_is_the_front_doors_or_refused() -> None:
    own = {"context", "replica", "host", "port", "api_key", "no_auth", "allow_host", "allow_origin", "no_page"}
    assert set(inspect.signature(serve).parameters) - own - {"access_log"} == set(OF_A_MODEL)
