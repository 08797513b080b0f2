"""The live page: it asks for nothing elsewhere, shows what the snapshot has, and is not there when turned off."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import httpx

from tests.support.serving import Served

PAGE = files("memfirst.server").joinpath("page")


def test_the_page_and_what_it_loads(http: httpx.Client) -> None:
    page = http.get("/")
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "http" not in policy
    for path in re.findall(r'(?:href|src)="(/[^"]+)"', page.text):
        assert http.get(path).status_code == 200
    sent = sum(len(http.get(path).content) for path in ("/", "/page/page.css", "/page/page.js"))
    assert sent <= 40_000


def test_it_names_nothing_elsewhere_and_only_places_that_are_there() -> None:
    html, css, js = (PAGE.joinpath(name).read_text() for name in ("index.html", "page.css", "page.js"))
    assert not re.findall(r"(?:https?:)?//(?!www\.w3\.org/2000/svg)\w", html + css + re.sub(r"(?m)^\s*//.*$", "", js))
    ids = set(re.findall(r'id="([\w-]+)"', html))
    used = set(re.findall(r'\$\("([\w-]+)"\)|show\("([\w-]+)"|bar\("([\w-]+)"', js))
    assert {name for names in used for name in names if name} <= ids


def test_what_it_shows_is_in_the_snapshot(http: httpx.Client) -> None:
    http.post("/v1/completions", json={"prompt": "x", "max_tokens": 2})
    stats = http.get("/memfirst/stats").json()
    fields = set(re.findall(r"stats\.(\w+)", PAGE.joinpath("page.js").read_text()))
    assert fields <= stats.keys()
    assert sum(stats["memory"].values()) > 0 and stats["context_bytes"] > 0


def test_it_can_be_left_out(smollm2: Path) -> None:
    with Served(smollm2, ["--ctx", "512", "--no-page"]) as served:
        assert httpx.get(served.url).status_code == 404
        assert httpx.get(f"{served.url}/memfirst/stats").status_code == 200
