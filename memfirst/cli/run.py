"""`memfirst run`: generate text from a prompt, or chat on a terminal."""

from __future__ import annotations

import os
import select
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memfirst.catalog import DEFAULT_MODEL
from memfirst.cli import streams
from memfirst.cli.options import (
    MODEL_HELP,
    Ctx,
    Draft,
    Head,
    Json,
    Kv,
    Memory,
    Offline,
    Pack,
    Quiet,
    Speculate,
    Split,
    Threads,
)  # fmt: skip
from memfirst.cli.wrap import Wrapper

FILE: dict[str, Any] = {"exists": True, "dir_okay": False, "readable": True}
PIPE_SECONDS = 1
"""How long the first byte of a pipe is waited for, where there is a prompt already."""


def _option(*names: str, help: str, default: str | bool = False, **more: Any) -> Any:
    return typer.Option(*names, help=help, show_default=default, **more)


if TYPE_CHECKING:
    from memfirst import Generation, Model
    from memfirst.cli import engine

MaybeModel = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP, show_default=True)]
Text = Annotated[
    str | None,
    typer.Argument(metavar="[PROMPT]", help="The prompt; without it, standard input, or chat.", show_default=False),
]
Prompt = Annotated[str | None, _option("-p", "--prompt", metavar="TEXT", help="The prompt, given as an option.")]
System = Annotated[str | None, _option("--system", metavar="TEXT", help="A system message.")]
MaxTokens = Annotated[
    int | None, _option("-n", "--max-tokens", metavar="N", min=1, help="Maximum number of tokens to generate.")
]
Temperature = Annotated[
    float | None, _option("--temperature", "--temp", default="0.8", metavar="T", min=0.0, help="0: greedy.")
]
TopK = Annotated[
    int | None,
    _option("--top-k", default="40", metavar="K", min=0, help="Sample from the K likeliest tokens; 0: all."),
]
TopP = Annotated[
    float | None,
    _option(
        "--top-p",
        default="0.95",
        metavar="P",
        min=0.0,
        max=1.0,
        help="Nucleus sampling threshold.",
    ),
]
MinP = Annotated[
    float | None,
    _option(
        "--min-p",
        default="0.05",
        metavar="P",
        min=0.0,
        max=1.0,
        help="Drop tokens below P times the likeliest one.",
    ),
]
Penalty = Annotated[
    float | None, _option("--repetition-penalty", default="1.0", metavar="F", min=0.01, help="1: none.")
]
Seed = Annotated[int | None, _option("--seed", metavar="N", min=0, help="Same seed, same text.")]
Stop = Annotated[
    list[str] | None,
    _option("--stop", metavar="TEXT", help="Stop before this text; may be given several times."),
]
Backend = Annotated[
    str,
    typer.Option("--backend", metavar="NAME", help="cpu, or reference: NumPy float32, slow, the definition."),
]
Schema = Annotated[
    Path | None,
    _option("--schema", metavar="FILE", help="The answer is JSON that is valid by this JSON schema.", **FILE),
]
Grammar = Annotated[
    Path | None,
    _option("--grammar", metavar="FILE", help="The answer follows this grammar, in GBNF or Lark.", **FILE),
]
Regex = Annotated[str | None, _option("--regex", metavar="TEXT", help="The whole answer matches this expression.")]
Raw = Annotated[bool, typer.Option("--raw", help="Give the prompt to the model as it is, without a chat template.")]
OnFull = Annotated[
    str,
    typer.Option(
        "--on-full", metavar="stop|drop", help="In a chat whose context is full: drop the oldest turns, or stop."
    ),
]
Private = Annotated[bool, typer.Option("--private", help="Write nothing that is typed in a chat to disk.")]


def run(
    model: MaybeModel = DEFAULT_MODEL,
    text: Text = None,
    *,
    prompt: Prompt = None,
    system: System = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    repetition_penalty: Penalty = None,
    seed: Seed = None,
    stop: Stop = None,
    threads: Threads = None,
    ctx: Ctx = None,
    kv: Kv = "f16",
    memory: Memory = None,
    pack: Pack = "auto",
    head: Head = "full",
    backend: Backend = "cpu",
    speculate: Speculate = "auto",
    draft: Draft = None,
    schema: Schema = None,
    grammar: Grammar = None,
    regex: Regex = None,
    raw: Raw = False,
    on_full: OnFull = "drop",
    split: Split = "",
    private: Private = False,
    offline: Offline = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Generate text from a prompt, or chat.

    The prompt is PROMPT or -p, with piped text after it; without one it is all of standard input, and on a terminal
    a chat. The answer goes to stdout; how fast it was, and what each token read, to stderr.

    \b
    memfirst run smollm2:135m "Why is the sky blue?"    ask
    memfirst run smollm2:135m "Sum up:" < notes.txt     ask about a file
    memfirst run smollm2:135m                           chat; /? lists its commands
    """
    if text is not None and prompt is not None:
        raise typer.BadParameter("the prompt is given twice: as an argument and with -p")
    from memfirst.cli import engine

    if engine.ran_as_follower(split, model, threads, kv, offline):
        return
    text = read_prompt(prompt if text is None else text)
    if backend not in ("cpu", "reference"):
        raise typer.BadParameter(f"{backend!r} is neither cpu nor reference", param_hint="--backend")
    if on_full not in ("stop", "drop"):
        raise typer.BadParameter(f"{on_full!r} is neither stop nor drop", param_hint="--on-full")
    if text is None and (as_json or raw):
        raise typer.BadParameter("--json and --raw need a prompt: -p, or standard input")
    given = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    params = engine.sampling(given | {"repetition_penalty": repetition_penalty, "seed": seed})
    greedy = temperature == 0 or top_k == 1 or top_p == 0
    request = engine.Request(max_tokens, tuple(stop or ()), params, raw, followed(schema, grammar, regex))
    with engine.loaded(
        model, threads=engine.share_of_threads(threads, split), ctx=ctx, kv=kv, backend=backend, offline=offline,
        quiet=as_json or quiet, speculate=speculate, memory=memory, draft=draft, pack=pack, split=split,
        head=head if greedy else engine.whole_head(head),
    ) as loaded:  # fmt: skip
        if not (as_json or quiet):
            engine.say_notes(loaded)
        if text is None:
            from memfirst.cli.chat import ChatOptions, chat

            name = "" if os.path.exists(model) or model.endswith(".gguf") else model
            chat(loaded, request, system, ChatOptions(on_full, private, quiet, name))
        else:
            answer(loaded, engine.prompt_of(loaded, system, text, request, quiet or as_json), request, as_json, quiet)


def followed(schema: Path | None, grammar: Path | None, regex: str | None) -> dict[str, str]:
    """What the answer is to follow, as a keyword of `Model.generate`; a usage error where that is said twice."""
    given = {name: _text_of(path) for name, path in (("schema", schema), ("grammar", grammar)) if path is not None}
    given |= {} if regex is None else {"regex": regex}
    if len(given) > 1:
        raise typer.BadParameter(f"{' and '.join(f'--{name}' for name in given)} together: give one of them")
    return given


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{path} cannot be read: {error}") from None


def read_prompt(prompt: str | None) -> str | None:
    """The given prompt with piped text after it, else all of standard input, else None: a terminal, so chat. A usage
    error where it is empty."""
    if prompt is None:
        if sys.stdin is None:
            raise typer.BadParameter("standard input is closed: give a prompt")
        if sys.stdin.isatty():
            return None
        prompt = _standard_input()
    elif prompt and _piped():
        prompt = "\n\n".join(part for part in (prompt, _standard_input()) if part)
    if not prompt:
        raise typer.BadParameter("the prompt is empty: give one, or text on standard input")
    return prompt


def _standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError as e:
        raise typer.BadParameter(f"standard input is not UTF-8 text (byte {e.start})") from e


def _piped() -> bool:
    """Whether standard input is a file, or a pipe that somebody writes to: one that is merely open is not waited for,
    as programs start others with one that never ends."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
        if stat.S_ISREG(mode):
            return True
        if not stat.S_ISFIFO(mode):
            return False
        if select.select([sys.stdin], [], [], PIPE_SECONDS)[0]:
            return True
    except (OSError, ValueError, AttributeError):  # closed; on Windows, where a pipe cannot be waited for
        return False
    streams.note(f"memfirst: nothing came on standard input within {PIPE_SECONDS} s: it is not part of the prompt")
    return False


def answer(model: Model, prompt: str | engine.Messages, request: engine.Request, as_json: bool, quiet: bool) -> None:
    """Print one answer as it comes, and the line that says what it cost; or one JSON object; or, quiet, it alone."""
    from memfirst.cli import engine
    from memfirst.cli.display import print_json

    generation = engine.generate(model, prompt, request)
    wrapper = Wrapper() if streams.draws() else None
    for token in generation:
        if not as_json:
            streams.write(wrapper.feed(token.text) if wrapper else token.text, end="", flush=True)
    if as_json:
        print_json(generation.report())
        return
    streams.write("", flush=True)
    if not quiet:
        say_cost(generation)
        engine.say_if_full(generation)


def say_cost(generation: Generation) -> None:
    """Speed and bytes of an answer on stderr, and where the bytes went as a bar."""
    from memfirst.cli.bar import bar

    streams.note(generation.line())
    if drawn := bar(generation.token_bytes(), streams.columns(sys.stderr), sys.stderr):
        streams.note("\n".join(drawn))
