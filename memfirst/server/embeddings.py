"""POST /v1/embeddings: texts as vectors; also in the forms of llama.cpp's server and of Ollama."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Discriminator, Field, StrictInt, Tag

from memfirst.codecs.base import F32
from memfirst.errors import ConfigError
from memfirst.runtime.embedding import check_dimensions, check_length, finished
from memfirst.server import access
from memfirst.server.answers import bytes_read
from memfirst.server.failures import failure
from memfirst.server.fields import Name, Open, Part, Parts, Text
from memfirst.server.link import Answer, QueueFullError
from memfirst.server.llama_cpp import Sequenced, Wrapped, ids_of
from memfirst.server.messages import Ask, End
from memfirst.server.service import Service, ignored, service
from memfirst.server.stream import unless_gone

router = APIRouter()

MOST_INPUTS = 2048
"""Texts of a request, as OpenAI has it."""

NONE = "this model serves no embeddings: start it with --pooling mean or --pooling last"


class Content(Open):
    """A text in parts."""

    content: Parts


def kind_of_input(given: Any) -> str:
    """Which of its forms one input is meant to be."""
    if isinstance(given, dict):
        return "parts" if "content" in given else "object"
    return "sequence" if isinstance(given, list) else "text"


def kind_of_inputs(given: Any) -> str:
    """Whether they are several: a list without a token id on its first level is."""
    several = isinstance(given, list) and not any(isinstance(one, int) for one in given)
    return "several" if several else kind_of_input(given)


One = (
    Annotated[Text, Tag("text")]
    | Annotated[Wrapped, Tag("object")]
    | Annotated[Content, Tag("parts")]
    | Annotated[Sequenced, Tag("sequence")]
)
Several = Annotated[
    list[Annotated[One, Discriminator(kind_of_input)]], Field(fail_fast=True, min_length=1, max_length=MOST_INPUTS)
]
Inputs = Annotated[One | Annotated[Several, Tag("several")], Discriminator(kind_of_inputs)]


class Embedded(Open):
    """POST /v1/embeddings."""

    model: Name | None = None
    input: Inputs
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[StrictInt, Field(ge=1, le=1 << 20)] | None = None


class LlamaEmbedded(Open):
    """POST /embedding: llama.cpp's own form."""

    model: Name | None = None
    content: Inputs | None = None
    input: Inputs | None = None
    embd_normalize: Literal[-1, 2] = 2


@dataclass
class Vectors:
    """What came of a request's texts."""

    rows: list[F32]
    ends: list[End]

    @property
    def tokens(self) -> int:
        """Of all texts."""
        return sum(end.usage["prompt_tokens"] for end in self.ends)

    def usage(self) -> dict[str, Any]:
        """OpenAI's, and beside it what was read."""
        read = bytes_read(self.ends)
        kept = ("bytes_read", "queued_s", "prompt_s")
        mine = {name: read[name] for name in kept}
        mine["bytes_per_token"] = sum(read["bytes_read"].values()) // max(1, self.tokens)
        return {"prompt_tokens": self.tokens, "total_tokens": self.tokens, "memfirst": mine}


@router.post("/v1/embeddings")
@router.post("/embeddings", include_in_schema=False)
async def embeddings(asked: Embedded, request: Request) -> Response:
    """Texts as vectors of length 1."""
    served = service(request)
    served.check_model(asked.model)
    if not served.loaded.pooling:
        return failure(request.url.path, 501, NONE, code="not_supported")
    made = await unless_gone(request, vectors(served, inputs_of(asked.input), asked.dimensions))
    packed = asked.encoding_format == "base64"
    data = [
        {"object": "embedding", "index": i, "embedding": _base64(row) if packed else row.tolist()}
        for i, row in enumerate(made.rows)
    ]
    body = {"object": "list", "data": data, "model": served.settings.name, "usage": made.usage()}
    return JSONResponse(body, headers=ignored(asked.ignored))


@router.post("/embedding")
async def embedding(asked: LlamaEmbedded, request: Request) -> Response:
    """The same in the form of llama.cpp's server: a list of vectors for each text."""
    served = service(request)
    served.check_model(asked.model)
    given = asked.content if asked.content is not None else asked.input
    if not served.loaded.pooling:
        return failure(request.url.path, 501, NONE, code="not_supported")
    if given is None:
        raise ConfigError("no content", "a text to embed")
    made = await unless_gone(request, vectors(served, inputs_of(given), None, asked.embd_normalize == 2))
    body = [{"index": i, "embedding": [row.tolist()]} for i, row in enumerate(made.rows)]
    return JSONResponse(body, headers=ignored(asked.ignored))


def _base64(row: F32) -> str:
    return base64.b64encode(row.astype("<f4").tobytes()).decode()


def inputs_of(given: Any) -> list[Any]:
    """The inputs of a request."""
    several = isinstance(given, list) and not any(isinstance(one, int) for one in given)
    return given if several else [given]


async def vectors(served: Service, inputs: Sequence[Any], dimensions: int | None, normalize: bool = True) -> Vectors:
    """All of them, as many at once as share a step and as many again that wait, of the queue half at most; raises what
    is wrong with one."""
    loaded = served.loaded
    check_dimensions(dimensions, loaded.hidden_size)
    prompts = [await _ids(served, one) for one in inputs]
    for ids in prompts:
        _check(ids, served)
    most = loaded.sequences + min(loaded.sequences, served.settings.max_queue // 2)
    left, done = list(enumerate(prompts))[::-1], dict[int, End]()
    coming: dict[asyncio.Task[End], int] = {}
    try:
        while left or coming:
            while left and len(coming) < most and (answer := _begun(served, left[-1][1], not coming)) is not None:
                index, _ = left.pop()
                coming[asyncio.ensure_future(_end(answer))] = index
            ended, _ = await asyncio.wait(coming, return_when=asyncio.FIRST_COMPLETED)
            done |= {coming.pop(task): task.result() for task in ended}
    finally:
        for task in coming:
            task.cancel()
    ends = [done[i] for i in range(len(prompts))]
    raw = [np.frombuffer(base64.b64decode(end.vector), "<f4") for end in ends]
    return Vectors([finished(row, normalize, dimensions) for row in raw], ends)


def _begun(served: Service, ids: list[int], first: bool) -> Answer | None:
    """The engine has a text; None where too many wait and one of the request's own can be waited for."""
    try:
        return served.ask([partial(_ask, ids, served.loaded.pooling)])[0]
    except QueueFullError:
        if first:
            raise
        return None


def _ask(ids: list[int], pooling: str, number: int) -> Ask:
    return Ask(number, ids, 0, [], {}, client=access.client.get(), pooling=pooling)


async def _end(answer: Answer) -> End:
    """An answer's end; cancelled, it cancels the answer."""
    async for _ in answer:
        pass
    if answer.end is None:
        raise ConfigError("an embedding without an end", "one")
    return answer.end


async def _ids(served: Service, one: Any) -> list[int]:
    if isinstance(one, Content):
        wrong = next((part for part in one.content if not _is_text(part)), None)
        if wrong is not None:
            raise ConfigError(f"a part of type {wrong.type[:40]!r}", "text: this model reads nothing else")
        return await ids_of(served, "".join(part.text or "" for part in one.content))
    return await ids_of(served, one)


def _is_text(part: Part) -> bool:
    return part.type in ("text", "input_text") and part.text is not None


def _check(ids: Sequence[int], served: Service) -> None:
    check_length(ids, served.loaded.longest)
    over = next((id for id in ids if id >= served.vocabulary), None)
    if over is not None:
        raise ConfigError(f"the token id {over}", f"0 to {served.vocabulary - 1}")
