"""What a draft model would make of a plan: tokens a time and bytes of each kept token, by the share that is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from memfirst.errors import ConfigError
from memfirst.graph import decode
from memfirst.plan.make import make, speculated
from memfirst.plan.options import Speculation
from memfirst.plan.result import Plan
from memfirst.plan.subject import Subject, subject

SHARES = (0.5, 0.6, 0.7, 0.8, 0.9)
"""Of proposals that are kept, given those before them: what models of one family reach (arXiv:2211.17192, table 3, and
0.7 as what is usual)."""
USUAL = 0.7
MOST = 7
"""Proposals of a step at most: with the certain token a tile of eight rows."""
LEAST_RATIO = 8
"""How many times the draft's bytes a token of the model must read; see `memfirst.runtime.draft`."""
SAME_VOCABULARY = 1024
"""Rows by which vocabularies of one tokenizer are padded apart, at most; whether their tokens are the same is seen when
both are loaded."""


@dataclass(frozen=True)
class Kept:
    """With a share of proposals kept: how many are asked for, and what then a token takes.

    proposals  a step, the number that gives most tokens a time; 0: none are worth it
    nbytes     of both models, for each kept token
    rate       tokens/s; None where no speed is known
    factor     times as many tokens a time as without; by bytes where no speed is known
    """

    share: float
    proposals: int
    nbytes: float
    rate: float | None
    factor: float


@dataclass(frozen=True)
class DraftPlan:
    """A plan with a draft model beside it.

    plan   with the usual share kept: its memory is that of both
    ratio  how many times the draft's bytes the model reads for a token; nbytes: the draft's
    memory  bytes that the draft takes
    """

    plan: Plan
    draft: str
    ratio: float
    nbytes: float
    memory: int
    rows: tuple[Kept, ...]

    def json(self) -> dict[str, Any]:
        """By name; bytes, tokens/s."""
        return {
            "model": self.draft, "ratio": self.ratio, "bytes_per_token": self.nbytes, "memory_bytes": self.memory,
            "exact": True, "kept": [vars(row) for row in self.rows],
        }  # fmt: skip

    def page(self) -> str:
        """A table by the share that is kept."""
        head = (
            f"  draft     {self.draft} reads {self.nbytes / 1e6:,.1f} MB a token, 1/{self.ratio:.1f} of the model, and"
            f" takes {self.memory / 2**30:.2f} GiB. Exact."
        )
        table = [
            ("kept", [f"{100 * row.share:.0f} %" for row in self.rows]),
            ("proposals", [str(row.proposals) for row in self.rows]),
            ("tokens/s", [f"{row.rate:,.3g}" if row.rate else "?" for row in self.rows]),
            ("MB a token", [f"{row.nbytes / 1e6:,.4g}" for row in self.rows]),
            ("times", [f"{row.factor:.2f}" for row in self.rows]),
        ]
        return "\n".join(
            [head, *(f"            {name:<11}" + "".join(f"{c:>9}" for c in cells) for name, cells in table)]
        )


def with_draft(plain: Plan, name: str, find: Callable[[str], Subject] | None = None) -> DraftPlan:
    """The plan with a draft model of that name; ConfigError where it has another vocabulary, or cannot pay.

    find  gives the model of a name; default a path, or a row of the catalogue
    """
    small = find(name) if find else subject(name, engine=plain.options.engine)
    ours, its = plain.subject.graph, small.graph
    if abs(ours.vocab_size - its.vocab_size) > SAME_VOCABULARY:
        raise ConfigError(
            f"{name} has a vocabulary of {its.vocab_size:,} tokens",
            f"the model's {ours.vocab_size:,}",
            "draft with a smaller model of the same family",
            "give --draft a smaller model of the same family",
        )
    if ours.states or its.states:
        raise ConfigError(
            f"{plain.subject.name if ours.states else name} is recurrent", "models whose cache can be cut"
        )
    step = decode(plain.context - 1, plain.options.batch)
    nbytes = sum(amount.mean for amount in small.priced(plain.options.kv).amounts(step).values())
    ratio = plain.step_bytes / nbytes
    if ratio < LEAST_RATIO:
        raise ConfigError(
            f"{name} reads 1/{ratio:.1f} of the model's bytes a token",
            f"1/{LEAST_RATIO} or less: with {100 * USUAL:.0f} % of its proposals kept it would not pay",
            "draft with a smaller model",
            "give --draft a smaller model",
        )
    rows = tuple(_kept(plain, name, share) for share in SHARES)
    usual = rows[SHARES.index(USUAL)]
    by = Speculation(max(1, usual.proposals), USUAL, name)
    made = make(plain.subject, plain.place, replace(plain.options, speculation=by))
    memory = made.memory.needs.total - plain.memory.needs.total
    return DraftPlan(made, name, ratio, nbytes, memory, rows)


def _kept(plain: Plan, name: str, share: float) -> Kept:
    """The best number of proposals for a share."""
    best = Kept(share, 0, plain.step_bytes / plain.options.batch, plain.rate, 1.0)
    for k in range(1, MOST + 1):
        by = Speculation(k, share, name)
        found = speculated(plain, by)
        each = found.nbytes / (plain.options.batch * by.gained)
        rate = found.tokens_per_second
        factor = rate / plain.rate if rate and plain.rate else plain.step_bytes / plain.options.batch / each
        if factor > best.factor:
            best = Kept(share, k, each, rate, factor)
    return best
