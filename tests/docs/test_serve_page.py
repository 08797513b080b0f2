"""What docs/serve.md shows is run against a server: its curl, its Python client, and the answer that it prints."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from shutil import which
from typing import Any

import httpx
import pytest

from tests.support.serving import Served

PAGE = (Path(__file__).parent.parent.parent / "docs" / "serve.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def served(smollm2: Path) -> Iterator[Served]:
    with Served(smollm2, ["--name", "smollm2:135m", "--ctx", "2048", "--speculate", "off"]) as found:
        yield found


def block(language: str, beginning: str = "") -> str:
    """The first fenced block of a language whose text begins so."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.M | re.S)
    return next(text for text in found if text.startswith(beginning))


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
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(block("python").replace("http://127.0.0.1:8080", served.url), "serve.md", "exec"), {})
    assert said.getvalue().startswith("The answer to this question"), "greedy, as docs/start.md shows it"


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`GET ([^`, ]+)`|, `(/slots)`", PAGE))))
def test_pages_that_can_be_asked_for_are_there(served: Served, path: tuple[str, str]) -> None:
    assert httpx.get(served.url + (path[0] or path[1])).status_code == 200
