"""Ollama's API, for programs that know nothing else. It answers and describes: nothing is pulled, made or deleted."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from memfirst import __version__
from memfirst.errors import MemfirstError
from memfirst.server.answers import chat_logprobs, finish_reason
from memfirst.server.calls import arguments_of
from memfirst.server.chat import ask_chat
from memfirst.server.fields import Sampled
from memfirst.server.link import Answer
from memfirst.server.messages import End, Piece
from memfirst.server.ollama_fields import Asked, Chatted, Generated, Shown
from memfirst.server.prompt import asks_of
from memfirst.server.reply import Delta, joined_calls, reply_parser
from memfirst.server.service import Service, ignored, merged, service
from memfirst.server.stream import LINES, Stream, compact, unless_gone

router = APIRouter(prefix="/api")

FOREVER = "9999-12-31T23:59:59Z"
"""When the model goes away."""


def check_model(served: Service, asked: str | None) -> None:
    """ModelNotFoundError for another model than the one that is served, whose tag may be left at `latest`."""
    names = (served.settings.name, *served.settings.aliases)
    if asked is None or asked not in names:
        served.check_model((asked or "").removesuffix(":latest"))


# --- what is served


@router.get("/version")
async def version() -> dict[str, str]:
    """memfirst's."""
    return {"version": __version__}


@router.get("/tags")
async def tags(request: Request) -> dict[str, Any]:
    """The model that is served."""
    return {"models": [_model(service(request))]}


@router.get("/ps")
async def running(request: Request) -> dict[str, Any]:
    """The same: it is always loaded."""
    served = service(request)
    held = {"size_vram": 0, "expires_at": FOREVER, "context_length": served.loaded.context}
    return {"models": [_model(served) | held]}


@router.post("/show")
async def show(asked: Shown, request: Request) -> dict[str, Any]:
    """What the model is and can do."""
    served = service(request)
    check_model(served, asked.model or asked.name)
    loaded = served.loaded
    try:
        template = served.prompts.template.source
    except MemfirstError:  # a base model has none
        template = ""
    can = ["completion", *(["tools"] if "tools" in template else []), *(["thinking"] if "<think>" in template else []),
           *(["embedding"] if loaded.pooling else [])]  # fmt: skip
    info = {
        "general.architecture": loaded.architecture, "general.file_type": loaded.codec,
        f"{loaded.architecture}.context_length": loaded.trained, "tokenizer.vocabulary": served.vocabulary,
        f"{loaded.architecture}.embedding_length": loaded.hidden_size,
    }  # fmt: skip
    return {
        "modelfile": "", "parameters": f"num_ctx {loaded.context}", "template": template, "license": "",
        "details": _details(served), "model_info": info, "capabilities": can, "modified_at": _time(served.started),
    }  # fmt: skip


def _model(served: Service) -> dict[str, Any]:
    name = served.settings.name
    return {
        "name": name, "model": name, "modified_at": _time(served.started), "size": served.loaded.weights,
        "digest": served.settings.digest, "details": _details(served),
    }  # fmt: skip


def _details(served: Service) -> dict[str, Any]:
    loaded = served.loaded
    return {
        "parent_model": "", "format": "gguf" if served.settings.model_path.endswith(".gguf") else "safetensors",
        "family": loaded.architecture, "families": [loaded.architecture], "parameter_size": "",
        "quantization_level": loaded.codec,
    }  # fmt: skip


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


# --- answers


@dataclass
class Job:
    """A request on its way. `chat`: its answer is a message, else a text under "response"."""

    service: Service
    asked: Asked
    answer: Answer
    parser: Any
    chat: bool
    model: str
    _unsaid: list[dict[str, Any]] = field(default_factory=list)
    _parts: list[Delta] = field(default_factory=list)
    """Of a call that is not whole yet: this API has whole ones only."""

    def frame(self, delta: Delta, **more: Any) -> dict[str, Any]:
        """One line: what came, and at the end what it cost."""
        base = {"model": self.model, "created_at": _time(time.time())}
        thought = {"thinking": delta.reasoning} if delta.reasoning else {}
        if self.chat:
            said: dict[str, Any] = {"message": {"role": "assistant", "content": delta.content} | thought}
        else:
            said = {"response": delta.content} | thought
        return base | said | {"done": False} | more

    def grown(self, pieces: list[Piece], last: bool) -> list[dict[str, Any]]:
        """The lines of pieces that came."""
        tokenizer = self.service.prompts.tokenizer
        self._unsaid += [chat_logprobs(tokenizer, piece.logprobs) for piece in pieces if piece.logprobs]
        text = "".join(piece.text for piece in pieces)
        deltas = [Delta(content=text)] if self.parser is None and text else []
        if self.parser is not None:
            deltas = self.parser.push(text) + (self.parser.end() if last else [])
        lines: list[dict[str, Any]] = []
        for delta in deltas:
            if delta.call is None or delta.call.name:
                lines += self._called()
            if delta.call is None:
                lines.append(self.frame(delta))
            else:
                self._parts.append(delta)
        lines += self._called() if last else []
        if lines and self._unsaid:
            lines[-1]["logprobs"], self._unsaid = self._unsaid, []
        return lines

    def _called(self) -> list[dict[str, Any]]:
        """The line of the call that is whole now."""
        calls, self._parts = joined_calls(self._parts), []
        if not calls:
            return []
        line = self.frame(Delta())
        line["message"]["tool_calls"] = [
            {"id": one.id, "function": {"index": one.index, "name": one.name, "arguments": arguments_of(one.arguments)}}
            for one in calls
        ]
        return [line]


@router.post("/chat")
async def chat(asked: Chatted, request: Request) -> Response:
    """Answer a conversation; without a message it says that the model is there."""
    served = service(request)
    check_model(served, asked.model)
    if not asked.messages:
        return JSONResponse(_there(asked.model, message={"role": "assistant", "content": ""}))
    made = asked.chat()
    answer = (await ask_chat(served, made))[0]
    return await _answered(Job(served, asked, answer, reply_parser(served, made), True, asked.model), request)


@router.post("/generate")
async def generate(asked: Generated, request: Request) -> Response:
    """Answer one question, or continue a text."""
    served = service(request)
    check_model(served, asked.model)
    if not asked.prompt:
        return JSONResponse(_there(asked.model, response=""))
    if asked.raw:
        ids = await served.prompts.of_text(asked.prompt)
        context, vocabulary = served.loaded.context, served.vocabulary
        asks = asks_of(Sampled(**asked.how.sampled()), ids, asked.how.most, asked.listed, context, vocabulary)
        return await _answered(Job(served, asked, served.ask(asks)[0], None, False, asked.model), request)
    made = asked.chat()
    answer = (await ask_chat(served, made))[0]
    return await _answered(Job(served, asked, answer, reply_parser(served, made), False, asked.model), request)


def _there(model: str, **said: Any) -> dict[str, Any]:
    """The answer to a request for nothing, by which programs load a model."""
    return {"model": model, "created_at": _time(time.time()), **said, "done": True, "done_reason": "load"}


async def _answered(job: Job, request: Request) -> Response:
    headers = ignored(job.asked.ignored)
    if job.asked.stream is not False:
        return await Stream(_lines(job), headers, LINES).begin()
    return JSONResponse(await unless_gone(request, _whole(job)), headers=headers)


async def _whole(job: Job) -> dict[str, Any]:
    """All lines as one."""
    said, thought, listed, last, calls = "", "", list[Any](), dict[str, Any](), list[Any]()
    async with aclosing(_events(job)) as events:  # type: ignore[type-var]
        async for one in events:
            part = one["message"] if job.chat else one
            said += part["content" if job.chat else "response"]
            thought += part.get("thinking", "")
            calls += part.get("tool_calls", ())
            listed += one.get("logprobs", ())
            last = one
    whole = last | job.frame(Delta(said)) | {"done": True}
    if thought:
        (whole["message"] if job.chat else whole)["thinking"] = thought.strip("\n")
    if calls:
        whole["message"] |= {"tool_calls": calls, "content": said.strip()}
    return whole | ({"logprobs": listed} if job.asked.logprobs else {})


async def _lines(job: Job) -> AsyncIterator[str]:
    begun = False
    async with aclosing(_events(job)) as events:  # type: ignore[type-var]
        try:
            async for one in events:
                yield compact(one) + "\n"
                begun = True
        except MemfirstError as error:
            if not begun:
                raise
            yield compact({"error": str(error)}) + "\n"


async def _events(job: Job) -> AsyncIterator[dict[str, Any]]:
    async for _, pieces, end in merged([job.answer]):
        for line in job.grown(pieces, end is not None):
            yield line
        if end is not None:
            yield job.frame(Delta(), done=True, done_reason=finish_reason(end), **_cost(end))


def _cost(end: End) -> dict[str, int]:
    """Tokens, and times in nanoseconds."""
    u = end.usage
    prompt, answer = int(1e9 * u["prompt_s"]), int(1e9 * u["answer_s"])
    return {
        "total_duration": int(1e9 * u["queued_s"]) + prompt + answer, "load_duration": 0,
        "prompt_eval_count": u["prompt_tokens"], "prompt_eval_duration": prompt,
        "eval_count": u["tokens"], "eval_duration": answer,
    }  # fmt: skip
