"""POST /completion: a text to continue, in the form of llama.cpp's server and with its defaults."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Discriminator, Field, StrictBool, StrictFloat, StrictInt, StrictStr, Tag, model_validator

from memfirst.errors import ConfigError
from memfirst.runtime.grammar import grammar_of
from memfirst.runtime.request import CONTEXT, EOS, STOP
from memfirst.server.answers import prompt_progress, timings
from memfirst.server.chat import asked_of
from memfirst.server.fields import Chat, Name, Number, Open, Sampled, StopList, Stops, Text, Tokens
from memfirst.server.link import Answer
from memfirst.server.messages import End, Piece
from memfirst.server.prompt import asks_of
from memfirst.server.service import Service, ignored, merged, service
from memfirst.server.settings import MOST_BIASES, MOST_CHOICES
from memfirst.server.stream import Stream, event, guarded, unless_gone
from memfirst.text import Tokenizer

router = APIRouter()

RANDOM = 0xFFFFFFFF
"""The seed that means any, as −1 does."""


OWN_NAMES = {"max_tokens": "n_predict", "repetition_penalty": "repeat_penalty"}
"""What OpenAI's or vLLM's fields are called here."""


class Wrapped(Open):
    """A text in an object, where media could stand beside it."""

    prompt_string: Text
    multimodal_data: list[Any] | Text | None = None

    @model_validator(mode="after")
    def _text(self) -> Wrapped:
        if self.multimodal_data:
            raise ValueError("multimodal_data is not served: this model reads text")
        return self


Sequenced = Annotated[list[Tokens | Text], Field(fail_fast=True, min_length=1, max_length=1 << 20)]
"""Token ids and texts as one sequence; texts alone are prompts of their own."""


def kind_of_prompt(given: Any) -> str:
    """Which of its forms a prompt is meant to be: it is checked as that one alone."""
    if isinstance(given, dict):
        return "object"
    if not isinstance(given, list):
        return "text"
    return "sequence" if not given or any(isinstance(one, int) for one in given) else "prompts"


One = Annotated[
    Annotated[Text, Tag("text")] | Annotated[Wrapped, Tag("object")] | Annotated[Sequenced, Tag("sequence")],
    Discriminator(lambda given: "sequence" if isinstance(given, list) else kind_of_prompt(given)),
]
Prompt = Annotated[
    Annotated[Text, Tag("text")]
    | Annotated[Wrapped, Tag("object")]
    | Annotated[Sequenced, Tag("sequence")]
    | Annotated[list[One], Field(fail_fast=True, max_length=MOST_CHOICES), Tag("prompts")],
    Discriminator(kind_of_prompt),
]
BiasPair = tuple[Tokens | Text, StrictFloat | StrictInt | StrictBool]


class Continued(Open):
    """POST /completion."""

    model: Name | None = None
    prompt: Prompt
    n_predict: Annotated[StrictInt, Field(ge=-2, le=1 << 31)] = -1
    temperature: Annotated[Number, Field(ge=0, le=2)] = 0.8
    top_k: Annotated[StrictInt, Field(ge=-1, le=1 << 24)] = 40
    top_p: Annotated[Number, Field(ge=0, le=1)] = 0.95
    min_p: Annotated[Number, Field(ge=0, le=1)] = 0.05
    repeat_penalty: Annotated[Number, Field(ge=0.01, le=100)] = 1.0
    presence_penalty: Annotated[Number, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[Number, Field(ge=-2, le=2)] = 0.0
    seed: Annotated[StrictInt, Field(ge=-(1 << 63), lt=1 << 63)] = -1
    stop: Stops | StopList = Field(default=[])
    logit_bias: (
        Annotated[list[BiasPair], Field(fail_fast=True, max_length=MOST_BIASES)]
        | Annotated[dict[StrictStr, Number | StrictBool], Field(max_length=MOST_BIASES)]
    ) = Field(default=[])
    n_probs: Annotated[StrictInt, Field(ge=0, le=20)] = 0
    ignore_eos: StrictBool = False
    return_tokens: StrictBool = False
    grammar: Text | None = None
    json_schema: dict[str, Any] | None = None
    response_fields: Annotated[list[Name], Field(max_length=64)] | None = None
    stream: StrictBool = False
    return_progress: StrictBool = False

    @model_validator(mode="after")
    def _served(self) -> Continued:
        extra = self.model_extra or {}
        if extra.get("post_sampling_probs"):
            raise ValueError("post_sampling_probs is not served: n_probs gives those before sampling")
        return self

    def completed(self, defaults: Mapping[str, Any]) -> Continued:
        """With the server's defaults where it says nothing."""
        named = {OWN_NAMES.get(name, name): value for name, value in defaults.items()}
        known = type(self).model_fields
        return self.model_copy(update={n: v for n, v in named.items() if n in known and n not in self.model_fields_set})

    @property
    def most(self) -> int | None:
        """Tokens to generate at most."""
        return self.n_predict if self.n_predict >= 0 else None

    @property
    def any_seed(self) -> bool:
        """Whether none was asked for."""
        return self.seed in (-1, RANDOM)

    def sampled(self, tokenizer: Tokenizer) -> Sampled:
        """How tokens are chosen, in OpenAI's form."""
        names = "temperature", "top_k", "top_p", "min_p", "repeat_penalty", "presence_penalty", "frequency_penalty"
        return Sampled(
            **{name: getattr(self, name) for name in (*names, "ignore_eos", "return_progress")}, stop=self.stop or None,
            seed=None if self.any_seed else self.seed, logit_bias=self.biases(tokenizer) or None,
        )  # fmt: skip

    def biases(self, tokenizer: Tokenizer) -> dict[str, float]:
        """By token id, a number among an object's names too; of a text each of its tokens. `false` excludes them."""
        made: dict[str, float] = {}
        pairs = self.logit_bias.items() if isinstance(self.logit_bias, dict) else self.logit_bias
        for what, bias in pairs:
            if bias is True:
                raise ConfigError("a logit_bias of true", "a number, or false to exclude a token")
            named = isinstance(self.logit_bias, dict) and str(what).isdecimal()
            ids = [int(what)] if named or isinstance(what, int) else tokenizer.encode(what, bos=False)
            made |= {str(id): -100.0 if bias is False else float(bias) for id in ids}
        return made

    def settings(self, tokenizer: Tokenizer) -> dict[str, Any]:
        """What was asked for, with what was left out; a bias of minus infinity is null."""
        left = {"model", "prompt", "response_fields", "logit_bias"}
        biases = dict.fromkeys(map(str, sorted(tokenizer.stop_ids)), -100.0) if self.ignore_eos else {}
        biases |= self.biases(tokenizer)
        return self.model_dump(include=set(type(self).model_fields) - left) | {
            "seed": RANDOM if self.any_seed else self.seed, "max_tokens": self.n_predict, "n_keep": 0,
            "logit_bias": [{"token": int(id), "bias": b if b > -100 else None} for id, b in biases.items()],
        }  # fmt: skip


@dataclass
class Job:
    """A request on its way: a prompt and an answer each."""

    service: Service
    asked: Continued
    prompts: list[list[int]]
    answers: list[Answer]
    texts: dict[int, str] = field(default_factory=dict)
    ids: dict[int, list[int]] = field(default_factory=dict)

    def piece(self, index: int, piece: Piece) -> dict[str, Any]:
        """A token as a chunk."""
        self.texts[index] = self.texts.get(index, "") + piece.text
        self.ids.setdefault(index, []).append(piece.id)
        listed = {"completion_probabilities": [self.probabilities(piece)]} if piece.logprobs else {}
        return self.begun(index) | {"content": piece.text, "tokens": [piece.id], **listed}

    def begun(self, index: int) -> dict[str, Any]:
        """A chunk without a token."""
        return {
            "index": index, "content": "", "tokens": [], "stop": False, "id_slot": -1,
            "tokens_predicted": len(self.ids.get(index, ())), "tokens_evaluated": len(self.prompts[index]),
        }  # fmt: skip

    def probabilities(self, piece: Piece) -> dict[str, Any]:
        """The log-probabilities of a token and of the likeliest."""
        tokenizer = self.service.prompts.tokenizer
        chosen, *likeliest = [
            {"id": id, "token": word.decode("utf-8", "replace"), "bytes": list(word), "logprob": value}
            for id, value in piece.logprobs or ()
            for word in [tokenizer.piece(int(id), special=True)]
        ]
        return chosen | {"top_logprobs": likeliest}

    def last(self, index: int, end: End, content: str, listed: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
        """The answer's end, with all that is known of it."""
        tokenizer, ids, asked = self.service.prompts.tokenizer, self.ids.get(index, []), self.asked
        kind = "eos" if end.reason == EOS else "word" if end.reason == STOP else "limit"
        made = {
            "index": index, "content": content, "tokens": ids if asked.return_tokens and not asked.stream else [],
            "id_slot": -1, "stop": True, "model": self.service.settings.name, "tokens_predicted": end.usage["tokens"],
            "tokens_evaluated": end.usage["prompt_tokens"], "tokens_cached": end.usage["cached_tokens"],
            "generation_settings": asked.settings(tokenizer),
            "prompt": tokenizer.decode(self.prompts[index], special=True),
            "has_new_line": "\n" in self.texts.get(index, ""), "truncated": end.reason == CONTEXT, "stop_type": kind,
            "stopping_word": end.usage["stopped"] or "", "timings": timings(end),
        }  # fmt: skip
        if asked.n_probs and not asked.stream:
            made["completion_probabilities"] = list(listed)
        return picked(made, asked.response_fields) if asked.response_fields else made


def picked(whole: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The fields that are wanted, under the names by which they were asked for: "generation_settings/seed"."""
    made: dict[str, Any] = {}
    for name in names:
        at: Any = whole
        for part in name.split("/"):
            at = at.get(part) if isinstance(at, dict) else None
        if at is not None:
            made[name] = at
    return made


@router.post("/completion")
async def completion(asked: Continued, request: Request) -> Response:
    """Continue a text, or several."""
    served = service(request)
    served.check_model(asked.model)
    asked = asked.completed(served.settings.defaults)
    tokenizer = served.prompts.tokenizer
    prompts, sampled = [await ids_of(served, one) for one in _prompts(asked.prompt)], asked.sampled(tokenizer)
    context, vocabulary, listed = served.loaded.context, served.vocabulary, asked.n_probs or None
    grammar = await served.grammar(grammar_of(schema=asked.json_schema or None, grammar=asked.grammar or None))
    asks = [a for ids in prompts for a in asks_of(sampled, ids, asked.most, listed, context, vocabulary, grammar)]
    job, headers = Job(served, asked, prompts, served.ask(asks)), ignored(asked.ignored)
    if asked.stream:
        return await Stream(guarded(_chunks(job)), headers).begin()
    return JSONResponse(await unless_gone(request, _whole(job)), headers=headers)


@router.post("/v1/chat/completions/input_tokens")
@router.post("/chat/completions/input_tokens", include_in_schema=False)
async def input_tokens(chat: Chat, request: Request) -> dict[str, Any]:
    """How many tokens a conversation's prompt has."""
    served = service(request)
    served.check_model(chat.model)
    asked_of(served, chat)
    return {"object": "response.input_tokens", "input_tokens": len(await served.prompts.of_chat(chat))}


def _prompts(given: Any) -> list[Any]:
    """The prompts of a request."""
    return given if kind_of_prompt(given) == "prompts" else [given]


async def ids_of(served: Service, one: Any) -> list[int]:
    """A prompt's token ids: of a mixed one each text's own, the first with what begins every text."""
    if isinstance(one, Wrapped):
        return await served.prompts.of_text(one.prompt_string)
    if isinstance(one, str):
        return await served.prompts.of_text(one)
    made: list[int] = []
    for part in one:
        if isinstance(part, int):
            made.append(part)
        else:
            made += served.prompts.tokenizer.encode(part, bos=None if not made else False)
    return made


async def _whole(job: Job) -> Any:
    listed: dict[int, list[dict[str, Any]]] = {}
    ends: dict[int, End] = {}
    async for index, pieces, end in merged(job.answers):
        for piece in pieces:
            listed.setdefault(index, []).extend(job.piece(index, piece).get("completion_probabilities", ()))
        if end is not None:
            ends[index] = end
    made = [job.last(i, end, job.texts.get(i, ""), listed.get(i, ())) for i, end in sorted(ends.items())]
    return made if len(made) > 1 else made[0]


async def _chunks(job: Job) -> AsyncIterator[str]:
    async for index, pieces, end in merged(job.answers):
        for progress in prompt_progress(job.answers[index]):
            yield event(job.begun(index) | {"prompt_progress": progress})
        for piece in pieces:
            yield event(job.piece(index, piece))
        if end is not None:
            yield event(job.last(index, end, ""))
