"""What the clients of a load ask: how long prompts and answers are, what prompts have in common, when they come."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from random import Random

from memfirst.errors import ConfigError
from memfirst.measure.probe.prompt import ASK, WORDS

SHAREGPT = (161.0, 338.0)
"""Mean tokens of ShareGPT's prompts and answers (Kwon et al. 2023, arXiv:2309.06180, figure 11)."""

SIGMA = 1.0
"""Standard deviation of a length's logarithm: assumed, half of the lengths are within a factor of two of the median."""

FIXED, SHAREGPT_LIKE = "fixed", "sharegpt"
LENGTHS = (FIXED, SHAREGPT_LIKE)

LEAST = 4
"""Tokens of a prompt or an answer at least."""


@dataclass(frozen=True)
class Wanted:
    """One request: tokens of its prompt, those that it shares with the others among them, and of its answer."""

    prompt: int
    shared: int
    answer: int


@dataclass(frozen=True)
class Workload:
    """What is asked of a server.

    prompt, answer  tokens, prefix included; of drawn lengths these are not used
    prefix   tokens that all prompts of a level begin with
    lengths  one of LENGTHS; drawn ones are log-normal with the means of SHAREGPT
    seed     the same seed draws the same lengths, words and arrivals
    """

    prompt: int = 256
    answer: int = 128
    prefix: int = 0
    lengths: str = FIXED
    seed: int = 0

    def __post_init__(self) -> None:
        if self.lengths not in LENGTHS:
            raise ConfigError(f"lengths {self.lengths[:40]!r}", " or ".join(LENGTHS), command="see --lengths")
        if self.lengths == FIXED and self.prefix >= self.prompt:
            found = f"a prefix of {self.prefix} tokens in prompts of {self.prompt}"
            raise ConfigError(found, "a shorter prefix", "lower the prefix or lengthen the prompts",
                              "lower --prefix or raise --prompt")  # fmt: skip

    def requests(self, count: int, level: int, context: int | None) -> list[Wanted]:
        """So many, none longer than `context` positions."""
        if self.lengths == FIXED:
            return [Wanted(self.prompt, self.prefix, self.answer)] * count
        rng, most = Random(f"lengths {self.seed} {level}"), (context or 1 << 20) - 8
        return [_drawn(rng, self.prefix, most) for _ in range(count)]

    def text(self, level: int, number: int, prefix: int, own: int, chat: bool) -> str:
        """A prompt of `prefix` words that all of its level have, and `own` words of its own."""
        shared = Random(f"prefix {self.seed} {level}").choices(WORDS.split(), k=prefix)
        words = Random(f"words {self.seed} {level} {number}").choices(WORDS.split(), k=own)
        text = " ".join([*shared, *words])
        return f"{text}.{ASK}" if chat else text

    def said(self) -> str:
        """In words."""
        if self.lengths == FIXED:
            shared = f", the first {self.prefix} shared" if self.prefix else ""
            return f"prompts of {self.prompt} tokens{shared}, answers of {self.answer}"
        shared = f" after {self.prefix} shared ones" if self.prefix else ""
        return (
            f"prompts{shared} and answers of log-normal lengths, means {SHAREGPT[0]:.0f} and {SHAREGPT[1]:.0f} tokens "
            f"as of ShareGPT, sigma {SIGMA:g}"
        )


def _drawn(rng: Random, prefix: int, most: int) -> Wanted:
    """Lengths within `most` positions; a log-normal of mean m has its median at m · e^(-σ²/2)."""
    prompt, answer = (max(LEAST, round(rng.lognormvariate(log(mean) - SIGMA**2 / 2, SIGMA))) for mean in SHAREGPT)
    prompt = min(prefix + prompt, max(LEAST, most * 3 // 4))
    return Wanted(prompt, min(prefix, prompt - 1), min(answer, max(LEAST, most - prompt)))
