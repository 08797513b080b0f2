"""Errors as OpenAI's clients read them."""

from __future__ import annotations

import reprlib
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from memfirst.errors import BackendError, CapacityError, MemfirstError, ModelNotFoundError
from memfirst.server.compiler import CompilerBusyError
from memfirst.server.link import EngineDiedError, QueueFullError

KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


def body(status: int, message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """The object that stands under "error"."""
    kind = KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"message": message, "type": kind, "param": param, "code": code}


def failure(path: str, status: int, message: str, param: str | None = None, code: str | None = None) -> JSONResponse:
    """A whole response in the form of those who ask at `path`: Ollama's is a sentence, Anthropic's says that it is an
    error, the others' are OpenAI's."""
    said = body(status, message, param, code)
    if path.startswith("/api/"):
        return JSONResponse({"error": message}, status)
    if path.startswith("/v1/messages"):
        return JSONResponse({"type": "error", "error": said}, status)
    return JSONResponse({"error": said}, status)


def status_of(error: MemfirstError) -> tuple[int, str | None]:
    """Status and code of an error of ours: the request's fault unless the engine's."""
    if isinstance(error, QueueFullError | EngineDiedError | CompilerBusyError):
        return 503, "unavailable" if isinstance(error, EngineDiedError) else "overloaded"
    if isinstance(error, ModelNotFoundError):
        return 404, "model_not_found"
    if isinstance(error, BackendError):
        return 500, None
    return 400, "context_length_exceeded" if isinstance(error, CapacityError) else None


async def on_memfirst_error(request: Request, error: Exception) -> JSONResponse:
    """An exception handler."""
    if not isinstance(error, MemfirstError):
        raise error
    status, code = status_of(error)
    response = failure(request.url.path, status, str(error), "model" if status == 404 else None, code)
    if isinstance(error, QueueFullError):
        response.headers["retry-after"] = str(error.seconds)
    elif status == 503:
        response.headers["retry-after"] = "5"
    return response


async def on_invalid(request: Request, error: Exception) -> JSONResponse:
    """An exception handler: the first thing that is wrong with a body, named by its place."""
    if not isinstance(error, RequestValidationError | ValidationError):
        raise error
    first = error.errors()[0]
    place = [str(part) for part in first["loc"] if part != "body"]
    found = reprlib.repr(first.get("input"))[:80]
    message = f"{'.'.join(place) or 'the body'}: {first['msg']}"
    if first["type"] != "missing" and place:
        message += f", not {found}"
    return failure(request.url.path, 400, message, ".".join(place) or None)


async def on_http(request: Request, error: Exception) -> JSONResponse:
    """An exception handler: no such path, no such method."""
    if not isinstance(error, HTTPException):
        raise error
    path = request.url.path
    said = {404: f"there is no {path[:200]}", 405: f"{request.method} is not for {path[:200]}"}
    response = failure(path, error.status_code, said.get(error.status_code, str(error.detail)))
    response.headers.update(error.headers or {})
    return response
