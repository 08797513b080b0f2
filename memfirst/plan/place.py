"""Where a model is to run: a machine of the catalogue, or this one as `memfirst machine` measured it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from memfirst.errors import MemfirstError, UnsupportedError
from memfirst.graph import Step
from memfirst.hardware import host
from memfirst.hardware.machines import Machine, find_machine
from memfirst.plan.fit import Allocator
from memfirst.plan.framework import Framework, framework
from memfirst.plan.options import Options
from memfirst.plan.priced import Priced
from memfirst.predict import fitted
from memfirst.predict.fitted import TENSOR, Deployment
from memfirst.predict.prediction import Prediction

if TYPE_CHECKING:
    from memfirst.predict.measured import Rates

HERE = "here"
"""The name of this machine."""

ON_GPU = ("datacentre-gpu", "gpu", "laptop-gpu")
"""Kinds of machines with memory of their own beside the host's."""


@dataclass(frozen=True)
class Place:
    """A machine; with `rates`, this one as measured."""

    machine: Machine
    rates: Rates | None = None

    def engine(self, options: Options) -> str:
        """Whose speed and memory is asked for."""
        return options.engine or ("memfirst" if self.rates else "llama.cpp")

    def framework(self, options: Options) -> Framework:
        """All that is known of it."""
        return framework(self.engine(options))

    def allocator(self, options: Options) -> Allocator:
        """How it allocates here."""
        found = self.framework(options)
        return found.on_gpu if self.machine.kind in ON_GPU else found.allocator

    def deployment(self, options: Options) -> Deployment:
        """How the catalogue's rates are to be used."""
        return Deployment(self.framework(options).speeds, options.devices, options.parallel, threads=options.threads)

    def threads(self, options: Options) -> int:
        """Of a processor: those asked for, else all that were measured, or its cores."""
        return options.threads or (max(self.rates.read) if self.rates else max(1, self.machine.cores))

    def bandwidth(self, options: Options) -> float | None:
        """Bytes/s of all devices that read at once: the data sheet's peak, or as measured with these threads."""
        if self.rates:
            from memfirst.predict.measured.store import nearest

            return nearest(self.rates.read, self.threads(options))
        at_once = options.devices if options.parallel == TENSOR else 1
        return self.machine.bandwidth * at_once if self.machine.bandwidth else None

    def time(self, priced: Priced, step: Step, options: Options) -> Prediction:
        """Seconds of the step."""
        if self.rates and self.engine(options) == "memfirst":
            return _measured(self.rates, priced, step, options)
        return fitted.predict(priced.cost(step), self.machine, self.deployment(options))


def place(name: str) -> Place:
    """The machine called `name`, "here" being this one; MemfirstError where there is none."""
    if name.lower() == HERE:
        found = this_machine()
        if found is None:
            raise MemfirstError("this machine has not been measured", do="run memfirst machine, or name one with --on")
        return found
    return Place(find_machine(name))


def this_machine() -> Place | None:
    """This machine as it was measured; None where it was not."""
    from memfirst.predict import measured as rates

    found = rates.load()
    if found is None:
        return None
    machine = Machine(
        HERE, found.fingerprint, "cpu", memory=host.available_memory(), bandwidth=max(found.read.values()),
        cores=max(found.read), source=f"measured on {found.date}", known="measured",
    )  # fmt: skip
    return Place(machine, found)


def _measured(measured: Rates, priced: Priced, step: Step, options: Options) -> Prediction:
    """By this machine's own rates; no number, and why, where our engine does not run the model."""
    from memfirst.predict import measured as rates
    from memfirst.predict.measured.work import LARGEST

    threads, prompt = options.threads or None, len(step.sequences) == 1 and step.sequences[0].past == 0
    if step.tokens > LARGEST and not prompt:
        found = f"memfirst takes {LARGEST} tokens a step, not {step.tokens}"
        return Prediction(None, None, None, (), "", step.tokens, notes=(found,))
    try:
        if prompt and step.tokens > 1:
            return rates.prefill(priced.graph, step.tokens, measured, threads)
        return rates.step_time(priced.graph, step, measured, threads)
    except UnsupportedError as error:
        return Prediction(None, None, None, (), "", step.tokens, notes=(f"memfirst does not run it: {error}",))
