"""Chat on a terminal: a conversation that is kept, a few commands, a status line at the bottom."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from memfirst.cli import engine
from memfirst.cli.status import StatusLine
from memfirst.errors import MemfirstError

if TYPE_CHECKING:
    from memfirst import Model

PROMPT = "> "
HELP = """/reset         forget the conversation
/system TEXT   set the system message (nothing: none), and forget the conversation
/help          this page
/exit          leave, as does Ctrl-D; Ctrl-C stops an answer"""


class Chat:
    """A conversation with one model. `answer` prints; the rest only changes state."""

    def __init__(self, model: Model, request: engine.Request, system: str | None) -> None:
        self.model, self.request, self.system = model, request, system
        self.turns: engine.Messages = []

    def obey(self, line: str) -> bool:
        """Carry out a command; False ends the chat."""
        name, _, rest = line.partition(" ")
        if name == "/exit":
            return False
        if name == "/reset":
            self.turns = []
        elif name == "/system":
            self.system, self.turns = rest.strip() or None, []
        else:
            print(HELP if name == "/help" else f"no command {name}\n{HELP}")
        return True

    def answer(self, text: str, status: StatusLine) -> None:
        """One turn. An interrupted answer is kept as far as it came; a failed one leaves no trace."""
        start = [{"role": "system", "content": self.system}] if self.system else []
        question, said = {"role": "user", "content": text}, ""
        generation = engine.generate(self.model, [*start, *self.turns, question], self.request)
        try:
            for token in generation:
                said += token.text
                sys.stdout.write(token.text)
                sys.stdout.flush()
                status.show(lambda: brief(generation.line()))
        except KeyboardInterrupt:
            sys.stdout.write(" [stopped]")
        print()
        status.show(lambda: brief(generation.line()), now=True)
        engine.say_if_full(generation)
        self.turns += [question, {"role": "assistant", "content": said}]


def brief(line: str) -> str:
    """Speed, bandwidth and KV held: of an answer's line the first two parts and the last, for 80 columns."""
    parts = line.split(" · ")
    return " · ".join([*parts[:2], *parts[2:][-1:]])


def chat(model: Model, request: engine.Request, system: str | None) -> None:
    """Read, answer, repeat, until /exit or the end of the input."""
    _line_history()
    talk = Chat(model, request, system)
    print("chat: /help for commands, Ctrl-D to leave")
    with StatusLine() as status:
        while (line := _read()) is not None:
            if line.startswith("/"):
                if not talk.obey(line):
                    return
            elif line:
                try:
                    talk.answer(line, status)
                except MemfirstError as e:
                    print(f"memfirst: {e}", file=sys.stderr)


def _read() -> str | None:
    """A line without surrounding blanks; None at the end of the input."""
    try:
        return input(PROMPT).strip()
    except EOFError:
        print()
        return None


def _line_history() -> None:
    """Arrow keys recall what was typed in this chat; nothing is written to disk."""
    try:
        import readline
    except ImportError:  # Windows has none
        return
    readline.set_history_length(1000)
