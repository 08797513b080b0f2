"""Chat templates: a list of messages to the one text that the model was trained on.

A template comes with the model file, so it is an untrusted program: it runs in `memfirst.text.sandbox`,
which bounds what it may access, build and take. A model without a template is a base model: its prompt is
continued as it is (`--raw`), and a chat is refused with that hint; ChatML is used only where the vocabulary
has `<|im_start|>`.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from memfirst.errors import ConfigError, TemplateError
from memfirst.text.tracked import concat, from_messages, marks_of

if TYPE_CHECKING:
    from memfirst.text import Tokenizer

MAX_SOURCE = 1 << 17
"""Characters of a template; published ones have 100 to 20,000."""
MAX_OUTPUT = 1 << 21
"""Characters of a rendered chat, 2 MiB: 500,000 tokens."""
MAX_SECONDS = 1.0
"""Processor time of a rendering; a chat of 100 messages takes 5 ms."""
MIN_SIZE = 1 << 18
"""Largest value of a short chat; a longer one may build 4 times the characters of its messages."""

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + (message['content'] or '') + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
RWKV_WORLD = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ message['role'] | capitalize + ': ' + message['content'] | trim + '\\n\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
_BY_NAME = {"rwkv-world": RWKV_WORLD, "chatml": CHATML}
"""Files of RWKV's World models may have the form that they were trained on by its name only."""
_ROLE = re.compile(r"[\w-]{1,32}\Z")
"""A role that templates may build a control token of (`<|assistant|>`)."""
_AS_PRINTED = re.compile(r"""['"]type['"]: ?['"]text['"]""")

Message = Mapping[str, Any]


def has_template(tokenizer: Tokenizer) -> bool:
    """Whether `ChatTemplate.of` finds a template."""
    return bool(tokenizer.rules.chat_template) or tokenizer.token_id("<|im_start|>") is not None


class ChatTemplate:
    """A model's chat template, compiled once; TemplateError if it is malformed or too long."""

    def __init__(self, source: str, bos: str = "", eos: str = "") -> None:
        from memfirst.text.sandbox import BoundedEnvironment

        if not isinstance(source, str) or not 0 < len(source) <= MAX_SOURCE:
            raise TemplateError("a chat template that is empty, too long or not text", f"1 to {MAX_SOURCE} characters")
        self.source, self._bos, self._eos = source, bos, eos
        self._environment = BoundedEnvironment()
        self._lock = threading.Lock()
        self._template = self._guarded(lambda: self._environment.from_string(source), MIN_SIZE)

    @classmethod
    def of(cls, tokenizer: Tokenizer, instead: str = "") -> ChatTemplate:
        """Compile the model's own template, or ChatML where its vocabulary has `<|im_start|>`; else TemplateError.
        `instead`: another one's source."""
        source = instead or tokenizer.rules.chat_template
        if not source and tokenizer.token_id("<|im_start|>") is not None:
            source = CHATML
        if not source:
            do = "give a text to continue instead of messages", "pass --raw to continue the text as it is"
            raise TemplateError("this model has no chat template", "a model made for chat", *do)
        names = {kind: tokenizer.token(id) for kind, id in tokenizer.special_ids.items()}
        return cls(_BY_NAME.get(source, source), names.get("bos", ""), names.get("eos", ""))

    @staticmethod
    def read(asked: str) -> str:
        """A template's source by the name of its file, or "chatml"; ConfigError where there is none."""
        if asked in _BY_NAME:
            return asked
        try:
            with open(asked, encoding="utf-8") as file:
                source = file.read(MAX_SOURCE + 1)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the chat template {asked[:200]!r}: {error}", "a file in Jinja, or chatml") from None
        ChatTemplate(source)  # raises for one that is malformed
        return source

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = True, **variables: Any) -> str:
        """Render the chat to the text that the model answers.

        Args:
            messages: Objects with `role` and `content`, which is a text or a list of `{"type": "text", "text": …}`.
                Keys that are null count as absent.
            add_generation_prompt: Whether the model is to answer.
            variables: What else the template reads (tools, …), JSON-like.

        Raises:
            TemplateError: The template refuses the messages, fails, or exceeds its limits.
        """
        return str.__str__(self._render(messages, add_generation_prompt, variables))

    def encode(
        self, tokenizer: Tokenizer, messages: Sequence[Message], begun_with: str = "", **variables: Any
    ) -> list[int]:
        """Render the chat to token ids: the template's control tokens take effect, those in messages are text.

        begun_with  what the answer begins with already
        """
        wants_answer = variables.pop("add_generation_prompt", True) or bool(begun_with)
        text = self._render(messages, wants_answer, variables)
        text = concat([text, from_messages(begun_with)]) if begun_with else text
        return tokenizer.encode_marked(text, marks_of(text))

    def _render(self, messages: Sequence[Message], add_generation_prompt: bool, variables: Mapping[str, Any]) -> str:
        known = self._prepared(messages)
        try:
            return self._render_once(known, add_generation_prompt, variables)
        except TemplateError:
            empty = [{"content": "", **message} for message in known]
            if empty == known:
                raise
            # Some templates want a text beside a message's tool calls, others that there is none.
            return self._render_once(empty, add_generation_prompt, variables)

    def _render_once(self, messages: list[Any], add_generation_prompt: bool, variables: Mapping[str, Any]) -> str:
        plain, length = _tracked({**variables, "messages": messages})
        if length > MAX_OUTPUT:
            raise TemplateError(f"a chat of {length} characters", f"at most {MAX_OUTPUT}", "shorten it")
        size = min(MAX_OUTPUT, max(MIN_SIZE, 4 * length))
        names = {
            "bos_token": self._bos,
            "eos_token": self._eos,
            "add_generation_prompt": bool(add_generation_prompt),
        }
        every = {"tools": None, "documents": None, **plain, **names}
        return cast(str, self._guarded(lambda: self._collect(every, size), size))

    def _prepared(self, messages: Sequence[Message]) -> list[Any]:
        """Prepare messages for this template: without nulls, and lists of texts as one text if it wants that."""
        listed = isinstance(messages, Sequence) and not isinstance(messages, str | bytes | bytearray)
        odd = messages if not listed else next((one for one in messages if not isinstance(one, Mapping)), {})
        if not isinstance(odd, Mapping) or not listed:
            raise TemplateError(f"messages of type {type(odd).__name__}", "a list of objects with role and content")
        known = [_without_nulls(message) for message in messages]
        lists = [one for one in known if isinstance(one.get("content"), list | tuple)]
        if lists and not self._reads_parts:
            for message in lists:
                message["content"] = "\n".join(_text_of(part) for part in message["content"])
        return known

    @cached_property
    def _reads_parts(self) -> bool:
        """True if the template reads the text out of a list of parts itself."""
        probe, size = [{"role": "user", "content": [{"type": "text", "text": "probe"}]}], MIN_SIZE
        every = {"tools": None, "documents": None, "bos_token": "", "eos_token": "", "messages": probe}
        try:
            made = self._guarded(lambda: self._collect(every, size), size)
        except TemplateError:
            return False
        return "probe" in made and not _AS_PRINTED.search(made)

    def _collect(self, variables: dict[str, Any], size: int) -> str:
        parts: list[str] = []
        length = 0
        for part in self._template.generate(**variables):
            length += len(part)
            if length > size:
                raise TemplateError("the chat template did not end", f"a chat of at most {size} characters")
            parts.append(part)
        return concat(parts)

    def _guarded(self, run: Any, size: int) -> Any:
        """Run template code under a new budget; whatever it raises becomes a TemplateError."""
        from memfirst.text.sandbox import Budget

        with self._lock:
            self._environment.budget = Budget(size, MAX_SECONDS)
            try:
                return run()
            except TemplateError:
                raise
            except Exception as error:  # a template can raise anything that Python can
                what = str(error)[:300] or type(error).__name__
                raise TemplateError(
                    f"the chat template failed: {what}",
                    do="leave a system message out, or give a text instead of messages",
                    command="leave --system out, or pass --raw for a plain prompt",
                ) from None


def _tracked(values: Any, depth: int = 0) -> tuple[Any, int]:
    """Copy JSON-like data with its text marked, and count its characters; TemplateError for other objects."""
    if depth > 32:
        raise TemplateError("messages nested deeper than 32 levels", "lists and objects of text")
    if isinstance(values, str):
        return from_messages(values), len(values)
    if values is None or isinstance(values, bool | int | float):
        return values, 8
    if isinstance(values, Mapping):
        pairs = {from_messages(str(key)): _tracked(value, depth + 1) for key, value in values.items()}
        made = {key: value for key, (value, _) in pairs.items()}
        if depth == 2 and isinstance(role := made.get("role"), str) and _ROLE.match(role):
            made["role"] = str.__str__(role)
        return made, sum(len(key) + length for key, (_, length) in pairs.items())
    if isinstance(values, list | tuple):
        items = [_tracked(value, depth + 1) for value in values]
        return [value for value, _ in items], sum(length for _, length in items)
    raise TemplateError(f"messages that hold a {type(values).__name__}", "text, numbers, lists and objects")


def _without_nulls(value: Any, depth: int = 0) -> Any:
    """Drop the null keys that OpenAI's clients send; a tool's arguments stay as they are."""
    if depth > 32:
        return value  # refused where it is copied
    if isinstance(value, Mapping):
        kept = {key: one for key, one in value.items() if one is not None}
        return {key: one if key == "arguments" else _without_nulls(one, depth + 1) for key, one in kept.items()}
    return [_without_nulls(one, depth + 1) for one in value] if isinstance(value, list | tuple) else value


def _text_of(part: Any) -> str:
    """Return the text of one part of a message."""
    if isinstance(part, str):
        return part
    text = part.get("text") if isinstance(part, Mapping) else None
    if not isinstance(text, str):
        kind = part.get("type", "?") if isinstance(part, Mapping) else type(part).__name__
        raise TemplateError(f"a message with a part of type {str(kind)[:40]!r}", "parts of text only")
    return text
