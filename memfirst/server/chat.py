"""POST /v1/chat/completions."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from memfirst.runtime.grammar import Grammar
from memfirst.server.answers import chat_logprobs, finish_reason, new_id, prompt_progress, timings, usage
from memfirst.server.fields import Chat
from memfirst.server.link import Answer
from memfirst.server.messages import End, Piece
from memfirst.server.prompt import asks_of
from memfirst.server.reply import CLOSE, Delta, Reply, reply_parser
from memfirst.server.service import Service, by_token, fingerprint, ignored, merged, service
from memfirst.server.stream import Stream, event, guarded, unless_gone
from memfirst.server.structured import grammar_asked
from memfirst.server.tools import calls_or, check_tools, final, forced, is_forced

router = APIRouter()


@dataclass
class Job:
    """A request on its way."""

    service: Service
    chat: Chat
    answers: list[Answer]
    id: str = field(default_factory=lambda: new_id("chatcmpl"))
    created: int = field(default_factory=lambda: int(time.time()))

    def frame(self, kind: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """An answer's or a chunk's object."""
        if self.chat.verbose and kind == "chat.completion":
            text = self.service.prompts.tokenizer.decode(self.answers[0].prompt, special=True)
            more["__verbose"] = {"prompt": text}
        return {
            "id": self.id, "object": kind, "created": self.created, "model": self.service.settings.name,
            "choices": choices, "system_fingerprint": fingerprint(self.service), **more,
        }  # fmt: skip

    def parsers(self) -> list[Reply]:
        """For each choice what takes its text apart."""
        return [reply_parser(self.service, self.chat) for _ in self.answers]


@router.post("/v1/chat/completions")
@router.post("/chat/completions", include_in_schema=False)
async def chat_completions(chat: Chat, request: Request) -> Response:
    """Answer a conversation."""
    served = service(request)
    chat = chat.completed(served.settings.defaults)
    answers = await ask_chat(served, chat)
    job, headers = Job(served, chat, answers), ignored(chat.ignored)
    if chat.stream:
        return await Stream(guarded(_chunks(job)), headers).begin()
    return JSONResponse(await unless_gone(request, _whole(job)), headers=headers)


async def ask_chat(served: Service, chat: Chat) -> list[Answer]:
    """Give the engine a chat's choices; raises what is wrong with the request."""
    served.check_model(chat.model)
    chat = chat.completed(served.settings.defaults)
    grammar = asked_of(served, chat)
    prompt = await served.prompts.of_chat(chat)
    most = chat.max_completion_tokens if chat.max_completion_tokens is not None else chat.max_tokens
    logprobs = (chat.top_logprobs or 0) if chat.logprobs else None
    prompts, family = served.prompts, served.prompts.family_for(chat)
    thinks = grammar is not None and prompts.thinks(chat) and not prompts.family.thinks
    grammar = await served.grammar(grammar, CLOSE if thinks else "")
    prediction = await prompts.of_text(chat.prediction.text) if chat.prediction else ()
    limits = served.loaded.context, served.vocabulary
    asks = asks_of(chat, prompt, most, logprobs, *limits, grammar, prompts.shows_controls(family), prediction)
    return served.ask(asks)


def asked_of(served: Service, chat: Chat) -> Grammar | None:
    """What an answer must follow: a form, calls of tools, or either."""
    form, functions, prompts = grammar_asked(chat), check_tools(chat), served.prompts
    if is_forced(chat):
        return forced(prompts.family, functions, prompts.tokenizer, chat.parallel_tool_calls is not False, None)
    if form is None:
        return None
    if functions:
        return calls_or(form, prompts.family, functions, prompts.tokenizer)
    return final(form, prompts.tokenizer) if prompts.family.thinks else form


async def _whole(job: Job) -> dict[str, Any]:
    """All of an answer at once."""
    parsers, ends = job.parsers(), list[End | None]([None] * len(job.answers))
    deltas: list[list[Delta]] = [[] for _ in parsers]
    listed: list[list[dict[str, Any]]] = [[] for _ in parsers]
    async for index, pieces, end in merged(job.answers):
        deltas[index] += parsers[index].push("".join(piece.text for piece in pieces))
        listed[index] += _logprobs(job, pieces)
        if end is not None:
            ends[index] = end
            deltas[index] += parsers[index].end()
    done = [end for end in ends if end is not None]
    choices = []
    for i, end in enumerate(done):
        message = parsers[i].message(deltas[i])
        logprobs = {"content": listed[i], "refusal": None} if job.chat.logprobs else None
        reason = parsers[i].finish_reason(finish_reason(end))
        choices.append({"index": i, "message": message, "logprobs": logprobs, "finish_reason": reason})
    return job.frame("chat.completion", choices, usage=usage(done), timings=timings(done[0]))


async def _chunks(job: Job) -> AsyncIterator[str]:
    """An answer as server-sent events: roles first, then what comes, then why it ended, then what it cost."""
    parsers, ends = job.parsers(), list[End | None]([None] * len(job.answers))
    with_usage = bool(job.chat.stream_options and job.chat.stream_options.include_usage)
    beside: dict[str, Any] = {"usage": None} if with_usage else {}
    begun = set[int]()
    async for index, pieces, end in merged(job.answers):
        made: list[str] = []
        if index not in begun:  # not before: a request that is refused has sent nothing
            begun.add(index)
            made.append(_chunk(job, index, {"role": "assistant", "content": "", "refusal": None}, None, None, beside))
        for progress in prompt_progress(job.answers[index]):
            made.append(_chunk(job, index, {}, None, None, beside | {"prompt_progress": progress}))
        for some in by_token(pieces):
            deltas = parsers[index].push("".join(piece.text for piece in some))
            if end is not None:
                deltas += parsers[index].end()
            listed = _logprobs(job, some) if job.chat.logprobs else []
            for delta in deltas or ([Delta()] if listed else []):
                made.append(_chunk(job, index, delta.fields(), listed or None, None, beside))
                listed = []
        if end is not None:
            ends[index] = end
            reason = parsers[index].finish_reason(finish_reason(end))
            made.append(_chunk(job, index, {}, None, reason, beside | {"timings": timings(end)}))
        if made:
            yield "".join(made)
    if with_usage:
        yield event(job.frame("chat.completion.chunk", [], usage=usage([end for end in ends if end is not None])))
    yield event("[DONE]")


def _chunk(
    job: Job, index: int, delta: dict[str, Any], listed: list[dict[str, Any]] | None, reason: str | None,
    beside: dict[str, Any],
) -> str:  # fmt: skip
    logprobs = {"content": listed, "refusal": None} if listed else None
    choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
    return event(job.frame("chat.completion.chunk", [choice], **beside))


def _logprobs(job: Job, pieces: Sequence[Piece]) -> list[dict[str, Any]]:
    tokenizer = job.service.prompts.tokenizer
    return [chat_logprobs(tokenizer, piece.logprobs) for piece in pieces if piece.logprobs]
