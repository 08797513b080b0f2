"""Measures this machine for our own engine: what it streams, and what each kernel costs, in about a minute.

Small synthetic models run through the CPU backend itself, so that a rate is of the very calls that a step makes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from statistics import median, quantiles
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memfirst.backends.cpu.backend import CpuBackend, CpuOptions
from memfirst.backends.cpu.twelve_bits import NOTHING, measure
from memfirst.convert.mixes import mix
from memfirst.convert.synthetic import SyntheticCheckpoint
from memfirst.convert.synthetic_shapes import SyntheticShape
from memfirst.graph import Graph, Sequence, Step
from memfirst.hardware import host
from memfirst.hardware.memory_modules import memory_peak
from memfirst.measure.profile import time_calls
from memfirst.models import build
from memfirst.predict.measured import Rate, Rates, Work, fingerprint, program_for, step_time, works
from memfirst.progress import Progress, Silent
from memfirst.transform.sketched import with_sketch
from memfirst.transform.twelve_bits import packable

REPEATS = 7
"""Of a step's time; the median counts."""

ROUNDS, IN_ROUND = 3, 3
"""Of the kernels: all are visited three times, as a neighbour who comes for ten seconds would slow those of one."""

TWELVE_BITS = "bf12"
"""BF16 as it is packed when it is loaded."""

SKETCHED = "sketched"
"""Q8_0 whose output head has a sketch."""

_CODECS = {TWELVE_BITS: "bf16", SKETCHED: "q8_0"}
"""What these are in a file."""

MIXES = (
    "f32",
    "f16",
    "bf16",
    TWELVE_BITS,
    "q4_0",
    "q4_1",
    "q5_0",
    "q5_1",
    "q8_0",
    "q2_k",
    "q3_k_s",
    "q4_k_s",
    "q5_k_s",
    "q6_k",
    "iq4_nl",
    "iq4_xs",
    SKETCHED,
)
"""Codec mixes, a packing of one and a sketch of a head, that together use every codec with a kernel."""

HEADS = ((64, 8, 8), (64, 8, 2), (128, 8, 2), (128, 8, 1))
"""Attention that is measured: values of a head, query heads, KV heads."""

PAST = 2048
"""Positions of context where attention's cost by position is measured: 1 MB, so that it is a cache's speed."""

_BASE = SyntheticShape("llama", 512, 1, 8, 1, 512, 512, max_position_embeddings=8192)
"""1.4 million weights: in 4 bits they fit a core's own cache."""

_EXPERTS: Mapping[str, Any] = {
    "model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "hidden_size": 512, "num_hidden_layers": 1,
    "num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 64, "intermediate_size": 512, "vocab_size": 512,
    "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "num_experts": 2, "num_experts_per_tok": 2,
    "moe_intermediate_size": 512, "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [],
}  # fmt: skip
"""Two experts, both picked by all tokens, so that all their tiles are of one size: in MXFP4, which is for experts."""

_ROUTER = {**_EXPERTS, "num_experts": 64, "num_experts_per_tok": 8, "moe_intermediate_size": 64}
"""Many experts, to time how they are picked."""

MIXTURES: tuple[tuple[Mapping[str, Any], str], ...] = ((_EXPERTS, "mxfp4"), (_ROUTER, "q8_0"))

_STREAM = SyntheticShape("llama", 2048, 3, 32, 8, 8192, 512)
"""194 MB of Q8_0: more than caches hold."""

_FEW = {"hidden_size": 512, "num_hidden_layers": 2, "intermediate_size": 1024, "vocab_size": 512}
RECURRENT: tuple[Mapping[str, Any], ...] = (
    {"model_type": "rwkv6", "head_size": 64, **_FEW}, {"model_type": "rwkv7", "head_dim": 64, **_FEW},
    {"model_type": "qwen3_5_text", "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 256,
     "linear_num_key_heads": 4, "linear_num_value_heads": 16, "linear_key_head_dim": 128, "linear_value_head_dim": 128,
     "linear_conv_kernel_dim": 4, "max_position_embeddings": 512, **_FEW},
    {"model_type": "mamba", "state_size": 16, "conv_kernel": 4, "expand": 2, "time_step_rank": 32, **_FEW,
     "intermediate_size": 1024},
    {"model_type": "mamba2", "state_size": 128, "conv_kernel": 4, "expand": 2, "num_heads": 16, "head_dim": 64,
     "n_groups": 1, "hidden_size": 512, "num_hidden_layers": 2, "vocab_size": 512},
)  # fmt: skip
"""Models with recurrent state whose kernels are measured: config.json, small."""

_GATHER = SyntheticShape("llama", 512, 24, 8, 8, 512, 512, max_position_embeddings=8192)
"""49 kB of keys and values a position: 201 MB at 4096."""

_NARROW = SyntheticShape("llama", 576, 30, 9, 3, 1536, 512)
"""113 MB of Q8_0 in 150 short phases: each starts its streams anew, which models in a cache do not show."""

DEEP = 4096

_TASK = "measuring this machine"
ATTEND = "attention.attend"


@dataclass
class Samples:
    """Seconds seen by key and by the work that they were spent on; of equal work the median counts."""

    rows: dict[str, dict[tuple[float, float], list[float]]] = field(default_factory=dict)

    def add(self, work: Work, seconds: float) -> None:
        self.rows.setdefault(work.key, {}).setdefault((work.units, work.amount), []).append(seconds)

    def rates(self) -> dict[str, Rate]:
        """By key the costs that fit best, none below zero."""
        return {key: _fit([(*work, median(seen)) for work, seen in rows.items()]) for key, rows in self.rows.items()}


def _fit(rows: list[tuple[float, float, float]]) -> Rate:
    """seconds = unit · units + item · amount, in relative error."""
    units, amounts, seconds = (np.array(column) for column in zip(*rows, strict=True))
    keep = (seconds > 0) & (units + amounts > 0)
    if not keep.any():
        return Rate(0.0, 0.0)
    x = np.stack([units, amounts], 1)[keep] / seconds[keep, None]
    if not units.any() or keep.sum() == 1:
        return Rate(0.0, float(1 / np.median(x[:, 1])) if x[:, 1].any() else 0.0)
    unit, item = np.linalg.lstsq(x, np.ones(len(x)), rcond=None)[0]
    if min(unit, item) >= 0:
        return Rate(float(unit), float(item))
    return Rate(0.0, float(1 / np.median(x[:, 1])))


class Small:
    """A synthetic model on the CPU backend."""

    def __init__(
        self, shape: SyntheticShape | Mapping[str, Any], codec: str, threads: int, context: int, sequences: int = 1
    ) -> None:
        checkpoint = SyntheticCheckpoint(shape, mix(_CODECS.get(codec, codec)), 0, "small")
        graph = build(checkpoint)
        graph = with_sketch(graph) if codec == SKETCHED else graph
        found = measure(packable(graph), checkpoint, threads) if codec == TWELVE_BITS else NOTHING
        self.graph: Graph = graph.in_twelve_bits(found.aside)
        self.threads, self.context = threads, context
        options = CpuOptions(threads, context, sequences)
        self.backend = CpuBackend(self.graph, checkpoint, options, twelve_bits=found)

    def __enter__(self) -> Small:
        return self

    def __exit__(self, *exception: object) -> None:
        self.backend.close()

    def step(self, past: int, new: int = 1, sequences: int = 1) -> Step:
        """`new` tokens for each sequence, whose state goes from one slot of its own to another."""
        slots = [(2 * i, 2 * i + 1) for i in range(sequences)]
        return Step(
            tuple(
                Sequence(past, new, self.backend.own_tables(i), state_read=read, state_write=write)
                for i, (read, write) in enumerate(slots)
            )
        )

    def tokens(self, step: Step) -> NDArray[np.int32]:
        """Ids for a step: any cost the same."""
        return np.arange(step.tokens, dtype=np.int32) % self.graph.vocab_size

    def run(self, step: Step, times: int) -> float:
        """Seconds of one of `times` steps."""
        tokens = self.tokens(step)
        start = time.perf_counter()
        for _ in range(times):
            self.backend.step(step, tokens)
        return (time.perf_counter() - start) / times

    def fill(self, positions: int) -> None:
        """Write a number of positions of the cache."""
        for at in range(0, positions, 256):
            self.run(self.step(at, min(256, positions - at)), 1)

    def sample(self, step: Step, samples: Samples, times: int = 12, of: str = "") -> None:
        """Seconds of each call in that step, on one thread: of kernels whose names begin so, or all but attention."""
        self.run(step, 2)
        seen = []
        for _ in range(IN_ROUND):
            seen.append(time_calls(self.backend, step, self.tokens(step), times)[0])
        spent = np.median(seen, axis=0)
        program = self.backend.program(step.tokens).program
        # Of matmuls of experts only those whose tiles are all of one size.
        work = {id(call): w[0] for part in works(program, step) for call, w in part.calls if len(w) == 1}
        merged: dict[str, tuple[Work, float]] = {}
        for call, seconds in zip(self.backend.program(step.tokens).calls, spent, strict=True):
            found = work.get(id(call))
            if found is None:
                continue
            w, so_far = merged.get(found.key, (Work(found.key, 0.0, 0.0), 0.0))
            merged[found.key] = (
                replace(w, units=w.units + found.units, amount=w.amount + found.amount), so_far + float(seconds),
            )  # fmt: skip
        for w, total in merged.values():
            if w.key.startswith(of) if of else not w.key.startswith(ATTEND):
                samples.add(w, total)


def calibrate(progress: Progress | None = None, threads: tuple[int, ...] | None = None) -> Rates:
    """Measure everything; `threads`: numbers of threads, default 1, 2, 4, … and all cores."""
    progress = progress or Silent()
    counts = threads or _thread_counts()
    samples = Samples()
    makers = [*(partial(_kernels, _BASE, c) for c in MIXES), *(partial(_kernels, *m) for m in MIXTURES)]
    makers += [*(partial(_attention, *h) for h in HEADS), *(partial(_kernels, shape, "q8_0") for shape in RECURRENT)]
    total = len(makers) + ROUNDS + 3 * len(counts)
    with ExitStack() as open_models:
        stages: list[Callable[[], None]] = []
        for i, make in enumerate(makers):
            progress.update(_TASK, i, total, unit="")
            stages.append(make(samples, open_models))
        for i in range(ROUNDS):
            progress.update(_TASK, len(stages) + i, total, unit="")
            for stage in stages:
                stage()
    rates = Rates(
        fingerprint(), datetime.now().astimezone().isoformat(timespec="seconds"), host.available_memory(),
        dict.fromkeys(counts, 1.0), dict.fromkeys(counts, 1.0), dict.fromkeys(counts, 1.0),
        dict.fromkeys(counts, 0.0), 0.0, samples.rates(),
        notes=("a GPU is visible: it is not used yet, and not measured",) if host.visible_gpu() else (),
    )  # fmt: skip
    if (peak := memory_peak()) is not None:
        rates = replace(rates, peak=peak.bandwidth, modules=peak.modules)
    for i, n in enumerate(counts):
        progress.update(_TASK, total - 3 * (len(counts) - i), total, unit="")
        rates = _with_threads(rates, n)
    progress.update(_TASK, total, total, unit="")
    return rates


def _thread_counts() -> tuple[int, ...]:
    most = host.default_threads()
    return tuple(sorted({*(1 << i for i in range(most.bit_length()) if 1 << i <= most), most}))


def _kernels(
    shape: SyntheticShape | Mapping[str, Any], codec: str, samples: Samples, models: ExitStack
) -> Callable[[], None]:
    """What measures matmuls of one, four and eight tokens, and what goes with them: recurrences and experts too."""
    model = models.enter_context(Small(shape, codec, 1, 64, 8))

    def measure() -> None:
        for sequences in (1, 4, 8):
            model.sample(model.step(8, 1, sequences), samples)
        if codec == SKETCHED:
            model.sample(replace(model.step(8), likeliest=True), samples, of="sketch.")
        model.sample(model.step(0, 64), samples, times=4)

    return measure


def _attention(head_dim: int, heads: int, kv_heads: int, samples: Samples, models: ExitStack) -> Callable[[], None]:
    """What measures attention at short and long contexts, and over a prompt."""
    shape = replace(_BASE, num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=head_dim)
    model = models.enter_context(Small(shape, "q8_0", 1, PAST + 256))
    model.fill(PAST)

    def measure() -> None:
        for past in (8, PAST // 4, PAST):
            model.sample(model.step(past), samples, of=ATTEND)
        for past in (0, PAST):
            model.sample(model.step(past, 256), samples, times=1, of=ATTEND)

    return measure


def _with_threads(rates: Rates, n: int) -> Rates:
    """Phases, streams and gathers with `n` threads, from the times of whole steps."""
    with Small(replace(_BASE, num_hidden_layers=2), "q8_0", n, 64) as short:
        few, first = _phases(short), _beside(short, short.step(8), 200)
    with Small(replace(_BASE, num_hidden_layers=12), "q8_0", n, 64) as long:
        many, second = _phases(long), _beside(long, long.step(8), 50)
    phase = max(1e-8, (second - first) / (many - few))
    step = max(1e-7, first - few * phase)
    rates = replace(rates, phase={**rates.phase, n: phase}, step=step)
    with Small(_STREAM, "q8_0", n, 64) as model:
        rates = _solved(rates, "stream", n, model, model.step(8))
    with Small(_NARROW, "q8_0", n, 64) as model:
        rates = _solved(rates, "phase", n, model, model.step(8))
    with Small(_GATHER, "q4_0", n, DEEP + 64) as model:
        model.fill(DEEP)
        return _solved(rates, "gather", n, model, model.step(DEEP))


def _phases(model: Small) -> int:
    return len(program_for(model.graph, 1, 64, model.threads).phases)


def _beside(model: Small, step: Step, times: int) -> float:
    """Seconds of a step in which a worker is in no kernel, as of the same steps: a neighbour slows both alike."""
    model.run(step, times // 4)
    found = []
    for _ in range(REPEATS):
        spent, took = time_calls(model.backend, step, model.tokens(step), times)
        found.append(took - float(spent.sum()) / model.threads)
    return median(found)


def _solved(rates: Rates, what: str, n: int, model: Small, step: Step) -> Rates:
    """Rates in which `what` (a share of the read bandwidth, or a phase's cost) makes that step take what it took.

    Quarters, not medians: what else runs on a machine only slows.
    """
    model.run(step, 2)
    reads, seconds = [], []
    for _ in range(2 * REPEATS):
        reads.append(model.backend.read_bandwidth(0.06))
        seconds.append(model.run(step, 3))
    read, took = quantiles(reads)[2], quantiles(seconds)[0]
    if what == "stream":
        rates = replace(
            rates, read={**rates.read, n: read}, pattern={**rates.pattern, n: model.backend.read_pattern},
            spread=max(rates.spread, _spread(reads)),
        )  # fmt: skip
    rates = replace(rates, observed={**rates.observed, f"{what} {n}": (read, took)})
    return solve(rates, what, n, model.graph, step)


def solve(rates: Rates, what: str, n: int, graph: Graph, step: Step) -> Rates:
    """The value that explains what was observed, by bisection: less share or more cost, more time."""
    read, took = rates.observed[f"{what} {n}"]
    low, high = (1e-8, 1e-4) if what == "phase" else (0.05, 2.0)
    for _ in range(40):
        value = (low * high) ** 0.5
        rates = _with(rates, what, n, value)
        slow = (step_time(graph, step, rates, n, read).seconds or 0.0) > took
        low, high = (value, high) if slow != (what == "phase") else (low, value)
    return rates


def _with(rates: Rates, what: str, n: int, value: float) -> Rates:
    if what == "phase":
        return replace(rates, phase={**rates.phase, n: value})
    if what == "stream":
        return replace(rates, stream={**rates.stream, n: value})
    return replace(rates, gather={**rates.gather, n: value})


def _spread(values: list[float]) -> float:
    """Largest relative distance from the median."""
    middle = median(values)
    return max(abs(v - middle) for v in values) / middle
