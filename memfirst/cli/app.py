"""The commands' table, and what the parser's own exceptions mean."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from typing import Any

import typer

from memfirst.cli import DONE, INTERRUPTED, USAGE
from memfirst.cli.examples import epilog
from memfirst.cli.streams import note


class _Commands(Mapping[str, Callable[..., None]]):
    """Functions by the command's name, each imported when it is asked for: a start needs one of them."""

    def __init__(self, homes: Mapping[str, str]) -> None:
        self._homes = homes

    def __getitem__(self, name: str) -> Callable[..., None]:
        module, _, function = self._homes[name].partition(".")
        found: Callable[..., None] = getattr(import_module(f"memfirst.cli.{module}"), function or name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._homes)

    def __len__(self) -> int:
        return len(self._homes)


_NAMED_AS_THEIR_FILE = ("run", "inspect", "plan", "bench", "machine", "doctor", "probe", "pull", "serve")

COMMANDS: Mapping[str, Callable[..., None]] = _Commands(
    {name: name for name in _NAMED_AS_THEIR_FILE} | {"list": "listing.list_models", "rm": "rm"}
)
ELSEWHERE = {
    "-c": "--ctx", "--ctx-size": "--ctx", "--max-model-len": "--ctx", "--num-ctx": "--ctx", "--context": "--ctx",
    "--context-length": "--ctx", "-t": "--threads", "--num-predict": "--max-tokens", "--n-predict": "--max-tokens",
    "--predict": "--max-tokens", "--max-new-tokens": "--max-tokens",
    "--repeat-penalty": "--repetition-penalty", "--system-prompt": "--system", "--sys": "--system",
    "--cache-type-k": "--kv", "--kv-cache-dtype": "--kv", "-ctk": "--kv", "--quantization": "--codec",
    "--stop-sequence": "--stop", "--reverse-prompt": "--stop", "--machine": "--on", "--gpu": "--on", "--device": "--on",
}  # fmt: skip
"""What other engines' command lines call an option."""

_ALONE, _NEEDLESS = "the model stands alone: memfirst {command} MODEL", "leave it out"
INSTEAD = {
    **dict.fromkeys(("-m", "--model", "-hf", "--hf-repo", "--model-path"), _ALONE),
    **dict.fromkeys(("-f", "--file"), "a file goes to standard input: memfirst {command} MODEL < FILE"),
    **dict.fromkeys(("-ngl", "--n-gpu-layers", "--gpu-layers"), f"memfirst computes on processors: {_NEEDLESS}"),
    **dict.fromkeys(("-cnv", "--conversation", "--interactive"), "without a prompt, on a terminal, it is a chat"),
    **dict.fromkeys(("-s", "-sys"), "it is --system TEXT"),
    "--format": "--schema FILE makes JSON",
    **dict.fromkeys(
        ("-fa", "--flash-attn", "--mlock", "--no-mmap", "--keepalive", "--verbose", "--think", "-no-cnv"), _NEEDLESS
    ),
}
"""What to do where other engines have an option that is none here. A short one of several letters is looked for before
the line is parsed, as "-ngl 99" would be "-n gl"."""

COMMANDS_ELSEWHERE = {
    "chat": "run", "generate": "run", "prompt": "run", "cli": "run", "show": "inspect", "info": "inspect", "ls": "list",
    "models": "list", "download": "pull", "get": "pull", "remove": "rm", "delete": "rm", "server": "serve",
    "start": "serve", "benchmark": "bench", "estimate": "plan", "system": "doctor", "machines": "machine",
}  # fmt: skip
"""What other engines' command lines call a command."""

_HELP = {"help_option_names": ["-h", "--help"]}
_BAD_USAGE: type[Exception] = typer.BadParameter.__mro__[1]
"""UsageError; typer has its own copy of click since 0.17, so it is not imported by name."""


def command(names: Iterable[str] = COMMANDS) -> Any:
    """The parser of the command line, with all commands or some of them."""
    app = typer.Typer(name="memfirst", add_completion=False, rich_markup_mode=None, context_settings=_HELP)
    app.callback(epilog=epilog("memfirst"))(_about)
    for name in names:
        app.command(name, context_settings=_HELP, epilog=epilog(name))(COMMANDS[name])
    return typer.main.get_command(app)


def _about() -> None:
    """Run, plan and serve language models, and see which bytes each token reads.

    MODEL is a path (a GGUF file, a safetensors folder, a config.json), a name
    (smollm2:135m, llama3.1:8b), or a repository of the Hugging Face hub
    (owner/repo[:QUANT]). `memfirst --version` prints the version.
    """


def call(args: list[str]) -> int:
    """Run one command line; returns its exit code and lets every other exception through."""
    several = next((word for word in args if word in INSTEAD and len(word) > 2 and word[1] != "-"), "")
    if several and args[0] in COMMANDS:
        note(f"memfirst: no such option: {several}; {_instead(several, args[0])}. See: memfirst {args[0]} --help")
        return USAGE
    parser = command(args[:1] if args[0] in COMMANDS else COMMANDS)
    try:
        with parser.make_context("memfirst", args) as context:
            parser.invoke(context)
    except typer.Exit as e:
        return int(e.exit_code)
    except typer.Abort:
        return INTERRUPTED
    except _BAD_USAGE as e:
        return _bad_usage(e)
    return DONE


def _bad_usage(error: Any) -> int:
    path = error.ctx.command_path if error.ctx else "memfirst"
    unknown = getattr(error, "option_name", "") if hasattr(error, "possibilities") else ""
    message = _no_such_option(unknown, error.ctx) if unknown and error.ctx else _plainly(error.format_message())
    note(f"memfirst: {message} See: {path} --help")
    return USAGE


def _plainly(message: str) -> str:
    """The parser's sentence without its own terms."""
    if (found := re.fullmatch(r"No such command '(.*?)'\..*", message)) and found[1] in COMMANDS_ELSEWHERE:
        return f"no such command: {found[1]}; here it is: memfirst {COMMANDS_ELSEWHERE[found[1]]}."
    message = re.sub(r"^Invalid value for ([^:]+): ", r"\1: ", message).removeprefix("Invalid value: ")
    message = re.sub(r"is not a valid (?:int|integer)(?: range)?", "is no whole number", message)
    message = re.sub(r"is not a valid float(?: range)?", "is no number", message)
    return message if message[-1:] in ".?!" else f"{message}."


def _instead(name: str, command: str) -> str:
    return INSTEAD[name].replace("{command}", command)


def _no_such_option(name: str, context: Any) -> str:
    """Names the option that it is called here: the nearest, or what other engines' word for it means."""
    from difflib import get_close_matches

    here = {option: option for p in context.command.params for option in p.opts if option.startswith("-")}
    if name in INSTEAD and name not in here:
        return f"no such option: {name}; {_instead(name, context.info_name)}."
    here |= {} if context.parent else {"--version": "--version"}
    here = {word: option for word, option in ELSEWHERE.items() if option in here} | here
    near = [here[word] for word in get_close_matches(name, here, n=1)]
    shown = name[:40].encode("unicode_escape").decode()
    return f"no such option: {shown}{f'; did you mean {near[0]}?' if near else '.'}"
