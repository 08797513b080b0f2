"""One streamed request of a load, in the form that the server takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from memfirst.measure.probe.ask import CHAT, COMPLETIONS
from memfirst.measure.probe.client import Client, StatusError
from memfirst.measure.probe.limits import TimeUpError
from memfirst.measure.probe.server import OLLAMA, OTHER, Server
from memfirst.measure.probe.stream import Stream, collected, stream_of

_NO_SUCH_PATH, _NOT_UNDERSTOOD = (404, 405, 501), (400, 422)


@dataclass
class Form:
    """How requests are written; sampled at temperature 1, as repeated text could be drafted, with a seed.

    plain  without `ignore_eos` and `seed`, which OpenAI's API does not have or servers refuse
    """

    server: Server
    path: str = COMPLETIONS
    plain: bool = field(default=False)
    usage: bool = True

    def __post_init__(self) -> None:
        self.plain = self.server.kind in (OLLAMA, OTHER)

    @property
    def chat(self) -> bool:
        """Prompts are conversations."""
        return self.path == CHAT

    def body(self, text: str, tokens: int, seed: int) -> dict[str, Any]:
        """A request."""
        prompt = {"messages": [{"role": "user", "content": text}]} if self.chat else {"prompt": text}
        body = {"model": self.server.model, "max_tokens": tokens, "temperature": 1.0, "stream": True, **prompt}
        if self.usage:
            body["stream_options"] = {"include_usage": True}
        return body if self.plain else body | {"ignore_eos": True, "seed": seed}

    def ask(self, client: Client, text: str, tokens: int, seed: int) -> Stream:
        """Its whole answer."""
        with client.open("POST", self.path, self.body(text, tokens, seed)) as answer:
            found = collected(answer)
        return stream_of(found, answer.sent)

    def settle(self, client: Client, text: str, tokens: int) -> Stream:
        """The first answer, which finds the form: chat where there are no completions, fewer fields where the server
        refuses them. The last refusal is raised."""
        while True:
            try:
                return self.ask(client, text, tokens, 0)
            except TimeUpError:
                raise
            except StatusError as error:
                if error.status in _NO_SUCH_PATH and not self.chat:
                    self.path = CHAT
                elif error.status in _NOT_UNDERSTOOD and not self.plain:
                    self.plain = True
                elif error.status in _NOT_UNDERSTOOD and self.usage:
                    self.usage = False
                else:
                    raise
