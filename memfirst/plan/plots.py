"""A plan as pictures: the roofline with this model's points, KV against weights, and what binds where.

Readable without colour: lines differ by dashes, points by shape, cells by grey and a letter. matplotlib is imported
when something is drawn; what is drawn is computed apart, as plain data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

from memfirst.errors import UnsupportedError
from memfirst.graph import decode as decode_step
from memfirst.graph import prefill as prefill_step
from memfirst.plan import Plan, make

FORMATS = (".png", ".svg", ".pdf")
BATCHES = (1, 8, 64)
"""Of the roofline's points."""

ROWS = tuple(1 << i for i in range(9))  # sequences: 1 to 256
COLUMNS = tuple(256 << i for i in range(10))  # tokens: 256 to 131072
LETTERS = {"weights": "W", "experts": "E", "KV": "K", "compute": "C", "overhead": "O", "link": "L", "draft": "D",
           "capacity": "×", "": "?"}  # fmt: skip
WORDS = {"weights": "weights", "experts": "routed experts", "KV": "KV", "compute": "arithmetic",
         "overhead": "fixed costs", "link": "exchange", "draft": "drafting", "capacity": "does not fit",
         "": "unknown"}  # fmt: skip
_GREYS = {"weights": "0.95", "experts": "0.85", "KV": "0.72", "compute": "0.6", "overhead": "0.88", "link": "0.8",
          "draft": "0.8", "capacity": "0.35", "": "1.0"}  # fmt: skip


@dataclass(frozen=True)
class Point:
    """A step in the roofline: operations a byte, operations a second that are predicted (None: it does not fit)."""

    label: str
    intensity: float
    reached: float | None
    rate: float | None


@dataclass(frozen=True)
class Growth:
    """Bytes of a step over contexts: keys and values by codec, everything else (the same at every context)."""

    contexts: tuple[int, ...]
    kv: dict[str, tuple[float, ...]]
    rest: float


def points(plan: Plan) -> tuple[Point, ...]:
    """Decoding at some batches, and the prompt."""
    found = []
    for batch in BATCHES:
        at = make(plan.subject, plan.place, replace(plan.options, batch=batch, speculation=None))
        step = decode_step(at.context - 1, at.options.batch)
        cost = plan.subject.priced(plan.options.kv).cost(step)
        seconds = at.decode.seconds if at.decode else None
        found.append(Point(f"decode, batch {batch}", cost.flops / cost.total, _per(cost.flops, seconds), at.rate))
    cost = plan.subject.priced(plan.options.kv).cost(prefill_step(plan.prompt))
    fast = plan.prefill
    reached = _per(cost.flops, fast.seconds if fast else None)
    found.append(
        Point(f"prompt of {plan.prompt:,}", cost.flops / cost.total, reached, fast.tokens_per_second if fast else None)
    )
    return tuple(found)


def _per(amount: float, seconds: float | None) -> float | None:
    return amount / seconds if seconds else None


def growth(plan: Plan) -> Growth:
    """From 256 tokens to twice what the model was trained for, or to where KV overtakes."""
    last = max(2 * plan.subject.graph.context, 2 * min(plan.overtakes or 0, 1 << 20), 2048)
    contexts = tuple(256 << i for i in range(21) if 256 << i <= last)
    codecs = [plan.options.kv, *(c for c in ("q8_0", "q4_0") if c != plan.options.kv)]
    kv = {c: tuple(float(_kv(plan, c, n)) for n in contexts) for c in codecs}
    first = kv[codecs[0]]
    kv = {c: values for c, values in kv.items() if c == codecs[0] or values != first}
    rest = sum(a.mean for p, a in plan.amounts.items() if p != "kv_read")
    return Growth(contexts, kv, rest)


def _kv(plan: Plan, codec: str, context: int) -> int:
    return plan.options.batch * plan.subject.priced(codec).kv(decode_step(context - 1))


def grid(plan: Plan) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Batches and contexts of the map: every other one for our engine, whose program is built anew for each (0.1 s)."""
    every = 2 if plan.place.rates else 1
    return ROWS[::every], COLUMNS[::every]


def binding(plan: Plan) -> tuple[tuple[str, ...], ...]:
    """The binding term by batch and context."""
    batches, contexts = grid(plan)
    return tuple(tuple(_binds(plan, batch, context) for context in contexts) for batch in batches)


def _binds(plan: Plan, batch: int, context: int) -> str:
    options = replace(plan.options, batch=batch, context=context, prompt=1, speculation=None)
    return make(plan.subject, plan.place, options).binding


def draw(plans: Sequence[Plan], path: Path) -> None:
    """Write the pictures of one plan, or bars of several: a whole file, or none.

    UnsupportedError for other formats, or without matplotlib; CapacityError for a full disk.
    """
    from memfirst.files import replacing

    if path.suffix.lower() not in FORMATS:
        raise UnsupportedError(f"a picture as {path.name!r}", f"a name that ends in {', '.join(FORMATS)}")
    drawn = figure(plans[0]) if len(plans) == 1 else compared(plans)
    with replacing(str(path)) as out:
        drawn.savefig(out, dpi=110, format=path.suffix.lower()[1:])


def figure(plan: Plan) -> Any:
    """The three pictures side by side, as matplotlib's Figure."""
    drawn = _empty(17, 6.2)
    axes = drawn.subplots(1, 3)
    _roofline(axes[0], plan)
    _growth(axes[1], plan)
    _map(axes[2], plan)
    drawn.suptitle(_title(plan))
    return drawn


def _empty(wide: float, high: float) -> Any:
    """A Figure of so many inches."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UnsupportedError("drawing needs matplotlib", do='pip install "memfirst[plot]"') from error
    drawn = Figure(figsize=(wide, high), layout="constrained")
    FigureCanvasAgg(drawn)
    return drawn


def compared(plans: Sequence[Plan]) -> Any:
    """Bars of each plan's speed, with the 80 % interval, and of what it holds beside what there is."""
    drawn = _empty(13, 1.8 + 0.5 * len(plans))
    speed, memory = drawn.subplots(1, 2)
    at = range(len(plans))
    rates = [p.rate or 0.0 for p in plans]
    ends = [(p.decode.slowest or 0.0, p.decode.fastest or 0.0) if p.decode and p.rate else (0.0, 0.0) for p in plans]
    reach = [[r - low for r, (low, _) in zip(rates, ends, strict=True)]]
    reach.append([high - r for r, (_, high) in zip(rates, ends, strict=True)])
    speed.barh(at, rates, xerr=reach, color="0.7", edgecolor="black", capsize=4)
    speed.set(xlabel="tokens/s, and the interval that holds 80 % (no bar: no speed)")
    needs, left = [p.memory.needs for p in plans], [0.0] * len(plans)
    kept = [n.kv_allocated + n.state_allocated for n in needs]
    rest = [n.buffers.nbytes + n.overhead.nbytes for n in needs]
    for label, values, grey in (("weights", [n.weights for n in needs], "0.55"), ("KV and state", kept, "0.75"),
                                ("buffers and overhead", rest, "0.92")):  # fmt: skip
        sizes = [v / 2**30 for v in values]
        memory.barh(at, sizes, left=left, color=grey, edgecolor="black", label=label)
        left = [a + b for a, b in zip(left, sizes, strict=True)]
    memory.set(xlabel="GiB held on the fullest device")
    names = [f"{p.subject.name} {p.subject.codec.upper()}\n{p.place.machine.name}, {p.engine}" for p in plans]
    speed.set_yticks(list(at), names)
    memory.set_yticks(list(at), ["fits" if p.fits else "does not fit" if p.fits is False else "?" for p in plans])
    for axes in (speed, memory):
        axes.invert_yaxis()
    memory.legend(loc="upper center", bbox_to_anchor=(0.5, -0.35), ncols=3, fontsize="small", frameon=False)
    return drawn


def _title(plan: Plan) -> str:
    codec = plan.subject.codec.upper()
    where = plan.place.machine.title if plan.place.rates else plan.place.machine.name
    return f"{plan.subject.name} in {codec} on {where} ({plan.engine}, KV in {plan.options.kv})"


def _roofline(axes: Any, plan: Plan) -> None:
    bandwidth, compute = plan.place.bandwidth(plan.options), plan.place.machine.compute
    found = points(plan)
    peak = compute.get("f16", max(compute.values())) if compute else None
    low, high = min(p.intensity for p in found) / 4, max(p.intensity for p in found) * 4
    if bandwidth:
        top = high if peak is None else min(high, peak / bandwidth)
        axes.plot([low, top], [low * bandwidth, top * bandwidth], "k-", label=f"memory, {bandwidth / 1e9:,.0f} GB/s")
        if peak is not None and top < high:
            axes.plot([top, high], [peak, peak], "k--", label=f"arithmetic, {peak / 1e12:,.3g} Tflop/s")
    for shape, point in zip("osD^", found, strict=True):
        roof = min(peak or inf, bandwidth * point.intensity) if bandwidth else None
        _point(axes, shape, point, roof)
    axes.set(xscale="log", yscale="log", title=f"Roofline, {plan.context:,} tokens of context")
    axes.set(xlabel="operations per byte read", ylabel="operations per second")
    axes.grid(True, which="major", color="0.85")
    _legend(axes)


def _point(axes: Any, shape: str, point: Point, roof: float | None) -> None:
    """Filled where a speed is predicted; hollow on the roof where the model does not fit."""
    if point.reached is not None:
        label = f"{point.label}: {point.rate:,.0f} tok/s"
        look = {"color": "black", "markeredgecolor": "white", "markersize": 10}
        axes.plot([point.intensity], [point.reached], shape, label=label, **look)
    elif roof is not None:
        label = f"{point.label}: no speed"
        axes.plot([point.intensity], [roof], shape, color="black", fillstyle="none", markersize=8, label=label)


def _growth(axes: Any, plan: Plan) -> None:
    found = growth(plan)
    for style, (codec, values) in zip(("k-", "k-.", "k:"), found.kv.items(), strict=False):
        if any(values):
            axes.plot(found.contexts, [v / 1e9 for v in values], style, label=f"KV in {codec}")
    axes.plot(found.contexts, [found.rest / 1e9] * len(found.contexts), "k--", linewidth=2, label="weights and state")
    if plan.overtakes and plan.overtakes <= found.contexts[-1]:
        where = f"KV in {plan.options.kv} overtakes at {plan.overtakes:,}"
        axes.plot([plan.overtakes], [found.rest / 1e9], "o", color="black", markersize=9, fillstyle="none", label=where)
    trained = plan.subject.graph.context
    axes.axvline(trained, color="0.85", linewidth=6, zorder=0, label=f"trained for {trained:,}")
    axes.set(xscale="log", yscale="log", xlabel="tokens of context, of each sequence", ylabel="GB read per step")
    axes.set(title=f"KV and weights, batch {plan.options.batch}")
    axes.xaxis.set_major_locator(_ticks([n for n in found.contexts if n.bit_length() % 2 == 1]))
    axes.xaxis.set_major_formatter(lambda n, _: _short(int(n)))
    axes.yaxis.set_major_formatter(lambda gb, _: f"{gb:,g}")
    axes.minorticks_off()
    axes.grid(True, which="major", color="0.85")
    _legend(axes)


def _ticks(values: list[int]) -> Any:
    from matplotlib.ticker import FixedLocator

    return FixedLocator(values)


def _short(n: int) -> str:
    if n >= 1 << 20:
        return f"{n >> 20}M"
    return f"{n >> 10}k" if n >= 1024 else str(n)


def _map(axes: Any, plan: Plan) -> None:
    from matplotlib.patches import Patch, Rectangle

    cells, (batches, contexts) = binding(plan), grid(plan)
    for y, row in enumerate(cells):
        for x, term in enumerate(row):
            axes.add_patch(Rectangle((x, y), 1, 1, facecolor=_GREYS[term], edgecolor="white"))
            ink = "white" if term == "capacity" else "black"
            axes.text(x + 0.5, y + 0.5, LETTERS[term], ha="center", va="center", color=ink)
    axes.set(xlim=(0, len(contexts)), ylim=(0, len(batches)), title="What binds a decoded token")
    axes.set(xlabel="tokens of context, of each sequence", ylabel="sequences at a time")
    axes.set_xticks([x + 0.5 for x in range(len(contexts))], [_short(n) for n in contexts])
    axes.set_yticks([y + 0.5 for y in range(len(batches))], [str(n) for n in batches])
    axes.tick_params(length=0)
    seen = [term for term in LETTERS if any(term in row for row in cells)]
    handles = [Patch(facecolor=_GREYS[t], edgecolor="0.4", label=f"{LETTERS[t]}  {WORDS[t]}") for t in seen]
    _legend(axes, handles=handles)


def _legend(axes: Any, **what: Any) -> None:
    """Below the axis, where it hides nothing."""
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, fontsize="small", frameon=False, **what)
