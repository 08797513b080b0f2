"""`memfirst bench`: measure a model on this machine, beside what its bytes allow."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from memfirst.cli import load, streams
from memfirst.cli.options import MODEL_HELP, Ctx, Draft, Head, Json, Kv, Memory, Offline, Pack, Split, Threads
from memfirst.progress import Progress

MaybeModel = Annotated[str | None, typer.Argument(metavar="MODEL", help=MODEL_HELP, show_default=False)]
PromptTokens = Annotated[int, typer.Option("--prompt", metavar="N", min=1, help="Tokens of the prompt.")]
Generate = Annotated[int, typer.Option("--generate", metavar="N", min=1, help="Tokens to decode.")]
Synthetic = Annotated[
    str | None,
    typer.Option(
        "--synthetic",
        metavar="NAME",
        help="Random weights of a catalogue model, a config.json or a small shape (llama-1b), instead of a MODEL.",
    ),
]
Codec = Annotated[str, typer.Option("--codec", metavar="MIX", help="Codec mix of --synthetic: q4_0, q4_k_m, q8_0, …")]
Layers = Annotated[
    int | None,
    typer.Option("--layers", metavar="N", min=1, help="Only the first layers of --synthetic.", show_default=False),
]
Write = Annotated[
    Path | None,
    typer.Option("--write", metavar="FILE", help="Keep the --synthetic model as a GGUF file.", show_default=False),
]
LlamaBench = Annotated[
    bool,
    typer.Option("--llama-bench", help="Print rows as llama-bench -o json does, instead of the page."),
]
Profile = Annotated[
    bool,
    typer.Option("--profile", help="Show where a token's and a prompt's time goes, by phase, operation and worker."),
]
Trace = Annotated[
    Path | None,
    typer.Option(
        "--trace", metavar="FILE", show_default=False,
        help="Write the profile's timelines to FILE for Perfetto or chrome://tracing.",
    ),
]  # fmt: skip
Explain = Annotated[
    Path | None,
    typer.Option(
        "--explain", metavar="FILE", show_default=False,
        help="Measure nothing: explain llama-bench's JSON rows in FILE by MODEL's bytes.",
    ),
]  # fmt: skip

Text = Annotated[
    Path | None,
    typer.Option(
        "--text", metavar="FILE", show_default=False,
        help="Measure what drafted tokens (--speculate) give on a text: its second half as the answer to its first.",
    ),
]  # fmt: skip


def bench(
    model: MaybeModel = None,
    *,
    threads: Threads = None,
    prompt: PromptTokens = 256,
    generate: Generate = 128,
    ctx: Ctx = None,
    kv: Kv = "f16",
    memory: Memory = None,
    pack: Pack = "auto",
    head: Head = "full",
    synthetic: Synthetic = None,
    layers: Layers = None,
    codec: Codec = "q4_k_m",
    write: Write = None,
    offline: Offline = False,
    llama_bench: LlamaBench = False,
    profile: Profile = False,
    trace: Trace = None,
    explain: Explain = None,
    text: Text = None,
    draft: Draft = None,
    split: Split = "",
    serve: load.Serve = None,
    clients: load.Clients = "1,4,8,16",
    rate: load.Rate = "",
    requests: load.Requests = 0,
    seconds: load.Seconds = 120,
    prefix: load.Prefix = 0,
    lengths: load.Lengths = "fixed",
    seed: load.Seed = 0,
    slo: load.SloOf = "",
    served: load.Served = "",
    api_key: load.Key = "",
    on: load.On = "",
    as_json: Json = False,
) -> None:
    """Measure a model, alone or served.

    Prefill, decode and start-up, each operation's bytes and its share of the bandwidth, beside what the
    memory delivers in the same run. With --serve: tokens per second, time to the first token and between tokens
    of many clients, beside what is predicted of them.
    """
    if serve is not None:
        alone = {
            "--synthetic": synthetic, "--layers": layers, "--write": write, "--llama-bench": llama_bench,
            "--profile": profile, "--trace": trace, "--explain": explain, "--text": text, "--draft": draft,
            "--head": head != "full",
        }  # fmt: skip
        if given := [name for name, value in alone.items() if value]:
            raise typer.BadParameter(f"--serve measures a server, {given[0]} a model by itself: give one of them")
        how = {
            "threads": threads, "prompt": prompt, "generate": generate, "ctx": ctx, "kv": kv, "memory": memory,
            "offline": offline, "clients": clients, "rate": rate, "requests": requests, "seconds": seconds,
            "prefix": prefix, "lengths": lengths, "seed": seed, "slo": slo, "served": served, "api_key": api_key,
            "on": on,
        }  # fmt: skip
        load.serve_load(model, serve, as_json, how)
        return
    _check(model, synthetic, write or layers, llama_bench and as_json, trace)
    if split and (synthetic or profile or trace or memory):
        raise typer.BadParameter("--split measures a MODEL: give it without --synthetic, --profile, --trace, --memory")
    if head != "full" and (split or memory or text or draft):
        raise typer.BadParameter("--head auto measures one model in memory: give no --split, --memory, --text, --draft")
    if explain is not None:
        _explained(model or "", explain, offline, as_json)
        return
    if text is not None or draft is not None:
        how = {"threads": threads, "generate": generate, "ctx": ctx, "kv": kv, "pack": pack}
        _of_text(model or "", text, draft, offline, as_json, how)
        return
    from memfirst.cli import engine

    if engine.ran_as_follower(split, model or "", threads, kv, offline):
        return
    from memfirst.cli.display import print_json, progress

    measure: Any = import_module("memfirst.measure.bench")
    with progress(quiet=as_json or llama_bench) as report:
        source = _resolved(model, offline, report) if model else _made(synthetic, codec, layers or 0, write)
        measured = measure.bench(
            source,
            threads=engine.share_of_threads(threads, split), prompt=prompt, generate=generate, ctx=ctx, kv=kv,
            memory=memory, pack=pack, split=split, head=head,
            profile=profile or trace is not None, progress=report,
        )  # fmt: skip
    if trace is not None:
        _write_trace(measured, trace)
    if llama_bench:
        from memfirst.predict.llama_bench import write_rows

        streams.write(write_rows(measured.rows()))
    elif as_json:
        print_json(measured.report())
    else:
        _write_page(measured)


def _check(model: str | None, synthetic: str | None, of_synthetic: object, both: bool, trace: Path | None) -> None:
    """BadParameter for options that do not go together."""
    if (model is None) == (synthetic is None):
        raise typer.BadParameter("give a MODEL or --synthetic NAME, one of the two")
    if of_synthetic and not synthetic:
        raise typer.BadParameter("--write and --layers are of a --synthetic model: give its NAME")
    if both:
        raise typer.BadParameter("--llama-bench is JSON of its own: give it or --json")
    if trace is not None and not trace.parent.is_dir():
        raise typer.BadParameter(f"--trace: there is no folder {trace.parent}")


def _of_text(
    model: str, file: Path | None, draft: str | None, offline: bool, as_json: bool, how: dict[str, Any]
) -> None:  # fmt: skip
    """Drafts on a text, instead of the page."""
    from memfirst.cli.display import print_json, progress
    from memfirst.errors import MemfirstError

    if file is None:
        raise typer.BadParameter("--draft proposes tokens of a text: give one with --text FILE")
    if not model:
        raise typer.BadParameter("--text needs a MODEL with a tokenizer")
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MemfirstError(f"{file} cannot be read as UTF-8 text: {error}") from error
    measure: Any = import_module("memfirst.measure.drafts")
    with progress(quiet=as_json) as report:
        small = _resolved(draft, offline, report) if draft else None
        found = measure.measure(_resolved(model, offline, report), text, draft=small, progress=report, **how)
    if as_json:
        print_json(found.report())
    else:
        streams.write(found.page())


def _write_page(measured: Any) -> None:
    """As wide as the terminal; the profiles below."""
    from memfirst.cli import bench_page, profile_page
    from memfirst.cli.display import width

    streams.write(bench_page.page(measured, width()))
    if measured.profiles:
        ramp = profile_page.RAMP if streams.can_show(profile_page.RAMP) else profile_page.PLAIN_RAMP
        streams.write("\n" + profile_page.page(measured.profiles, width() or profile_page.USUAL, ramp))


def _write_trace(measured: Any, file: Path) -> None:
    """The timelines, as an object of JSON: whole, or no file."""
    from memfirst.files import replacing
    from memfirst.measure.profile import chrome_trace

    with replacing(str(file)) as out:
        out.write(json.dumps(chrome_trace(measured.profiles)).encode())


def _explained(model: str, rows: Path, offline: bool, as_json: bool) -> None:
    """Rows of any engine that writes what llama-bench writes, beside the bytes of the model that it ran."""
    from memfirst.cli import bench_page
    from memfirst.cli.display import print_json, progress, width
    from memfirst.formats.open import open_checkpoint
    from memfirst.models import build
    from memfirst.predict.llama_bench import read_rows
    from memfirst.predict.measured import load, others

    if not model:
        raise typer.BadParameter("--explain needs the MODEL that the rows are of")
    with progress(quiet=as_json) as report:
        graph = build(open_checkpoint(_resolved(model, offline, report)))
    found = others.explain(graph, read_rows(rows), load())
    if not as_json:
        streams.write(bench_page.explained(others.HEAD, others.rows(found), others.growth(found), width()))
        return
    grows = others.slope(found)
    each = [
        {"n_prompt": e.row.n_prompt, "n_gen": e.row.n_gen, "n_depth": e.row.n_depth, "n_threads": e.row.n_threads,
         "tok_s": e.row.avg_ts, "bytes_per_token": e.streamed, "kv_bytes_per_token": e.kv, "GBps": e.rate / 1e9,
         "share_of_read_bandwidth": e.share, "flops_per_token": e.flops} for e in found
    ]  # fmt: skip
    start, position = (grows.start, grows.position) if grows else (None, None)
    print_json({"rows": each, "seconds_per_token": start, "seconds_per_position": position})


def _resolved(model: str, offline: bool, report: Progress) -> Path:
    """The files of a MODEL."""
    from memfirst import hub

    return hub.resolve(model, offline=offline, progress=report)


def _made(shape: str | None, codec: str, layers: int | None, write: Path | None) -> Any:
    """Random weights of `shape`: a checkpoint in memory, or the file that it was written to."""
    make: Any = import_module("memfirst.convert.synthetic")
    checkpoint = make.synthetic(shape, codec, layers=layers or 0)
    if write is None:
        return checkpoint
    make.write(checkpoint, write)
    return write
