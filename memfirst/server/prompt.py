"""From a request to token ids, in the HTTP process: the engine's own has better things to do."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property, partial
from typing import Any, TypeVar

from memfirst.errors import CapacityError, ConfigError, MemfirstError
from memfirst.formats.checkpoint import Checkpoint
from memfirst.runtime.grammar import Grammar
from memfirst.runtime.sampling import SamplingParams
from memfirst.server import access
from memfirst.server.families import Family, family_of
from memfirst.server.fields import Chat, Message, Sampled
from memfirst.server.messages import Ask, fields_of
from memfirst.server.tools import check_tools, described
from memfirst.text import Tokenizer
from memfirst.text.chat import ChatTemplate

OFF_LOOP = 10_000
"""Characters from which encoding goes to a thread: a megabyte takes 0.3 s."""

Result = TypeVar("Result")


class Prompts:
    """The model's tokenizer and template."""

    def __init__(
        self, checkpoint: Checkpoint, context: Callable[[], int | None] = lambda: None, template: str = ""
    ) -> None:
        """`template`: the source of another chat template than the model's own."""
        self.tokenizer, self._context, self._template = Tokenizer.of(checkpoint), context, template

    def prepare(self) -> None:
        """What no request is to wait for, nor those that are answered beside it: the longest token alone took 70 ms of
        the loop at the first long prompt."""
        self.tokenizer.prepare()
        _ = self.longest
        with suppress(MemfirstError):  # of a model without a template, or whose template is none: said to who asks
            _ = self.family

    @cached_property
    def template(self) -> ChatTemplate:
        """The model's chat template, or what stands in its place; TemplateError where there is none."""
        return ChatTemplate.of(self.tokenizer, self._template)

    @cached_property
    def longest(self) -> int:
        """Bytes of the longest token."""
        return max(len(self.tokenizer.piece(id, special=True)) for id in range(self.tokenizer.vocab_size))

    def check_size(self, size: int) -> None:
        """CapacityError for so many characters that the context cannot hold them, whatever they are: no tokenizer is
        started on them. Twice the longest token's bytes, as normalizing may shorten a text."""
        context = self._context()
        if context is not None and size >= OFF_LOOP and size > context * 2 * self.longest:
            raise CapacityError(
                f"the prompt has {size:,} characters",
                f"fewer than the context of {context} tokens can hold",
                "shorten the prompt",
            )

    @cached_property
    def family(self) -> Family:
        """How the model writes calls of tools."""
        return family_of(self.template.source)

    def family_for(self, chat: Chat) -> Family | None:
        """How an answer is taken apart; None for one without tools, of a model whose thoughts stand between tags."""
        return self.family if check_tools(chat) or self.family.thinks else None

    def shows_controls(self, family: Family | None) -> bool:
        """Whether a reader must see control tokens."""
        controls = set(self.tokenizer.controls.values())
        return family is not None and not controls.isdisjoint(family.marks)

    def hidden(self, family: Family) -> re.Pattern[str] | None:
        """Control tokens that come and are nothing to the reader."""
        if not self.shows_controls(family):
            return None
        others = {token for token in self.tokenizer.controls.values() if token} - {*family.marks, "<think>", "</think>"}
        return (
            re.compile("|".join(re.escape(token) for token in sorted(others, key=len, reverse=True)))
            if others
            else None
        )

    async def of_text(self, text: str) -> list[int]:
        """Ids of a text to continue."""
        self.check_size(len(text))
        return await self.away(len(text), self.tokenizer.encode, text)

    async def of_chat(self, chat: Chat) -> list[int]:
        """Ids of a conversation through the template."""
        messages = plain(chat.messages)
        if chat.tools and "tools" not in self.template.source:
            messages = described(messages, chat.tools if chat.tool_choice != "none" else ())
        size = size_of(messages)
        self.check_size(size)
        return await self.away(size, self._encode, messages, template_variables(chat), chat.continue_final_message)

    def _encode(self, messages: list[Mapping[str, Any]], variables: dict[str, Any], goes_on: bool) -> list[int]:
        last = messages[-1]
        begun = last["role"] == "assistant" and not last.get("tool_calls") and isinstance(last.get("content"), str)
        if begun and (goes_on or variables["add_generation_prompt"]) and len(messages) > 1:
            return self.template.encode(self.tokenizer, messages[:-1], begun_with=last["content"], **variables)
        return self.template.encode(self.tokenizer, messages, **variables)

    def thinks(self, chat: Chat) -> bool:
        """Whether the prompt ends in an opened <think>, so that the answer begins within it."""
        if not self.template.source.count("<think>"):
            return False
        text = self.template.render(plain(chat.messages), **template_variables(chat))
        return text.rstrip().endswith("<think>")

    async def away(self, size: int, work: Callable[..., Result], *args: Any, **options: Any) -> Result:
        """The result of work on so many characters: in a thread where it would keep the loop."""
        return work(*args, **options) if size < OFF_LOOP else await asyncio.to_thread(work, *args, **options)


def template_variables(chat: Any) -> dict[str, Any]:
    """What a template reads besides the messages. `chat_template_kwargs` is data, and goes before nothing of ours."""
    variables: dict[str, Any] = dict(chat.chat_template_kwargs or {})
    for name in ("messages", "bos_token", "eos_token", "begun_with"):
        variables.pop(name, None)
    if chat.tools and getattr(chat, "tool_choice", None) != "none":
        variables["tools"] = chat.tools
    if getattr(chat, "reasoning_effort", None):
        variables.setdefault("reasoning_effort", chat.reasoning_effort)
    return variables | {"add_generation_prompt": chat.add_generation_prompt}


def plain(messages: Sequence[Message]) -> list[Mapping[str, Any]]:
    """Messages as templates read them; ConfigError for a part that is not text."""
    made: list[Mapping[str, Any]] = []
    for message in messages:
        one = message.model_dump(exclude_none=True)
        if one["role"] == "developer":
            one["role"] = "system"
        if isinstance(message.content, list):
            for part in message.content:
                if part.type not in ("text", "input_text", "output_text") or part.text is None:
                    raise ConfigError(f"a part of type {part.type[:40]!r}", "text: this model reads nothing else")
            one["content"] = [{"type": "text", "text": part.text} for part in message.content]
        for call in one.get("tool_calls", ()):
            call["function"] = parsed_arguments(call.get("function"))
        made.append(one)
    return made


def size_of(messages: Sequence[Mapping[str, Any]]) -> int:
    """Characters of their contents."""
    return sum(len(str(message.get("content", ""))) for message in messages)


def parsed_arguments(function: Any) -> Any:
    """A call's function with its arguments as an object, which templates write out themselves."""
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return function
    try:
        return function | {"arguments": json.loads(function["arguments"] or "{}")}
    except ValueError:
        return function


def sampling_of(body: Sampled) -> SamplingParams:
    """Sampling parameters of a body; OpenAI's defaults where it says nothing."""
    penalty = body.repetition_penalty if body.repetition_penalty is not None else body.repeat_penalty
    return SamplingParams(
        temperature=1.0 if body.temperature is None else _cool(body.temperature),
        top_k=max(0, body.top_k or 0),
        top_p=1.0 if body.top_p is None else body.top_p,
        min_p=body.min_p or 0.0,
        repetition_penalty=1.0 if penalty is None else penalty,
        frequency_penalty=body.frequency_penalty or 0.0,
        presence_penalty=body.presence_penalty or 0.0,
        logit_bias=_biases(body.logit_bias or {}),
        seed=None if body.seed is None else body.seed % (1 << 64),
    )


def _cool(temperature: float) -> float:
    """Below a thousandth only the likeliest token has a chance."""
    return 0.0 if temperature < 0.001 else temperature


def _biases(given: Mapping[str, float]) -> dict[int, float]:
    """By token id; −100 excludes a token, as OpenAI says."""
    try:
        return {int(id): float("-inf") if bias <= -100 else float(bias) for id, bias in given.items()}
    except ValueError:
        raise ConfigError("a logit_bias of something else than token ids", "whole numbers as its keys") from None


def asks_of(
    body: Sampled,
    prompt: list[int],
    most: int | None,
    logprobs: int | None,
    context: int,
    vocab: int,
    grammar: Grammar | None = None,
    special: bool = False,
    prediction: Sequence[int] = (),
) -> list[Callable[[int], Ask]]:
    """For each of `n` choices what makes its `Ask` of a number; CapacityError where the context has no room."""
    if not prompt:
        raise ConfigError("a prompt without a token", "some text")
    if len(prompt) >= context:
        raise CapacityError(
            f"the prompt has {len(prompt)} tokens", f"fewer than the context of {context}", "shorten the prompt"
        )
    out_of_range = next((id for id in prompt if id >= vocab), None)
    if out_of_range is not None:
        raise ConfigError(f"the token id {out_of_range}", f"0 to {vocab - 1}")
    params = sampling_of(body)
    over = next((id for id in params.logit_bias if not 0 <= id < vocab), None)
    if over is not None:
        raise ConfigError(f"the token id {over} in logit_bias", f"0 to {vocab - 1}")
    fields, made = fields_of(params), list[Callable[[int], Ask]]()
    for choice in range(body.n or 1):
        own = fields if params.seed is None else fields | {"seed": (params.seed + choice) % (1 << 64)}
        made.append(partial(_ask, body, prompt, most, logprobs, own, grammar, special, prediction))
    return made


def _ask(
    body: Sampled, prompt: list[int], most: int | None, logprobs: int | None, params: dict[str, Any],
    grammar: Grammar | None, special: bool, prediction: Sequence[int], number: int,
) -> Ask:  # fmt: skip
    ends, least = body.stop_token_ids or (), body.min_tokens
    follows = None if grammar is None else (grammar.kind, grammar.text, grammar.after)
    return Ask(
        number, prompt, most, body.stops, params, logprobs, ends, least, body.ignore_eos, follows, special, prediction,
        access.client.get(), body.priority, progress=body.return_progress,
    )  # fmt: skip
