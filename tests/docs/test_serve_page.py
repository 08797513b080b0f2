"""What docs/serve.md shows is run against a server: its curl, its Python client, and the answer that it prints."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from shutil import which
from typing import Any

import httpx
import pytest

from tests.support.serving import Served

PAGE = (Path(__file__).parent.parent.parent / "docs" / "serve.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def logged(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Path]]:
    log = tmp_path_factory.mktemp("log") / "access.jsonl"
    options = ["--name", "smollm2:135m", "--ctx", "2048", "--speculate", "off", "--access-log", str(log)]
    options += ["--pooling", "mean"]
    with Served(smollm2, options) as found:
        yield found, log


@pytest.fixture
def served(logged: tuple[Served, Path]) -> Served:
    return logged[0]


def block(language: str, beginning: str = "") -> str:
    """The first fenced block of a language whose text begins so."""
    found = re.findall(r"^```([^\n]*)\n(.*?)^```$", PAGE, re.M | re.S)
    return next(text for mark, text in found if mark == language and text.startswith(beginning))


def shape(value: Any) -> Any:
    """Objects by their keys; of everything else its type, as times and names differ."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items()}
    if isinstance(value, list):
        return [shape(each) for each in value]
    return "number" if isinstance(value, int | float) else type(value).__name__


@pytest.mark.skipif(not which("curl"), reason="needs curl")
def test_curl_gets_the_answer_that_is_shown(served: Served) -> None:
    line = block("", "curl").replace("localhost:8080", served.url.removeprefix("http://"))
    ran = subprocess.run(shlex.split(line), capture_output=True, text=True, check=True)
    found, shown = json.loads(ran.stdout), json.loads(block("json"))
    assert shape(found) == shape(shown)
    assert found["choices"] == shown["choices"], "greedy: word by word"
    assert found["usage"]["memfirst"]["bytes_read"] == shown["usage"]["memfirst"]["bytes_read"], "to the byte"


def test_openais_client_prints_an_answer(served: Served) -> None:
    pytest.importorskip("openai")
    said, names = io.StringIO(), dict[str, Any]()
    with contextlib.redirect_stdout(said):
        exec(compile(block("python").replace("http://127.0.0.1:8080", served.url), "serve.md", "exec"), names)
    assert said.getvalue().startswith("The answer to this question"), "greedy, as docs/start.md shows it"
    pytest.importorskip("pydantic")
    said.truncate(said.seek(0))
    with contextlib.redirect_stdout(said):
        exec(compile(block("python", "from pydantic"), "serve.md", "exec"), names)
    assert re.fullmatch(r"name='.+' population=\d+", said.getvalue().strip()), "an object of the class, by its schema"
    exec(compile(block("python", "made = client.embeddings"), "serve.md", "exec"), names)
    assert [len(each.embedding) for each in names["made"].data] == [576, 576]


def test_a_line_of_the_access_log_is_as_shown(logged: tuple[Served, Path]) -> None:
    server, log = logged
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    asked = httpx.post(f"{server.url}/v1/chat/completions", json=body)
    for _ in range(100):  # it is written behind the answer
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        if found := [line for line in lines if line["id"] == asked.headers["x-request-id"]]:
            break
        time.sleep(0.05)
    assert shape(found[0]) == shape(json.loads(block("", '{"at"')))


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`GET ([^`, ]+)`|, `(/slots)`", PAGE))))
def test_pages_that_can_be_asked_for_are_there(served: Served, path: tuple[str, str]) -> None:
    assert httpx.get(served.url + (path[0] or path[1])).status_code == 200
