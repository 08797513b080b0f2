"""`memfirst probe`: measure a running OpenAI-compatible server from outside."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Annotated

import typer

from memfirst.cli.options import MODEL_HELP, Json
from memfirst.cli.streams import write

if TYPE_CHECKING:
    from pathlib import Path

    from memfirst.graph import Graph


def _number(value: float | None) -> float | None:
    """NaN and infinity are no numbers to a clock: a range lets NaN pass."""
    if value is not None and not isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number")
    return value


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
Codec = Annotated[
    str,
    typer.Option(
        "--codec", metavar="MIX", help="The codec mix that the server runs MODEL in: q4_k_m, q8_0, bf16, …",
        show_default="what MODEL's file has, or as published",
    ),
]  # fmt: skip
KV = Annotated[str, typer.Option("--kv", metavar="CODEC", help="The codec of the server's KV cache.")]
Bandwidth = Annotated[
    float | None,
    typer.Option(
        "--bandwidth", metavar="GBPS", min=0.001, callback=_number, help="The server's memory bandwidth in GB/s.",
        show_default=False,
    ),
]  # fmt: skip
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
    typer.Option("--tokens", metavar="N", min=28, max=4096, help="Tokens of each answer; fewer where it is slow."),
]
Seconds = Annotated[
    float,
    typer.Option("--seconds", metavar="S", min=0.1, max=86400, callback=_number, help="Time limit in seconds."),
]
Requests = Annotated[
    int, typer.Option("--max-requests", metavar="N", min=1, max=10000, help="Maximum number of requests.")
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
    codec: Codec = "",
    kv: KV = "f16",
    bandwidth: Bandwidth = None,
    on: On = None,
    contexts: Contexts = "16,512,1024,2048",
    concurrency: Concurrency = "1,2,4",
    tokens: Tokens = 64,
    seconds: Seconds = 60,
    max_requests: Requests = 60,
    api_key: Key = "",
    same_prompt: Same = False,
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
    if codec and model is None:
        raise typer.BadParameter("--codec is that of a MODEL: give --model too")
    if not api_key.isascii() or not api_key.isprintable():
        raise typer.BadParameter("--api-key holds characters that no header can")
    from memfirst.cli.display import print_json, printable, progress, width
    from memfirst.cli.wrap import fold_page
    from memfirst.measure.probe import report as reports
    from memfirst.measure.probe import run

    with progress(quiet=as_json) as drawn:
        rate, rate_of = _bandwidth(bandwidth, on)
        graph = _graph(model, codec, kv) if model else None  # a wrong name fails before the server is asked
        options = run.Options(lengths, streams, tokens, seconds, max_requests, served, same_prompt)
        measured = run.probe(url, options, api_key, drawn)
    label = " ".join([model or "", *([f"in {codec}"] * bool(codec)), *([f"KV {kv}"] * (kv != "f16"))])
    found = reports.report(measured, label, graph, rate, rate_of)
    if as_json:
        print_json(found.json())
    else:
        write(printable(fold_page(found.page(), width())))


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
    from memfirst.hardware.machines import find_machine

    machine = find_machine(on)
    if machine.bandwidth is None:
        raise ProbeError(f"the bandwidth of {machine.name} is not known", do="give it with --bandwidth")
    return machine.bandwidth, f"the data sheet of {machine.title}"


def _graph(model: str, codec: str, kv: str) -> Graph:
    """The model as the server is said to run it. Nothing is downloaded."""
    from memfirst.codecs import BLOCK_TYPES
    from memfirst.errors import UnsupportedError
    from memfirst.transform.recode import mixed, with_kv

    if kv not in BLOCK_TYPES:
        raise UnsupportedError(f"no codec is called {kv[:40]!r}", f"one of {', '.join(BLOCK_TYPES)}")
    graph, quant = _named(model)
    graph = mixed(graph, codec or quant) if codec or quant else graph
    return with_kv(graph, kv, kv)


def _named(model: str) -> tuple[Graph, str]:
    """From its files if they are on this disk, else from the catalogue, then with the codec mix that the name asks
    for ("" where it asks for none: the weights are as published)."""
    from memfirst.catalog.configs import catalog_checkpoint, look_up
    from memfirst.formats.open import open_checkpoint
    from memfirst.models import build

    path = _on_disk(model)
    if path is None:
        found = look_up(model)
        return build(catalog_checkpoint(model)), found[1] if found else ""
    checkpoint = open_checkpoint(path)
    try:
        return build(checkpoint), ""
    finally:
        checkpoint.close()


def _on_disk(model: str) -> Path | None:
    """The model's files; None where they are not here."""
    from memfirst import hub
    from memfirst.errors import ModelNotFoundError
    from memfirst.hub.names import Ref, parse

    try:
        found = parse(model)
    except ModelNotFoundError:  # the catalogue of configurations knows more names, and says which are near
        return None
    return hub.local(found) if isinstance(found, Ref) else found
