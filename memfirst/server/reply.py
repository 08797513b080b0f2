"""What a chat's answer is made of: content, and beside it what the model thought, where it says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from memfirst.server.fields import Chat
from memfirst.server.service import Service

OPEN, CLOSE = "<think>", "</think>"


@dataclass(frozen=True)
class Delta:
    """What a chunk adds."""

    content: str = ""
    reasoning: str = ""

    def fields(self) -> dict[str, Any]:
        """As OpenAI's `delta`. Clients read what was thought under one of two names."""
        if self.reasoning:
            return {"reasoning_content": self.reasoning, "reasoning": self.reasoning}
        return {"content": self.content}


class Reply:
    """Takes a text apart as it comes: what stands between <think> and </think> at its beginning is reasoning.

    thinking  the prompt ends within a <think> already
    """

    def __init__(self, thinking: bool = False) -> None:
        self._state = "thinking" if thinking else "begin"
        self._held = ""

    def push(self, text: str) -> list[Delta]:
        """What can be said of the text so far."""
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
        if not held:
            return []
        return [Delta(reasoning=held) if self._state == "thinking" else Delta(content=held)]

    def message(self, deltas: list[Delta]) -> dict[str, Any]:
        """The message of a whole answer."""
        message: dict[str, Any] = {"role": "assistant", "content": "".join(d.content for d in deltas), "refusal": None}
        thought = "".join(d.reasoning for d in deltas)
        if thought:
            message |= {"reasoning_content": thought.strip("\n"), "reasoning": thought.strip("\n")}
        return message

    def finish_reason(self, reason: str) -> str:
        """Why it ended."""
        return reason


def reply_parser(service: Service, chat: Chat) -> Reply:
    """What takes an answer to `chat` apart."""
    return Reply(thinking=service.prompts.thinks(chat))
