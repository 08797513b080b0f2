"""Chat templates: a list of messages to the one text that the model was trained on.

A template comes with the model file, so it is a stranger's program: it runs in `memfirst.text.sandbox`,
which bounds what it may reach, build and take. A model without a template is a base model: its prompt is
continued as it is (`-p`), and a chat is refused with that hint; ChatML is used only where the vocabulary
has `<|im_start|>`.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from memfirst.errors import TemplateError

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
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
GUARDS = [chr(code) for code in range(0xFDD0, 0xFDF0)]
"""Noncharacters of Unicode, which no text holds: two of them mark what is not to be a control token."""

Message = Mapping[str, Any]


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
    def of(cls, tokenizer: Tokenizer) -> ChatTemplate:
        """The model's own template, or ChatML where its vocabulary has `<|im_start|>`; else TemplateError."""
        source = tokenizer.rules.chat_template
        if not source and tokenizer.token_id("<|im_start|>") is not None:
            source = CHATML
        if not source:
            do = "continue a text instead: pass it with -p"
            raise TemplateError("this model has no chat template", "a model made for chat", do)
        names = {kind: tokenizer.token(id) for kind, id in tokenizer.special_ids.items()}
        return cls(source, names.get("bos", ""), names.get("eos", ""))

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = True, **variables: Any) -> str:
        """The text of the chat, ready for the model's answer; `variables` (tools, …) are JSON-like.

        TemplateError if the template refuses the messages, fails, or exceeds its limits.
        """
        values = {**variables, "messages": list(messages)}
        plain, length = _plain(values)
        size = min(MAX_OUTPUT, max(MIN_SIZE, 4 * length))
        names = {
            "bos_token": self._bos,
            "eos_token": self._eos,
            "add_generation_prompt": add_generation_prompt,
        }
        every = {"tools": None, "documents": None, **plain, **names}
        return str(self._guarded(lambda: self._collect(every, size), size))

    def encode(self, tokenizer: Tokenizer, messages: Sequence[Message], **variables: Any) -> list[int]:
        """Ids of the rendered chat: the template's control tokens take effect, those in messages are text."""
        before, after = _unused_guards(json.dumps([*messages, variables], ensure_ascii=False, default=str))
        longest_first = sorted(tokenizer.controls.values(), key=len, reverse=True)
        controls = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        guarded = [_guard(message, controls, before + r"\g<0>" + after) for message in messages]
        pieces = self.render(guarded, **variables).split(before)
        ids = tokenizer.encode(pieces[0], special=True, bos=False)
        for piece in pieces[1:]:
            literal, _, rest = piece.partition(after)
            ids += tokenizer.encode(literal, bos=False) + tokenizer.encode(rest, special=True, bos=False)
        return ids

    def _collect(self, variables: dict[str, Any], size: int) -> str:
        parts: list[str] = []
        length = 0
        for part in self._template.generate(**variables):
            length += len(part)
            if length > size:
                raise TemplateError("the chat template did not end", f"a chat of at most {size} characters")
            parts.append(part)
        return "".join(parts)

    def _guarded(self, run: Any, size: int) -> Any:
        """Runs template code under a new budget; whatever it raises becomes a TemplateError."""
        from memfirst.text.sandbox import Budget

        with self._lock:
            self._environment.budget = Budget(size, MAX_SECONDS)
            try:
                return run()
            except TemplateError:
                raise
            except Exception as error:  # a template can raise anything that Python can
                what = str(error)[:300] or type(error).__name__
                raise TemplateError(f"the chat template failed: {what}", do="try -p for a plain prompt") from None


def _plain(values: Any, depth: int = 0) -> tuple[Any, int]:
    """A copy of JSON-like data, and the characters in it; TemplateError for objects of any other kind."""
    if depth > 32:
        raise TemplateError("messages nested deeper than 32 levels", "lists and objects of text")
    if isinstance(values, str):
        return str(values), len(values)
    if values is None or isinstance(values, bool | int | float):
        return values, 8
    if isinstance(values, Mapping):
        pairs = {str(key): _plain(value, depth + 1) for key, value in values.items()}
        return {key: value for key, (value, _) in pairs.items()}, sum(len(k) + n for k, (_, n) in pairs.items())
    if isinstance(values, list | tuple):
        items = [_plain(value, depth + 1) for value in values]
        return [value for value, _ in items], sum(length for _, length in items)
    raise TemplateError(f"messages that hold a {type(values).__name__}", "text, numbers, lists and objects")


def _unused_guards(text: str) -> tuple[str, str]:
    free = [guard for guard in GUARDS if guard not in text]
    if len(free) < 2:
        raise TemplateError("messages that hold Unicode's noncharacters", "text")
    return free[0], free[1]


def _guard(value: Any, controls: re.Pattern[str], marked: str) -> Any:
    """Puts marks around each control token's text inside a message."""
    if isinstance(value, str):
        return controls.sub(marked, value)
    if isinstance(value, Mapping):
        return {key: _guard(item, controls, marked) for key, item in value.items()}
    return [_guard(item, controls, marked) for item in value] if isinstance(value, list | tuple) else value
