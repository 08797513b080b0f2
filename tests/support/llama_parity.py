"""Small models of every architecture, as one GGUF file for memfirst and for llama.cpp: are their answers the same?

    python -m tests.support.llama_parity --llama-python PATH [--mixes f32,q8_0,q4_k_m] [MODEL ...]

For each model and codec mix: 1,024 tokens of four contexts by memfirst's kernels, by llama.cpp and by the reference
(float32 on dequantized weights), then 64 tokens, each the likeliest. Both engines round activations, so that the
likeliest token may differ where two are near: a model passes with the same likeliest token at 97 % of positions, or
where its KL divergence from float32 is no larger than llama.cpp's (within two standard errors of the difference).

Random weights decide less than trained ones: logits lie closer together.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import memfirst
from benchmarks.quality import LlamaLogits, agreement, kl, llama_logits
from memfirst.convert.synthetic import write
from memfirst.errors import MemfirstError
from tests.support.tiny_files import FILES, VOCABULARY, tiny_file

CONTEXTS, LENGTH = 4, 256
PROMPT, GENERATED = 16, 64
TOP1 = 0.97
"""Share of positions with the same likeliest token."""


@dataclass(frozen=True)
class Row:
    """What was found of one model: mean KL divergences from float32 in nats, and the same likeliest tokens."""

    name: str
    mix: str
    top1: float
    ours: float
    theirs: float
    error: float
    """The standard error of their difference."""
    greedy: int
    """Tokens before the first that differs."""

    @property
    def passes(self) -> bool:
        """Whether memfirst is as near as llama.cpp is."""
        return self.top1 >= TOP1 or self.ours <= self.theirs + 2 * self.error

    def page(self) -> str:
        """One line."""
        greedy = "same text" if self.greedy == GENERATED else f"text differs at token {self.greedy}"
        verdict = "ok" if self.passes else "DIFFERS"
        kls = f"KL {self.ours:.1e}, llama.cpp {self.theirs:.1e}"
        return f"{self.name:22} {self.mix:8} likeliest alike {self.top1:6.1%}  {kls}  {greedy:27} {verdict}"


def compare(name: str, mix: str, path: Path, llama: LlamaLogits) -> Row:
    """One model's row."""
    tokens = np.random.default_rng(7).integers(0, VOCABULARY, (CONTEXTS, LENGTH)).tolist()
    with (
        memfirst.load(path, backend="cpu", threads=1, ctx=LENGTH) as ours,
        memfirst.load(path, backend="reference", ctx=LENGTH) as exact,
    ):
        expected, found, theirs = ([e.logits(t) for t in tokens] for e in (exact, ours, llama))
        prompt = tokens[0][:PROMPT]
        answer = ours.generate(prompt, temperature=0.0, max_tokens=GENERATED, repetition_penalty=1.0)
        said = [token.id for token in answer]
    a, b, c = (np.concatenate(rows) for rows in (expected, found, theirs))
    mine, other = kl(a, b), kl(a, c)
    error = float((mine - other).std(ddof=1) / np.sqrt(len(mine)))
    same = _same(said, llama.greedy(prompt, GENERATED))
    return Row(name, mix, agreement(b, c), float(mine.mean()), float(other.mean()), error, same)


def _same(ours: list[int], theirs: list[int]) -> int:
    """Tokens before the first that differs; an answer that its end token ended is compared as far as it goes."""
    found = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), len(ours))
    return GENERATED if found == len(ours) else found


def main() -> int:
    """Rows as they are found; 1 where one does not pass."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.llama_parity")
    parser.add_argument("models", nargs="*", default=[])
    parser.add_argument("--mixes", default="f32,q8_0,q4_k_m")
    parser.add_argument("--llama-python", required=True, help="Python that has llama-cpp-python")
    chosen = parser.parse_args()
    failed = 0
    for mix in chosen.mixes.split(","):
        for name in chosen.models or FILES:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "model.gguf"
                write(tiny_file(name, mix), path)
                try:
                    with llama_logits(chosen.llama_python, str(path), 1) as llama:
                        row = compare(name, mix, path, llama)
                except (MemfirstError, OSError) as error:
                    print(f"{name:22} {mix:8} {error}", flush=True)
                    failed += 1
                    continue
            print(row.page(), flush=True)
            failed += not row.passes
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
