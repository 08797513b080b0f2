"""POST /v1/completions: texts to continue."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from memfirst.errors import ConfigError
from memfirst.server.answers import CompletionLogprobs, finish_reason, joined, new_id, timings, usage
from memfirst.server.fields import Completion
from memfirst.server.link import Answer
from memfirst.server.messages import End
from memfirst.server.prompt import asks_of
from memfirst.server.service import Service, by_token, fingerprint, ignored, merged, service
from memfirst.server.settings import MOST_CHOICES
from memfirst.server.stream import Stream, event, guarded, unless_gone
from memfirst.server.structured import grammar_asked

router = APIRouter()


@dataclass
class Job:
    """A request on its way: `texts` are the prompts, each with `n` answers behind one another."""

    service: Service
    body: Completion
    texts: list[str]
    answers: list[Answer]
    id: str = field(default_factory=lambda: new_id("cmpl"))
    created: int = field(default_factory=lambda: int(time.time()))

    def frame(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """An answer's or a chunk's object."""
        return {
            "id": self.id, "object": "text_completion", "created": self.created, "model": self.service.settings.name,
            "choices": choices, "system_fingerprint": fingerprint(self.service), **more,
        }  # fmt: skip

    @property
    def each(self) -> int:
        """Answers to each prompt."""
        return self.body.n or 1

    def usage(self, ends: list[End]) -> dict[str, Any]:
        """Of all prompts together."""
        return joined([usage(ends[i : i + self.each]) for i in range(0, len(ends), self.each)])


@router.post("/v1/completions")
@router.post("/completions", include_in_schema=False)
async def completions(body: Completion, request: Request) -> Response:
    """Continue a text, or several."""
    served = service(request)
    served.check_model(body.model)
    body = body.completed(served.settings.defaults)
    prompts = await _prompts(served, body)
    context, vocab = served.loaded.context, served.vocabulary
    most = 16 if body.max_tokens is None else body.max_tokens  # OpenAI's default here
    grammar = await served.grammar(grammar_asked(body))
    asks = [ask for ids in prompts for ask in asks_of(body, ids, most, body.logprobs, context, vocab, grammar)]
    texts = [served.prompts.tokenizer.decode(ids) if body.echo else "" for ids in prompts]
    job, headers = Job(served, body, texts, served.ask(asks)), ignored(body.ignored)
    if body.stream:
        return await Stream(guarded(_chunks(job)), headers).begin()
    return JSONResponse(await unless_gone(request, _whole(job)), headers=headers)


async def _prompts(served: Service, body: Completion) -> list[list[int]]:
    """Token ids of each prompt."""
    given: Any = body.prompt
    if isinstance(given, str):
        return [await served.prompts.of_text(given)]
    if not given:
        raise ConfigError("an empty list as the prompt", "a text, token ids, or a list of them")
    if isinstance(given[0], int):
        return [given]
    if len(given) * (body.n or 1) > MOST_CHOICES:
        raise ConfigError(f"{len(given) * (body.n or 1)} answers", f"at most {MOST_CHOICES}")
    return [await served.prompts.of_text(one) if isinstance(one, str) else one for one in given]


async def _whole(job: Job) -> dict[str, Any]:
    tokenizer, count = job.service.prompts.tokenizer, len(job.answers)
    texts, ends = [job.texts[i // job.each] for i in range(count)], list[End | None]([None] * count)
    listed = [CompletionLogprobs(tokenizer) for _ in range(count)]
    async for index, pieces, end in merged(job.answers):
        texts[index] += "".join(piece.text for piece in pieces)
        for piece in pieces:
            if piece.logprobs:
                listed[index].add(piece.logprobs)
        ends[index] = end or ends[index]
    done = [end for end in ends if end is not None]
    choices = [
        {
            "index": i, "text": texts[i], "logprobs": None if job.body.logprobs is None else listed[i].lists,
            "finish_reason": finish_reason(end),
        }
        for i, end in enumerate(done)
    ]  # fmt: skip
    return job.frame(choices, usage=job.usage(done), timings=timings(done[0]))


async def _chunks(job: Job) -> AsyncIterator[str]:
    tokenizer, count = job.service.prompts.tokenizer, len(job.answers)
    ends, echoed = list[End | None]([None] * count), set[int]()
    listed = [CompletionLogprobs(tokenizer) for _ in range(count)]
    with_usage = bool(job.body.stream_options and job.body.stream_options.include_usage)
    beside: dict[str, Any] = {"usage": None} if with_usage else {}
    async for index, pieces, end in merged(job.answers):
        made: list[str] = []
        for some in by_token(pieces):
            text = "".join(piece.text for piece in some)
            if index not in echoed:
                echoed.add(index)
                text = job.texts[index // job.each] + text
            for piece in some:
                if piece.logprobs:
                    listed[index].add(piece.logprobs)
            ends[index] = end or ends[index]
            reason = None if end is None else finish_reason(end)
            if text or reason or listed[index].lists["tokens"]:
                logprobs = None if job.body.logprobs is None else listed[index].take()
                choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
                more = beside if end is None else beside | {"timings": timings(end)}
                made.append(event(job.frame([choice], **more)))
        if made:
            yield "".join(made)
    if with_usage:
        yield event(job.frame([], usage=job.usage([end for end in ends if end is not None])))
    yield event("[DONE]")
