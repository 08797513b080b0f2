"""The HTTP side as one ASGI application."""

from __future__ import annotations

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from memfirst import __version__
from memfirst.errors import MemfirstError
from memfirst.server import (
    about,
    anthropic,
    chat,
    completions,
    embeddings,
    failures,
    live,
    llama_cpp,
    metrics,
    ollama,
    ollama_embeddings,
    responses,
    unserved,
)
from memfirst.server.access import Access, open_log
from memfirst.server.guard import Guard
from memfirst.server.metrics import Metrics
from memfirst.server.openapi import Described
from memfirst.server.service import Service
from memfirst.server.stream import ClientGoneError

MODULES = (
    about, anthropic, chat, completions, embeddings, llama_cpp, metrics, ollama, ollama_embeddings, responses, unserved,
)  # fmt: skip
"""Endpoints, but for the page's."""


def application(served: Service) -> Access:
    """All endpoints, behind the guard, behind the log."""
    app = Described(title="memfirst", version=__version__, docs_url=None, redoc_url=None)
    app.state.service = served
    app.state.metrics = Metrics(served)
    for module in MODULES:
        app.include_router(module.router)
    if served.settings.page:
        app.include_router(live.router)
    app.add_exception_handler(RequestValidationError, failures.on_invalid)
    app.add_exception_handler(ValidationError, failures.on_invalid)
    app.add_exception_handler(HTTPException, failures.on_http)
    app.add_exception_handler(MemfirstError, failures.on_memfirst_error)
    app.add_exception_handler(ClientGoneError, _gone)
    return Access(Guard(app, served.settings), open_log(served.settings.access_log))


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it; nginx's number, for the log
