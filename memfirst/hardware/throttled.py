"""A machine below its data sheet: with the bandwidth that someone measured, or under a limit of power.

A limit of power lowers the clock of a GPU's cores; its memory's clock stays (9,501 MHz in every sample of RTX 3090s
at 180 to 390 W: github.com/noonghunna/club-3090 issue 104, ashalliants/ninfer-3090 pull 72). What is left of each
rate is read off published sweeps, as nothing simpler follows them: voltage is at its floor from about half of the
power on.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

from memfirst.errors import ConfigError, MemfirstError
from memfirst.hardware.machines import Machine, user_file

MOST_GBS = 100_000.0

SWEEP = ((0.29, 0.14, 0.17), (0.43, 0.26, 0.86), (0.57, 0.68, 0.94), (0.71, 0.85, 0.97), (0.86, 0.94, 0.99), (1, 1, 1))
"""(share of the board's power, of arithmetic, of bandwidth): six RTX 3090 at 100 to 350 W with llama.cpp, prompts and
decoding (llmgarage.ai/power-limit-tokens-per-second-benchmark, February 2026); at 0.57 the mean of its 0.60 with the
0.76 that club-3090 issue 104 measured at 180 W with vLLM."""


@dataclass(frozen=True)
class Throttle:
    """Limits of one machine. bandwidth: bytes/s instead of the data sheet's; power: watts; 0: as sold.

    Raises ConfigError for what cannot be.
    """

    bandwidth: float = 0.0
    power: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.bandwidth <= MOST_GBS * 1e9:
            raise ConfigError(f"a bandwidth of {self.bandwidth / 1e9:g} GB/s", f"more than 0, at most {MOST_GBS:,.0f}")
        if not 0 <= self.power < float("inf"):
            raise ConfigError(f"a power cap of {self.power:g} W", "watts above 0")

    def __bool__(self) -> bool:
        return bool(self.bandwidth or self.power)

    def of(self, machine: Machine) -> Machine:
        """The machine under these limits.

        Raises MemfirstError where its power as sold is not known, or the limit is below all published sweeps.
        """
        compute, read = self.shares(machine)
        bandwidth = self.bandwidth or (machine.bandwidth and machine.bandwidth * read)
        rates = {kind: rate * compute for kind, rate in machine.compute.items()}
        return replace(machine, bandwidth=bandwidth, compute=rates)

    def shares(self, machine: Machine) -> tuple[float, float]:
        """Of its arithmetic and its bandwidth, what the limit of power leaves."""
        if not self.power:
            return 1.0, 1.0
        if machine.power is None:
            do = f'give --bandwidth, or its "power_w" in a row of {user_file()}'
            raise MemfirstError(f"{machine.name}: its power as sold is not known, so neither what a cap leaves", do=do)
        share = self.power / machine.power
        if share < SWEEP[0][0]:
            least = SWEEP[0][0] * machine.power
            raise MemfirstError(
                f"a power cap of {self.power:g} W on {machine.name}, sold with {machine.power:g}",
                f"{least:.0f} W or more: nobody has published speeds below",
            )
        for (x0, *low), (x1, *high) in itertools.pairwise(SWEEP):
            if share <= x1:
                at = (share - x0) / (x1 - x0)
                compute, read = (a + at * (b - a) for a, b in zip(low, high, strict=True))
                return compute, read
        return 1.0, 1.0  # a cap above what it is sold with

    def said(self, machine: Machine) -> tuple[str, ...]:
        """In words, of the machine as sold."""
        notes = []
        if self.bandwidth:
            sheet = (
                f", {100 * self.bandwidth / machine.bandwidth:.0f} % of the data sheet's" if machine.bandwidth else ""
            )
            notes.append(f"{machine.name}: {self.bandwidth / 1e9:g} GB/s as given{sheet}")
        if self.power and machine.power:
            compute, read = self.shares(machine)
            kept = "the bandwidth given" if self.bandwidth else f"{100 * read:.0f} % of its bandwidth"
            said = (
                f"{machine.name}: {self.power:g} of {machine.power:g} W leave {100 * compute:.0f} % of its arithmetic"
            )
            notes.append(f"{said} and {kept}, as in published sweeps of RTX 3090s")
        return tuple(notes)


AS_SOLD = Throttle()
