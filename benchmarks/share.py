"""Python's share of a decoded token: all that happens outside the compiled walk, detokenizing included.

    python -m benchmarks.share SmolLM2-135M-Instruct.Q4_1.gguf --threads 2

The bar: at most 6 % with the default sampler, for the model's own vocabulary and for one of 128,256 tokens (a
synthetic model of SmolLM2's shape). A walk is timed around the call that enters it, so entering it (1 us) is its own.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any

import memfirst
from benchmarks import rounds
from benchmarks.process import BenchmarkError
from benchmarks.rounds import Goal, Note, Numbers
from memfirst import SamplingParams
from memfirst.backends.cpu.backend import CpuBackend
from memfirst.convert.synthetic import synthetic
from memfirst.convert.synthetic_shapes import SyntheticShape

LIMIT = 0.06
TOKENS = 256
"""Of one round: 1 to 2 s."""
PROMPT = "The harbour wakes before the town does."
WIDE = SyntheticShape("llama", 576, 30, 9, 3, 1536, 128_256, rope_theta=100000.0)
"""SmolLM2-135M with Llama 3's vocabulary size."""


class Clock:
    """Seconds spent inside methods that were wrapped, by name; a context manager, because it unwraps them."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self._undo: list[tuple[Any, str, Any]] = []

    def around(self, owner: Any, method: str, name: str) -> None:
        """Time `owner.method` from now on as `name`."""
        inner = getattr(owner, method)
        self._undo.append((owner, method, inner))
        self.spent.setdefault(name, 0.0)

        def timed(*args: Any) -> Any:
            start = time.perf_counter()
            try:
                return inner(*args)
            finally:
                self.spent[name] += time.perf_counter() - start

        setattr(owner, method, timed)

    def __enter__(self) -> Clock:
        return self

    def __exit__(self, *exc: object) -> None:
        for owner, method, inner in reversed(self._undo):
            setattr(owner, method, inner)


class Answers:
    """Answers of a model to one prompt; its end tokens are ignored, so that each is as long."""

    def __init__(self, model: memfirst.Model, tokens: int) -> None:
        if not isinstance(model.backend, CpuBackend):
            raise BenchmarkError("another backend", "cpu")
        self.model, self.backend, self.tokens, self.seed = model, model.backend, tokens, 0
        self.round()  # first touches

    def round(self) -> Numbers:
        """Microseconds a token: all of it, the walk, the parts of the rest; and the rest's share."""
        self.seed += 1
        answer = self.model.generate(PROMPT, params=SamplingParams(seed=self.seed), max_tokens=self.tokens)
        answer.request.stop_ids = frozenset()
        tokens = iter(answer)
        next(tokens)  # the prompt's step
        with Clock() as clock:
            clock.around(self.backend.pool, "_walk", "walk")
            clock.around(self.backend._arrays, "fill", "describe_step")
            clock.around(answer.request.sampler, "sample", "sample")
            clock.around(answer.request.sampler, "accept", "accept")
            clock.around(answer.request.decoder, "push", "detokenize")
            clock.around(self.backend._counts, "copy", "count_bytes")
            start = time.perf_counter()
            made = sum(1 for _ in tokens)
            total = time.perf_counter() - start
        return figures(total, clock.spent, made)


def figures(total: float, spent: dict[str, float], tokens: int) -> Numbers:
    """Seconds of `tokens` tokens as microseconds a token; `loop` is what no part accounts for."""
    parts = {f"{name}_us": 1e6 * seconds / tokens for name, seconds in spent.items()}
    loop = 1e6 * (total - sum(spent.values())) / tokens
    return {"token_us": 1e6 * total / tokens, **parts, "loop_us": loop, "share": 1 - spent["walk"] / total}


def measure(model: memfirst.Model, name: str, tokens: int, goal: Goal, note: Note) -> dict[str, Any]:
    """The medians and whether they meet the bar."""
    with model:
        kept = rounds.clean_rounds(Answers(model, tokens).round, goal, note)
        vocab = model.graph.vocab_size
    found, bound = kept.median("share"), kept.record()
    rest = [key for key in kept.rounds[0] if key.endswith("_us") and key not in ("token_us", "walk_us")]
    parts = ", ".join(f"{key.removesuffix('_us')} {bound[key]:.1f}" for key in rest)
    verdict = (
        f"{name}, {vocab} tokens: Python takes {100 * found:.1f} % of {bound['token_us']:.0f} us a token"
        f" (at most {100 * LIMIT:.0f} %): {parts}"
    )
    threads = model.backend.options.threads  # type: ignore[attr-defined]  # Answers saw a CpuBackend
    named = {"what": "Python's share", "model": name, "vocabulary": vocab, "threads": threads}
    return {**named, **bound, "limit": LIMIT, "ok": found <= LIMIT, "verdict": verdict}


def main(arguments: list[str] | None = None) -> int:
    """Print the figures as JSON; exit code 1 where the bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.share", description=__doc__)
    parser.add_argument("model", help="a file or a name")
    rounds.add_options(parser)
    parser.add_argument("--tokens", type=int, default=TOKENS, help="of each answer")
    chosen = parser.parse_args(arguments)
    goal, context = rounds.goal_of(chosen), chosen.tokens + 64

    def both() -> Iterator[dict[str, Any]]:
        sources = {chosen.model.rsplit("/", 1)[-1]: chosen.model, "synthetic": synthetic(WIDE, "q4_1")}
        for name, source in sources.items():
            model = memfirst.load(source, threads=chosen.threads, ctx=context)
            yield measure(model, name, chosen.tokens, goal, rounds.to_stderr)

    return rounds.report(both)


if __name__ == "__main__":
    raise SystemExit(main())
