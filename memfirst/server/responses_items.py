"""What `/v1/responses` is made of: the conversation comes in as items, and the answer goes out as items, with an event
for each thing that happens to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from memfirst.errors import ConfigError
from memfirst.server.answers import new_id
from memfirst.server.calls import CallDelta
from memfirst.server.fields import Message, Name, Part, Text
from memfirst.server.reply import Delta
from memfirst.server.settings import MOST_MESSAGES

TEXTS = frozenset({"input_text", "output_text", "text", "refusal", "reasoning_text", "summary_text"})
MESSAGE, CALL, RESULT, THOUGHT = "message", "function_call", "function_call_output", "reasoning"


class Fragment(Part):
    """A part of an item's content; a refusal's text has its own name."""

    refusal: Text | None = None

    @property
    def said(self) -> str:
        """Its text; ConfigError for a part that has none."""
        text = self.text if self.text is not None else self.refusal
        if self.type not in TEXTS or text is None:
            raise ConfigError(f"a part of type {self.type[:40]!r}", "text: this model reads nothing else")
        return text


Fragments = Annotated[list[Fragment], Field(fail_fast=True, max_length=MOST_MESSAGES)]
Content = Text | Fragments


class Item(BaseModel):
    """One item of `input`: a message, a call of a function, what a call returned, or what the model thought."""

    model_config = ConfigDict(extra="allow")
    type: Name = MESSAGE
    role: Name | None = None
    content: Content | None = None
    summary: Fragments | None = None
    call_id: Name | None = None
    name: Name | None = None
    arguments: Text | None = None
    output: Content | None = None


def conversation(instructions: str | None, given: str | Sequence[Item]) -> list[Message]:
    """Items as a chat's messages. Calls join the assistant's message that they follow, what was thought the one that
    comes next: so templates expect them. ConfigError for an item that cannot be read."""
    made = [] if instructions is None else [Message(role="system", content=instructions)]
    if isinstance(given, str):
        return [*made, Message(role="user", content=given)]
    thought = ""
    for item in given:
        if item.type == THOUGHT:
            thought += _text(item.content) or _text(item.summary)
        elif item.type == RESULT:
            made.append(Message(role="tool", tool_call_id=_named(item, "call_id"), content=_text(item.output)))
        elif item.type in (MESSAGE, CALL):
            _add(made, item, thought)
            thought = ""
        elif item.type == "item_reference":
            raise ConfigError("an item_reference", "the item itself: this server keeps no responses")
        else:
            raise ConfigError(
                f"an item of type {item.type[:40]!r}", "message, function_call, function_call_output or reasoning"
            )
    return made


def _add(made: list[Message], item: Item, thought: str) -> None:
    if item.type == MESSAGE:
        if item.role not in ("system", "developer", "user", "assistant"):
            raise ConfigError(f"the role {(item.role or '')[:40]!r}", "system, developer, user or assistant")
        made.append(Message.model_validate({"role": item.role, "content": _text(item.content)}))
    elif not made or made[-1].role != "assistant" or thought:
        made.append(Message(role="assistant", content=""))
    if thought:
        made[-1].reasoning_content = thought
    if item.type == CALL:
        function = {"name": _named(item, "name"), "arguments": item.arguments or "{}"}
        call = {"id": _named(item, "call_id"), "type": "function", "function": function}
        made[-1].tool_calls = [*(made[-1].tool_calls or ()), call]


def _named(item: Item, field: str) -> str:
    found: str | None = getattr(item, field)
    if found is None:
        raise ConfigError(f"a {item.type} without {field}", f"its {field}")
    return found


def _text(content: Content | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.said for part in content)


class Output:
    """An answer's items as they grow. `push` and `close` give the events; `items` is what they amount to."""

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self._open = self._blank = ""

    def push(self, delta: Delta, logprobs: Sequence[dict[str, Any]] = ()) -> Iterator[dict[str, Any]]:
        """What a piece of the answer does to the items. White space alone begins no message: a call may follow."""
        if delta.reasoning:
            yield from self._turn_to(THOUGHT)
            yield from self._grow("response.reasoning_text.delta", delta.reasoning)
        if delta.call is not None:
            yield from self._call(delta.call)
        elif self._open != MESSAGE and not delta.content.strip() and not logprobs:
            self._blank += delta.content
        elif delta.content or logprobs:
            delta = Delta(self._blank + delta.content)
            self._blank = ""
            yield from self._turn_to(MESSAGE)
            part = self.items[-1]["content"][0]
            part["logprobs"] += logprobs
            listed = [_without_bytes(one) for one in logprobs]
            yield from self._grow("response.output_text.delta", delta.content, logprobs=listed)

    def _call(self, part: CallDelta) -> Iterator[dict[str, Any]]:
        """A part of a call: what has a name begins one."""
        if part.name:
            yield from self._end("completed")
            self._open, self._blank = CALL, ""
            item = {
                "id": new_id("fc", "_"), "type": CALL, "status": "in_progress", "call_id": part.id, "name": part.name,
                "arguments": "",
            }  # fmt: skip
            self.items.append(item)
            yield self._event("response.output_item.added", item=dict(item))
        if part.arguments:
            self.items[-1]["arguments"] += part.arguments
            yield self._event("response.function_call_arguments.delta", delta=part.arguments)

    def close(self, status: str = "completed") -> Iterator[dict[str, Any]]:
        """The end of the last item; an answer without any is an empty message."""
        if not self.items:
            yield from self._turn_to(MESSAGE)
        yield from self._end(status)

    def _turn_to(self, kind: str) -> Iterator[dict[str, Any]]:
        """Open an item of a kind unless the last one is of it and still open."""
        if self._open == kind:
            return
        yield from self._end("completed")
        self._open = kind
        item = _begun(kind)
        self.items.append(item)
        yield self._event("response.output_item.added", item=item | {"content": []})
        yield self._part("response.content_part.added")

    def _end(self, status: str) -> Iterator[dict[str, Any]]:
        if not self._open:
            return
        item, kind = self.items[-1], self._open
        item["status"], self._open = status, ""
        if kind == CALL:
            said = {"name": item["name"], "arguments": item["arguments"]}
            yield self._event("response.function_call_arguments.done", **said)
            yield self._event("response.output_item.done", item=item)
            return
        part = item["content"][0]
        if kind == THOUGHT:
            yield self._event("response.reasoning_text.done", content_index=0, text=part["text"])
        else:
            listed = [_without_bytes(one) for one in part["logprobs"]]
            yield self._event("response.output_text.done", content_index=0, text=part["text"], logprobs=listed)
        yield self._part("response.content_part.done")
        yield self._event("response.output_item.done", item=item)

    def _grow(self, kind: str, text: str, **more: Any) -> Iterator[dict[str, Any]]:
        self.items[-1]["content"][0]["text"] += text
        yield self._event(kind, content_index=0, delta=text, **more)

    def _part(self, kind: str) -> dict[str, Any]:
        return self._event(kind, content_index=0, part=dict(self.items[-1]["content"][0]))

    def _event(self, kind: str, **fields: Any) -> dict[str, Any]:
        made = {"type": kind, "output_index": len(self.items) - 1, **fields}
        return made if "item" in fields else made | {"item_id": self.items[-1]["id"]}


def _begun(kind: str) -> dict[str, Any]:
    """An item without anything in it yet."""
    if kind == THOUGHT:
        content = [{"type": "reasoning_text", "text": ""}]
        return {"id": new_id("rs", "_"), "type": THOUGHT, "status": "in_progress", "summary": [], "content": content}
    part = {"type": "output_text", "text": "", "annotations": list[Any](), "logprobs": list[Any]()}
    return {
        "id": new_id("msg", "_"), "type": MESSAGE, "status": "in_progress", "role": "assistant", "content": [part]
    }  # fmt: skip


def _without_bytes(one: dict[str, Any]) -> dict[str, Any]:
    """A token's log-probability as events have it."""
    likeliest = [{"token": other["token"], "logprob": other["logprob"]} for other in one["top_logprobs"]]
    return {"token": one["token"], "logprob": one["logprob"], "top_logprobs": likeliest}
