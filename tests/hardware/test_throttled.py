"""A machine under a limit of power, or with another bandwidth, against published sweeps."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from memfirst.errors import ConfigError, MemfirstError
from memfirst.hardware.machines import find_machine
from memfirst.hardware.throttled import AS_SOLD, SWEEP, Throttle


def left(machine: str, watts: float) -> tuple[float, float]:
    """Of arithmetic and of bandwidth."""
    sold = find_machine(machine)
    found = Throttle(power=watts).of(sold)
    assert found.bandwidth and sold.bandwidth
    return found.compute["f16"] / sold.compute["f16"], found.bandwidth / sold.bandwidth


@pytest.mark.parametrize(
    ("machine", "watts", "prompt", "decode"),
    [  # speeds over those without a limit; None: not published
        ("rtx-3090", 350, 1.0, 1.0),
        ("rtx-3090", 300, 9326 / 9893, 72.1 / 72.6),  # llmgarage.ai, six cards, MiniMax M2.5
        ("rtx-3090", 250, 8436 / 9893, 70.7 / 72.6),
        ("rtx-3090", 290, 1639.12 / 1750.70, None),  # club-3090 issue 104, Qwen3.6-27B, vLLM
        ("rtx-5060-ti", 162, None, 81.4 / 81.2),  # inventivehq.com, Qwen2.5-Coder-7B, llama.cpp
        ("rtx-5060-ti", 150, None, 80.4 / 81.2),
        ("rtx-4090", 390, None, 138.32 / 138.18),  # club-3090 issue 697, Qwen3-4B, vLLM
    ],
)
def test_published_sweeps(machine: str, watts: float, prompt: float | None, decode: float | None) -> None:
    compute, read = left(machine, watts)
    assert prompt is None or compute == pytest.approx(prompt, abs=0.02)
    assert decode is None or read == pytest.approx(decode, abs=0.02)


def test_less_power_never_leaves_more() -> None:
    shares = [left("rtx-3090", watts) for watts in range(102, 351, 2)]
    assert all(a <= b and c <= d for (a, c), (b, d) in itertools.pairwise(shares))
    assert all(compute <= read <= 1 for compute, read in shares[20:])
    assert [x for x, *_ in SWEEP] == sorted(x for x, *_ in SWEEP)


def test_as_sold() -> None:
    machine = find_machine("rtx-3090")
    assert not AS_SOLD and AS_SOLD.of(machine) == machine and AS_SOLD.said(machine) == ()
    assert Throttle(power=400).of(machine) == machine  # a cap above what it is sold with


def test_a_bandwidth_that_is_given_is_what_it_reads_at() -> None:
    machine = find_machine("rtx-4090")
    assert Throttle(bandwidth=800e9).of(machine) == replace(machine, bandwidth=800e9)
    both = Throttle(800e9, 225).of(machine)
    assert both.bandwidth == 800e9 and both.compute["f16"] < 0.7 * machine.compute["f16"]
    assert Throttle(800e9).said(machine) == ("rtx-4090: 800 GB/s as given, 79 % of the data sheet's",)
    assert Throttle(60e9).of(replace(machine, bandwidth=None)).bandwidth == 60e9


def test_what_nobody_has_published_is_refused() -> None:
    with pytest.raises(MemfirstError, match=r"a power cap of 80 W on rtx-3090, sold with 350; expected 102 W or more"):
        Throttle(power=80).of(find_machine("rtx-3090"))
    with pytest.raises(MemfirstError, match=r"apple-m4: its power as sold is not known.*; give --bandwidth"):
        Throttle(power=20).of(find_machine("apple-m4"))


@pytest.mark.parametrize("bad", [{"bandwidth": -1.0}, {"bandwidth": 1e18}, {"power": -5.0}, {"power": float("inf")},
                                 {"power": float("nan")}])  # fmt: skip
def test_limits_that_cannot_be(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        Throttle(**bad)
