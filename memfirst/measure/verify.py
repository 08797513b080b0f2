"""The best advice that can be run here, run: predicted against measured.

Weights that are not on this disk are made up, in the shape and the codecs of the model: they cost the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memfirst.convert.mixes import MIXES
from memfirst.convert.synthetic import synthetic
from memfirst.convert.synthetic_shapes import ARCHITECTURES, SyntheticShape
from memfirst.errors import UnsupportedError
from memfirst.formats.checkpoint import Checkpoint
from memfirst.graph import Graph, Step
from memfirst.graph import decode as decode_step
from memfirst.graph.ops.attention import Attention
from memfirst.plan import Place, Plan, make
from memfirst.plan.advice import advise
from memfirst.predict import measured as rates
from memfirst.progress import Progress

if TYPE_CHECKING:
    from memfirst.measure.bench import HeadRead

PROMPT, GENERATED = 256, 32
"""Tokens that are run: the context is predicted for the same."""


@dataclass(frozen=True)
class Verified:
    """A run beside its prediction, both for the bandwidth that memory delivered in the same run.

    change  that was made to the plan, "" where none could be run here; synthetic: the weights are random
    explained  which part of the step's time differs, "" where that is not known
    """

    change: str
    model: str
    codec: str
    threads: int
    synthetic: bool
    prompt: int
    generated: int
    bandwidth: float
    predicted_tok_s: float
    measured_tok_s: float
    predicted_prompt_s: float
    measured_prompt_s: float
    explained: str = ""

    @property
    def miss(self) -> float:
        """Measured speed over predicted, less 1."""
        return self.measured_tok_s / self.predicted_tok_s - 1

    def json(self) -> dict[str, Any]:
        """Everything by name."""
        return vars(self) | {"miss": self.miss}

    def page(self) -> str:
        """Three lines for people."""
        what = self.change or "the plan as it is: no change can be run here"
        weights = ", with random weights of its shape" if self.synthetic else ""
        prompt = self.measured_prompt_s / self.predicted_prompt_s - 1
        why = [f"  why     {self.explained}"] if self.explained else []
        return "\n".join([
            f"verified  {what}",
            f"  {self.model} in {self.codec.upper()} on {self.threads} threads{weights}; memory read"
            f" {self.bandwidth / 1e9:.1f} GB/s meanwhile",
            f"  decode  predicted {self.predicted_tok_s:.1f} tok/s, measured {self.measured_tok_s:.1f}"
            f" ({100 * self.miss:+.0f} %)",
            f"  prompt  {self.prompt} tokens predicted in {self.predicted_prompt_s:.3f} s, measured"
            f" {self.measured_prompt_s:.3f} ({100 * prompt:+.0f} %)",
            *why,
        ])  # fmt: skip


def verify(plan: Plan, here: Place, progress: Progress) -> Verified:
    """Run the first of the plan's changes that this machine can run, else the plan itself.

    Raises UnsupportedError where neither can be.
    """
    options = replace(plan.options, engine="memfirst", devices=1, batch=1, kv="f16", speculation=None)
    base = make(plan.subject, here, options)
    for change, candidate in _candidates(base):
        source = _source(candidate)
        if source is not None and candidate.decode and candidate.decode.tokens_per_second:
            return _run(change, candidate, source, here, progress)
    raise UnsupportedError(
        f"{plan.subject.name} cannot be run here", f"one that fits, of {', '.join(ARCHITECTURES)} or in the cache"
    )


def _candidates(base: Plan) -> Iterator[tuple[str, Plan]]:
    """Changes by rank, then none."""
    found = ((a.change, a.after) for a in advise(base) if a.after)
    yield from ((change, after) for change, after in found if after.place.rates and after.options.batch == 1)
    yield "", base


def _source(plan: Plan) -> Path | Checkpoint | None:
    """What can be run: the files, or random weights; None where there is neither."""
    subject = plan.subject
    if subject.path and subject.graph is subject.origin and Path(subject.path).suffix != ".json":
        return Path(subject.path)
    if subject.graph.architecture in ARCHITECTURES and subject.codec in MIXES:
        return synthetic(shape_of(subject.graph), subject.codec)
    return None


def shape_of(graph: Graph) -> SyntheticShape:
    """The sizes of a decoder, as a synthetic model has them."""
    attention = next(graph.of(Attention))
    weights = graph.weights()
    layers = sum(isinstance(op, Attention) for op in graph.ops)
    return SyntheticShape(
        graph.architecture, graph.hidden_size, layers, attention.heads, attention.cache.heads,
        weights["blk.0.ffn_gate.weight"].rows, graph.vocab_size, "output.weight" not in weights,
        attention.cache.k_dim, max_position_embeddings=graph.context,
    )  # fmt: skip


def _run(change: str, plan: Plan, source: Path | Checkpoint, here: Place, progress: Progress) -> Verified:
    from memfirst.measure.bench import bench

    stored = here.rates
    if stored is None:
        raise UnsupportedError("nothing to predict from", "a measured machine", "run memfirst machine")
    prompt = max(1, min(PROMPT, plan.context - GENERATED))
    threads = plan.options.threads or None
    how, head = plan.options, plan.options.head
    found = bench(source, threads=threads, prompt=prompt, generate=GENERATED, head=head, progress=progress)
    graph, bandwidth = here.priced(plan.subject, replace(how, kv="f16")).graph, found.read_bandwidth
    token = 0.0
    for step, share in _steps(decode_step(prompt + GENERATED // 2), found.head):
        token += share * (rates.step_time(graph, step, stored, found.threads, bandwidth).seconds or 0.0)
    first = rates.prefill(graph, prompt, stored, found.threads, bandwidth)
    return Verified(
        change, plan.subject.name, plan.subject.codec, found.threads, not isinstance(source, Path), prompt, GENERATED,
        bandwidth, 1 / token if token else 0.0, found.decode_tok_s, first.seconds or 0.0,
        prompt / found.prefill_tok_s, found.comparison.sentence() if found.comparison else "",
    )  # fmt: skip


def _steps(step: Step, head: HeadRead | None) -> Iterator[tuple[Step, float]]:
    """Kinds of the steps that were run, each with its share: by a sketch of the head, with the rows that it left."""
    by_sketch = head.sketched / head.steps if head else 0.0
    if head and head.sketched:
        yield replace(step, likeliest=True, listed=round(head.listed / head.sketched)), by_sketch
    if by_sketch < 1:
        yield step, 1 - by_sketch
