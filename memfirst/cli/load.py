"""`memfirst bench --serve`: a load of many clients on a server, beside what is predicted of it."""

from __future__ import annotations

import os
import re
from contextlib import nullcontext
from math import isfinite
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memfirst.cli import streams
from memfirst.errors import ConfigError, MemfirstError

if TYPE_CHECKING:
    from memfirst.measure.load.run import Found
    from memfirst.plan import Subject
    from memfirst.predict.load import Slo
    from memfirst.progress import Progress

Serve = Annotated[
    str | None,
    typer.Option(
        "--serve", metavar="URL|MODEL", show_default=False,
        help="Measure a server under load: the one at URL (of MODEL, where predictions are wanted), or one that is"
        " started on MODEL and ended again.",
    ),
]  # fmt: skip
Clients = Annotated[
    str,
    typer.Option(
        "--clients", metavar="N,N…", help="Of --serve: clients at a time, each asking again once answered.",
        show_default="1,4,8,16",
    ),
]  # fmt: skip
Rate = Annotated[
    str,
    typer.Option(
        "--rate", metavar="R,R…", help="Of --serve: requests a second at random moments (Poisson), instead of clients."
    ),
]
Requests = Annotated[
    int,
    typer.Option(
        "--requests", metavar="N", min=0, max=100_000, help="Of --serve: requests of each level.",
        show_default="4 a client and at least 16; 64 at a rate",
    ),
]  # fmt: skip
Seconds = Annotated[
    float, typer.Option("--seconds", metavar="S", min=1, max=86400, help="Of --serve: time limit of each level.")
]
Prefix = Annotated[
    int, typer.Option("--prefix", metavar="N", min=0, help="Of --serve: tokens that all prompts begin with.")
]
Lengths = Annotated[
    str,
    typer.Option(
        "--lengths", metavar="fixed|sharegpt",
        help="Of --serve: lengths as given, or drawn from log-normals with ShareGPT's means (161 and 338 tokens).",
    ),
]  # fmt: skip
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Of --serve: the same seed asks the same.")]
SloOf = Annotated[
    str,
    typer.Option(
        "--slo", metavar="NAME=MS,…",
        help="Of --serve: count answers within ttft=, itl= (99 of 100 gaps), tpot= (mean) and e2e= as goodput.",
    ),
]  # fmt: skip
Served = Annotated[
    str, typer.Option("--served", metavar="NAME", help="Of --serve: which of the server's models, if it has several.")
]
Key = Annotated[
    str,
    typer.Option(
        "--api-key", metavar="KEY", envvar="MEMFIRST_API_KEY", help="Of --serve; better in the environment."
    ),
]  # fmt: skip
On = Annotated[
    str,
    typer.Option(
        "--on", metavar="MACHINE", help="Of --serve: the server's machine, for predictions.", show_default="here"
    ),
]

_URL = re.compile(r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):\d{1,5}(/\S*)?")
_UNITS = {"": 1e-3, "ms": 1e-3, "s": 1.0}


def is_url(text: str) -> bool:
    """Whether it names a server: `http://…`, or a host and a port."""
    return "://" in text or (_URL.fullmatch(text) is not None and not os.path.exists(text))


def numbers(option: str, text: str, most: float, whole: bool = True) -> tuple[float, ...]:
    """`1,4,8` as numbers, in the order given."""
    words = [word.strip() for word in text.split(",")] if text.strip() else []
    kind = r"\d{1,6}" if whole else r"\d{1,6}(\.\d{1,6})?|\.\d{1,6}"
    if len(words) > 16 or not all(re.fullmatch(kind, w) and 0 < float(w) <= most for w in words):
        what = "whole numbers" if whole else "numbers"
        raise typer.BadParameter(f"{option} is {text[:60]!r}: give at most 16 {what} up to {most:g}, as in 1,4,8")
    return tuple(float(w) for w in words)


def slo_of(text: str) -> Slo | None:
    """`ttft=500,itl=50ms,e2e=10s` in seconds; plain numbers are milliseconds."""
    from memfirst.predict.load import Slo

    found: dict[str, float] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, _, value = part.partition("=")
        number = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?)(ms|s)?", value.strip())
        if name.strip() not in ("ttft", "itl", "tpot", "e2e") or number is None:
            raise typer.BadParameter(
                f"--slo {part[:40]!r}: give ttft=, itl=, tpot= or e2e= in ms, as in ttft=500,itl=50"
            )
        found[name.strip()] = float(number[1]) * _UNITS[number[2] or ""]
    return Slo(**found) if found else None


def serve_load(model: str | None, serve: str, as_json: bool, how: dict[str, Any]) -> None:
    """Put the load on the server, and print what came of it.

    how  options of `bench`, by name
    """
    from memfirst.cli.display import print_json, progress, width
    from memfirst.cli.load_page import page
    from memfirst.measure.load.predicted import miss, predictions, predictor
    from memfirst.measure.load.report import report

    options = _options(how)
    if not is_url(serve) and model is not None:
        raise typer.BadParameter("--serve MODEL starts a server on it: give no other MODEL")
    with progress(quiet=as_json) as drawn:
        found, path = _run(serve, model, options, how, drawn)
        subject = _subject(path, how["offline"], drawn)
        if subject is None and found.levels:
            found.notes.append(
                "nothing is predicted: give the served MODEL too, as in memfirst bench MODEL --serve URL"
            )
        by = predictor(subject, found, how["on"], how["kv"]) if subject else None
        predicted = predictions(found, by) if by else [None] * len(found.levels)
    if as_json:
        print_json(report(found, predicted, path))
    else:
        misses = [miss(level, simulated) for level, simulated in zip(found.levels, predicted, strict=True)]
        streams.write(page(found, predicted, misses, width()))
    if found.interrupted:
        raise KeyboardInterrupt
    if not any(level.figures for level in found.levels):
        errors = sum((level.errors for level in found.levels), start=found.levels[0].errors.__class__())
        said = ", ".join(errors) or "time ran out"
        raise MemfirstError(f"no request was answered: {said}", do="look at the server's log, or allow more --seconds")


def _options(how: dict[str, Any]) -> Any:
    """What to ask, checked."""
    from memfirst.measure.load.run import Options
    from memfirst.measure.load.workload import Workload

    rates = numbers("--rate", how["rate"], 10_000, whole=False)
    clients = numbers("--clients", how["clients"], 1024)
    if not clients and not rates:
        raise typer.BadParameter("--clients or --rate: at least one level")
    if not isfinite(how["seconds"]):
        raise typer.BadParameter("--seconds is no finite number")
    try:
        work = Workload(how["prompt"], how["generate"], how["prefix"], how["lengths"].lower(), how["seed"])
    except ConfigError as error:
        raise typer.BadParameter(error.at_a_prompt()) from None
    closed = () if rates else tuple(int(n) for n in clients)
    return Options(closed, rates, work, how["requests"], how["seconds"], slo_of(how["slo"]), how["served"])


def _run(serve: str, model: str | None, options: Any, how: dict[str, Any], drawn: Progress) -> tuple[Found, str]:
    """The load, on the server named or on one of our own; and the model's path or name, "" where that is not known."""
    from memfirst.measure.load.own import own_server
    from memfirst.measure.load.run import load

    if is_url(serve):
        found = load(serve, options, how["api_key"], drawn)
        here = found.server.file if os.path.isfile(found.server.file) else ""
        return found, model or here
    from memfirst import hub

    path = str(hub.resolve(serve, offline=how["offline"], progress=drawn))
    words = [(f"--{name}", how[name]) for name in ("threads", "ctx", "kv", "memory")]
    chosen = [word for name, value in words if value is not None for word in (name, str(value))]
    with own_server(path, chosen, drawn) as url:
        return load(url, options, "", drawn), path


def _subject(path: str, offline: bool, drawn: Progress) -> Subject | None:
    """The model that is served, to be priced."""
    from memfirst.plan.find import find

    return find(path, "", "", offline=offline, progress=nullcontext(drawn)) if path else None
