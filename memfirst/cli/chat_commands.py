"""What a chat can be told instead of a message: `/help` and the like, called as in `ollama run`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches
from typing import TYPE_CHECKING

from memfirst.cli import streams
from memfirst.cli.wrap import columns, wrapped
from memfirst.errors import ConfigError

if TYPE_CHECKING:
    from memfirst.cli.chat import Chat
    from memfirst.cli.chat_input import Reader

HELP = [
    ("/?, /help", "this page"),
    ("/bye", "leave, as does Ctrl-D"),
    ("/clear", "forget the conversation"),
    ("/reset", "forget it, and what was set since the start"),
    ("/system [TEXT]", "set the system message; without a text: none"),
    ("/set WHAT [VALUE]", "parameter, system, history, nohistory, wordwrap, nowordwrap, verbose, quiet"),
    ("/show WHAT", "info, parameters, system, template, license"),
    ("/save NAME", "keep the conversation; a name, or a path.json"),
    ("/load [NAME]", "go on with one that was kept; without a name: list them"),
    ("/ledger", "the bytes of the last token: predicted, and recorded by the kernels"),
]
KEYS = [
    ('"""', "begins and ends a message of several lines; pasted lines are one message anyway"),
    ("Alt-Enter", "a new line"),
    ("Ctrl-C", "stops an answer; at the prompt clears the line, twice on an empty one leaves"),
]
NAMES = ("/help", "/?", "/bye", "/clear", "/reset", "/system", "/set", "/show", "/save", "/load", "/ledger")
ALIASES = {"/?": "/help", "/exit": "/bye", "/quit": "/bye", "/h": "/help"}

PARAMETERS = {
    "temperature": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p", "seed": "seed",
    "repetition_penalty": "repetition_penalty", "repeat_penalty": "repetition_penalty",
    "repetition_window": "repetition_window", "repeat_last_n": "repetition_window",
    "max_tokens": "max_tokens", "num_predict": "max_tokens", "stop": "stop",
}  # fmt: skip
"""Names of `/set parameter`, ours and Ollama's, and what they set."""

FIXED = {"num_ctx": "--ctx", "ctx": "--ctx", "num_thread": "--threads", "threads": "--threads", "kv": "--kv"}
"""What is chosen when a model is loaded, and the option that does it."""

_COMMAND = re.compile(r"/[a-z?]+(?=\s|$)")
BAR = "█"


class Commands:
    """Carries out a chat's commands."""

    def __init__(self, chat: Chat, reader: Reader) -> None:
        self._chat, self._reader = chat, reader
        self._do: dict[str, Callable[[str], None]] = {
            "/help": self._help, "/clear": self._clear, "/reset": self._reset, "/system": self._system,
            "/set": self._set, "/show": self._show, "/save": self._save, "/load": self._load, "/ledger": self._ledger,
        }  # fmt: skip

    def is_one(self, text: str) -> bool:
        """Whether a message is a command: one line that begins with a word after a slash, or a known one of more."""
        found = _COMMAND.match(text)
        return found is not None and ("\n" not in text or found[0] in self._do)

    def obey(self, text: str) -> bool:
        """Carry it out; False ends the chat."""
        word = text.split(maxsplit=1)[0]
        name, rest = ALIASES.get(word, word), text[len(word) :].strip()
        if name == "/bye":
            return False
        if name in self._do:
            self._do[name](rest)
        else:
            near = get_close_matches(word, [*NAMES, *ALIASES], n=1)
            say(f"no command {word}; {f'did you mean {near[0]}?' if near else '/? lists them'}")
        return True

    def _help(self, rest: str) -> None:
        say(definitions(HELP), "", definitions(KEYS))

    def _clear(self, rest: str) -> None:
        self._chat.turns = []
        say("the conversation is forgotten")

    def _reset(self, rest: str) -> None:
        self._chat.reset()
        say("as at the start: no turns, parameters and system message as given on the command line")

    def _system(self, rest: str) -> None:
        self._chat.system = rest or None
        say("system message set" if rest else "no system message")

    # --- /set

    def _set(self, rest: str) -> None:
        what, _, value = rest.partition(" ")
        switches = {"verbose": False, "quiet": True}
        if what == "parameter":
            name, _, setting = value.strip().partition(" ")
            self._parameter(name, setting.strip())
        elif what == "system":
            self._system(value.strip())
        elif what in ("history", "nohistory"):
            self._reader.kept = what == "history"
            say("what you type is kept on disk" if self._reader.kept else "what you type is not written to disk")
        elif what in ("wordwrap", "nowordwrap"):
            self._chat.wraps = what == "wordwrap"
            say("lines break between words" if self._chat.wraps else "lines break at the edge")
        elif what in switches:
            self._chat.quiet = switches[what]
            say("answers alone" if self._chat.quiet else "answers, and what they cost")
        else:
            known = ["parameter NAME VALUE", "system TEXT", "history", "nohistory", "wordwrap", "nowordwrap"]
            say(f"/set takes one of: {', '.join([*known, *switches])}")

    def _parameter(self, name: str, value: str) -> None:
        if name in FIXED:
            raise ConfigError(f"{name} is chosen when the model is loaded", do=f"start again with {FIXED[name]}")
        if name not in PARAMETERS or not value:
            near = get_close_matches(name, PARAMETERS, n=1)
            hint = f"; did you mean {near[0]}?" if near and name not in PARAMETERS else ""
            say(f"/set parameter NAME VALUE, NAME one of: {', '.join(PARAMETERS)}{hint}")
            return
        known, request = PARAMETERS[name], self._chat.request
        if known == "stop":
            self._chat.request = replace(request, stop=tuple(value.split()))
        elif known == "max_tokens":
            count = int(number(name, value))
            self._chat.request = replace(request, max_tokens=count if count > 0 else None)
        else:
            changed = {known: number(name, value)}
            self._chat.request = replace(request, params=replace(request.params, **changed))  # type: ignore[arg-type]
        say(f"{known} is {value}")

    # --- /show

    def _show(self, rest: str) -> None:
        shows = {
            "info": self._info, "parameters": self._parameters, "license": self._license,
            "system": lambda: say(self._chat.system or "no system message"), "template": self._template,
        }  # fmt: skip
        if rest in shows:
            shows[rest]()
        else:
            say(f"/show takes one of: {', '.join(shows)}")

    def _info(self) -> None:
        from memfirst.cli.about import about
        from memfirst.cli.display import brief, size

        model = self._chat.model
        found, held = about(model), model.memory([model.context])
        say(definitions([
            ("model", found.name), ("file", brief(model.checkpoint.path)), ("architecture", found.architecture),
            ("weights", f"{found.weights:,}, most in {found.codec}: {size(held.weights)}"),
            ("context", f"{model.context:,} tokens of {model.graph.context:,} that it was trained for"),
            ("memory", f"{size(held.total)}, {size(held.kv_allocated)} of it for the KV cache"),
            ("turns", str(len(self._chat.turns))),
        ]))  # fmt: skip

    def _parameters(self) -> None:
        request = self._chat.request
        stops = " ".join(request.stop) or "none"
        limit = request.max_tokens or "as many as fit"
        rows = [(name, str(value)) for name, value in vars(request.params).items()]
        say(definitions([*rows, ("max_tokens", str(limit)), ("stop", stops)]))

    def _license(self) -> None:
        from memfirst.cli.about import about

        say(about(self._chat.model).license or "the file names no license")

    def _template(self) -> None:
        from memfirst.cli.display import printable

        say(printable(self._chat.model.tokenizer.rules.chat_template or "the file has no chat template"))

    # --- /save, /load, /ledger

    def _save(self, rest: str) -> None:
        from memfirst.cli import chat_session

        say(f"saved: {chat_session.save(self._chat, rest)}; /load {rest} goes on with it")

    def _load(self, rest: str) -> None:
        from memfirst.cli import chat_session

        if rest:
            chat_session.restore(self._chat, rest)
            say(f"{len(self._chat.turns)} turns of {rest}")
        else:
            say("saved: " + (", ".join(chat_session.names()) or "nothing yet"))

    def _ledger(self, rest: str) -> None:
        report = self._chat.last.report() if self._chat.last else {}
        if not report.get("predicted_bytes"):
            say("no token was decoded yet")
        else:
            say(ledger_page(report["predicted_bytes"], report["recorded_bytes"]))


def ledger_page(predicted: dict[str, int], recorded: dict[str, int]) -> str:
    """Bytes of a token by purpose, predicted beside recorded, each with its share as a bar."""
    from memfirst.cli.display import table

    total, counts = max(1, sum(recorded.values())), sorted(recorded.items(), key=lambda item: -item[1])
    rows = [("bytes of a token", "predicted", "recorded", "share")]
    for purpose, n in counts:
        share = f"{100 * n / total:.1f} %"
        rows.append(
            (purpose.replace("kv_", "KV ").replace("_", " "), f"{predicted.get(purpose, 0):,}", f"{n:,}", share)
        )
    lines = table(rows, numbers=(1, 2, 3)).split("\n")
    bar, room = BAR if streams.can_show(BAR) else "#", columns() - max(map(len, lines)) - 2
    drawn = ["", *(bar * round(room * n / total) for _, n in counts)]
    same = {p: n for p, n in predicted.items() if p in recorded} == recorded
    verdict = "predicted = recorded, to the byte" if same else "predicted and recorded differ: please report this"
    return "\n".join([*(f"{line}  {bar}".rstrip() for line, bar in zip(lines, drawn, strict=True)), verdict])


def definitions(rows: list[tuple[str, str]]) -> str:
    """Words and what they mean, in two columns."""
    left = max(len(word) for word, _ in rows) + 2
    return "\n".join(wrapped(f"{word:<{left}}{meaning}", " " * left) for word, meaning in rows)


def number(name: str, text: str) -> float | int:
    """ConfigError for what is no number."""
    try:
        return int(text) if text.lstrip("-").isdecimal() else float(text)
    except ValueError:
        raise ConfigError(f"{name} is {text[:40]!r}", "a number") from None


def say(*parts: str) -> None:
    """Print lines that are wrapped already, or short."""
    for part in parts:
        streams.write("\n".join(wrapped(line) if len(line) > columns() else line for line in part.split("\n")))
    streams.flush()
