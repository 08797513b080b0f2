"""Bodies of requests, every number bounded: a body that does not fit is refused before anything is made of it.

Names are OpenAI's, and beside them those that other servers use. A field that is not here is ignored, and named in the
response's header `x-memfirst-ignored`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    Tag,
    ValidationError,
    model_validator,
)

from memfirst.errors import ConfigError
from memfirst.server.settings import MOST_BIASES, MOST_CHOICES, MOST_MESSAGES, MOST_STOPS, MOST_TOOLS, MOST_WORDS

Text = Annotated[StrictStr, Field(max_length=8 << 20)]
Name = Annotated[StrictStr, Field(min_length=1, max_length=256)]
Tokens = Annotated[StrictInt, Field(ge=0, le=1 << 31)]
Number = StrictFloat | StrictInt
Stops = Annotated[StrictStr, Field(min_length=1, max_length=1024)]
StopList = Annotated[list[Stops], Field(max_length=MOST_STOPS)]
TokenList = Annotated[list[Tokens], Field(fail_fast=True, max_length=1 << 20)]
"""Lists stop at the first element that is wrong: an error for each of a million would take a minute to make."""
Bias = Annotated[Number, Field(ge=-100, le=100)]


class Open(BaseModel):
    """A body whose unknown fields are kept, to be named."""

    model_config = ConfigDict(extra="allow")

    @property
    def ignored(self) -> list[str]:
        """Names that had no effect."""
        return sorted(self.model_extra or {})


class Part(BaseModel):
    """A part of a message's content; only text is read."""

    model_config = ConfigDict(extra="allow")
    type: Name
    text: Text | None = None


Parts = Annotated[list[Part], Field(fail_fast=True, max_length=MOST_MESSAGES)]


class Message(BaseModel):
    """A message of a chat."""

    model_config = ConfigDict(extra="allow")
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Text | Parts | None = None
    name: Text | None = None
    tool_calls: list[dict[str, Any]] | None = Field(default=None, max_length=MOST_TOOLS)
    tool_call_id: Text | None = None
    reasoning_content: Text | None = None


Messages = Annotated[list[Message], Field(fail_fast=True, min_length=1, max_length=MOST_MESSAGES)]


class Prediction(BaseModel):
    """What the answer may be like, as a file that is to be edited."""

    model_config = ConfigDict(extra="allow")
    type: Literal["content"] = "content"
    content: Text | Parts

    @property
    def text(self) -> str:
        """All of it."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text or "" for part in self.content)


class StreamOptions(BaseModel):
    """What a stream says besides the text."""

    model_config = ConfigDict(extra="allow")
    include_usage: StrictBool = False


def defaults_of(given: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE as a request would have it; ConfigError for another name, or a value out of range."""
    made: dict[str, Any] = {}
    for one in given:
        name, _, value = one.partition("=")
        if name not in SETTABLE:
            raise ConfigError(f"a default of {one[:60]!r}", f"NAME=VALUE, NAME one of {', '.join(SETTABLE)}")
        try:
            made[name] = json.loads(value)
            Chat(messages=[Message(role="user")], **{name: made[name]})
        except ValueError as error:
            said = error.errors()[0]["msg"] if isinstance(error, ValidationError) else "no JSON"
            raise ConfigError(f"a default of {one[:60]!r}: {said}", "what a request may have") from None
    return made


class Sampled(Open):
    """What chat and completion have in common."""

    model: Name | None = None
    max_tokens: Tokens | None = None
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    top_k: Annotated[StrictInt, Field(ge=-1, le=1 << 24)] | None = None
    min_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[Number, Field(ge=0.01, le=100)] | None = None
    repeat_penalty: Annotated[Number, Field(ge=0.01, le=100)] | None = None
    frequency_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = None
    logit_bias: Annotated[dict[StrictStr, Bias], Field(max_length=MOST_BIASES)] | None = None
    seed: Annotated[StrictInt, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    n: Annotated[StrictInt, Field(ge=1, le=MOST_CHOICES)] | None = None
    stop: Stops | StopList | None = None
    stop_token_ids: Annotated[list[Tokens], Field(max_length=MOST_STOPS)] | None = None
    min_tokens: Tokens = 0
    return_progress: StrictBool = False
    priority: Annotated[StrictInt, Field(ge=-(1 << 31), lt=1 << 31)] = 0
    ignore_eos: StrictBool = False
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    structured_outputs: dict[str, Any] | None = None
    guided_json: dict[str, Any] | Text | None = None
    guided_regex: Text | None = None
    guided_choice: Annotated[list[Text], Field(max_length=MOST_WORDS)] | None = None
    guided_grammar: Text | None = None
    json_schema: dict[str, Any] | None = None
    grammar: Text | None = None

    @model_validator(mode="after")
    def _whole(self) -> Sampled:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is for streams: set stream to true")
        return self

    def completed(self, defaults: Mapping[str, Any]) -> Self:
        """With the server's defaults where it says nothing."""
        if getattr(self, "max_completion_tokens", None) is not None:
            defaults = {name: value for name, value in defaults.items() if name != "max_tokens"}
        missing = {name: value for name, value in defaults.items() if getattr(self, name, value) is None}
        if self.repeat_penalty is not None:
            missing.pop("repetition_penalty", None)
        return self.model_copy(update=missing) if missing else self

    @property
    def stops(self) -> list[str]:
        """Stop strings as a list."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())


SETTABLE = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty",
            "seed", "max_tokens", "chat_template_kwargs",
            "verbose")  # fmt: skip
"""What a server can be given for requests that do not say it."""


class Chat(Sampled):
    """POST /v1/chat/completions."""

    messages: Messages
    max_completion_tokens: Tokens | None = None
    logprobs: StrictBool | None = None
    top_logprobs: Annotated[StrictInt, Field(ge=0, le=20)] | None = None
    tools: Annotated[list[dict[str, Any]], Field(max_length=MOST_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = None
    parallel_tool_calls: StrictBool | None = None
    response_format: dict[str, Any] | None = None
    prediction: Prediction | None = None
    reasoning_effort: Text | None = None
    add_generation_prompt: StrictBool = True
    continue_final_message: StrictBool = False
    chat_template_kwargs: dict[str, Any] | None = None
    verbose: StrictBool | None = None

    @model_validator(mode="after")
    def _chat(self) -> Chat:
        if (
            self.continue_final_message
            and self.add_generation_prompt
            and "add_generation_prompt" in self.model_fields_set
        ):
            raise ValueError("continue_final_message and add_generation_prompt: one of them")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        refused = {"audio": "audio", "web_search_options": "web search", "functions": "functions: use tools",
                   "chat_template": "a template of the request's own"}  # fmt: skip
        for name, what in refused.items():
            if (self.model_extra or {}).get(name) is not None:
                raise ValueError(f"{name} is not served ({what})")
        if "audio" in ((self.model_extra or {}).get("modalities") or ()):
            raise ValueError("modalities: only text is served")
        return self


def kind_of_prompt(given: Any) -> str:
    """Which of its forms a prompt is meant to be, by the first element: it is checked as that one alone."""
    if not isinstance(given, list):
        return "text"
    first = given[0] if given else ""
    return "ids" if isinstance(first, int) else "lists" if isinstance(first, list) else "texts"


class Completion(Sampled):
    """POST /v1/completions."""

    prompt: Annotated[
        Annotated[Text, Tag("text")]
        | Annotated[list[Text], Field(fail_fast=True), Tag("texts")]
        | Annotated[TokenList, Tag("ids")]
        | Annotated[list[TokenList], Field(fail_fast=True), Tag("lists")],
        Discriminator(kind_of_prompt),
    ]
    echo: StrictBool = False
    logprobs: Annotated[StrictInt, Field(ge=0, le=20)] | None = None
    suffix: Text | None = None
    best_of: StrictInt | None = None

    @model_validator(mode="after")
    def _completion(self) -> Completion:
        if self.suffix:
            raise ValueError("suffix is not served: this model has no tokens to fill in the middle")
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise ValueError("best_of is not served")
        return self


class Tokenize(Open):
    """POST /tokenize: a text, or messages."""

    content: Text | None = None
    prompt: Text | None = None
    messages: Messages | None = None
    add_special: StrictBool = False
    add_special_tokens: StrictBool | None = None
    parse_special: StrictBool = True
    with_pieces: StrictBool = False


class Detokenize(Open):
    """POST /detokenize."""

    tokens: TokenList


class Template(Open):
    """POST /apply-template."""

    messages: Messages
    tools: Annotated[list[dict[str, Any]], Field(max_length=MOST_TOOLS)] | None = None
    add_generation_prompt: StrictBool = True
    chat_template_kwargs: dict[str, Any] | None = None
