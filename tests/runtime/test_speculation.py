"""Answers with drafted tokens: those without, to the bit, whatever is drafted, sampled, cut off or interrupted."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from memfirst.backends.base import Backend
from memfirst.backends.cpu.backend import CpuBackend, CpuOptions
from memfirst.errors import ConfigError
from memfirst.graph.traffic import ACTIVATIONS
from memfirst.ledger import Ledger
from memfirst.runtime.accounts import Accounts
from memfirst.runtime.engine import Engine
from memfirst.runtime.request import CONTEXT, EOS, LENGTH, STOP, Request
from memfirst.runtime.sampling import GREEDY, Sampler, SamplingParams
from memfirst.runtime.speculation import MOST_ROWS, check_speculate
from memfirst.speculate.account import Costs, alike
from memfirst.transform.recode import with_kv
from tests.lower.graphs import window
from tests.runtime.test_engine import Counting, Ctrl, nothing_held, recurrent
from tests.support.requests import Pieces, drain
from tests.support.tiny_models import tiny

POSITIONS, VOCAB, TOKENS = 256, 250, 60

PARAMS = {
    "greedy": GREEDY,
    "drawn": SamplingParams(temperature=2.0, top_k=0, top_p=0.95, min_p=0, seed=1),
    "penalized": SamplingParams(repetition_penalty=1.1, frequency_penalty=0.5, presence_penalty=0.2, seed=2),
}


KINDS = ("plain", "windowed", "chunked", "q8_0")


@cache
def backend(kind: str = "plain", threads: int = 1) -> CpuBackend:
    """A toy llama whose programs for few tokens are there; its first layer attends 40 positions, or chunks of 40, or
    its cache is quantized."""
    graph, checkpoint = tiny("llama", "q4_0")
    made = {
        "plain": graph, "windowed": window(40, "blk.0.")(graph), "chunked": window(40, "blk.0.", chunked=True)(graph),
        "q8_0": with_kv(graph, "q8_0", "q8_0"),
    }[kind]  # fmt: skip
    found = CpuBackend(made, checkpoint, CpuOptions(threads, POSITIONS, 4, 2, drafts=True))
    found.finish_compiling()
    return found


@pytest.fixture(scope="module", autouse=True)
def ended() -> Iterator[None]:
    yield
    for made in ((kind, threads) for kind in KINDS for threads in (1, 2)):
        backend(*made).close()
    backend.cache_clear()


class Cheap(Costs):
    """A toy's times say nothing; here a row more costs a twentieth of a step, so that much is drafted."""

    def __init__(self) -> None:
        super().__init__(0.05)

    def learn(self, rows: int, drafted: int, seconds: float) -> None:
        """Nothing."""


def drafting(backend: Backend) -> Engine:
    """An engine that drafts whenever it may."""
    engine = Engine(backend, POSITIONS)
    engine.speculation.costs = Cheap()
    return engine


def texts(count: int = 12, seed: int = 5) -> list[list[int]]:
    """Prompts of phrases that come again."""
    rng = random.Random(seed)
    phrases = [[rng.randrange(VOCAB) for _ in range(rng.randrange(2, 9))] for _ in range(6)]
    return [[id for _ in range(rng.randrange(2, 12)) for id in rng.choice(phrases)] for _ in range(count)]


def asked(
    engine: Engine, prompt: Sequence[int], params: SamplingParams = GREEDY, tokens: int | None = TOKENS, **more: Any
) -> Request:
    vocab, top, stop = engine.backend.graph.vocab_size, engine.backend.top, more.pop("stop", ())
    tokenizer: Any = Pieces(more.pop("stop_ids", ()))
    made = Request(prompt, lambda: Sampler(params, vocab, top=top()), tokenizer, tokens, stop, engine.context, **more)
    engine.submit(made)
    return made


def spoiled(ids: Sequence[int], share: float, seed: int = 0) -> list[int]:
    """The same with some tokens changed: drafts that are right for a while."""
    rng = random.Random(seed)
    return [rng.randrange(VOCAB) if rng.random() < share else id for id in ids]


def streamed(ledger: Ledger) -> Counter[str]:
    return Counter({p: int(amount) for p, amount in ledger.by_purpose().items() if p != ACTIVATIONS and int(amount)})


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PARAMS)
def test_answers_are_those_without_drafts(name: str, kind: str, threads: int) -> None:
    """Twelve prompts; the bytes of each step are those that were predicted, and what is not kept leaves no trace: the
    next prompt goes on from the answer."""
    engine, seen = drafting(backend(kind, threads)), Counter[str]()
    for i, prompt in enumerate(texts()):
        plain = drain(engine, asked(engine, prompt, PARAMS[name]))
        engine.clear_cache()
        hint = spoiled(plain, 0.25, i)
        fast = asked(engine, prompt, PARAMS[name], speculate=True, prediction=hint)
        found = []
        while (token := engine.next(fast)) is not None:
            found.append(token.id)
            assert streamed(token.predicted) == streamed(token.recorded)
        assert found == plain
        timing = fast.timing
        assert timing.decoded == len(plain) - 1 and timing.tokens == len(plain)
        seen += Counter(drafted=timing.drafted, kept=timing.kept, steps=timing.decode_steps)
        longer = [*prompt, *plain, 7]
        again = drain(engine, asked(engine, longer, PARAMS[name], 5))
        engine.clear_cache()
        assert again == drain(engine, asked(engine, longer, PARAMS[name], 5))
    assert seen["drafted"] > seen["kept"] > 100 and seen["steps"] < 0.8 * 12 * TOKENS
    assert nothing_held(engine)


def test_an_answer_ends_within_accepted_tokens_as_without_them() -> None:
    """By its number of tokens, an end token, a stop string, a full context; never before `least` tokens."""
    engine, prompt = drafting(backend()), texts()[1]
    whole = drain(engine, asked(engine, prompt, tokens=None))
    assert len(prompt) + len(whole) == POSITIONS + 1
    common: dict[str, Any] = {"speculate": True, "prediction": whole}
    first = asked(engine, prompt, tokens=None, **common)
    assert drain(engine, first) == whole and first.stop_reason == CONTEXT
    assert first.timing.kept > 100
    for n in range(1, 30):
        one = asked(engine, prompt, tokens=n, **common)
        assert drain(engine, one) == whole[:n] and one.stop_reason == LENGTH
        assert one.cached <= len(prompt) + n
    distinct = sorted(set(whole), key=whole.index)
    for id in distinct[:8]:
        at = whole.index(id)
        one = asked(engine, prompt, tokens=None, stop_ids=[id], **common)
        assert drain(engine, one) == whole[:at] and one.stop_reason == EOS
        one = asked(engine, prompt, stop=[f" {id} "], **common)
        alone = asked(engine, prompt, stop=[f" {id} "])
        assert drain(engine, one) == drain(engine, alone) and one.stop_reason == alone.stop_reason
    assert alone.stop_reason in (STOP, LENGTH)
    late = [asked(engine, prompt, stop_ids=distinct[:3], least=20, **more) for more in ({}, common)]
    assert drain(engine, late[1]) == drain(engine, late[0])
    assert late[0].generated >= 20


def test_log_probabilities_and_biases_are_those_without_drafts() -> None:
    engine, prompt = drafting(backend()), texts()[2]
    params = replace(PARAMS["drawn"], logit_bias={3: 2.0, 9: float("-inf")})
    plain, fast = ([], [])  # type: ignore[var-annotated]
    hint = drain(engine, asked(engine, prompt, params))
    for out, more in ((plain, {}), (fast, {"speculate": True, "prediction": hint})):
        one = asked(engine, prompt, params, logprobs=3, **more)
        while (token := engine.next(one)) is not None:
            out.append((token.id, token.text, token.logprob, token.top_logprobs))
    assert plain == fast
    assert one.timing.kept > 20


def test_a_misleading_text_costs_half_a_step_and_a_hundredth() -> None:
    """Counted in rows at their price: of 60 tokens not even one step's time is lost."""
    engine = drafting(backend())
    rng = random.Random(3)
    for _ in range(5):
        prompt = [rng.randrange(4) for _ in range(100)]
        one = asked(engine, prompt, PARAMS["drawn"], speculate=True)
        drain(engine, one)
        account = one.drafter.account if one.drafter else None
        assert account is not None and account.won >= -(0.5 + 0.01 * account.plain)


def test_several_answers_share_the_rows_of_a_tile() -> None:
    """Each is what it is alone; a step has eight rows at most, and prompts get no company."""
    counting = Counting(backend())
    engine, prompts = drafting(counting), texts(4, seed=8)
    engine.accounts = Accounts(counting)
    alone = [drain(engine, asked(engine, prompt, PARAMS["drawn"])) for prompt in prompts]
    engine.clear_cache()
    engine.accounts = Accounts(counting)
    counting.seen.clear()
    requests = [
        asked(engine, prompt, PARAMS["drawn"], speculate=True, prediction=spoiled(answer, 0.1))
        for prompt, answer in zip(prompts, alone, strict=True)
    ]
    found: list[list[int]] = [[] for _ in prompts]
    while not all(one.done and not one.events for one in requests):
        for out, one in zip(found, requests, strict=True):
            if (token := engine.next(one)) is not None:
                out.append(token.id)
    assert found == alone
    drafted = [step for step in counting.seen if any(len(s.logit_rows) > 1 for s in step.sequences)]
    assert len(drafted) > 5 and all(step.tokens <= MOST_ROWS for step in drafted)
    assert any(len(step.sequences) > 1 for step in drafted)
    assert sum(one.timing.kept for one in requests) > 50
    accounts, tokens = engine.accounts, sum(len(prompt) + len(a) - 1 for prompt, a in zip(prompts, alone, strict=True))
    assert accounts.tokens == tokens and accounts.prompt_tokens == sum(len(p) for p in prompts)
    total = Counter[str]()
    for one in requests:
        total.update(one.bytes)
    assert total == accounts.bytes


def test_recurrent_models_and_inexact_backends_draft_nothing() -> None:
    engine = Engine(recurrent(), POSITIONS)
    one = asked(engine, [1, 2, 3] * 8, tokens=10, speculate=True)
    plain = asked(engine, [1, 2, 3] * 8, tokens=10)
    assert drain(engine, one) == drain(engine, plain)
    assert not engine.speculation.possible and not one.timing.drafted and one.drafter is None


def test_an_interrupted_step_leaves_the_sequence_as_before() -> None:
    counting = Counting(backend())
    engine, prompt = drafting(counting), texts()[3]
    expected = drain(engine, asked(engine, prompt, PARAMS["drawn"]))
    rng, interrupted = random.Random(2), 0

    def fail(step: Any) -> BaseException | None:
        return KeyboardInterrupt() if step.logits > 1 and rng.random() < 0.4 else None

    counting.fail = fail
    one = asked(engine, prompt, PARAMS["drawn"], speculate=True, prediction=expected)
    found: list[int] = []
    while not (one.done and not one.events):
        before = list(one.sequence.ids) if one.sequence else None
        try:
            if (token := engine.next(one)) is not None:
                found.append(token.id)
        except KeyboardInterrupt:
            interrupted += 1
            assert one.sequence is not None and one.sequence.ids == before
    assert found == expected and interrupted > 2
    assert nothing_held(engine)


@pytest.mark.parametrize(("tokens", "coarser"), [(12, 25), (2, 1 << 20)])
def test_interrupted_at_any_line_the_answer_is_the_same(tokens: int, coarser: int) -> None:
    """Within drafting, sampling and learning, too; of two tokens at every line, that at which the answer ends too."""
    engine, prompt = drafting(backend()), texts()[3]
    expected = drain(engine, asked(engine, prompt, tokens=tokens))
    at = 0
    while True:
        engine = drafting(backend())
        one, found = asked(engine, prompt, tokens=tokens, speculate=True, prediction=expected), []
        with Ctrl(at) as ctrl, suppress(KeyboardInterrupt):
            while (token := engine.next(one)) is not None:
                found.append(token.id)
        had = len(found)
        found += drain(engine, one)
        assert found in (expected, expected[:had] + expected[had + 1 :]), at  # one may be gone with who took it
        assert nothing_held(engine), at
        if not ctrl.hit:
            break
        at += 1 + at // coarser
    assert at > 200 and (one.timing.kept or tokens < 3)


def test_what_is_no_choice_is_refused() -> None:
    assert check_speculate("auto") == "auto"
    with pytest.raises(ConfigError, match="speculate is 'on'"):
        check_speculate("on")
    assert [alike([1, 2, 3], b) for b in ([], [1], [1, 2, 4], [1, 2, 3, 4], [5])] == [0, 1, 2, 3, 0]
