"""The engine as the commands see it: the few calls that `run` and `bench` make."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from memfirst.cli import streams
from memfirst.cli.display import progress
from memfirst.errors import ConfigError, MemfirstError

if TYPE_CHECKING:  # the engine is imported when it is used: commands that need none start in a tenth of the time
    from pathlib import Path

    from memfirst import Generation, Model, SamplingParams
    from memfirst.progress import Progress
    from memfirst.runtime.model import GenerateOptions
    from memfirst.runtime.placing import Limit

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Request:
    """What `run` was asked for, besides the text.

    raw      the prompt is the text itself, without a chat template
    follows  keywords of `Model.generate` that say what the answer follows
    """

    max_tokens: int | None
    stop: tuple[str, ...]
    params: SamplingParams
    raw: bool = False
    follows: Mapping[str, str] = field(default_factory=dict)


def sampling(given: dict[str, float | int | None]) -> SamplingParams:
    """SamplingParams from the options that were given; ConfigError where one is out of range."""
    from memfirst.runtime.sampling import SamplingParams

    return SamplingParams(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]


def whole_head(head: str) -> str:
    """What `--head` says of answers that are not greedy: a sketch would only take memory."""
    return "full" if head == "auto" else head


@contextmanager
def loaded(
    model: str, *, threads: int | None, ctx: int | None, kv: str, backend: str, offline: bool, quiet: bool,
    speculate: str = "auto", memory: Limit | None = None, draft: str | None = None, pack: str = "auto",
    split: str = "", head: str = "full",
) -> Iterator[Model]:  # fmt: skip
    """A model ready to generate, closed at the end; loading is shown on a terminal."""
    import memfirst

    with progress(quiet) as report:
        found = memfirst.load(
            path_of(model, offline, report), threads=threads, ctx=ctx, kv=kv, backend=backend, progress=report,
            speculate=speculate, memory=memory, draft=path_of(draft, offline, report) if draft else None, pack=pack,
            split=split, head=head,
        )  # fmt: skip
    try:
        yield found
    finally:
        found.close()


def path_of(model: str, offline: bool, progress: Progress) -> str | Path:
    """A file or folder: what exists is one, without a look at the catalogue."""
    if os.path.exists(model):
        return model
    from memfirst import hub

    return hub.resolve(model, offline=offline, progress=progress)


def generate(model: Model, prompt: str | Messages | list[int], request: Request) -> Generation:
    """Start an answer."""
    if request.raw and not isinstance(prompt, str):
        raise MemfirstError("--raw takes a prompt, not a conversation", do="drop --raw, or --system and the chat")
    options: GenerateOptions = {"params": request.params, "max_tokens": request.max_tokens, "stop": request.stop}
    return model.generate(prompt, **options, **request.follows)


def say_if_full(generation: Generation) -> None:
    """Tell why an answer ended without an end."""
    if generation.stop_reason == "context":
        streams.note("memfirst: stopped: the context is full (raise --ctx)")


def say_notes(model: Model) -> None:
    """What is odd in the model's files, a line each."""
    for text in model.notes:
        streams.note(f"memfirst: note: {text}")


def prompt_of(model: Model, system: str | None, text: str, request: Request, quiet: bool) -> str | Messages:
    """A conversation's start; of a model that was not made for chat, the text itself, and it is said."""
    if request.raw:
        return text
    if not model.has_chat_template:
        if system:
            raise MemfirstError("--system for a model without a chat template", "a model made for chat", "leave it out")
        if not quiet:
            streams.note("memfirst: this model has no chat template: it continues the text")
        return text
    start = [{"role": "system", "content": system}] if system else []
    return [*start, {"role": "user", "content": text}]


def share_of_threads(threads: int | None, split: str) -> int | None:
    """Worker threads of one of the processes that share a machine, where nobody says how many."""
    if threads or not split:
        return threads
    from memfirst.distributed.mpi import processes_here
    from memfirst.hardware import host

    return max(1, host.default_threads() // processes_here())


def ran_as_follower(split: str, model: str, threads: int | None, kv: str, offline: bool) -> bool:
    """Whether this process follows the first one of a split model, as it then has done to its end.

    Raises:
        ConfigError: mpiexec did not start it.
    """
    if not split:
        return False
    from memfirst.distributed.mpi import import_mpi, rank_of_environment
    from memfirst.transform.split import check_kind

    check_kind(split)

    rank = rank_of_environment()
    if rank is None:
        raise ConfigError(
            f"--split {split} in a process that mpiexec did not start", "several", "", "mpiexec -n 2 memfirst …"
        )
    if not rank:
        import_mpi()
        atexit.register(_leave)
        return False
    import signal
    import traceback

    from memfirst.distributed.mpi import group
    from memfirst.progress import Silent
    from memfirst.runtime.split import follow_model

    for number in (signal.SIGINT, signal.SIGTERM):  # these reach all processes: the first one decides
        signal.signal(number, signal.SIG_IGN)
    try:
        follow_model(path_of(model, offline, Silent()), split, share_of_threads(threads, split), kv)
    except BaseException as error:
        said = error.at_a_prompt() if isinstance(error, MemfirstError) else "".join(traceback.format_exception(error))
        streams.note(f"memfirst: process {rank}: {said}")
        group().abort()  # the others wait for this one
    return True


def _leave() -> None:
    """Whatever ended the first process: the others wait for it, unless another process of its own took its place."""
    from memfirst.distributed import mpi

    if not mpi.handed_on:
        with suppress(MemfirstError):
            mpi.leave()
