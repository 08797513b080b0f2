"""POST /v1/messages: Anthropic's form of a chat."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field, StrictBool, StrictFloat, StrictInt

from memfirst.errors import MemfirstError
from memfirst.runtime.request import CONTEXT, LENGTH, STOP
from memfirst.server.answers import bytes_read, new_id
from memfirst.server.anthropic_turns import Turn, choice, functions
from memfirst.server.calls import arguments_of
from memfirst.server.chat import ask_chat
from memfirst.server.failures import status_of
from memfirst.server.fields import Chat, Message, Name, Open, Parts, StopList, Text
from memfirst.server.link import Answer
from memfirst.server.messages import End
from memfirst.server.reply import Delta, joined_calls, reply_parser
from memfirst.server.service import Service, ignored, merged, service
from memfirst.server.settings import MOST_MESSAGES, MOST_TOOLS
from memfirst.server.stream import Stream, event, unless_gone

router = APIRouter()


class Counted(Open):
    """POST /v1/messages/count_tokens, and what POST /v1/messages has in common with it."""

    model: Name | None = None
    messages: Annotated[list[Turn], Field(fail_fast=True, min_length=1, max_length=MOST_MESSAGES)]
    system: Text | Parts | None = None
    tools: Annotated[list[dict[str, Any]], Field(max_length=MOST_TOOLS)] | None = None
    tool_choice: dict[str, Any] | None = None

    def turns(self) -> list[Message]:
        """As a chat's messages."""
        system = [] if self.system is None else [Message(role="system", content=self.system)]
        return [*system, *(message for turn in self.messages for message in turn.messages())]

    def chat(self) -> Chat:
        """What the prompt is made of, in OpenAI's form."""
        forced, parallel = choice(self.tool_choice)
        return Chat(
            model=self.model, messages=self.turns(), tools=functions(self.tools), tool_choice=forced,
            parallel_tool_calls=parallel,
        )  # fmt: skip


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
        more = {
            "max_tokens": self.max_tokens, "stop": self.stop_sequences or None, "temperature": self.temperature,
            "top_p": self.top_p, "top_k": self.top_k,
        }  # fmt: skip
        return super().chat().model_copy(update=more)


@router.post("/v1/messages")
async def messages(asked: Asked, request: Request) -> Response:
    """Answer a conversation, in Anthropic's form."""
    served = service(request)
    try:
        chat = asked.chat()
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
        return JSONResponse({"input_tokens": len(await served.prompts.of_chat(asked.chat()))})
    except MemfirstError as error:
        return refused(error)


class Job:
    """A request on its way."""

    def __init__(self, served: Service, chat: Chat, answer: Answer) -> None:
        self.served, self.chat, self.answer = served, chat, answer
        self.id = new_id("msg", "_")

    def frame(self, content: list[dict[str, Any]], end: End | None, called: bool = False) -> dict[str, Any]:
        """The message's object."""
        return {
            "id": self.id, "type": "message", "role": "assistant", "model": self.served.settings.name,
            "content": content, **ending(end, called), "usage": usage(end, len(self.answer.prompt)),
        }  # fmt: skip


def ending(end: End | None, called: bool = False) -> dict[str, Any]:
    """Why it ended."""
    if end is None:
        return {"stop_reason": None, "stop_sequence": None}
    reason = "max_tokens" if end.reason in (LENGTH, CONTEXT) else "stop_sequence" if end.reason == STOP else "end_turn"
    reason = "tool_use" if called and reason == "end_turn" else reason
    return {"stop_reason": reason, "stop_sequence": end.usage.get("stopped")}


def usage(end: End | None, prompt: int = 0) -> dict[str, Any]:
    """What it cost; prompt tokens from the cache apart, as Anthropic counts them; before the end all of them."""
    if end is None:
        return {"input_tokens": prompt, "output_tokens": 0}
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
    used = [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": arguments_of(call.arguments)}
        for call in joined_calls(deltas)
    ]
    content += [{"type": "text", "text": text}] if text.strip() or not used else []
    return job.frame([*content, *used], ended, parser.called)


async def _guarded(job: Job) -> AsyncIterator[str]:
    """The events; an error after the first becomes one."""
    async with aclosing(_events(job)) as inner:  # type: ignore[type-var]
        try:
            async for one in inner:
                yield one
        except MemfirstError as error:
            yield event(failed(status_of(error)[0], error), "error")


async def _events(job: Job) -> AsyncIterator[str]:
    parser, blocks = reply_parser(job.served, job.chat), Blocks()
    yield _event("message_start", message=job.frame([], None))
    async for _, pieces, end in merged([job.answer]):
        deltas = parser.push("".join(piece.text for piece in pieces))
        deltas += parser.end() if end is not None else []
        for delta in deltas:
            for one in blocks.push(delta):
                yield one
        if end is not None:
            for one in blocks.close():
                yield one
            yield _event("message_delta", delta=ending(end, parser.called), usage=usage(end))
            yield _event("message_stop")


class Blocks:
    """The events of an answer's blocks."""

    def __init__(self) -> None:
        self._index, self._open = -1, ""

    def push(self, delta: Delta) -> Iterator[str]:
        """What a delta adds. A call begins a block; white space before one is none."""
        call = delta.call
        if call is not None and call.name:
            block = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
            yield from self._begin(f"tool_use {call.index}", block)
        elif call is not None:
            yield self._grown({"type": "input_json_delta", "partial_json": call.arguments})
        else:
            kind, text = ("thinking", delta.reasoning) if delta.reasoning else ("text", delta.content)
            if kind != self._open and not text.strip():
                return
            yield from self._begin(kind, _block(kind))
            yield self._grown({"type": f"{kind}_delta", kind: text})

    def close(self) -> Iterator[str]:
        """The end of the last one; an answer has at least one."""
        yield from self._begin("text", _block("text")) if self._index < 0 else ()
        yield _event("content_block_stop", index=self._index)

    def _begin(self, kind: str, block: dict[str, Any]) -> Iterator[str]:
        if kind == self._open:
            return
        if self._index >= 0:
            yield _event("content_block_stop", index=self._index)
        self._index, self._open = self._index + 1, kind
        yield _event("content_block_start", index=self._index, content_block=block)

    def _grown(self, delta: dict[str, Any]) -> str:
        return _event("content_block_delta", index=self._index, delta=delta)


def _block(kind: str) -> dict[str, Any]:
    return {"type": kind, kind: ""} | ({"signature": ""} if kind == "thinking" else {})


def _event(kind: str, **fields: Any) -> str:
    return event({"type": kind, **fields}, kind)
