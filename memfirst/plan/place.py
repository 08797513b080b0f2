"""Where a model is to run: a machine of the catalogue, or this one as `memfirst machine` measured it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from memfirst.errors import ConfigError, UnsupportedError
from memfirst.graph import Step
from memfirst.hardware import detect, host
from memfirst.hardware.detect import HERE
from memfirst.hardware.machines import Machine, find_machine
from memfirst.hardware.spelling import counted
from memfirst.hardware.throttled import AS_SOLD, Throttle
from memfirst.plan.fit import Allocator, LlamaCpp, Memfirst
from memfirst.plan.framework import ON_GPU, Framework, framework
from memfirst.plan.options import Options
from memfirst.plan.priced import Priced
from memfirst.predict import fitted
from memfirst.predict.fitted import TENSOR, Deployment
from memfirst.predict.prediction import Prediction
from memfirst.transform.sketched import HEAD_AUTO
from memfirst.transform.weight_formats import SCHEMES

if TYPE_CHECKING:
    from memfirst.plan.subject import Subject
    from memfirst.predict.measured import Rates

MACOS_LENDS = (2 / 3, 3 / 4)
"""Of the memory, to the GPU: of up to 36 GiB, of more (recommendedMaxWorkingSetSize: 10.67 of 16 GB in exo#1672, 48 of
64 in llama.cpp#1870; iogpu.wired_limit_mb raises it)."""

LARGE_MAC = 36 << 30


@dataclass(frozen=True)
class Place:
    """A machine; with `rates`, this one as measured.

    count     devices of this kind, as in 8xh100
    here      it is this machine
    throttle  below what it is sold with; `machine` is as it is then, `sold` as it is sold
    """

    machine: Machine
    rates: Rates | None = None
    count: int = 1
    here: bool = False
    throttle: Throttle = AS_SOLD
    sold: Machine | None = None

    def throttled(self, by: Throttle) -> Place:
        """Below what it is sold with; ConfigError for a machine whose rates were measured: they hold any limit."""
        if not by:
            return self
        if self.rates:
            raise ConfigError("limits of this machine, whose rates memfirst machine has measured", "one of --on")
        return replace(self, machine=by.of(self.machine), throttle=by, sold=self.machine)

    @property
    def source(self) -> str:
        """Of its bandwidth."""
        return "--bandwidth" if self.throttle.bandwidth else self.machine.source

    def engine(self, options: Options) -> str:
        """Whose speed and memory is asked for."""
        if options.engine or self.here:
            return options.engine or "memfirst"
        if options.codec not in SCHEMES:
            return "llama.cpp"
        return "mlx" if self.machine.family.startswith("apple") else "vllm"

    def memory(self, options: Options) -> int | None:
        """Bytes of a device that an engine may use: of a Mac, what its system lends a GPU; None where nobody said."""
        whole = self.machine.memory
        if whole is not None and self.lends(options):
            whole = int(whole * MACOS_LENDS[whole > LARGE_MAC])
        return min(whole or options.memory, options.memory) if options.memory else whole

    def priced(self, model: Subject, options: Options) -> Priced:
        """The model as its engine keeps it in memory: memfirst packs BF16 in 12 bits, and makes a sketch of the output
        head where it is asked for, and neither told how much memory to use nor split."""
        ours = isinstance(self.allocator(options), Memfirst) and options.devices == 1
        asked = options.head == HEAD_AUTO and not options.memory and not options.split
        return model.priced(options.kv, ours, ours and asked)

    def lends(self, options: Options) -> bool:
        """Whether the system lends the GPU a part of the memory only."""
        return self.machine.family.startswith("apple") and self.engine(options) != "memfirst"

    def framework(self, options: Options) -> Framework:
        """All that is known of it."""
        return framework(self.engine(options))

    def allocator(self, options: Options) -> Allocator:
        """How it allocates here."""
        found = self.framework(options)
        here = found.on_gpu.on(self.machine) if self.machine.kind in ON_GPU else found.allocator
        return here if options.flash or not isinstance(here, LlamaCpp) else replace(here, flash=False)

    def deployment(self, options: Options) -> Deployment:
        """How the catalogue's rates are to be used."""
        found = self.framework(options)
        parallel = options.parallel or found.parallel
        return Deployment(
            found.speeds, options.devices, parallel, options.flash, options.threads, backend=options.backend
        )  # fmt: skip

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
        if self.engine(options) == "memfirst":
            if self.rates:
                return _measured(self.rates, priced, step, options)
            if priced.refused:
                return _unknown(step, f"memfirst does not run it: {priced.refused}")
        return fitted.predict(priced.cost(step), self.machine, self.deployment(options))

    def split_time(self, priced: Priced, step: Step, options: Options, context: int) -> Prediction:
        """Seconds of the step by several processes here, each with its share of the threads.

        Raises:
            ConfigError: Nothing was measured to predict it by.
        """
        if self.rates is None or self.engine(options) != "memfirst":
            raise ConfigError("a split over processes of another machine", "this one, measured", "", "memfirst machine")
        from memfirst.predict.measured.together import split_time

        threads = max(1, self.threads(options) // options.processes)
        return split_time(priced.graph, step, self.rates, options.split, options.processes, threads, context)


def place(name: str) -> Place:
    """The machine called `name` ("here" is this one, "8xh100" eight); MemfirstError where there is none."""
    if name.strip().lower() == HERE:
        return this_machine()
    count, one = counted(name)
    return Place(find_machine(one), count=count)


def this_machine() -> Place:
    """This machine, its processor: as it was measured, else with the catalogue's rates, or assumed ones."""
    from memfirst.predict import measured as rates

    found = rates.load()
    if found is None:
        return Place(detect.processor(), here=True)
    machine = Machine(
        HERE, found.fingerprint, "cpu", memory=host.available_memory(), bandwidth=max(found.read.values()),
        cores=max(found.read), source=f"measured on {found.date}", known="measured",
    )  # fmt: skip
    return Place(machine, found, here=True)


def cards() -> list[Place]:
    """The GPUs of this machine."""
    return [Place(machine, count=count) for count, machine in detect.gpus()]


def _measured(measured: Rates, priced: Priced, step: Step, options: Options) -> Prediction:
    """By this machine's own rates; no number, and why, where our engine does not run the model."""
    from memfirst.predict import measured as rates
    from memfirst.predict.measured.work import LARGEST

    threads, prompt = options.threads or None, len(step.sequences) == 1 and step.sequences[0].past == 0
    if step.tokens > LARGEST and not prompt:
        found = f"memfirst takes {LARGEST} tokens a step, not {step.tokens}"
        return _unknown(step, found)
    try:
        if prompt and step.tokens > 1:
            return rates.prefill(priced.graph, step.tokens, measured, threads)
        return rates.step_time(priced.graph, step, measured, threads)
    except UnsupportedError as error:
        return _unknown(step, f"memfirst does not run it: {error}")


def _unknown(step: Step, why: str) -> Prediction:
    return Prediction(None, None, None, (), "", step.tokens, notes=(why,))
