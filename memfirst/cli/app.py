"""The commands' table, and what the parser's own exceptions mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer

from memfirst.cli import DONE, INTERRUPTED, USAGE
from memfirst.cli.bench import bench
from memfirst.cli.doctor import doctor
from memfirst.cli.examples import epilog
from memfirst.cli.inspect import inspect
from memfirst.cli.listing import list_models
from memfirst.cli.machine import machine
from memfirst.cli.plan import plan
from memfirst.cli.probe import probe
from memfirst.cli.pull import pull
from memfirst.cli.rm import rm
from memfirst.cli.run import run
from memfirst.cli.streams import note

COMMANDS: dict[str, Callable[..., None]] = {
    "run": run,
    "inspect": inspect,
    "plan": plan,
    "bench": bench,
    "machine": machine,
    "doctor": doctor,
    "probe": probe,
    "pull": pull,
    "list": list_models,
    "rm": rm,
}
ELSEWHERE = {
    "-c": "--ctx", "--ctx-size": "--ctx", "--max-model-len": "--ctx", "--num-ctx": "--ctx", "--context": "--ctx",
    "--context-length": "--ctx", "-t": "--threads", "--num-predict": "--max-tokens", "--n-predict": "--max-tokens",
    "--predict": "--max-tokens", "--max-new-tokens": "--max-tokens",
    "--repeat-penalty": "--repetition-penalty", "--system-prompt": "--system", "--sys": "--system",
    "--cache-type-k": "--kv", "--kv-cache-dtype": "--kv", "-ctk": "--kv", "--quantization": "--codec",
    "--stop-sequence": "--stop", "--reverse-prompt": "--stop", "--machine": "--on", "--gpu": "--on", "--device": "--on",
}  # fmt: skip
"""What other engines' command lines call an option."""

_HELP = {"help_option_names": ["-h", "--help"]}
_BAD_USAGE: type[Exception] = typer.BadParameter.__mro__[1]
"""UsageError; typer has its own copy of click since 0.17, so it is not imported by name."""


def command() -> Any:
    """The parser of the whole command line."""
    app = typer.Typer(name="memfirst", add_completion=False, rich_markup_mode=None, context_settings=_HELP)
    app.callback()(_about)
    for name, function in COMMANDS.items():
        app.command(name, context_settings=_HELP, epilog=epilog(name))(function)
    return typer.main.get_command(app)


def _about() -> None:
    """Language-model inference that counts its bytes.

    MODEL is a path (a GGUF file, a safetensors folder, a config.json), a catalogue name
    (smollm2:135m), or hf:owner/repo[:QUANT]. `memfirst --version` prints the version.
    """


def call(args: list[str]) -> int:
    """Run one command line; returns its exit code and lets every other exception through."""
    parser = command()
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
    message = _no_such_option(unknown, error.ctx) if unknown and error.ctx else error.format_message()
    note(f"memfirst: {message} See: {path} --help")
    return USAGE


def _no_such_option(name: str, context: Any) -> str:
    """Names the option that it is called here: the nearest, or what other engines' word for it means."""
    from difflib import get_close_matches

    here = {option: option for parameter in context.command.params for option in parameter.opts}
    here = {word: option for word, option in ELSEWHERE.items() if option in here} | here
    near = [here[word] for word in get_close_matches(name, here, n=1)]
    shown = name[:40].encode("unicode_escape").decode()
    return f"no such option: {shown}{f'; did you mean {near[0]}?' if near else '.'}"
