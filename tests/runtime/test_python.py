"""What a person at a Python prompt or in a notebook does: the public names, keywords, lists, chats, async, displays."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import math
import os
import pydoc
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memfirst
from memfirst import progress
from memfirst.convert.synthetic import synthetic
from memfirst.convert.synthetic_shapes import SyntheticShape
from memfirst.errors import CapacityError
from memfirst.graph import Step
from memfirst.runtime.arguments import check_messages

SHAPE = SyntheticShape("llama", 64, 1, 2, 1, 96, 300, head_dim=32, max_position_embeddings=512)
PROMPTS = ["abc", "abc de", "x y z", "longer than that " * 3]


@pytest.fixture(scope="module")
def model() -> Iterator[memfirst.Model]:
    with memfirst.load(synthetic(SHAPE, "q4_0"), threads=2, ctx=512) as made:
        yield made


@pytest.fixture
def steps(model: memfirst.Model, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sequences of each step that the backend does from now on."""
    seen: list[int] = []
    step = model.backend.step

    def counting(one: Step, tokens: Sequence[int]) -> Any:
        seen.append(len(one.sequences))
        return step(one, tokens)

    monkeypatch.setattr(model.backend, "step", counting)
    return seen


# --- names


def test_the_public_face_lists_itself() -> None:
    code = "import memfirst; print(dir(memfirst)); [getattr(memfirst, n) for n in dir(memfirst)]; memfirst.errors"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == repr(sorted(memfirst.__all__))


def test_help_begins_with_examples() -> None:
    page = pydoc.render_doc(memfirst, renderer=pydoc.plaintext)
    assert "memfirst.load(" in page and "async for token" in page
    assert "class Model" in page and "max_tokens: Most tokens to generate" in page


def test_plan_is_called_and_is_a_module() -> None:
    found = memfirst.plan("llama-3:8b", on="rtx-4090", codec="Q4_K_M", ctx=2048, batch=2)
    assert repr(found).startswith("<Plan llama-3:8b in Q4_K_M on rtx-4090, llama.cpp: ")
    assert found.fits and found.rate and found.context == 2048 and found.options.batch == 2
    assert "does not fit" in repr(memfirst.plan("llama-3:70b", on="rtx-4090"))
    with pytest.raises(memfirst.MemfirstError):
        memfirst.plan("llama-3:8b", on="no such machine")
    from memfirst.plan import Options, subject

    assert Options().batch == 1 and callable(subject)


# --- an answer's text


def test_str_is_the_whole_answer(model: memfirst.Model) -> None:
    whole = "".join(token.text for token in model.generate("abc", max_tokens=12, temperature=0))
    generation = model.generate("abc", max_tokens=12, temperature=0)
    first = next(iter(generation))
    assert str(generation) == whole == generation.text and str(first) == first.text
    assert str(generation) == whole, "a second time too"


@pytest.mark.parametrize("what", ["text", "ids", "stop_reason", "logprobs"])
def test_what_nobody_began_to_read_is_computed(model: memfirst.Model, what: str) -> None:
    wanted = model.generate("abc", max_tokens=5, temperature=0, logprobs=0)
    list(wanted)
    found = model.generate("abc", max_tokens=5, temperature=0, logprobs=0)
    assert getattr(found, what) == getattr(wanted, what) and getattr(found, what)


def test_text_is_what_came_so_far_for_who_iterates(model: memfirst.Model, steps: list[int]) -> None:
    generation = model.generate("abc", max_tokens=200, temperature=0)
    tokens = iter(generation)
    said = next(tokens).text + next(tokens).text
    assert generation.text == said and not generation.stop_reason and len(generation.ids) == 2
    assert len(steps) < 20
    generation.close()
    assert generation.text == said


# --- keywords


def test_keywords_stand_for_parameters_and_go_before_them(model: memfirst.Model) -> None:
    params = memfirst.SamplingParams(temperature=1.5, seed=5)
    wanted = str(model.generate("abc", params=params, max_tokens=20))
    assert str(model.generate("abc", temperature=1.5, seed=5, max_tokens=20)) == wanted
    assert str(model.generate("abc", params=memfirst.SamplingParams(seed=5), temperature=1.5, max_tokens=20)) == wanted
    greedy = str(model.generate("abc", temperature=0, max_tokens=20))
    assert str(model.generate("abc", params=params, temperature=0, max_tokens=20)) == greedy != wanted


# --- several prompts


def test_a_list_shares_steps_and_answers_as_alone(model: memfirst.Model, steps: list[int]) -> None:
    keys: dict[str, Any] = {"temperature": 1.5, "seed": 3, "max_tokens": 20}
    alone = [str(model.generate(prompt, **keys)) for prompt in PROMPTS]
    model.clear_cache()
    steps.clear()
    answers = model.generate(PROMPTS, **keys)
    assert not steps, "nothing is computed before it is asked for"
    assert str(answers[2]) == alone[2]
    done = len(steps)
    assert [answer.text for answer in answers] == alone
    assert len(steps) == done < 30 and max(steps) == 4, "reading one computed all, four a step"


def test_more_prompts_than_a_step_takes(model: memfirst.Model, steps: list[int]) -> None:
    prompts = [f"{word} {i}" for i in range(5) for word in ("abc", "de", "x")]
    answers = [answer.text for answer in model.generate(prompts, temperature=0, max_tokens=9)]
    assert max(steps) > 4 and len(steps) < 15 * 9 // 4
    assert answers == [str(model.generate(prompt, temperature=0, max_tokens=9)) for prompt in prompts]


def test_what_nobody_holds_any_more_is_not_computed(model: memfirst.Model, steps: list[int]) -> None:
    answers = model.generate(PROMPTS, temperature=0, max_tokens=9, speculate="off")  # in step, so all end together
    answers[0].close()
    del answers[1]
    gc.collect()
    assert answers[-1].text and max(steps) == 2
    assert answers[0].text == "" and not model.engine.scheduler.live


def test_lists_of_conversations_and_empty_ones(model: memfirst.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Any] = []
    monkeypatch.setattr(model, "encode", lambda prompt: said.append(prompt) or [1, 2])
    chats = [[{"role": "user", "content": "a"}], [{"role": "user", "content": "b"}]]
    assert len(model.generate(chats, max_tokens=1)) == 2 and said == chats
    assert model.generate([], max_tokens=1) == []


# --- parts of content


def test_parts_reach_the_template_as_they_are() -> None:
    message = {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    assert check_messages([message]) == [message]


@pytest.mark.parametrize("reads_parts", [False, True])
def test_parts_are_joined_as_templates_expect(
    model: memfirst.Model, monkeypatch: pytest.MonkeyPatch, reads_parts: bool
) -> None:
    from memfirst.text.chat import ChatTemplate

    plain = "{% for m in messages %}{{ m.role + ': ' + m.content }}{% endfor %}"
    parts = "{% for m in messages %}{{ m.role + ': ' }}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}"
    monkeypatch.setitem(vars(model), "chat_template", ChatTemplate(parts if reads_parts else plain))
    message = {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    found = model.tokenizer.decode(model.encode([message]))
    assert found == ("user: ab" if reads_parts else "user: a\nb"), "parts are lines, as vLLM and llama.cpp join them"


# --- a conversation


class Recorded:
    """Stands for a model: remembers what it was asked."""

    def __init__(self, model: memfirst.Model) -> None:
        self.model, self.asked, self.options = model, list[list[Mapping[str, Any]]](), list[dict[str, Any]]()

    def generate(self, messages: list[Mapping[str, Any]], **options: Any) -> memfirst.Generation:
        self.asked.append(messages)
        self.options.append(options)
        return self.model.generate(str(messages[-1]["content"]), max_tokens=4, temperature=0)


def test_a_conversation_remembers(model: memfirst.Model) -> None:
    recorded: Any = Recorded(model)
    chat = memfirst.Model.chat(recorded, system="Be brief.", temperature=0, max_tokens=9)
    first = str(chat.ask("one"))
    chat.ask("two", max_tokens=3)  # nobody reads it: it is computed before the next question
    assert "being answered" in repr(chat)
    chat.ask("three")
    assert [m["content"] for m in recorded.asked[2]] == [
        "Be brief.",
        "one",
        first,
        "two",
        chat.messages[4]["content"],
        "three",
    ]
    assert [m["role"] for m in recorded.asked[2]] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert recorded.options[1] == {"temperature": 0, "max_tokens": 3} and recorded.options[2]["max_tokens"] == 9
    chat.forget(2)
    assert [m["content"] for m in chat.messages[:2]] == ["Be brief.", "three"]
    chat.forget()
    assert chat.messages == [{"role": "system", "content": "Be brief."}]


def test_a_question_that_does_not_fit_leaves_no_trace(model: memfirst.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = model.chat(messages=[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    monkeypatch.setattr(model, "encode", lambda prompt: [1] * (600 if len(prompt) > 1 else 5))
    with pytest.raises(CapacityError):
        chat.ask("c")
    assert len(chat.messages) == 2
    chat.forget()
    assert chat.messages == [] and str(chat.ask("d", max_tokens=2))


# --- async


def test_the_event_loop_goes_on_while_a_step_is_done(model: memfirst.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    went_on = threading.Event()
    step = model.backend.step

    def waiting(one: Step, tokens: Sequence[int]) -> Any:
        assert went_on.wait(20), "the loop was blocked"
        return step(one, tokens)

    async def answer() -> str:
        return "".join([token.text async for token in model.generate("abc", max_tokens=5, temperature=0)])

    async def go_on() -> None:
        await asyncio.sleep(0)
        went_on.set()

    async def both() -> str:
        return (await asyncio.gather(answer(), go_on()))[0]

    wanted = str(model.generate("abc", max_tokens=5, temperature=0))
    monkeypatch.setattr(model.backend, "step", waiting)
    assert asyncio.run(both()) == wanted


def test_many_answers_in_one_loop(model: memfirst.Model) -> None:
    async def answer(prompt: str) -> str:
        return "".join([t.text async for t in model.generate(prompt, max_tokens=12, temperature=1.5, seed=1)])

    async def every() -> list[str]:
        return list(await asyncio.gather(*(answer(prompt) for prompt in PROMPTS * 3)))

    alone = [str(model.generate(prompt, max_tokens=12, temperature=1.5, seed=1)) for prompt in PROMPTS]
    assert asyncio.run(every()) == alone * 3


def test_an_answer_that_is_awaited_can_be_cancelled(model: memfirst.Model) -> None:
    seen: list[str] = []

    async def reader() -> None:
        async for token in model.generate("abc", temperature=0):
            seen.append(token.text)

    async def cancelling() -> None:
        task = asyncio.create_task(reader())
        while len(seen) < 3:
            await asyncio.sleep(0.001)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(cancelling())
    assert len(seen) < 200
    assert str(model.generate("x", max_tokens=2)) is not None and not model.engine.scheduler.live


# --- log-probabilities


def test_logprobs_are_those_of_the_logits(model: memfirst.Model) -> None:
    prompt = "abc de"
    generation = model.generate(prompt, max_tokens=6, temperature=1.5, seed=2, repetition_penalty=1.3, logprobs=5)
    tokens = list(generation)
    ids = model.encode(prompt)
    rows = model.logits(ids + generation.ids[:-1])[len(ids) - 1 :].astype(np.float64)
    wanted = rows - np.log(np.exp(rows - rows.max(axis=1, keepdims=True)).sum(axis=1, keepdims=True))
    wanted -= rows.max(axis=1, keepdims=True)
    for token, row in zip(tokens, wanted, strict=True):
        assert token.logprob == pytest.approx(row[token.id], abs=1e-5)
        top = token.top_logprobs
        assert [one.id for one in top] == np.argsort(-row, kind="stable")[:5].tolist()
        assert [one.logprob for one in top] == pytest.approx(np.sort(row)[::-1][:5], abs=1e-5)
        assert all(one.text == model.tokenizer.piece(one.id, special=True).decode("utf-8", "replace") for one in top)
    assert generation.logprobs == [token.logprob for token in tokens]
    assert sum(math.exp(row) for row in wanted[0]) == pytest.approx(1, abs=1e-9)
    assert repr(tokens[0].top_logprobs[0]).startswith("Logprob('")


def test_logprobs_only_where_asked_for(model: memfirst.Model) -> None:
    plain, chosen = (list(model.generate("abc", max_tokens=2, temperature=0, logprobs=n)) for n in (None, 0))
    assert all(token.logprob is None and token.top_logprobs == () for token in plain)
    assert all(token.logprob is not None and token.top_logprobs == () for token in chosen)
    assert [token.id for token in plain] == [token.id for token in chosen]


# --- what is displayed


def test_reprs_are_short(model: memfirst.Model) -> None:
    generation = model.generate("abc", max_tokens=9, temperature=0)
    assert repr(generation) == "<Generation: not begun; iterate it, or take str() of it>"
    tokens = list(generation)
    assert "9 tokens, length" in repr(generation)
    shown = [model, generation, tokens[-1], tokens[-1].recorded, tokens[-1].recorded.by_purpose(), model.graph]
    assert max(len(repr(one)) for one in shown) < 300
    assert repr(model) == "<Model synthetic: architecture llama, weights 0 MB, codec Q8_0, context 512 of 512>"
    assert repr(model.graph).startswith("<Graph llama: ")


def test_notebooks_get_a_bar_and_a_table(model: memfirst.Model) -> None:
    ledger = list(model.generate("abc", max_tokens=9, temperature=0))[-1].recorded
    shown = ledger._repr_html_()
    for purpose, amount in ledger.by_purpose().items():
        assert f"{purpose}</td>" in shown and f"{int(amount):,} B" in shown
    widths = [float(found) for found in re.findall(r'style="width:([\d.]+)%', shown)]
    assert sum(widths) == pytest.approx(100, abs=0.1) and len(widths) == 4
    assert "A token after 511 positions reads:" in model._repr_html_() and "not counted" in shown
    answer = model.generate("abc", max_tokens=9, temperature=0)._repr_html_()
    assert "<pre" in answer and "measured read bandwidth" in answer


def test_html_is_escaped(model: memfirst.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    generation = model.generate("abc", max_tokens=2, temperature=0)
    list(generation)
    generation._answer.text = "<script>"
    assert "<script>" not in generation._repr_html_() and "&lt;script&gt;" in generation._repr_html_()
    monkeypatch.setattr(type(model), "name", "<b>bad")
    assert "<b>bad" not in model._repr_html_()


# --- progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_long_work_is_one_line_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    made = progress.usual()
    for done in range(3):
        made.update("compiling kernels", done, 3, unit="")
    assert capsys.readouterr().err == "memfirst: compiling kernels\n"


def test_on_a_terminal_a_line_moves_and_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, now = Terminal(), [0.0]
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setenv("COLUMNS", "60")
    made = progress.usual()
    for done in range(11):
        now[0] = done * 2.0
        made.update("compiling kernels", done, 10, unit="kernels")
    drawn = screen.getvalue().split("\r")
    assert "memfirst: compiling kernels 3 of 10 kernels, 14 s left" in drawn
    assert drawn[-2].strip() == "" and drawn[-1] == "" and max(map(len, drawn)) < 60
    made.update("model.gguf", 50_000_000, 0)
    made.note("joining")
    assert screen.getvalue().endswith("memfirst: joining\n")


def test_a_notebook_is_recognized(monkeypatch: pytest.MonkeyPatch) -> None:
    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setitem(sys.modules, "IPython", type("IPython", (), {"get_ipython": staticmethod(lambda: shell)}))  # type: ignore[arg-type]
    assert isinstance(progress.usual(), progress.Line)


def test_short_work_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    class Seen(progress.Silent):
        def update(self, what: str, done: int, total: int, unit: str = "B") -> None:
            seen.append(done)

    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    for duration, shown in ((0.4, []), (4.0, [2, 3, 4])):
        seen.clear()
        work = progress.Delayed(Seen(), "reading weights", 4)
        start = now[0]
        for done in range(1, 5):
            now[0] = start + duration * done / 4 - 0.5 * (duration > 1)
            work.done(done)
        assert seen == shown


@pytest.mark.parametrize("said", [None, False])
def test_progress_can_be_switched_off(said: bool | None, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code = f"""
import memfirst
from memfirst.convert.synthetic import synthetic
from memfirst.convert.synthetic_shapes import SyntheticShape
shape = SyntheticShape("llama", 64, 1, 2, 1, 96, 300, head_dim=32)
memfirst.load(synthetic(shape, "q8_0"), threads=1, ctx=64, progress={said}).close()
"""
    environment = dict(os.environ, MEMFIRST_CACHE_DIR=str(tmp_path), MEMFIRST_ISA="generic")
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert ("compiling kernels" in ran.stderr) is (said is not False)


def test_a_keyword_of_another_library_is_answered_by_ours(model: memfirst.Model) -> None:
    calls = (
        ("max_tokens", lambda: model.generate("a", max_new_tokens=4)),  # type: ignore[call-overload]
        ("temperature", lambda: model.generate("a", temprature=0)),  # type: ignore[call-overload]
        ("repetition_penalty", lambda: model.chat(repeat_penalty=1.1).ask("a")),  # type: ignore[call-arg]
        ("ctx", lambda: memfirst.load("smollm2:135m", n_ctx=512)),  # type: ignore[call-arg]
        ("ctx", lambda: memfirst.plan("llama-3:8b", on="rtx-4090", context=512)),  # type: ignore[operator]
    )
    for meant, call in calls:
        with pytest.raises(TypeError, match=f"did you mean {meant}\\?"):
            call()
    with pytest.raises(TypeError, match=r"no argument is called 'zzz'$"):
        model.generate("a", zzz=1)  # type: ignore[call-overload]
    with pytest.raises(memfirst.MemfirstError, match="a model of type NoneType; expected a name, a path"):
        memfirst.load(None)  # type: ignore[arg-type]
