"""Reading a chat's messages: edited on a terminal, or line by line."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from memfirst.cli import streams

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession

PROMPT, MORE, QUOTES = ">>> ", "... ", '"""'
HINT = "Ctrl-C again, Ctrl-D or /bye to leave"
PLACEHOLDER = "a message, or /? for help"


class Reader(Protocol):
    """Gives one message after the other."""

    def read(self) -> str | None:
        """The next message; None at the end."""

    def type_ahead(self, typed: bytes) -> None:
        """What was typed before the next message was asked for."""

    @property
    def kept(self) -> bool:
        """Whether messages are written to the history on disk."""

    @kept.setter
    def kept(self, wanted: bool) -> None: ...


def reader(private: bool, commands: Sequence[str]) -> Reader:
    """What this terminal allows."""
    if streams.is_terminal(sys.stdin) and streams.draws():
        return PromptReader(private, commands)
    return LineReader()


def is_open(text: str) -> bool:
    """Whether a message begins with three quotes that are not closed yet."""
    return text.lstrip().startswith(QUOTES) and QUOTES not in text.lstrip()[len(QUOTES) :]


def unquoted(text: str) -> str:
    """A message without the three quotes around it."""
    if not text.lstrip().startswith(QUOTES):
        return text.strip()
    inside, _, after = text.lstrip()[len(QUOTES) :].partition(QUOTES)
    return f"{inside.strip(chr(10))}{after.rstrip()}"


def _continuation(width: int, line: int, soft: int) -> str:
    """What stands before a message's further lines; nothing before those that only the terminal breaks."""
    return " " * width if soft else MORE


class PromptReader:
    """An editor of messages (prompt_toolkit): what is pasted is one message, Ctrl-C clears, arrow keys recall."""

    def __init__(self, private: bool, commands: Sequence[str]) -> None:
        # Asked for the cursor's position, some terminals never answer; without a menu nobody needs it.
        os.environ.setdefault("PROMPT_TOOLKIT_NO_CPR", "1")
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter
        from prompt_toolkit.shortcuts import CompleteStyle

        from memfirst.cli.chat_history import ChatHistory

        self._history = ChatHistory(private)
        self._leaving = self._signalled = False
        self._session: PromptSession[str] = PromptSession(
            PROMPT, multiline=True, prompt_continuation=_continuation, history=self._history, key_bindings=self._keys(),
            placeholder=self._placeholder, enable_suspend=True, complete_while_typing=False,
            completer=WordCompleter(list(commands), sentence=True), complete_style=CompleteStyle.READLINE_LIKE,
            reserve_space_for_menu=0,
        )  # fmt: skip

    def read(self) -> str | None:
        """The next message; None when the user leaves."""
        self._leaving = self._signalled = False
        before = signal.signal(signal.SIGINT, self._signal)
        try:
            while True:
                try:
                    return unquoted(self._session.prompt(pre_run=self._pass_on, handle_sigint=False))
                except EOFError:
                    return None
                except KeyboardInterrupt:  # on an empty line
                    if self._leaving:
                        return None
                    self._leaving, self._signalled = True, False
                    streams.write(streams.dim(HINT), flush=True)
        finally:
            signal.signal(signal.SIGINT, before)

    def _signal(self, number: int, frame: object) -> None:
        """Ctrl-C while the editor comes or goes is a signal; raised there, it would tear the event loop."""
        self._signalled = True
        loop = self._session.app.loop
        if self._session.app.is_running and loop is not None:
            loop.call_soon_threadsafe(self._pass_on)

    def _pass_on(self) -> None:
        """To the editor, once it runs."""
        app = self._session.app
        if self._signalled and app.is_running and not app.is_done:
            self._signalled = False
            app.exit(exception=KeyboardInterrupt)

    def type_ahead(self, typed: bytes) -> None:
        """Keys for the next message, as if they were pressed then."""
        from prompt_toolkit.input.typeahead import store_typeahead
        from prompt_toolkit.input.vt100_parser import Vt100Parser
        from prompt_toolkit.key_binding import KeyPress

        keys: list[KeyPress] = []
        parser = Vt100Parser(keys.append)
        parser.feed_and_flush(typed.decode("utf-8", "replace"))
        store_typeahead(self._session.input, keys)

    @property
    def kept(self) -> bool:
        """Whether messages are written to the history on disk."""
        return self._history.kept

    @kept.setter
    def kept(self, wanted: bool) -> None:
        self._history.kept = wanted

    def _placeholder(self) -> Any:
        return [] if self._session.app.is_done else [("fg:ansibrightblack", PLACEHOLDER)]

    def _keys(self) -> Any:
        from prompt_toolkit.key_binding import KeyBindings

        keys = KeyBindings()
        keys.add("enter")(self._enter)
        keys.add("escape", "enter")(lambda event: event.current_buffer.insert_text("\n"))
        keys.add("c-c")(self._interrupt)
        return keys

    def _enter(self, event: Any) -> None:
        buffer = event.current_buffer
        if is_open(buffer.text):
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    def _interrupt(self, event: Any) -> None:
        """Clear the message; with nothing to clear, leave it to `read`."""
        if event.current_buffer.text:
            self._leaving = False
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt)


class LineReader:
    """Lines of standard input, behind a prompt: for terminals without escapes."""

    kept = False

    def __init__(self) -> None:
        self._interrupted = False

    def read(self) -> str | None:
        """The next message; None at the end, and when Ctrl-C is pressed twice."""
        while True:
            try:
                text = self._message()
            except KeyboardInterrupt:
                if self._interrupted:
                    return None
                self._interrupted = True
                self._prompt(f"\n{HINT}\n")
                continue
            self._interrupted = False
            return text

    def type_ahead(self, typed: bytes) -> None:
        """Nothing: this terminal keeps what is typed by itself."""

    def _message(self) -> str | None:
        text = self._line(PROMPT)
        while text and is_open(text):
            more = self._line(MORE)
            if not more:
                break
            text += more
        return unquoted(text) if text else None

    def _line(self, prompt: str) -> str:
        self._prompt(prompt)
        line = sys.stdin.buffer.readline().decode("utf-8", "replace")
        if not line:
            self._prompt("\n")
        return line

    def _prompt(self, text: str) -> None:
        """On stdout if a person sees it, else on stderr: the answers alone go to a file."""
        if streams.is_terminal(sys.stdout):
            streams.write(text, end="", flush=True)
        elif streams.is_terminal(sys.stderr):
            streams.note(text, end="")
