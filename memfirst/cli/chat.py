"""Chat on a terminal: a conversation that is kept, and how an answer is shown."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from memfirst.cli import engine, streams
from memfirst.cli.keyboard import BRACKETED_PASTE, Keyboard
from memfirst.cli.status import StatusLine
from memfirst.cli.wrap import Wrapper, wrapped
from memfirst.errors import CapacityError, MemfirstError

if TYPE_CHECKING:
    from memfirst import Generation, Model
    from memfirst.cli.chat_commands import Commands
    from memfirst.cli.chat_input import Reader

DROP, STOP = "drop", "stop"
FREE = 4
"""Once the context is full, turns are dropped until a 1/4 of it is free: the rest is computed anew each time."""


@dataclass(frozen=True)
class ChatOptions:
    """How a chat behaves, besides what is asked of the model.

    private  nothing typed is written to disk
    name     what the model was called on the command line; "": what its file calls it
    """

    on_full: str = DROP
    private: bool = False
    quiet: bool = False
    name: str = ""


@dataclass
class Said:
    """An answer as far as it came."""

    text: str = ""
    ids: list[int] = field(default_factory=list)


class Chat:
    """A conversation with one model: turns of a question and an answer each."""

    def __init__(self, model: Model, request: engine.Request, system: str | None, options: ChatOptions) -> None:
        self.model, self.options = model, options
        self._start = request, system, options.quiet
        self.turns: list[tuple[str, str]] = []
        self.last: Generation | None = None
        self.typed = b""
        """What was typed during answers and nobody has read yet."""
        self.wraps = True
        self.reset()

    def reset(self) -> None:
        """As it began: no turns, and the parameters and the system message that the command line gave."""
        self.request, self.system, self.quiet = self._start
        self.turns = []

    def answer(self, text: str) -> None:
        """One turn, printed. An interrupted answer is kept as far as it came; a failed one leaves no trace."""
        said = Said()
        draws = streams.draws()
        keyboard = Keyboard(draws)
        try:
            with keyboard, StatusLine(draws and not self.quiet) as status:
                try:
                    self._speak(text, said, Wrapper() if draws and self.wraps else None, status)
                except KeyboardInterrupt:
                    streams.write(" [stopped]", end="")
                streams.write("", flush=True)
        finally:
            self.typed += keyboard.typed
        if said.text:
            self.turns.append((text, said.text))
        self._tell()

    def messages(self, text: str, turns: list[tuple[str, str]]) -> str | engine.Messages:
        """What the model is asked; of a model that was not made for chat, the text alone."""
        if not self.model.has_chat_template:
            return text
        start = [{"role": "system", "content": self.system}] if self.system else []
        said = [m for q, a in turns for m in ({"role": "user", "content": q}, {"role": "assistant", "content": a})]
        return [*start, *said, {"role": "user", "content": text}]

    def _speak(self, text: str, said: Said, wrapper: Wrapper | None, status: StatusLine) -> None:
        """Generate until the answer ends; where the context is full, go on without the oldest turns."""
        while True:
            ids = self._room_for(text, said, wrapper)
            if said.ids and not ids:
                return
            most = self.request.max_tokens
            request = replace(self.request, max_tokens=most and most - len(said.ids))
            self.last = generation = engine.generate(self.model, ids, request)
            self._print(generation, said, wrapper, status)
            if generation.stop_reason != "context" or self.options.on_full == STOP or not self.turns:
                return

    def _print(self, generation: Generation, said: Said, wrapper: Wrapper | None, status: StatusLine) -> None:
        """Tokens as they come."""
        for token in generation:
            said.text += token.text
            streams.write(wrapper.feed(token.text) if wrapper else token.text, end="", flush=True)
            status.show(lambda: brief(generation.line()))
        said.ids += generation.ids

    def _room_for(self, text: str, said: Said, wrapper: Wrapper | None) -> list[int]:
        """Tokens of the conversation and of the answer so far; none where this answer alone fills the context.

        Drops the oldest turns where there is no room for them, and says so; CapacityError where that is not wanted.
        """
        context, turns = self.model.context, list(self.turns)
        ids = self.model.encode(self.messages(text, turns))
        if len(ids) + len(said.ids) < context:
            return [*ids, *said.ids]
        if self.options.on_full == STOP and turns:
            do = "/clear forgets it; --on-full drop drops the oldest turns"
            raise CapacityError(f"the conversation has {len(ids)} tokens", f"fewer than the context of {context}", do)
        while turns and len(ids) + len(said.ids) > context - context // FREE:
            turns.pop(0)
            ids = self.model.encode(self.messages(text, turns))
        if len(ids) + len(said.ids) < context:
            self._drop(len(self.turns) - len(turns), bool(said.text), wrapper)
            self.turns = turns
        elif said.ids:
            return []
        return [*ids, *said.ids]

    def _drop(self, count: int, speaking: bool, wrapper: Wrapper | None) -> None:
        """Say how many turns the model does not see any more."""
        oldest = f"the {count} oldest turns are" if count > 1 else "the oldest turn is"
        streams.write(f"{chr(10) * speaking}{streams.dim(wrapped(f'[context full: {oldest} dropped]'))}")
        if wrapper:
            wrapper.go_on()

    def _tell(self) -> None:
        """What the answer cost, and why it ended."""
        if self.last is None or self.quiet:
            return
        streams.write(streams.dim(wrapped(brief(self.last.line()))), flush=True)
        if self.last.stop_reason == "context":
            do = "/clear forgets the conversation" if self.turns[:-1] else "a larger --ctx has room for more"
            streams.write(streams.dim(wrapped(f"[stopped: the context is full; {do}]")), flush=True)


def brief(line: str) -> str:
    """Speed, bandwidth and KV held: of an answer's line the first two parts and the last, for 80 columns."""
    parts = line.split(" · ")
    return " · ".join([*parts[:2], *parts[2:][-1:]])


def chat(model: Model, request: engine.Request, system: str | None, options: ChatOptions) -> None:
    """Read, answer, repeat, until /bye or the end of the input."""
    from memfirst.cli.chat_commands import NAMES, Commands
    from memfirst.cli.chat_input import reader

    talk = Chat(model, request, system, options)
    messages = reader(options.private, NAMES)
    commands = Commands(talk, messages)
    streams.write(wrapped(header(model, options.name), "  "))
    streams.write(streams.dim("/? for help, Ctrl-D to leave"), flush=True)
    draws = streams.draws()
    try:
        while _turn(talk, messages, commands):
            pass
    finally:
        if draws and sys.stdout is not None:
            streams.write(f"{BRACKETED_PASTE}l", end="", flush=True)


def _turn(talk: Chat, messages: Reader, commands: Commands) -> bool:
    """Read one message, and answer or obey it; False ends the chat."""
    try:
        typed, talk.typed = talk.typed, b""
        messages.type_ahead(typed)
        text = messages.read()
        if text is None:
            return False
        if streams.draws():
            streams.write(f"{BRACKETED_PASTE}h", end="")  # also of what is pasted during an answer
        if commands.is_one(text):
            return commands.obey(text)
        if text:
            talk.answer(text)
    except (streams.OutputLostError, BrokenPipeError):
        raise
    except MemfirstError as error:
        streams.note(f"memfirst: {' '.join(error.at_a_prompt().split())}")
    except OSError as error:
        if not error.filename:  # no file to save to or to load from: the terminal is gone
            raise
        streams.note(f"memfirst: {error.filename}: {error.strerror}")
    except KeyboardInterrupt:  # of a command, or between an answer and the next prompt
        streams.write("", flush=True)
    return True


def header(model: Model, name: str = "") -> str:
    """Which model it is, how long a conversation may be, and what memory that takes."""
    from memfirst.cli.about import about
    from memfirst.cli.display import size

    found = about(model)
    held = model.memory([model.context])
    return (
        f"{name or found.name}: {found.architecture}, {found.weights / 1e6:,.1f} M weights in {found.codec}\n"
        f"context {model.context:,} tokens · memory {size(held.total)}: weights {size(held.weights)},"
        f" KV cache up to {size(held.kv_allocated)}"
    )
