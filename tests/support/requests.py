"""Requests for the engine over toy models, without a tokenizer of words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from memfirst.backends.base import Backend
from memfirst.runtime.engine import Engine
from memfirst.runtime.request import Request
from memfirst.runtime.sampling import Sampler, SamplingParams


class Pieces:
    """A tokenizer whose tokens are their numbers; what the engine asks of one."""

    def __init__(self, stop_ids: Sequence[int] = ()) -> None:
        self.stop_ids = frozenset(stop_ids)

    def piece(self, id: int, special: bool = False) -> bytes:
        """The number and a blank."""
        return b"%d " % id


def request(
    engine: Engine, prompt: Sequence[int], tokens: int | None = 20, seed: int = 0, stop_ids: Sequence[int] = ()
) -> Request:
    """One that samples among all tokens, so that a wrong bit shows soon."""
    params = SamplingParams(temperature=2.0, top_k=0, top_p=1, min_p=0, repetition_penalty=1.1, seed=seed)
    vocab, top = engine.backend.graph.vocab_size, engine.backend.top
    tokenizer: object = Pieces(stop_ids)
    return Request(list(prompt), lambda: Sampler(params, vocab, top=top()), tokenizer, tokens, (), engine.context)  # type: ignore[arg-type]


def prompts(count: int, length: tuple[int, int] = (1, 90), seed: int = 1, vocab: int = 250) -> list[list[int]]:
    """Prompts of random lengths; every other one begins like the first."""
    random = np.random.default_rng(seed)
    made = [random.integers(0, vocab, int(random.integers(*length))).tolist() for _ in range(count)]
    return [[*made[0], *p][: length[1]] if i % 2 else p for i, p in enumerate(made)]


def drain(engine: Engine, asked: Request) -> list[int]:
    """All tokens of a request that was submitted."""
    found = []
    while (token := engine.next(asked)) is not None:
        found.append(token.id)
    return found


def answer(engine: Engine, prompt: Sequence[int], tokens: int | None = 20, seed: int = 0) -> list[int]:
    """One request from beginning to end."""
    asked = request(engine, prompt, tokens, seed)
    engine.submit(asked)
    return drain(engine, asked)


def alone(backend: Backend, context: int, asked: Sequence[Sequence[int]], tokens: int = 20) -> list[list[int]]:
    """What each gives by itself, with an empty cache; the seed is its place."""
    out = []
    for seed, prompt in enumerate(asked):
        engine = Engine(backend, context)
        out.append(answer(engine, prompt, tokens, seed))
    return out
