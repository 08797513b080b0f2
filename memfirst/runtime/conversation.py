"""A conversation that remembers: each question is asked after all that was said before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

from memfirst.runtime.generation import Generation

if TYPE_CHECKING:
    from memfirst.runtime.model import GenerateOptions, Model


class Conversation:
    """Messages so far, and the model that answers the next one; `Model.chat` makes it.

    What was said before is still in the cache, so a question costs its own tokens only.
    """

    def __init__(
        self, model: Model, messages: Sequence[Mapping[str, Any]], options: GenerateOptions, system: str | None = None
    ) -> None:
        self._model, self._options = model, options
        self._messages: list[Mapping[str, Any]] = [{"role": "system", "content": system}] if system else []
        self._messages += messages
        self._asked: tuple[Mapping[str, Any], Generation] | None = None

    def ask(self, content: str | Sequence[Mapping[str, Any]], **options: Unpack[GenerateOptions]) -> Generation:
        """Ask the next question.

        Args:
            content: A text, or parts as in `[{"type": "text", "text": "…"}]`.
            options: As for `Model.generate`; they go before those given to `Model.chat`.

        Returns:
            The answer. What came of it by the next question is what the model is taken to have said: all of it,
            unless somebody stopped reading.

        Raises:
            CapacityError: The conversation has become longer than the context: `forget` some of it.
        """
        question = {"role": "user", "content": content}
        chosen: GenerateOptions = {**self._options, **options}
        answer = self._model.generate([*self.messages, question], **chosen)
        self._asked = question, answer
        return answer

    @property
    def messages(self) -> list[Mapping[str, Any]]:
        """All that was said, as messages with `role` and `content`; an answer that nobody has read yet is computed."""
        if self._asked is not None:
            question, answer = self._asked
            said = {"role": "assistant", "content": answer.text}
            self._asked = None
            self._messages += [question, said]
        return list(self._messages)

    def forget(self, turns: int | None = None) -> None:
        """Drop the oldest questions with their answers, all of them by default; a system message stays."""
        messages = self.messages
        start = 1 if messages and messages[0]["role"] == "system" else 0
        questions = [i for i, message in enumerate(messages) if message["role"] == "user"]
        rest = len(messages) if turns is None or turns >= len(questions) else questions[turns]
        self._messages = messages[:start] + messages[rest:]

    def __repr__(self) -> str:
        more = " and one that is being answered" if self._asked else ""
        return f"<Conversation: {len(self._messages)} message{'s' * (len(self._messages) != 1)}{more}>"
