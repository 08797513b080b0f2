"""GET /: the live page, three files that ask for nothing elsewhere."""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter, Response

router = APIRouter(include_in_schema=False)

KINDS = {"index.html": "text/html; charset=utf-8", "page.css": "text/css", "page.js": "text/javascript"}
HEADERS = {
    # The page styles bars by script; nothing is loaded from, sent to or framed by anybody else.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


def page_file(name: str) -> Response:
    """One of the page's files."""
    body = files("memfirst.server").joinpath("page", name).read_bytes()
    return Response(body, media_type=KINDS[name], headers=HEADERS)


@router.get("/")
async def page() -> Response:
    """The page."""
    return page_file("index.html")


@router.get("/page/page.css")
async def style() -> Response:
    """How it looks."""
    return page_file("page.css")


@router.get("/page/page.js")
async def script() -> Response:
    """What it does."""
    return page_file("page.js")
