"""The commands' table, and what the parser's own exceptions mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer

from memfirst.cli import DONE, INTERRUPTED, USAGE
from memfirst.cli.bench import bench
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
    "probe": probe,
    "pull": pull,
    "list": list_models,
    "rm": rm,
}
_HELP = {"help_option_names": ["-h", "--help"]}
_BAD_USAGE: type[Exception] = typer.BadParameter.__mro__[1]
"""UsageError; typer has its own copy of click since 0.17, so it is not imported by name."""


def command() -> Any:
    """The parser of the whole command line."""
    app = typer.Typer(name="memfirst", add_completion=False, rich_markup_mode=None, context_settings=_HELP)
    app.callback()(_about)
    for name, function in COMMANDS.items():
        app.command(name, context_settings=_HELP)(function)
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
    note(f"memfirst: {error.format_message()} See: {path} --help")
    return USAGE
