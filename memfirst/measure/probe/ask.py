"""One completion request in the dialect that the server understands, and its stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from memfirst.errors import ProbeError
from memfirst.measure.probe.client import Client, StatusError
from memfirst.measure.probe.limits import TimeUpError
from memfirst.measure.probe.prompt import Prompts
from memfirst.measure.probe.server import LLAMA, VLLM, Server
from memfirst.measure.probe.stream import Stream, read_stream

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
_NO_SUCH_PATH = (404, 405, 501)
_NOT_UNDERSTOOD = (400, 422)

_EXTRAS: dict[str, dict[str, Any]] = {
    LLAMA: {"ignore_eos": True, "timings_per_token": True},
    VLLM: {"ignore_eos": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}},
}
"""Beyond the common fields: answers that do not end early, a count of tokens in each chunk."""


@dataclass
class Dialect:
    """How this server wants to be asked: its path, and the fields that it accepts."""

    client: Client
    server: Server
    prompts: Prompts
    path: str = COMPLETIONS
    extras: bool = True
    usage: bool = True

    def settle(self, words: int, tokens: int) -> Stream:
        """The first request, which finds the dialect: chat where there are no completions, fewer fields where the
        server does not know them. The last refusal is raised."""
        try:
            return self.ask(words, tokens)
        except TimeUpError:
            raise
        except StatusError as error:
            if error.status in _NO_SUCH_PATH and self.path == COMPLETIONS:
                self.path, self.prompts.chat = CHAT, True
            elif error.status in _NOT_UNDERSTOOD and self.extras and self.server.kind in _EXTRAS:
                self.extras = False
            elif error.status in _NOT_UNDERSTOOD and self.usage:
                self.usage = False
            else:
                raise
        return self.settle(words, tokens)

    def ask(self, words: int, tokens: int) -> Stream:
        """One completion of `tokens` tokens after `words` words."""
        text = self.prompts.make(words)
        with self.client.open("POST", self.path, self._body(text, tokens)) as answer:
            return read_stream(answer, tokens)

    def count(self, words: int) -> int:
        """Tokens of such a prompt, from an answer that is not streamed: some servers give usage only there."""
        body = self._body(self.prompts.make(words), 1) | {"stream": False}
        body.pop("stream_options", None)
        usage = self.client.post(self.path, body).get("usage")
        tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
        if not isinstance(tokens, int) or not 0 < tokens < 1 << 31:
            found = f"{self.server.model} is served without usage: how long a context is cannot be told"
            raise ProbeError(found, "usage.prompt_tokens in its answers", "turn it on, or update the server")
        return tokens

    def _body(self, text: str, tokens: int) -> dict[str, Any]:
        prompt = {"messages": [{"role": "user", "content": text}]} if self.prompts.chat else {"prompt": text}
        body = {"model": self.server.model, "max_tokens": tokens, "temperature": 0, "stream": True, **prompt}
        if self.usage:
            body["stream_options"] = {"include_usage": True}
        if self.extras:
            body |= _EXTRAS.get(self.server.kind, {})
            if self.server.kind == LLAMA:
                body["cache_prompt"] = self.prompts.same
        return body
