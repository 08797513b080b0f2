"""`memfirst plan`: memory, bytes per token and speed of a model, before anything is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memfirst.cli.options import MODEL_HELP, Head, Json, Memory, Offline, tokens
from memfirst.cli.streams import write

if TYPE_CHECKING:
    from memfirst.plan import Options, Place, Plan

Models = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[MODEL…]", show_default=False,
        help=f"{MODEL_HELP} Several are compared; without one, what fits the machine is ranked.",
    ),
]  # fmt: skip
On = Annotated[
    list[str] | None,
    typer.Option(
        "--on", metavar="MACHINE", help="A machine: RTX 4090, 8xh100, macbook air m2 16gb, or here. Repeatable.",
        show_default="here",
    ),
]  # fmt: skip
Codec = Annotated[
    str,
    typer.Option(
        "--codec", metavar="MIX", help="Format of the weights: q4_k_m, ud-q4_k_xl, f16, awq, fp8, mlx-4bit, … Lossy."
    ),
]
Kv = Annotated[
    str, typer.Option("--kv", metavar="CODEC", help="KV cache type, or K/V apart: f16, q8_0, q4_0, q8_0/q4_0. Lossy.")
]
Context = Annotated[
    int,
    typer.Option(
        "--ctx",
        metavar="N",
        parser=tokens,
        help="Context length per sequence, as in 4096 or 32k.",
        show_default="8192, or what it was trained for",
    ),
]
Batch = Annotated[int, typer.Option("--batch", metavar="N", min=1, help="Sequences at a time.")]
Users = Annotated[
    int,
    typer.Option(
        "--users", metavar="N", min=0, show_default="none",
        help="Users of a server, each asking again once answered: their speed, how long they wait, how many fit.",
    ),
]  # fmt: skip
Rate = Annotated[
    float,
    typer.Option(
        "--rate", metavar="R", min=0, show_default="none",
        help="With --users: requests a second at random moments instead, and the longest queue.",
    ),
]  # fmt: skip
Answer = Annotated[int, typer.Option("--answer", metavar="N", min=1, help="With --users: tokens of an answer.")]
Prompt = Annotated[
    int, typer.Option("--prompt", metavar="N", parser=tokens, help="Prompt length in tokens.", show_default="512")
]
Engine = Annotated[
    str,
    typer.Option(
        "--engine", metavar="NAME",
        help="memfirst, llama.cpp, ollama, lm-studio, ik_llama.cpp, vllm, vllm-hybrid, sglang, tensorrt-llm, mlx or"
        " exllama.",
        show_default="memfirst here, llama.cpp elsewhere",
    ),
]  # fmt: skip
Devices = Annotated[int, typer.Option("--devices", metavar="N", min=1, help="Machines of this kind that share it.")]
Parallel = Annotated[
    str,
    typer.Option(
        "--parallel",
        metavar="KIND",
        show_default="as the engine's users do",
        help="pipeline: layers one after another; tensor: each layer cut.",
    ),
]
Replicas = Annotated[
    int, typer.Option("--replicas", metavar="N", min=1, help="Servers of the model, each with --batch sequences.")
]
Split = Annotated[
    str,
    typer.Option(
        "--split", metavar="tensor|pipeline", show_default=False,
        help="Predict mpiexec -n PROCESSES memfirst run --split on this machine, too.",
    ),
]  # fmt: skip
Processes = Annotated[int, typer.Option("--processes", metavar="N", min=2, help="Processes of --split.")]
Threads = Annotated[int, typer.Option("--threads", metavar="N", min=0, help="CPU threads.", show_default="all")]
Host = Annotated[
    str,
    typer.Option(
        "--host", metavar="SIZE@GB/S", show_default="assumed by the GPU's kind",
        help="Memory beside a GPU and its bandwidth, as in 64GB@90: its CPU computes what the GPU has no room for.",
    ),
]  # fmt: skip
Disk = Annotated[
    str,
    typer.Option(
        "--disk", metavar="GB/S", show_default="measured here, else the machine's row",
        help="Read bandwidth of the disk that memfirst reads weights from which do not fit.",
    ),
]  # fmt: skip
Bandwidth = Annotated[
    str,
    typer.Option(
        "--bandwidth", metavar="GB/S", show_default="the data sheet's",
        help="Memory bandwidth of the machine, where it is less (or more) than its data sheet says.",
    ),
]  # fmt: skip
PowerCap = Annotated[
    str,
    typer.Option(
        "--power-cap", metavar="W", show_default="as it is sold",
        help="Power that a GPU may draw, as set with nvidia-smi -pl: its arithmetic slows first.",
    ),
]  # fmt: skip
Backend = Annotated[
    str,
    typer.Option(
        "--backend", metavar="NAME", show_default="the usual one of the machine",
        help="What a GPU's kernels are written in: cuda, rocm, vulkan, sycl or metal.",
    ),
]  # fmt: skip
Flash = Annotated[bool, typer.Option("--flash/--no-flash", help="Flash attention; without it scores lie in memory.")]
Speculate = Annotated[
    str,
    typer.Option(
        "--speculate", metavar="K[:ACCEPTED[:MODEL]]",
        help="Draft K tokens a step, accepted with this probability (0.7), by a small MODEL. Exact.",
    ),
]  # fmt: skip
Draft = Annotated[
    str,
    typer.Option(
        "--draft", metavar="MODEL", show_default=False,
        help="Price a draft model beside the MODEL, by the share of its proposals that is kept. Exact.",
    ),
]  # fmt: skip
Sweep = Annotated[
    list[str] | None,
    typer.Option("--sweep", metavar="NAME=V,V…", help="A table over ctx=, batch=, codec=, kv=, devices=. Repeatable."),
]
Compare = Annotated[bool, typer.Option("--compare", help="Plans side by side, with bars of speed and memory.")]
Explain = Annotated[
    bool, typer.Option("--explain", help="Where each figure comes from: files, published rows, fitted priors.")
]
Plot = Annotated[
    Path | None,
    typer.Option(
        "--plot", metavar="FILE", help="Draw the roofline, KV growth and what binds: .png, .svg or .pdf.",
        show_default=False,
    ),
]  # fmt: skip
Verify = Annotated[
    bool, typer.Option("--verify", help="Run the best advice that can be run here; print predicted against measured.")
]
Csv = Annotated[bool, typer.Option("--csv", help="Print rows of figures: bytes, seconds, tokens/s.")]
Unknown = Annotated[bool, typer.Option("--allow-unknown", help="Ignore hyperparameters that memfirst does not know.")]


def plan(
    models: Models = None,
    *,
    on: On = None,
    codec: Codec = "",
    kv: Kv = "f16",
    ctx: Context = 0,
    batch: Batch = 1,
    users: Users = 0,
    rate: Rate = 0.0,
    answer: Answer = 128,
    prompt: Prompt = 0,
    engine: Engine = "",
    devices: Devices = 1,
    parallel: Parallel = "",
    replicas: Replicas = 1,
    split: Split = "",
    processes: Processes = 2,
    threads: Threads = 0,
    host: Host = "",
    memory: Memory = None,
    disk: Disk = "",
    bandwidth: Bandwidth = "",
    power_cap: PowerCap = "",
    backend: Backend = "",
    flash: Flash = True,
    head: Head = "full",
    speculate: Speculate = "",
    draft: Draft = "",
    sweep: Sweep = None,
    compare: Compare = False,
    explain: Explain = False,
    plot: Plot = None,
    verify: Verify = False,
    as_json: Json = False,
    as_csv: Csv = False,
    allow_unknown: Unknown = False,
    offline: Offline = False,
) -> None:
    """Estimate memory, bytes per token and speed.

    From a name, a config.json or a file's header alone: what must be held, the bytes of a token, the speed with
    its 80 % interval and what binds it, and what to change first. No weights are downloaded: of a repository on
    the hub that the catalogue does not have, its config.json or the header of its GGUF file is read.
    """
    shown = compare or explain or verify or plot
    _check(
        as_csv and bool(as_json or verify or compare or explain),
        "--csv prints rows of plans only: give no --json, --verify, --compare or --explain",
    )
    alone = not (speculate or sweep or shown or as_csv)
    _check(bool(draft) and not (models and alone), "--draft needs a model, and no other way to show plans or drafts")
    _check(bool(users) and batch > 1, "--users are sequences at a time: give them or --batch")
    from memfirst.cli import plan_sources as sources
    from memfirst.plan import Options

    with sources.usage():
        drafts = sources.speculation(speculate)
        chosen = codec, kv.lower(), ctx, batch, prompt, engine.lower()
        beside, host_rate = sources.host(host)
        limit, far = sources.limit(memory), sources.rate("--disk", disk)
        options = Options(*chosen, devices, parallel, threads, drafts, host_rate, beside, limit, far,
                          users, rate, answer, replicas, split, processes, backend.lower(), flash, head)  # fmt: skip
        axes = sources.axes(sweep or [])
        rows = sources.combinations(options, axes)
    where = sources.places(on or [], bandwidth, power_cap)
    if not models:
        if axes or plot or verify or compare or explain:
            raise typer.BadParameter("--sweep, --compare, --explain, --plot and --verify need a model")
        _rank(where, options, as_json, as_csv)
        return
    found = sources.plans(models, where, rows, allow_unknown, offline)
    if draft:
        _drafted(found, draft, as_json)
        return
    _check_shown(len(found), compare, explain)
    if plot:
        if len(found) > 1 and not compare:
            said = f"--plot draws one plan, and {len(found)} were asked for: name one of them, or add --compare"
            raise typer.BadParameter(said)
        from memfirst.plan.plots import draw

        draw(found, plot)
    from memfirst.cli.display import width
    from memfirst.cli.wrap import fold_page

    if not as_json:
        _print(found, bool(axes), as_csv, compare, explain)
    ran = sources.verified(found[0], quiet=as_json) if verify else None
    if as_json:
        _print_json(found, ran, bool(axes), compare, explain)
    elif ran:
        write("\n" + fold_page(ran.page(), width()))


def _check(wrong: bool, said: str) -> None:
    if wrong:
        raise typer.BadParameter(said)


def _drafted(found: tuple[Plan, ...], draft: str, as_json: bool) -> None:
    """Each plan with the draft model, and what that gives."""
    from memfirst.cli.display import print_json
    from memfirst.cli.plan_page import page
    from memfirst.plan.draft import with_draft

    made = [with_draft(plan, draft) for plan in found]
    if as_json:
        print_json({"plans": [one.plan.json() | {"draft": one.json()} for one in made]})
    else:
        write("\n\n".join(f"{page(one.plan, ())}\n\n{one.page()}" for one in made))


def _rank(where: list[Place], options: Options, as_json: bool, as_csv: bool) -> None:
    """What fits each machine."""
    from memfirst.cli.display import print_json, progress
    from memfirst.cli.plan_page import csv_rows, ranking
    from memfirst.plan.rank import rank

    with progress(quiet=as_json) as report:
        found = [(place, rank(place, options, progress=report)) for place in where]
    plans = [plan for _, ranked in found for plan in ranked]
    if as_json:
        print_json({"plans": [plan.json() for plan in plans]})
    elif as_csv:
        write(csv_rows([plan.row() for plan in plans]) if plans else "")
    else:
        write("\n\n".join(ranking(ranked, place, options) for place, ranked in found))


def _check_shown(plans: int, compare: bool, explain: bool) -> None:
    if compare and plans < 2:
        raise typer.BadParameter("--compare needs two plans: name models, repeat --on, or give --sweep")
    if explain and plans > 1:
        raise typer.BadParameter(f"--explain is of one plan, and {plans} were asked for: name one of them")


def _print(found: tuple[Plan, ...], swept: bool, as_csv: bool, compare: bool, explain: bool) -> None:
    from memfirst.cli.plan_page import FITTING, comparison, csv_rows, page
    from memfirst.plan.advice import advise, best

    if as_csv:
        write(csv_rows([p.row() for p in found]))
    elif compare:
        from memfirst.cli.plan_compare import side_by_side

        write(side_by_side(found))
    elif swept or len(found) > 1:
        write(comparison(found))
    elif explain:
        from memfirst.cli.plan_explain import explanation

        write(f"{page(found[0], [])}\n\n{explanation(found[0])}")
    else:
        write(page(found[0], best(advise(found[0]), FITTING if found[0].fits is False else 3)))


def _print_json(found: tuple[Plan, ...], ran: Any, swept: bool, compare: bool, explain: bool) -> None:
    """Advice takes as long as ten plans: none for the rows of a sweep, and of a comparison."""
    from memfirst.cli.display import print_json
    from memfirst.plan.advice import advise

    swept = swept or compare
    plans = [p.json() | ({} if swept else {"advice": [a.json() for a in advise(p)]}) for p in found]
    if explain:
        from memfirst.plan.explain import explained

        plans[0]["explain"] = explained(found[0]).json()
    more = {"comparison": _relative(found)} if compare else {}
    print_json({"plans": plans} | more | ({"verified": ran.json()} if ran else {}))


def _relative(found: tuple[Plan, ...]) -> list[dict[str, Any]]:
    """Each plan's speed and memory over the first's; None where one of them has no speed."""
    first = found[0]
    return [
        {
            "model": p.subject.name, "machine": p.place.machine.name,
            "speed": p.rate / first.rate if p.rate and first.rate else None,
            "memory": p.memory.needs.total / first.memory.needs.total,
        }
        for p in found
    ]  # fmt: skip
