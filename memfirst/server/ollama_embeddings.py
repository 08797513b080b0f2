"""POST /api/embed and /api/embeddings: texts as vectors in Ollama's form."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field, StrictBool, StrictInt, model_validator

from memfirst.server.embeddings import MOST_INPUTS, NONE, vectors
from memfirst.server.failures import failure
from memfirst.server.fields import Name, Open, Text
from memfirst.server.ollama import check_model
from memfirst.server.service import ignored, service
from memfirst.server.stream import unless_gone

router = APIRouter(prefix="/api")

SET_UP = frozenset({"options", "keep_alive"})
"""Fields that set up an engine, which runs already."""


class Embed(Open):
    """POST /api/embed."""

    model: Name
    input: Text | Annotated[list[Text], Field(fail_fast=True, max_length=MOST_INPUTS)]
    truncate: StrictBool | None = None
    dimensions: Annotated[StrictInt, Field(ge=1, le=1 << 20)] | None = None

    @model_validator(mode="after")
    def _whole(self) -> Embed:
        if self.truncate:
            raise ValueError("truncate is not served: a text that does not fit is refused")
        return self


class EmbedOne(Open):
    """POST /api/embeddings: the older form."""

    model: Name
    prompt: Text


@router.post("/embed")
async def embed(asked: Embed, request: Request) -> Response:
    """Texts as vectors of length 1."""
    served, began = service(request), time.perf_counter_ns()
    check_model(served, asked.model)
    if not served.loaded.pooling:
        return failure(request.url.path, 501, NONE)
    texts = [asked.input] if isinstance(asked.input, str) else asked.input
    made = await unless_gone(request, vectors(served, texts, asked.dimensions))
    body: dict[str, Any] = {
        "model": asked.model, "embeddings": [row.tolist() for row in made.rows],
        "total_duration": time.perf_counter_ns() - began, "load_duration": 0, "prompt_eval_count": made.tokens,
    }  # fmt: skip
    return JSONResponse(body, headers=ignored(sorted(set(asked.ignored) - SET_UP)))


@router.post("/embeddings")
async def embeddings(asked: EmbedOne, request: Request) -> Response:
    """One text as a vector, of whatever length."""
    served = service(request)
    check_model(served, asked.model)
    if not served.loaded.pooling:
        return failure(request.url.path, 501, NONE)
    made = await unless_gone(request, vectors(served, [asked.prompt], None, normalize=False))
    return JSONResponse({"embedding": made.rows[0].tolist()}, headers=ignored(sorted(set(asked.ignored) - SET_UP)))
