"""Bodies of requests in Ollama's form, and what they are in OpenAI's."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, model_validator

from memfirst.server.fields import Chat, Message, Name, Number, Open, Sampled, Stops, Text, TokenList
from memfirst.server.settings import MOST_MESSAGES, MOST_STOPS, MOST_TOOLS

Effort = Literal["low", "medium", "high"]


class Options(Open):
    """How tokens are chosen, with Ollama's defaults. What sets up an engine (`num_ctx`, `num_gpu`) has no effect."""

    temperature: Annotated[Number, Field(ge=0, le=2)] = 0.8
    top_k: Annotated[StrictInt, Field(ge=-1, le=1 << 24)] = 40
    top_p: Annotated[Number, Field(ge=0, le=1)] = 0.9
    min_p: Annotated[Number, Field(ge=0, le=1)] = 0.0
    seed: Annotated[StrictInt, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    num_predict: Annotated[StrictInt, Field(ge=-2, le=1 << 31)] = -1
    stop: Stops | Annotated[list[StrictStr], Field(max_length=MOST_STOPS)] | None = None
    repeat_penalty: Annotated[Number, Field(ge=0.01, le=100)] = 1.0
    presence_penalty: Annotated[Number, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[Number, Field(ge=-2, le=2)] = 0.0

    @property
    def most(self) -> int | None:
        """Tokens to generate at most; Ollama's −1 and −2 mean as many as fit."""
        return self.num_predict if self.num_predict >= 0 else None

    def sampled(self) -> dict[str, Any]:
        """As fields of `Sampled`."""
        fields = self.model_dump(include=set(Sampled.model_fields) - {"stop"}, exclude_none=True)
        return fields | {"stop": ([self.stop] if isinstance(self.stop, str) else self.stop) or None}


class Asked(Open):
    """What /api/chat and /api/generate have in common."""

    model: Name
    stream: StrictBool | None = None
    options: Options | None = None
    format: Text | dict[str, Any] | None = None
    think: StrictBool | Effort | None = None
    logprobs: StrictBool | None = None
    top_logprobs: Annotated[StrictInt, Field(ge=0, le=20)] | None = None

    @property
    def ignored(self) -> list[str]:
        """Names that had no effect; `keep_alive` among them: the model stays."""
        return sorted([*super().ignored, *(f"options.{name}" for name in self.how.ignored)])

    @property
    def how(self) -> Options:
        """How tokens are chosen."""
        return self.options or Options()

    @property
    def listed(self) -> int | None:
        """How many likeliest tokens are wanted with log-probabilities; None: none at all."""
        return (self.top_logprobs or 0) if self.logprobs else None

    def as_chat(self, messages: list[Message], tools: list[dict[str, Any]] | None = None) -> Chat:
        """A conversation in OpenAI's form."""
        form: dict[str, Any] | None = None
        if isinstance(self.format, dict):
            form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": self.format, "strict": True}}
        elif self.format:
            form = {"type": "json_object" if self.format == "json" else self.format}
        return Chat(
            messages=messages, tools=tools or None, response_format=form, max_completion_tokens=self.how.most,
            logprobs=self.listed is not None, top_logprobs=self.listed,
            reasoning_effort=self.think if isinstance(self.think, str) else None,
            chat_template_kwargs={"enable_thinking": self.think} if isinstance(self.think, bool) else None,
            **self.how.sampled(),
        )  # fmt: skip


class Turn(BaseModel):
    """A message: its calls have arguments as objects, a tool's answer the tool's name."""

    model_config = ConfigDict(extra="allow")
    role: Literal["system", "user", "assistant", "tool"]
    content: Text | None = None
    thinking: Text | None = None
    images: list[Any] | None = None
    tool_calls: list[dict[str, Any]] | None = Field(default=None, max_length=MOST_TOOLS)
    tool_name: Text | None = None

    @model_validator(mode="after")
    def _text(self) -> Turn:
        if self.images:
            raise ValueError("images are not read by this model")
        return self

    def message(self) -> Message:
        """In OpenAI's form."""
        return Message(
            role=self.role, content=self.content or "", reasoning_content=self.thinking, name=self.tool_name,
            tool_calls=self.tool_calls or None,
        )  # fmt: skip


class Chatted(Asked):
    """POST /api/chat."""

    messages: list[Turn] = Field(default=[], max_length=MOST_MESSAGES)
    tools: Annotated[list[dict[str, Any]], Field(max_length=MOST_TOOLS)] | None = None

    def chat(self) -> Chat:
        """In OpenAI's form."""
        return self.as_chat([turn.message() for turn in self.messages], self.tools)


class Generated(Asked):
    """POST /api/generate: `raw`, a text to continue; else a question, with `system` before it."""

    prompt: Text = ""
    system: Text | None = None
    raw: StrictBool | None = None
    suffix: Text | None = None
    template: Text | None = None
    context: TokenList | None = None
    images: list[Any] | None = None

    @model_validator(mode="after")
    def _generated(self) -> Generated:
        refused = {"suffix": "this model has no tokens to fill in the middle", "template": "the model has its own",
                   "context": "send the conversation to /api/chat", "images": "this model reads text"}  # fmt: skip
        for name, why in refused.items():
            if getattr(self, name):
                raise ValueError(f"{name} is not served: {why}")
        if self.raw and self.format:
            raise ValueError("format is not served with raw")
        return self

    def chat(self) -> Chat:
        """In OpenAI's form."""
        system = [Message(role="system", content=self.system)] if self.system else []
        return self.as_chat([*system, Message(role="user", content=self.prompt)])


class Shown(Open):
    """POST /api/show."""

    model: Name | None = None
    name: Name | None = None
