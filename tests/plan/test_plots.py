"""The pictures of a plan: what is drawn is what is predicted, and no word hides another."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from memfirst.errors import UnsupportedError
from memfirst.graph import decode
from memfirst.graph.traffic import KV_READ
from memfirst.ledger import price
from memfirst.plan import Options, Plan, make, place, plots, subject
from memfirst.transform.recode import with_kv

CASES = {
    "fits": ("llama-3.1:8b", "rtx-4090", 1),
    "too large": ("llama-3:70b", "rtx-4090", 1),
    "windows": ("gemma-3:4b", "apple-m4-max", 4),
    "state": ("mamba:130m", "epyc-genoa", 1),
    "experts": ("qwen3:30b-a3b", "h200", 16),
}


@pytest.fixture(scope="module", params=CASES)
def plan(request: pytest.FixtureRequest) -> Plan:
    name, machine, batch = CASES[request.param]
    return make(subject(name), place(machine), Options(batch=batch))


def test_points_lie_under_the_roof(plan: Plan) -> None:
    machine = plan.place.machine
    assert machine.bandwidth
    for point in plots.points(plan):
        roof = min(machine.bandwidth * point.intensity, max(machine.compute.values()))
        assert point.reached is None or 0 < point.reached <= roof
        assert (point.reached is None) == (point.rate is None)
    decoding = [p.intensity for p in plots.points(plan)]
    assert decoding == sorted(decoding)  # more tokens a step, more operations a byte


def test_what_does_not_fit_has_no_point() -> None:
    plan = make(subject("llama-3:70b"), place("rtx-4090"), Options())
    assert all(p.reached is None for p in plots.points(plan))
    assert {term for row in plots.binding(plan) for term in row} == {"capacity"}


def test_growth_is_the_ledgers(plan: Plan) -> None:
    found = plots.growth(plan)
    assert len(found.contexts) >= 4
    for codec, values in found.kv.items():
        program = with_kv(plan.subject.graph, codec, codec)
        for context, value in list(zip(found.contexts, values, strict=True))[::4]:
            by_purpose = price(program, decode(context - 1, plan.options.batch)).by_purpose()
            assert value == (by_purpose[KV_READ].mean if KV_READ in by_purpose else 0)


def test_kv_overtakes_between_its_neighbours(plan: Plan) -> None:
    found = plots.growth(plan)
    if plan.overtakes is None:
        assert not any(found.kv["f16"])
        return
    for context, value in zip(found.contexts, found.kv["f16"], strict=True):
        assert (value >= found.rest) == (context >= plan.overtakes)


def test_each_cell_is_the_term_that_binds() -> None:
    plan = make(subject("llama-3.1:8b"), place("rtx-4090"), Options())
    cells = plots.binding(plan)
    assert (len(cells), len(cells[0])) == (len(plots.ROWS), len(plots.COLUMNS))
    at = make(plan.subject, plan.place, Options(context=plots.COLUMNS[5], batch=plots.ROWS[2]))
    assert cells[2][5] == at.binding
    assert cells[0][0] == "weights" and cells[0][-1] == "KV" and cells[-1][-1] == "capacity"


@pytest.fixture(scope="module")
def drawn(plan: Plan) -> Any:
    """The plan's pictures."""
    pytest.importorskip("matplotlib")
    return plots.figure(plan)


def texts(drawn: Any) -> list[Any]:
    """Every word on the paper; an axis also has labels of ticks beyond its ends, which it does not draw."""
    found = [drawn._suptitle]
    for axes in drawn.axes:
        found += [axes.title, *axes.texts, *axes.get_legend().get_texts()]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
            found += [axis.label, *(t.label1 for t in ticks if low <= t.get_loc() <= high)]
    return [t for t in found if t.get_visible() and t.get_text().strip()]


def test_no_word_hides_another_and_all_are_on_the_paper(drawn: Any) -> None:
    drawn.canvas.draw()
    renderer = drawn.canvas.get_renderer()
    inside = drawn.bbox.padded(1)
    boxes = [(t.get_text(), t.get_window_extent(renderer)) for t in texts(drawn)]
    assert all(inside.contains(*box.min) and inside.contains(*box.max) for _, box in boxes)
    for (a, first), (b, second) in itertools.combinations(boxes, 2):
        overlap = first.padded(-1).overlaps(second.padded(-1))
        assert not overlap, f"{a!r} and {b!r}"
    for axes in drawn.axes:
        assert inside.contains(*axes.get_legend().get_window_extent(renderer).min)


def test_axes_have_units_and_nothing_needs_colour(drawn: Any) -> None:
    from matplotlib.colors import to_rgb

    assert [(a.get_xlabel(), a.get_ylabel()) for a in drawn.axes] == [
        ("operations per byte read", "operations per second"),
        ("tokens of context, of each sequence", "GB read per step"),
        ("tokens of context, of each sequence", "sequences at a time"),
    ]
    for axes in drawn.axes:
        colours = [to_rgb(line.get_color()) for line in axes.lines]
        colours += [p.get_facecolor()[:3] for p in axes.patches]
        assert all(max(c) - min(c) < 1e-6 for c in colours)
        looks = [(line.get_linestyle(), line.get_marker(), line.get_linewidth()) for line in axes.lines]
        assert len(set(looks)) == len(looks)


@pytest.mark.parametrize("suffix", plots.FORMATS)
def test_files(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("matplotlib")
    plan = make(subject("llama-3.2:1b"), place("rtx-4090"), Options())
    path = tmp_path / f"picture{suffix}"
    plots.draw([plan], path)
    assert path.read_bytes()[:4] in (b"\x89PNG", b"<?xm", b"%PDF")


def test_other_formats_and_folders_are_refused(tmp_path: Path) -> None:
    plan = make(subject("llama-3.2:1b"), place("rtx-4090"), Options())
    with pytest.raises(UnsupportedError, match=r"\.png, \.svg, \.pdf"):
        plots.draw([plan], tmp_path / "picture.bmp")
    pytest.importorskip("matplotlib")
    with pytest.raises(Exception, match="cannot write"):
        plots.draw([plan], tmp_path / "no folder" / "picture.png")
