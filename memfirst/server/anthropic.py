"""POST /v1/messages: Anthropic's form of a chat."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field, StrictBool, StrictFloat, StrictInt, model_validator

from memfirst.errors import MemfirstError
from memfirst.runtime.request import CONTEXT, LENGTH, STOP
from memfirst.server.answers import bytes_read, new_id
from memfirst.server.chat import ask_chat
from memfirst.server.failures import status_of
from memfirst.server.fields import Chat, Message, Name, Open, Part, Parts, StopList, Text
from memfirst.server.link import Answer
from memfirst.server.messages import End
from memfirst.server.reply import Delta, reply_parser
from memfirst.server.service import Service, ignored, merged, service
from memfirst.server.settings import MOST_MESSAGES
from memfirst.server.stream import Stream, event, unless_gone

router = APIRouter()


class Turn(Open):
    """A message: a text, or blocks of text."""

    role: Literal["user", "assistant"]
    content: Text | Parts


class Counted(Open):
    """POST /v1/messages/count_tokens, and what POST /v1/messages has in common with it."""

    model: Name | None = None
    messages: Annotated[list[Turn], Field(fail_fast=True, min_length=1, max_length=MOST_MESSAGES)]
    system: Text | Parts | None = None
    tools: list[dict[str, Any]] | None = None

    @model_validator(mode="after")
    def _texts(self) -> Counted:
        if self.tools:
            raise ValueError("tools are not served in this form: use /v1/chat/completions")
        return self

    def turns(self) -> list[Message]:
        """As a chat's messages."""
        system = [] if self.system is None else [Message(role="system", content=self.system)]
        return [*system, *(Message(role=turn.role, content=_joined(turn.content)) for turn in self.messages)]


class Asked(Counted):
    """POST /v1/messages."""

    max_tokens: Annotated[StrictInt, Field(ge=1, le=1 << 31)]
    stop_sequences: StopList | None = None
    temperature: Annotated[StrictFloat | StrictInt, Field(ge=0, le=1)] | None = None
    top_p: Annotated[StrictFloat | StrictInt, Field(ge=0, le=1)] | None = None
    top_k: Annotated[StrictInt, Field(ge=0, le=1 << 24)] | None = None
    stream: StrictBool = False

    def chat(self) -> Chat:
        """The same in OpenAI's form."""
        return Chat(
            model=self.model, messages=self.turns(), max_tokens=self.max_tokens, stop=self.stop_sequences or None,
            temperature=self.temperature, top_p=self.top_p, top_k=self.top_k,
        )  # fmt: skip


def _joined(content: str | list[Part]) -> str | list[Part]:
    """Blocks of text as one text, so that an answer that was begun can be gone on with."""
    if isinstance(content, list) and all(part.type == "text" and part.text is not None for part in content):
        return "".join(part.text or "" for part in content)
    return content


@router.post("/v1/messages")
async def messages(asked: Asked, request: Request) -> Response:
    """Answer a conversation, in Anthropic's form."""
    served, chat = service(request), asked.chat()
    try:
        answers = await ask_chat(served, chat)
    except MemfirstError as error:
        return refused(error)
    job = Job(served, chat, answers[0])
    if asked.stream:
        return await Stream(_guarded(job), ignored(asked.ignored)).begin()
    try:
        return JSONResponse(await unless_gone(request, _whole(job)), headers=ignored(asked.ignored))
    except MemfirstError as error:
        return refused(error)


@router.post("/v1/messages/count_tokens")
async def count_tokens(asked: Counted, request: Request) -> Response:
    """How many tokens a conversation's prompt has."""
    served = service(request)
    try:
        served.check_model(asked.model)
        return JSONResponse({"input_tokens": len(await served.prompts.of_chat(Chat(messages=asked.turns())))})
    except MemfirstError as error:
        return refused(error)


class Job:
    """A request on its way."""

    def __init__(self, served: Service, chat: Chat, answer: Answer) -> None:
        self.served, self.chat, self.answer = served, chat, answer
        self.id = new_id("msg", "_")

    def frame(self, content: list[dict[str, Any]], end: End | None) -> dict[str, Any]:
        """The message's object."""
        return {
            "id": self.id, "type": "message", "role": "assistant", "model": self.served.settings.name,
            "content": content, **ending(end), "usage": usage(end),
        }  # fmt: skip


def ending(end: End | None) -> dict[str, Any]:
    """Why it ended."""
    if end is None:
        return {"stop_reason": None, "stop_sequence": None}
    reason = "max_tokens" if end.reason in (LENGTH, CONTEXT) else "stop_sequence" if end.reason == STOP else "end_turn"
    return {"stop_reason": reason, "stop_sequence": end.usage.get("stopped")}


def usage(end: End | None) -> dict[str, Any]:
    """What it cost; prompt tokens from the cache apart, as Anthropic counts them."""
    if end is None:
        return {"input_tokens": 0, "output_tokens": 0}
    cached = end.usage["cached_tokens"]
    return {
        "input_tokens": end.usage["prompt_tokens"] - cached, "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": 0, "output_tokens": end.usage["tokens"], "memfirst": bytes_read([end]),
    }  # fmt: skip


def refused(error: MemfirstError) -> JSONResponse:
    """An error in Anthropic's form."""
    status, _ = status_of(error)
    return JSONResponse(failed(status, error), status)


def failed(status: int, error: MemfirstError) -> dict[str, Any]:
    """Its body."""
    kind = {404: "not_found_error", 503: "overloaded_error"}.get(status, "api_error" if status >= 500 else "")
    return {"type": "error", "error": {"type": kind or "invalid_request_error", "message": str(error)}}


async def _whole(job: Job) -> dict[str, Any]:
    parser, deltas, ended = reply_parser(job.served, job.chat), list[Delta](), None
    async for _, pieces, end in merged([job.answer]):
        deltas += parser.push("".join(piece.text for piece in pieces))
        if end is not None:
            ended = end
            deltas += parser.end()
    thought, text = "".join(d.reasoning for d in deltas), "".join(d.content for d in deltas)
    content = [{"type": "thinking", "thinking": thought, "signature": ""}] if thought else []
    return job.frame([*content, {"type": "text", "text": text}], ended)


async def _guarded(job: Job) -> AsyncIterator[str]:
    """The events; an error after the first becomes one."""
    async with aclosing(_events(job)) as inner:  # type: ignore[type-var]
        try:
            async for one in inner:
                yield one
        except MemfirstError as error:
            yield event(failed(status_of(error)[0], error), "error")


async def _events(job: Job) -> AsyncIterator[str]:
    parser, index, open_kind = reply_parser(job.served, job.chat), -1, ""
    yield _event("message_start", message=job.frame([], None))
    async for _, pieces, end in merged([job.answer]):
        deltas = parser.push("".join(piece.text for piece in pieces))
        deltas += parser.end() if end is not None else []
        for delta in deltas:
            kind = "thinking" if delta.reasoning else "text"
            if kind != open_kind:
                if open_kind:
                    yield _event("content_block_stop", index=index)
                index, open_kind = index + 1, kind
                yield _event("content_block_start", index=index, content_block=_block(kind))
            text = delta.reasoning or delta.content
            yield _event("content_block_delta", index=index, delta={"type": f"{kind}_delta", kind: text})
        if end is not None:
            if not open_kind:
                index = 0
                yield _event("content_block_start", index=0, content_block=_block("text"))
            yield _event("content_block_stop", index=index)
            yield _event("message_delta", delta=ending(end), usage=usage(end))
            yield _event("message_stop")


def _block(kind: str) -> dict[str, Any]:
    return {"type": kind, kind: ""} | ({"signature": ""} if kind == "thinking" else {})


def _event(kind: str, **fields: Any) -> str:
    return event({"type": kind, **fields}, kind)
