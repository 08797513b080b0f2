"""POST /v1/responses: OpenAI's newer form of a chat. Nothing is stored: a request brings its whole conversation."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, model_validator

from memfirst.errors import MemfirstError
from memfirst.server import failures
from memfirst.server.answers import bytes_read, chat_logprobs, finish_reason, new_id, timings
from memfirst.server.chat import ask_chat
from memfirst.server.fields import Chat, Name, Number, Open, StreamOptions, Text, Tokens
from memfirst.server.link import Answer
from memfirst.server.messages import End, Piece
from memfirst.server.reply import reply_parser
from memfirst.server.responses_items import Item, Output, conversation
from memfirst.server.service import Service, ignored, merged, service
from memfirst.server.settings import MOST_MESSAGES, MOST_TOOLS
from memfirst.server.stream import Stream, event, unless_gone

router = APIRouter()

STORED = {
    "previous_response_id": "send the conversation in input", "conversation": "send the conversation in input",
    "background": "wait for the answer, or stream it", "store": "set store to false",
    "prompt": "send its text in input",
}  # fmt: skip
"""Fields that need a server that keeps things, and what to do instead."""

LOGPROBS = "message.output_text.logprobs"


class TextFormat(BaseModel):
    """How the answer's text is to look."""

    model_config = ConfigDict(extra="allow")
    format: dict[str, Any] | None = None
    verbosity: Name | None = None


class Reasoning(BaseModel):
    """How much to think."""

    model_config = ConfigDict(extra="allow")
    effort: Name | None = None


class Asked(Open):
    """POST /v1/responses, and /v1/responses/input_tokens."""

    model: Name | None = None
    input: Text | Annotated[list[Item], Field(fail_fast=True, min_length=1, max_length=MOST_MESSAGES)]
    instructions: Text | None = None
    max_output_tokens: Annotated[Tokens, Field(ge=1)] | None = None
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    top_k: Annotated[StrictInt, Field(ge=-1, le=1 << 24)] | None = None
    min_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    seed: Annotated[StrictInt, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    top_logprobs: Annotated[StrictInt, Field(ge=0, le=20)] | None = None
    include: Annotated[list[Name], Field(max_length=32)] | None = None
    tools: Annotated[list[dict[str, Any]], Field(max_length=MOST_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = None
    parallel_tool_calls: StrictBool | None = None
    text: TextFormat | None = None
    reasoning: Reasoning | None = None
    metadata: Annotated[dict[StrictStr, StrictStr], Field(max_length=16)] | None = None
    store: StrictBool | None = None
    background: StrictBool | None = None
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _stateless(self) -> Asked:
        extra = self.model_extra or {}
        for name, do in STORED.items():
            if getattr(self, name, None) or extra.get(name) is not None:
                raise ValueError(f"{name} is not served, nothing is kept between requests: {do}")
        return self

    @property
    def functions(self) -> list[dict[str, Any]]:
        """The tools that are functions, as this form writes them."""
        return [tool for tool in self.tools or () if tool.get("type") == "function"]

    @property
    def ignored(self) -> list[str]:
        """Names that had no effect; of tools their type."""
        names = [*(self.model_extra or {}), *(["metadata"] if self.metadata else [])]
        names += [f"include.{name}" for name in self.include or () if name != LOGPROBS]
        names += [f"tools.{tool.get('type')}" for tool in self.tools or () if tool.get("type") != "function"]
        names += ["text.verbosity"] if self.text and self.text.verbosity else []
        return sorted(set(names))

    def chat(self) -> Chat:
        """The same as a chat of OpenAI's older form."""
        listed = self.top_logprobs is not None or LOGPROBS in (self.include or ())
        form = (self.text.format if self.text else None) or {}
        return Chat(
            model=self.model, messages=conversation(self.instructions, self.input), temperature=self.temperature,
            top_p=self.top_p, top_k=self.top_k, min_p=self.min_p, seed=self.seed,
            max_completion_tokens=self.max_output_tokens, logprobs=listed, top_logprobs=self.top_logprobs,
            tools=[_nested(tool) for tool in self.functions] or None, tool_choice=_nested_choice(self.tool_choice),
            parallel_tool_calls=self.parallel_tool_calls, response_format=_nested_format(form) or None,
            reasoning_effort=self.reasoning.effort if self.reasoning else None,
            chat_template_kwargs=self.chat_template_kwargs,
        )  # fmt: skip


def _nested(tool: dict[str, Any]) -> dict[str, Any]:
    """A function's fields stand beside its type here, within `function` in a chat."""
    return {"type": "function", "function": {name: value for name, value in tool.items() if name != "type"}}


def _nested_choice(choice: Any) -> Any:
    if isinstance(choice, dict) and choice.get("type") == "function" and "name" in choice:
        return {"type": "function", "function": {"name": choice["name"]}}
    return choice


def _nested_format(form: dict[str, Any]) -> dict[str, Any]:
    if form.get("type") != "json_schema" or "json_schema" in form:
        return form
    return {"type": "json_schema", "json_schema": {name: value for name, value in form.items() if name != "type"}}


@dataclass
class Job:
    """A request on its way."""

    service: Service
    asked: Asked
    chat: Chat
    answer: Answer
    id: str = field(default_factory=lambda: new_id("resp", "_"))
    created: int = field(default_factory=lambda: int(time.time()))
    output: Output = field(default_factory=Output)
    _unsaid: list[dict[str, Any]] = field(default_factory=list)
    """Log-probabilities of tokens whose text is held back."""

    def frame(self, end: End | None, error: dict[str, Any] | None = None) -> dict[str, Any]:
        """The response's object as it is now."""
        asked = self.asked
        status = "failed" if error else "in_progress" if end is None else status_of(end)
        incomplete = {"reason": "max_output_tokens"} if status == "incomplete" else None
        return {
            "id": self.id, "object": "response", "created_at": self.created, "status": status, "background": False,
            "completed_at": int(time.time()) if status == "completed" else None, "error": error,
            "incomplete_details": incomplete, "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens, "max_tool_calls": None, "model": self.service.settings.name,
            "output": self.output.items if end is not None or error else [],
            "parallel_tool_calls": asked.parallel_tool_calls is not False, "previous_response_id": None,
            "reasoning": {"effort": asked.reasoning.effort if asked.reasoning else None, "summary": None},
            "service_tier": "default", "store": False,
            "temperature": 1.0 if asked.temperature is None else asked.temperature,
            "text": {"format": (asked.text.format if asked.text else None) or {"type": "text"}},
            "tool_choice": asked.tool_choice or "auto", "tools": [_whole_function(tool) for tool in asked.functions],
            "top_logprobs": asked.top_logprobs or 0, "top_p": 1.0 if asked.top_p is None else asked.top_p,
            "truncation": "disabled", "usage": None if end is None else usage(end), "user": None,
            "metadata": asked.metadata or {},
        }  # fmt: skip

    def grown(self, pieces: list[Piece], parser: Any, end: End | None) -> list[dict[str, Any]]:
        """The events of pieces that came."""
        tokenizer = self.service.prompts.tokenizer
        self._unsaid += [chat_logprobs(tokenizer, piece.logprobs) for piece in pieces if piece.logprobs]
        deltas = parser.push("".join(piece.text for piece in pieces))
        deltas += parser.end() if end is not None else []
        events: list[dict[str, Any]] = []
        for delta in deltas:
            events += self.output.push(delta, self._unsaid if delta.content else ())
            self._unsaid = []  # what was thought has none in this form
        return events + (list(self.output.close(status_of(end))) if end is not None else [])


def _whole_function(tool: dict[str, Any]) -> dict[str, Any]:
    return {"description": None, "parameters": None, "strict": None} | tool


def status_of(end: End) -> str:
    """OpenAI's word for how a response ended."""
    return "incomplete" if finish_reason(end) == "length" else "completed"


def usage(end: End) -> dict[str, Any]:
    """What it cost, under this form's names."""
    prompt, written = end.usage["prompt_tokens"], end.usage["tokens"]
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": end.usage["cached_tokens"], "cache_write_tokens": 0},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt + written,
        "memfirst": bytes_read([end]),
    }


@router.post("/v1/responses")
@router.post("/responses", include_in_schema=False)
async def responses(asked: Asked, request: Request) -> Response:
    """Answer a conversation, in OpenAI's newer form."""
    served, chat = service(request), asked.chat()
    job = Job(served, asked, chat, (await ask_chat(served, chat))[0])
    headers = ignored(asked.ignored)
    if asked.stream:
        return await Stream(_numbered(job), headers).begin()
    return JSONResponse(await unless_gone(request, _whole(job)), headers=headers)


@router.post("/v1/responses/input_tokens")
@router.post("/responses/input_tokens", include_in_schema=False)
async def input_tokens(asked: Asked, request: Request) -> dict[str, Any]:
    """How many tokens a conversation's prompt has."""
    served = service(request)
    served.check_model(asked.model)
    return {"object": "response.input_tokens", "input_tokens": len(await served.prompts.of_chat(asked.chat()))}


async def _whole(job: Job) -> dict[str, Any]:
    parser, ended = reply_parser(job.service, job.chat), None
    async for _, pieces, end in merged([job.answer]):
        job.grown(pieces, parser, end)
        ended = end or ended
    return job.frame(ended)


async def _numbered(job: Job) -> AsyncIterator[str]:
    """The events with their numbers. What goes wrong after the first ends the response as failed."""
    number = 0
    async with aclosing(_events(job)) as events:  # type: ignore[type-var]
        try:
            async for one in events:
                yield event(one | {"sequence_number": number}, one["type"])
                number += 1
        except MemfirstError as error:
            if not number:
                raise
            failed = {"code": "server_error", "message": str(error)}
            last = {"type": "response.failed", "response": job.frame(None, failed), "sequence_number": number}
            yield event(last, "response.failed")
            status, code = failures.status_of(error)
            said = failures.body(status, str(error), code=code)
            yield event(said | {"type": "error", "sequence_number": number + 1}, "error")


async def _events(job: Job) -> AsyncIterator[dict[str, Any]]:
    parser, begun = reply_parser(job.service, job.chat), False
    async for _, pieces, end in merged([job.answer]):
        if not begun:  # not before: a request that is refused has sent nothing
            begun = True
            yield {"type": "response.created", "response": job.frame(None)}
            yield {"type": "response.in_progress", "response": job.frame(None)}
        for one in job.grown(pieces, parser, end):
            yield one
        if end is not None:
            yield {"type": f"response.{status_of(end)}", "response": job.frame(end), "timings": timings(end)}
