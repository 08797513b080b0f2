"""Answers with a draft model: those without, to the bit; its bytes are counted, and it loses no more than it may."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest

import memfirst
from memfirst.backends.cpu.backend import CpuBackend, CpuOptions
from memfirst.errors import ConfigError, UnsupportedError
from memfirst.graph.traffic import DRAFT
from memfirst.models import build
from memfirst.runtime.accounts import Accounts
from memfirst.runtime.draft import AGAIN, SLOTS, DraftModel, Opened, check_vocabulary
from memfirst.runtime.engine import Engine
from memfirst.runtime.request import CONTEXT, EOS, LENGTH, Request
from memfirst.runtime.sampling import GREEDY
from memfirst.speculate.account import LOSS, MODEL, MODEL_GRANT, Account, Costs, Offer, sizes, worth
from tests.cli.test_run import MEMFIRST, command, run
from tests.runtime.test_engine import Counting, nothing_held, recurrent
from tests.runtime.test_speculation import PARAMS, POSITIONS, TOKENS, VOCAB, asked, drafting, streamed, texts
from tests.support.requests import drain
from tests.support.serving import Served
from tests.support.tiny_models import SMALL, Uniform
from tests.support.tiny_served import tiny_model

CHEAP = 0.05
"""What a proposal takes of a step: a toy's times say nothing."""


@cache
def target(threads: int = 1) -> CpuBackend:
    """What is drafted for."""
    made = Uniform(SMALL, "q4_0")
    found = CpuBackend(build(made), made, CpuOptions(threads, POSITIONS, 6, 3, drafts=True))
    found.finish_compiling()
    return found


@cache
def small(kind: str, threads: int = 1, context: int = POSITIONS) -> CpuBackend:
    """A draft: of the same weights, it is always right; of others, hardly ever."""
    made = Uniform(SMALL, "q4_0", 0 if kind == "same" else 7)
    options = CpuOptions(threads, context, SLOTS, drafts=True)
    found = CpuBackend(build(made), made, options, pool=target(threads).pool)
    found.finish_compiling()
    return found


@pytest.fixture(scope="module", autouse=True)
def ended() -> Iterator[None]:
    yield
    for threads in (1, 2):
        target(threads).close()
    target.cache_clear()
    small.cache_clear()


def with_model(
    kind: str, threads: int = 1, each: float = CHEAP, backend: Any = None, context: int = POSITIONS
) -> Engine:
    """An engine that drafts by the text and by such a model."""
    engine = drafting(backend or target(threads))
    model = engine.speculation.model = DraftModel(small(kind, threads, context), target(threads))
    model.each = lambda costs: each  # type: ignore[method-assign]
    return engine


def random_prompts(count: int, seed: int = 3) -> list[list[int]]:
    """Prompts that suggest nothing themselves."""
    rng = random.Random(seed)
    return [rng.sample(range(VOCAB), rng.randrange(20, 90)) for _ in range(count)]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", ["same", "other"])
def test_answers_are_those_without_a_draft_model(kind: str, threads: int) -> None:
    """Greedy, drawn and penalized, of prompts that repeat themselves and of others; each token's bytes are those that
    were predicted, the draft's among them; and the next prompt goes on from the answer."""
    engine, seen = with_model(kind, threads), Counter[str]()
    for name, params in PARAMS.items():
        for prompt in (*texts(2), *random_prompts(2)):
            plain = drain(engine, asked(engine, prompt, params))
            engine.clear_cache()
            fast, found = asked(engine, prompt, params, speculate=True), []
            while (token := engine.next(fast)) is not None:
                found.append(token.id)
                predicted, recorded = streamed(token.predicted), streamed(token.recorded)
                assert predicted == recorded
                seen["drafting"] += DRAFT in recorded
            assert found == plain
            timing = fast.timing
            assert timing.decoded == len(plain) - 1
            if name == "greedy" and kind == "same":
                seen += Counter(drafted=timing.drafted, kept=timing.kept, steps=timing.decode_steps)
            longer = [*prompt, *plain, 7]
            again = drain(engine, asked(engine, longer, params, 5, speculate=True))
            engine.clear_cache()
            assert again == drain(engine, asked(engine, longer, params, 5))
    assert seen["drafting"] > 50
    if kind == "same":  # its only mistakes are the text's, whose drafts go first where they are worth more
        assert seen["kept"] > 0.85 * seen["drafted"] and seen["steps"] < 0.4 * 4 * TOKENS
    assert nothing_held(engine)


def test_a_model_that_is_always_right_keeps_all_it_proposes() -> None:
    engine = with_model("same")
    for prompt in random_prompts(4, seed=9):
        one = asked(engine, prompt, speculate=True)
        engine.speculation._offer = lambda w: (Offer(_account(engine, w.request), 0, 0), [])  # type: ignore[method-assign]
        drain(engine, one)
        assert one.timing.kept == one.timing.drafted > 0.7 * TOKENS
    assert engine.speculation.model is not None and engine.speculation.model.share > 0.97


def _account(engine: Engine, request: Request) -> Account:
    """As the engine makes one, without what the text suggests."""
    from memfirst.speculate.drafter import Drafter

    if request.drafter is None:
        request.drafter = Drafter(request.prompt, (), Account(grant=MODEL_GRANT))
    return request.drafter.account


def test_a_model_that_is_never_right_costs_two_steps_and_a_hundredth_and_is_left_alone() -> None:
    """Then it does not even read the prompt, but for one answer in eight."""
    engine, steps = with_model("other", each=0.3), []
    model = engine.speculation.model
    assert model is not None
    for prompt in random_prompts(AGAIN * 4, seed=4):
        one = asked(engine, prompt, PARAMS["drawn"], speculate=True)
        drain(engine, one)
        account = one.drafter.account if one.drafter else None
        assert account is not None and account.won >= -(MODEL_GRANT + LOSS * account.plain)
        steps.append(any(slot.owner is one for slot in model.slots))
    assert model.share < 0.5  # it was 0.7 before any was checked
    assert steps[0] and sum(steps[-2 * AGAIN :]) == 2


def test_an_answer_ends_within_its_proposals_as_without_them() -> None:
    """By its number of tokens, an end token, a stop string, a full context; and of a draft with a shorter one."""
    engine, prompt = with_model("same"), random_prompts(1)[0]
    whole = drain(engine, asked(engine, prompt, tokens=None))
    for context in (POSITIONS, 128):
        shorter = with_model("same", context=context)
        full = asked(shorter, prompt, tokens=None, speculate=True)
        assert drain(shorter, full) == whole and full.stop_reason == CONTEXT
        assert full.timing.kept > 20
    for n in range(1, 16):
        one = asked(engine, prompt, tokens=n, speculate=True)
        assert drain(engine, one) == whole[:n] and one.stop_reason == LENGTH
    for id in sorted(set(whole), key=whole.index)[:6]:
        one = asked(engine, prompt, tokens=None, stop_ids=[id], speculate=True)
        assert drain(engine, one) == whole[: whole.index(id)] and one.stop_reason == EOS
        one, alone = (asked(engine, prompt, stop=[f" {id} "], speculate=on) for on in (True, False))
        assert drain(engine, one) == drain(engine, alone) and one.stop_reason == alone.stop_reason


def test_interrupted_steps_of_model_and_draft_leave_the_answer_what_it_is() -> None:
    counting = Counting(target())
    engine, prompt = with_model("same", backend=counting), random_prompts(1)[0]
    expected = drain(engine, asked(engine, prompt, GREEDY))
    model, rng, interrupted = engine.speculation.model, random.Random(2), 0
    assert model is not None
    own = model.backend.step

    def failing(*given: Any) -> Any:
        result = own(*given)  # after its keys and values were written
        if rng.random() < 0.2:
            raise KeyboardInterrupt
        return result

    model.backend = _Failing(model.backend, failing)  # type: ignore[assignment]
    counting.fail = lambda step: KeyboardInterrupt() if step.logits > 1 and rng.random() < 0.2 else None
    one = asked(engine, prompt, GREEDY, speculate=True)
    found: list[int] = []
    while not (one.done and not one.events):
        try:
            if (token := engine.next(one)) is not None:
                found.append(token.id)
        except KeyboardInterrupt:
            interrupted += 1
    assert found == expected and interrupted > 5 and one.timing.kept
    assert nothing_held(engine)


class _Failing:
    """A backend with another `step`."""

    def __init__(self, backend: CpuBackend, step: Any) -> None:
        self._backend, self.step = backend, step

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


def test_several_answers_share_the_draft_s_steps_and_more_than_it_has_room_for_go_without() -> None:
    """Each is what it is alone, one is cancelled midway, and all bytes are somebody's."""
    engine, prompts = with_model("same"), random_prompts(6, seed=8)
    alone = [drain(engine, asked(engine, prompt, GREEDY)) for prompt in prompts]
    engine.clear_cache()
    accounts = engine.accounts = Accounts(target())
    model = engine.speculation.model
    assert model is not None
    for several in (3, 6):
        requests = [asked(engine, p, GREEDY, speculate=True) for p in prompts[:several]]
        found: list[list[int]] = [[] for _ in requests]
        while not all(one.done and not one.events for one in requests):
            for i, (out, one) in enumerate(zip(found, requests, strict=True)):
                if i == 1 and len(out) == 10:
                    engine.cancel(one)
                    one.events.clear()
                elif (token := engine.next(one)) is not None:
                    out.append(token.id)
        assert found == [a[:10] if i == 1 else a for i, a in enumerate(alone[:several])]
        total = Counter[str]()
        for one in requests:
            total.update(one.bytes)
        assert total == accounts.bytes and total[DRAFT] > 0
        assert sum(one.timing.kept for one in requests) > 40
        engine.clear_cache()
        accounts = engine.accounts = Accounts(target())
    assert sum(slot.owner is not None for slot in model.slots) == SLOTS


def test_a_proposal_s_price_counts() -> None:
    """The share and the price of proposals decide between text and model, and how many are asked for."""
    costs, account = Costs(0.2), Account(grant=100)
    text, free = Offer(account, 3, 7), Offer(account, MODEL, 7, 0.0)
    assert worth(free, 1, 8, costs) > worth(text, 1, 8, costs)  # 0.7 against 0.6
    assert worth(replace_each(free, 0.3), 1, 8, costs) < worth(text, 1, 8, costs)
    taken = [sizes([replace_each(free, each)], 1, 8, costs)[0] for each in (0.0, 0.05, 0.125, 0.3, 0.6)]
    assert taken == sorted(taken, reverse=True) and taken[0] >= 3 and taken[-1] == 0
    assert taken[2] >= 1
    assert worth(Offer(account, 0, 7), 1, 8, costs) == 1.0


def replace_each(offer: Offer, each: float) -> Offer:
    """The same at another price."""
    return offer._replace(each=each)


# loading


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model of two layers, and one of the same vocabulary with other weights."""
    folder = tmp_path_factory.mktemp("draft")
    return tiny_model(folder), tiny_model(folder, "tiny-llama-odd")


def test_a_model_loads_with_a_draft_and_says_what_it_read(files: tuple[Path, Path]) -> None:
    model = files[0]
    options: dict[str, Any] = {"threads": 1, "ctx": 256, "progress": False}
    with memfirst.load(model, **options) as plain, memfirst.load(model, draft=model, **options) as fast:
        expected = str(plain.generate("a b c d", max_tokens=48, seed=3))
        fast.engine.speculation.model.each = lambda costs: CHEAP  # type: ignore[union-attr, method-assign]
        answer = fast.generate("a b c d", max_tokens=48, seed=3)
        assert str(answer) == expected
        report = answer.report()
        off = fast.generate("a b c d", max_tokens=48, seed=3, speculate="off")
        assert str(off) == expected and not off.timing.draft_steps
    drafts = report["drafts"]
    assert drafts["model_steps"] and drafts["bytes"][DRAFT] == answer.timing.draft_bytes > 0
    assert ", draft " in answer.line()
    recorded, predicted = report["recorded_bytes"], report["predicted_bytes"]
    assert {p: n for p, n in predicted.items() if p != "activations"} == recorded


def test_what_cannot_draft_is_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    options: dict[str, Any] = {"threads": 1, "ctx": 256, "progress": False}
    with pytest.raises(ConfigError, match='speculate="off"'):
        memfirst.load(files[0], draft=files[1], speculate="off", **options)
    with pytest.raises(ConfigError, match="reference backend"):
        memfirst.load(files[0], draft=files[1], backend="reference", **options)
    one = recurrent().graph
    with pytest.raises(UnsupportedError, match="the model is recurrent"):
        Opened.of(Uniform(SMALL, "q4_0"), one, 256, 1, 1)


class Spelled:
    """A tokenizer of so many tokens."""

    def __init__(self, *tokens: str) -> None:
        self._tokens, self.vocab_size = tokens, len(tokens)

    def token(self, id: int) -> str:
        """As `Tokenizer`'s."""
        return self._tokens[id]


def test_vocabularies_are_compared_token_by_token() -> None:
    """Padding at the end of either, and ids that one does not use, are no difference."""
    ours: Any = Spelled("a", "b", "", "d")
    check_vocabulary(ours, Spelled("a", "b", "c", "d", "<pad>"))  # type: ignore[arg-type]
    check_vocabulary(ours, Spelled("a", "b"))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"token 3 of the draft model is 'x'; expected 'd'") as caught:
        check_vocabulary(ours, Spelled("a", "b", "c", "x"))  # type: ignore[arg-type]
    assert "--draft" in caught.value.at_a_prompt()


def test_tokens_that_the_draft_does_not_know_are_never_given_to_it() -> None:
    """A vocabulary with less padding: behind such a token nothing is proposed."""
    made = Uniform(replace(SMALL, vocab_size=259), "q4_0")
    less = CpuBackend(build(made), made, CpuOptions(1, POSITIONS, SLOTS, drafts=True), pool=target().pool)
    engine, params = drafting(target()), replace(PARAMS["drawn"], logit_bias={259: 6.0})
    engine.speculation.model = DraftModel(less, target())
    engine.speculation.model.each = lambda costs: CHEAP  # type: ignore[method-assign]
    for prompt in ([1, 2, 3, 4], [1, 2, 259, 4]):
        expected = drain(engine, asked(engine, prompt, params))
        assert 259 in expected[:30] and {*expected} != {259}
        assert drain(engine, asked(engine, prompt, params, speculate=True)) == expected


# commands


def test_a_server_with_a_draft_gives_the_same_answers(files: tuple[Path, Path]) -> None:
    """Beside each other, one left midway; what the draft read is counted under its own name."""
    model, draft = files
    prompts = [f"{i} a b c d" for i in range(3)]
    with memfirst.load(model, threads=1, ctx=256, progress=False) as plain:
        expected = [str(plain.generate(p, max_tokens=24, temperature=0)) for p in prompts]
    options = ["--threads", "1", "--ctx", "256", "--max-sequences", "4", "--draft", str(draft)]
    with Served(model, options) as served, httpx.Client(base_url=served.url, timeout=60) as client:

        def ask(prompt: str) -> str:
            body = {"prompt": prompt, "max_tokens": 24, "temperature": 0}
            return str(client.post("/v1/completions", json=body).json()["choices"][0]["text"])

        body = {"prompt": "z", "max_tokens": 200, "stream": True}
        with client.stream("POST", "/v1/completions", json=body) as left:
            next(left.iter_lines())
        with ThreadPoolExecutor(3) as pool:
            assert list(pool.map(ask, prompts)) == expected
        (read,) = re.findall(
            r'^memfirst_bytes_total\{purpose="draft"\} (\S+)$', client.get("/metrics").text, re.MULTILINE
        )
        assert float(read) > 0


def test_run_and_bench_with_a_draft(files: tuple[Path, Path], tmp_path: Path) -> None:
    model, draft = files
    text = tmp_path / "text.txt"
    text.write_text("a b c d e f g h " * 8)
    common = ["--threads", "1", "--ctx", "256"]
    given = [*common, "-p", "a b", "-n", "20", "--seed", "1", "--raw", "-q"]
    plain, fast = (run(model, *given, *more) for more in ([], ["--draft", str(draft)]))
    assert plain.stdout == fast.stdout and not fast.returncode
    refused = run(model, *given, "--draft", str(draft), "--speculate", "off")
    assert refused.returncode == 1 and "one of the two" in refused.stderr
    measured = command(MEMFIRST, "bench", str(model), "--text", str(text), "--draft", str(draft), *common, "--json")
    assert json.loads(measured.stdout)["answer"] >= 32
    alone = command(MEMFIRST, "bench", str(model), "--draft", str(draft))
    assert alone.returncode == 2 and "--text" in alone.stderr
