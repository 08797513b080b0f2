"""Messages and tools of Anthropic's form, as a chat has them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

from memfirst.errors import ConfigError
from memfirst.server.fields import Message, Open, Part, Parts, Text


class Turn(Open):
    """A message: a text, or blocks."""

    role: Literal["user", "assistant"]
    content: Text | Parts

    def messages(self) -> list[Message]:
        """As a chat's: what came of calls is messages of its own."""
        if isinstance(self.content, str):
            return [Message(role=self.role, content=self.content)]
        results = [_result(part) for part in self.content if part.type == "tool_result"]
        calls = [_call(part) for part in self.content if part.type == "tool_use"]
        thought = "".join(str((part.model_extra or {}).get("thinking", "")) for part in self.content)
        rest = [part for part in self.content if part.type not in _BLOCKS]
        if not rest and results:
            return results
        said = Message(
            role=self.role, content=joined(rest), tool_calls=calls or None, reasoning_content=thought or None
        )  # fmt: skip
        return [*results, said]


_BLOCKS = {"tool_result", "tool_use", "thinking", "redacted_thinking"}


def joined(parts: str | Sequence[Part]) -> str | list[Part]:
    """Blocks of text as one text, so that an answer that was begun can be gone on with."""
    if not isinstance(parts, str) and all(part.type == "text" and part.text is not None for part in parts):
        return "".join(part.text or "" for part in parts)
    return parts if isinstance(parts, str) else list(parts)


def _call(part: Part) -> dict[str, Any]:
    block = part.model_extra or {}
    name, arguments = block.get("name"), block.get("input", {})
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise ConfigError("a tool_use block without name and input", '{"type": "tool_use", "id", "name", "input"}')
    function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {"id": str(block.get("id", "")), "type": "function", "function": function}


def _result(part: Part) -> Message:
    block = part.model_extra or {}
    content = block.get("content") or ""
    if isinstance(content, list):
        texts = [one.get("text") if isinstance(one, dict) else None for one in content]
        if not all(isinstance(text, str) for text in texts):
            raise ConfigError("a tool_result that is not text", "blocks of text: this model reads nothing else")
        content = "".join(map(str, texts))
    return Message(role="tool", content=str(content), tool_call_id=str(block.get("tool_use_id", "")))


def functions(tools: Sequence[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    """Tools as a chat has them; ConfigError for those that Anthropic's servers run themselves."""
    made = []
    for tool in tools or ():
        if tool.get("type", "custom") != "custom":
            raise ConfigError(f"a tool of type {tool.get('type')!r:.60}", "tools with name and input_schema")
        function = {name: tool[name] for name in ("name", "description") if tool.get(name) is not None}
        made.append({"type": "function", "function": function | {"parameters": tool.get("input_schema")}})
    return made or None


def choice(asked: dict[str, Any] | None) -> tuple[Any, bool | None]:
    """`tool_choice` and `parallel_tool_calls` of a chat."""
    if asked is None:
        return None, None
    kind = asked.get("type")
    known: dict[Any, Any] = {
        "auto": "auto", "any": "required", "none": "none",
        "tool": {"type": "function", "function": {"name": asked.get("name")}},
    }  # fmt: skip
    if kind not in known:
        raise ConfigError(f"tool_choice of type {kind!r:.40}", "auto, any, tool or none")
    return known[kind], False if asked.get("disable_parallel_tool_use") else None
