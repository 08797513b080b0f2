"""`memfirst.load` and `Model.generate`: what may be asked, answers dropped midway, models dropped in every order."""

from __future__ import annotations

import gc
import itertools
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import memfirst
from memfirst import SamplingParams
from memfirst.convert.synthetic import SyntheticCheckpoint, synthetic
from memfirst.convert.synthetic_shapes import SyntheticShape
from memfirst.errors import BackendError, ConfigError, MemfirstError
from memfirst.runtime.sampling import GREEDY
from memfirst.runtime.sharing import SEQUENCES, STATE_ROOM, sequences_of
from tests.support.toy import toy_llama, toy_mamba2

SHAPE = SyntheticShape("llama", 64, 1, 2, 1, 96, 300, head_dim=32, max_position_embeddings=512)
SEEDED = SamplingParams(temperature=1.5, seed=5)


def small() -> SyntheticCheckpoint:
    return synthetic(SHAPE, "q4_0")


@pytest.fixture(scope="module")
def model() -> Iterator[memfirst.Model]:
    with memfirst.load(small(), threads=2, ctx=256) as made:
        yield made


def nothing_held(model: memfirst.Model) -> bool:
    model.clear_cache()
    return not any(model.engine.held()) and not model.engine.scheduler.live


# --- what may be asked


def test_no_tokens_are_none(model: memfirst.Model) -> None:
    generation = model.generate("abc", max_tokens=0)
    assert list(generation) == [] and generation.stop_reason == "length" and generation.timing.tokens == 0
    assert "KV 0 B held" in generation.line()


@pytest.mark.parametrize(("ceiling", "said"), [(1e15, "0 % of 1000000.0 GB/s"), (1.0, "other work was running")])
def test_no_answer_reads_faster_than_memory(
    model: memfirst.Model, monkeypatch: pytest.MonkeyPatch, ceiling: float, said: str
) -> None:
    """A ceiling below what was decoded was measured beside other work: no share of it is printed."""
    monkeypatch.setattr(model.backend, "read_bandwidth", lambda: ceiling)
    generation = model.generate("abc", max_tokens=4, temperature=0)
    assert str(generation) is not None and generation.timing.tokens == 4
    assert said in generation.line() and ("%" in generation.line()) == (ceiling > 1)
    assert sum(generation.token_bytes().values()) == generation.report()["predicted_bytes"]["weights"] + sum(
        generation.report()["predicted_bytes"][purpose] for purpose in ("embedding", "head", "kv_read")
    )


MISTAKES: dict[str, tuple[Callable[[memfirst.Model], object], str]] = {
    "negative": (lambda m: m.generate("a", max_tokens=-1), "max_tokens is -1"),
    "half": (lambda m: m.generate("a", max_tokens=2.5), "max_tokens is 2.5"),  # type: ignore[arg-type]
    "truth": (lambda m: m.generate("a", max_tokens=True), "max_tokens is True"),
    "text": (lambda m: m.generate("a", max_tokens="3"), "max_tokens is '3'"),  # type: ignore[arg-type]
    "no stop": (lambda m: m.generate("a", stop=None), "stop is None"),  # type: ignore[arg-type]
    "stop of numbers": (lambda m: m.generate("a", stop=[1]), r"stop is \[1\]"),  # type: ignore[list-item]
    "params": (lambda m: m.generate("a", params={}), "params of type dict"),  # type: ignore[arg-type]
    "bytes": (lambda m: m.generate(b"abc"), "a prompt of type bytes"),  # type: ignore[arg-type]
    "nothing": (lambda m: m.generate(None), "a prompt of type NoneType"),  # type: ignore[arg-type]
    "bytes among texts": (lambda m: m.generate(["abc", b"abc"]), "a prompt of type bytes"),  # type: ignore[list-item]
    "a text among messages": (lambda m: m.generate([{"role": "user", "content": "x"}, "abc"]), "a message 'abc'"),  # type: ignore[list-item]
    "logprobs": (lambda m: m.generate("a", logprobs=21), "logprobs is 21; expected a whole number from 0"),
    "logprobs of a truth": (lambda m: m.generate("a", logprobs=True), "logprobs is True"),
    "cold": (lambda m: m.generate("a", temperature=-1), "temperature is -1"),
    "top_k": (lambda m: m.generate("a", top_k=1.5), "top_k is 1.5"),  # type: ignore[arg-type]
    "no role": (lambda m: m.generate([{"content": "x"}]), "a message {"),
    "a part without text": (lambda m: m.generate([{"role": "user", "content": [{"type": "text"}]}]), "content"),
    "a picture": (lambda m: m.generate([{"role": "user", "content": [{"type": "image"}]}]), "content"),
    "threads": (lambda m: memfirst.load(small(), threads="2"), "'2' threads"),  # type: ignore[arg-type]
    "half a context": (lambda m: memfirst.load(small(), ctx=128.5), "128.5 tokens"),  # type: ignore[arg-type]
    "no text": (lambda m: m.generate(""), "the prompt has no tokens"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(model: memfirst.Model, name: str) -> None:
    call, says = MISTAKES[name]
    with pytest.raises(ConfigError, match=says):
        call(model)


def test_one_stop_string_may_stand_alone(model: memfirst.Model) -> None:
    whole = "".join(t.text for t in model.generate("abc", params=SEEDED, max_tokens=30))
    stop = whole[3:6]
    found = [model.generate("abc", params=SEEDED, max_tokens=30, stop=stop) for stop in (stop, [stop])]
    texts = ["".join(t.text for t in one) for one in found]
    assert texts == [whole[: whole.index(stop)]] * 2 and {one.stop_reason for one in found} == {"stop"}


def test_the_advice_for_a_long_prompt_can_be_followed(model: memfirst.Model) -> None:
    """A larger context where the model has one."""
    with pytest.raises(MemfirstError, match="a larger ctx") as found:
        model.generate("a b c " * 200)
    assert "raise --ctx" in found.value.at_a_prompt()
    with memfirst.load(small(), ctx=512) as largest, pytest.raises(MemfirstError, match="shorten the prompt"):
        largest.generate("a b c " * 400)


def test_an_answer_goes_on_from_token_ids(model: memfirst.Model) -> None:
    """Of a prompt, and of a prompt and the answer so far."""
    whole = model.generate("abc", params=GREEDY, max_tokens=12)
    list(whole)
    ids = model.encode("abc")
    assert "".join(t.text for t in model.generate(ids, params=GREEDY, max_tokens=12)) == whole.text
    rest = model.generate([*ids, *whole.ids[:5]], params=GREEDY, max_tokens=7)
    list(rest)
    assert [*whole.ids[:5], *rest.ids] == whole.ids
    with pytest.raises(ConfigError, match="token id 100000"):
        list(model.generate([100000]))


def test_models_with_much_state_have_fewer_sequences() -> None:
    assert sequences_of(toy_llama()) == SEQUENCES
    graph = toy_mamba2()
    size = 2 * sum(cache.state_bytes for cache in graph.states)
    assert sequences_of(graph) == min(SEQUENCES, STATE_ROOM // size)


# --- several answers, and some that nobody reads to the end


def text(model: memfirst.Model, prompt: str, tokens: int = 20) -> str:
    return "".join(token.text for token in model.generate(prompt, params=SEEDED, max_tokens=tokens))


def test_same_seed_same_text_alone_or_among_others(model: memfirst.Model) -> None:
    asked = ["abc", "abc de", "x y z", "longer than that " * 5]
    alone = [text(model, prompt) for prompt in asked]
    found: dict[int, str] = {}
    threads = [threading.Thread(target=lambda i=i: found.setdefault(i, text(model, asked[i]))) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(4)] == alone
    by_turns = [iter(model.generate(prompt, params=SEEDED, max_tokens=20)) for prompt in asked]
    rounds = list(itertools.zip_longest(*by_turns))
    assert ["".join(token.text for token in column if token) for column in zip(*rounds, strict=True)] == alone


def test_the_seed_of_none_is_another_each_time(model: memfirst.Model) -> None:
    hot = SamplingParams(temperature=3, top_k=0, top_p=1, min_p=0)
    assert len({tuple(t.id for t in model.generate("abc", params=hot, max_tokens=8)) for _ in range(3)}) == 3


@pytest.mark.parametrize("how", ["dropped", "closed", "iterator dropped", "raised"])
def test_an_answer_that_is_left_midway_holds_nothing(model: memfirst.Model, how: str) -> None:
    expected = text(model, "abc")
    generation = model.generate("something else", params=SEEDED, max_tokens=200)
    tokens = iter(generation)
    next(tokens)
    if how == "closed":
        generation.close()
    if how == "raised":
        with pytest.raises(ZeroDivisionError):
            for _ in generation:
                1 / 0  # noqa: B018
    del tokens
    del generation
    assert not model.engine.scheduler.live
    assert text(model, "abc") == expected
    assert nothing_held(model)


def test_a_turn_that_was_left_is_kept_for_the_next(model: memfirst.Model) -> None:
    model.clear_cache()
    prompt = "a prompt of some tokens " * 6
    generation = model.generate(prompt, params=SEEDED, max_tokens=100)
    next(iter(generation))
    generation.close()
    again = model.generate(prompt, params=SEEDED, max_tokens=1)
    list(again)
    assert again.timing.reused_tokens == len(model.encode(prompt)) - 1


# --- models that go


def test_use_after_close_is_one_clear_error() -> None:
    model = memfirst.load(small(), threads=2, ctx=256)
    begun = model.generate("abc", params=SEEDED, max_tokens=100)
    next(iter(begun))
    model.close()
    model.close()
    for use in (lambda: next(iter(begun)), lambda: list(model.generate("abc")), lambda: model.logits([1])):
        with pytest.raises(BackendError, match="the model is closed"):
            use()


DROPS = """
import gc, itertools, sys
import memfirst
from tests.runtime.test_model import small
for order in itertools.permutations(("model", "generation", "token")):
    for started in (False, True):
        held = {"model": memfirst.load(small(), threads=3, ctx=128)}
        held["generation"] = held["model"].generate("abc", max_tokens=50)
        held["token"] = next(iter(held["generation"])) if started else None
        for name in order:
            del held[name]
def use():
    return "".join(token.text for token in memfirst.load(small(), threads=2, ctx=128).generate("abc", max_tokens=3))
for _ in range(5):
    use()
left = memfirst.load(small(), threads=2, ctx=128)
kept = left.generate("abc", max_tokens=9)
next(iter(kept))
import threading
from memfirst.kernels.cpu.background import THREAD
names = [thread.name for thread in threading.enumerate()]
print("survived", len(names) - names.count(THREAD), names.count(THREAD) <= 1)
"""


def test_models_dropped_in_every_order_end_their_threads() -> None:
    """In a process of its own: what was wrong here was a crash. The last one is still there when the process ends, and
    may be compiling kernels in the background."""
    ran = subprocess.run([sys.executable, "-c", DROPS], capture_output=True, text=True, check=False, timeout=120)
    assert (ran.returncode, ran.stdout) == (0, "survived 2 True\n"), ran.stderr


def test_a_dropped_model_is_freed_at_once() -> None:
    """Without waiting for the garbage collector: the memory of a model is not small."""
    gc.collect()
    gc.disable()
    try:
        before = threading.active_count()
        model: Any = memfirst.load(small(), threads=3, ctx=128)
        list(model.generate("abc", max_tokens=3))
        del model
        assert threading.active_count() == before
    finally:
        gc.enable()


# --- the real model


@pytest.mark.parametrize("way", ["threads", "by turns"])
def test_conversations_of_the_real_model_side_by_side(smollm2: Path, way: str) -> None:
    params = SamplingParams(temperature=0)
    asked = ["Name three colours.", "What is the capital of Italy?", "Why is the sky blue?"]
    with memfirst.load(smollm2, threads=2, ctx=512) as model:

        def ask(question: str) -> memfirst.Generation:
            return model.generate([{"role": "user", "content": question}], params=params, max_tokens=16)

        alone = [[token.id for token in ask(question)] for question in asked]
        if way == "threads":
            found: dict[int, list[int]] = {}

            def read(i: int) -> None:
                found[i] = [token.id for token in ask(asked[i])]

            threads = [threading.Thread(target=read, args=(i,)) for i in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert [found[i] for i in range(3)] == alone
        else:
            rounds = itertools.zip_longest(*(iter(ask(question)) for question in asked))
            columns = zip(*rounds, strict=True)
            assert [[token.id for token in column if token] for column in columns] == alone
        assert nothing_held(model)
