"""`memfirst probe`: measure a running OpenAI-compatible server from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from memfirst.cli.options import MODEL_HELP, Json, Offline

if TYPE_CHECKING:
    from memfirst.graph import Graph

Url = Annotated[
    str,
    typer.Argument(metavar="URL", help="The server's address: http://localhost:8080.", show_default=False),
]
Served = Annotated[
    str, typer.Option("--served", metavar="NAME", help="Which of the server's models, where it has several.")
]
Model = Annotated[
    str | None,
    typer.Option("--model", metavar="MODEL", help=f"Whose bytes to count: {MODEL_HELP}", show_default=False),
]
Bandwidth = Annotated[
    float | None,
    typer.Option(
        "--bandwidth", metavar="GBPS", min=0.001, help="The server's memory bandwidth in GB/s.", show_default=False
    ),
]
On = Annotated[
    str | None,
    typer.Option(
        "--on", metavar="MACHINE", help="The server's machine by its catalogue name: its peak bandwidth.",
        show_default=False,
    ),
]  # fmt: skip
Contexts = Annotated[str, typer.Option("--contexts", metavar="N,N…", help="Tokens of the prompts.")]
Concurrency = Annotated[str, typer.Option("--concurrency", metavar="N,N…", help="Streams at a time.")]
Tokens = Annotated[
    int,
    typer.Option("--tokens", metavar="N", min=20, max=4096, help="Tokens of each answer; fewer where it is slow."),
]
Seconds = Annotated[float, typer.Option("--seconds", metavar="S", min=1, max=86400, help="Stop after so many seconds.")]
Requests = Annotated[
    int, typer.Option("--max-requests", metavar="N", min=1, max=10000, help="Send at most so many requests.")
]
Key = Annotated[
    str,
    typer.Option(
        "--api-key", metavar="KEY", envvar="MEMFIRST_API_KEY", help="Better in the environment: MEMFIRST_API_KEY."
    ),
]
Same = Annotated[
    bool, typer.Option("--same-prompt", help="Repeat one prompt, so that the server's prefix cache may serve it.")
]


def probe(
    url: Url,
    served: Served = "",
    *,
    model: Model = None,
    bandwidth: Bandwidth = None,
    on: On = None,
    contexts: Contexts = "16,512,1024,2048",
    concurrency: Concurrency = "1,2,4",
    tokens: Tokens = 64,
    seconds: Seconds = 60,
    max_requests: Requests = 60,
    api_key: Key = "",
    same_prompt: Same = False,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Measure a running OpenAI-compatible server.

    Streams answers at several lengths of context and several at a time, and fits the seconds that a token
    takes and those that each token of context adds. With a MODEL and a bandwidth it says what share of the
    bandwidth the server reaches. The answers are thrown away.
    """
    lengths = _numbers("--contexts", contexts, 1_000_000)
    streams = _numbers("--concurrency", concurrency, 256)
    if bandwidth is not None and on is not None:
        raise typer.BadParameter("--bandwidth and --on say the same thing: give one of them")
    if not api_key.isascii() or not api_key.isprintable():
        raise typer.BadParameter("--api-key holds characters that no header can")
    from memfirst.cli.display import print_json, printable, progress
    from memfirst.probe import report as reports
    from memfirst.probe import run

    with progress(quiet=as_json) as drawn:
        rate, rate_of = _bandwidth(bandwidth, on)
        graph = _graph(model, offline) if model else None  # a wrong name fails before the server is asked
        options = run.Options(lengths, streams, tokens, seconds, max_requests, served, same_prompt)
        measured = run.probe(url, options, api_key, drawn)
    found = reports.report(measured, model or "", graph, rate, rate_of)
    if as_json:
        print_json(found.json())
    else:
        print(printable(found.page()))


def _numbers(option: str, text: str, most: int) -> tuple[int, ...]:
    """`16,512` as numbers, each once, in order."""
    words = text.split(",")
    if len(words) > 16 or not all(w.strip().isdecimal() and 0 < int(w[:12]) <= most for w in words):
        raise typer.BadParameter(f"{option} is {text[:60]!r}: give at most 16 numbers from 1 to {most}, as in 16,512")
    return tuple(sorted({int(w) for w in words}))


def _bandwidth(given: float | None, on: str | None) -> tuple[float | None, str]:
    """Bytes per second, and where that comes from."""
    if given is not None:
        return given * 1e9, "as given"
    if on is None:
        return None, ""
    from memfirst.errors import ProbeError
    from memfirst.machine import find_machine

    machine = find_machine(on)
    if machine.bandwidth is None:
        raise ProbeError(f"the bandwidth of {machine.name} is not known", do="give it with --bandwidth")
    return machine.bandwidth, f"the data sheet of {machine.title}"


def _graph(model: str, offline: bool) -> Graph:
    """The model's graph: what is on this disk, or what a config says; nothing is downloaded."""
    from memfirst import hub
    from memfirst.formats.open import open_checkpoint
    from memfirst.models import build

    checkpoint = open_checkpoint(hub.resolve(model, download=False, offline=offline))
    try:
        return build(checkpoint)
    finally:
        checkpoint.close()
