"""What a chat's answer is made of: content, and beside it what the model thought, where it says so."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from memfirst.server.calls import CallDelta, CallReader, Said, Thought
from memfirst.server.fields import Chat
from memfirst.server.service import Service
from memfirst.server.settings import MOST_TOOLS

OPEN, CLOSE = "<think>", "</think>"


@dataclass(frozen=True)
class Delta:
    """What a chunk adds."""

    content: str = ""
    reasoning: str = ""
    call: CallDelta | None = None

    def fields(self) -> dict[str, Any]:
        """As OpenAI's `delta`. Clients read what was thought under one of two names."""
        if self.reasoning:
            return {"reasoning_content": self.reasoning, "reasoning": self.reasoning}
        if self.call is not None:
            return {"tool_calls": [self.call.fields()]}
        return {"content": self.content}


class Reply:
    """Takes a text apart as it comes: what stands between <think> and </think> at its beginning is reasoning, and calls
    of tools are what `reader` finds behind it.

    thinking  the prompt ends within a <think> already
    hidden    control tokens that nobody is to see; a token's text comes whole
    """

    def __init__(
        self, thinking: bool = False, reader: CallReader | None = None, hidden: re.Pattern[str] | None = None
    ) -> None:
        self._state = "thinking" if thinking else "begin"
        self._held = ""
        self._reader, self._hidden = reader, hidden
        self.called = False
        """Whether a call has come."""

    def push(self, text: str) -> list[Delta]:
        """What can be said of the text so far."""
        if self._hidden is not None:
            text = self._hidden.sub("", text)
        return self._read(self._split(text))

    def begun(self) -> None:
        """No <think> is looked for."""
        self._state = "content"

    def _read(self, deltas: list[Delta]) -> list[Delta]:
        """The content of deltas as text and calls."""
        if self._reader is None:
            return deltas
        made: list[Delta] = []
        for delta in deltas:
            made += [delta] if delta.reasoning else self._made(self._reader.push(delta.content))
        return made

    def _made(self, said: list[Said]) -> list[Delta]:
        self.called = self.called or any(isinstance(one, CallDelta) for one in said)
        return [
            Delta(call=one) if isinstance(one, CallDelta)
            else Delta(reasoning=str(one)) if isinstance(one, Thought) else Delta(content=one)
            for one in said
        ]  # fmt: skip

    def _split(self, text: str) -> list[Delta]:
        self._held += text
        found: list[Delta] = []
        if self._state == "begin":
            start = self._held.lstrip()
            if start.startswith(OPEN):
                self._state, self._held = "thinking", start[len(OPEN) :]
            elif not OPEN.startswith(start):
                self._state = "content"
        if self._state == "thinking":
            found += self._thought()
        if self._state == "after":  # blank lines between
            self._held = self._held.lstrip()
            self._state = "content" if self._held else "after"
        if self._state == "content" and self._held:
            found.append(Delta(content=self._held))
            self._held = ""
        return found

    def _thought(self) -> list[Delta]:
        before, closed, after = self._held.partition(CLOSE)
        if closed:
            self._state, self._held = "after", after
            return [Delta(reasoning=before)] if before else []
        keep = next((n for n in range(len(CLOSE) - 1, 0, -1) if self._held.endswith(CLOSE[:n])), 0)
        said, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return [Delta(reasoning=said)] if said else []

    def end(self) -> list[Delta]:
        """What was held back."""
        held, self._held = self._held, ""
        deltas = [Delta(reasoning=held) if self._state == "thinking" else Delta(content=held)] if held else []
        return self._read(deltas) + (self._made(self._reader.end()) if self._reader is not None else [])

    def message(self, deltas: list[Delta]) -> dict[str, Any]:
        """The message of a whole answer."""
        message: dict[str, Any] = {"role": "assistant", "content": "".join(d.content for d in deltas), "refusal": None}
        thought = "".join(d.reasoning for d in deltas)
        if thought:
            message |= {"reasoning_content": thought.strip("\n"), "reasoning": thought.strip("\n")}
        calls = joined_calls(deltas)
        if calls:
            message["content"] = message["content"].strip() or None
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in calls
            ]
        return message

    def finish_reason(self, reason: str) -> str:
        """Why it ended."""
        return "tool_calls" if self.called and reason == "stop" else reason


def joined_calls(deltas: Sequence[Delta]) -> list[CallDelta]:
    """The whole calls of an answer."""
    made: dict[int, CallDelta] = {}
    for part in (delta.call for delta in deltas):
        if part is not None:
            had = made.get(part.index, CallDelta(part.index))
            arguments = had.arguments + part.arguments
            made[part.index] = CallDelta(part.index, had.id or part.id, had.name or part.name, arguments)
    return list(made.values())


def reply_parser(service: Service, chat: Chat) -> Reply:
    """What takes an answer to `chat` apart."""
    prompts = service.prompts
    family = prompts.family_for(chat)
    if family is None:
        return Reply(thinking=prompts.thinks(chat))
    most = 1 if chat.parallel_tool_calls is False else MOST_TOOLS
    reader = CallReader(family.read, family.short, most)
    reply = Reply(prompts.thinks(chat) and not family.thinks, reader, prompts.hidden(family))
    if family.thinks:
        reply.begun()
    return reply
