"""Tool calls in the text of each family: whole, in every cutting into pieces, and where they are malformed."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from memfirst.server.calls import CallDelta, CallReader, Thought, new_call_id
from memfirst.server.families import (
    DEEPSEEK,
    DEEPSEEK_31,
    FUNCTIONGEMMA,
    HARMONY,
    HERMES,
    LLAMA,
    MISTRAL,
    MISTRAL_LIST,
    Family,
    family_of,
)

Found = tuple[str, str, list[tuple[str, Any]]]

ARGS = {"city": 'Saint-"Étienne" {x}', "days": [1, {"a": None}]}
J = json.dumps(ARGS, ensure_ascii=False)

HERMES_F = f'{{"name": "f", "arguments": {J}}}'
LLAMA_F = f'{{"name": "f", "parameters": {J}}}'
ROUND = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>"
END = "<｜tool▁call▁end｜>"
CODER = "<function=f>\n<parameter=city>\nParis\n</parameter>\n<parameter=n>\n3\n</parameter>\n</function>"
GEMMA = "call:f{city:<escape>Saint {x}, y<escape>,days:[1,{a:null}],n:-2.5,e:[],o:{}}"
GEMMA_ARGS = {"city": "Saint {x}, y", "days": [1, {"a": None}], "n": -2.5, "e": [], "o": {}}
BOTH = [("f", ARGS), ("g", {})]

CASES: list[tuple[Family, str, Found]] = [
    (HERMES, "Just <b>text</b> & {json}", ("Just <b>text</b> & {json}", "", [])),
    (HERMES, f"<tool_call>\n{HERMES_F}\n</tool_call>", ("", "", [("f", ARGS)])),
    (
        HERMES,
        f'Let me.\n<tool_call>{HERMES_F}</tool_call>\n<tool_call>{{"arguments": {{}}, "name": "g"}}</tool_call>',
        ("Let me.\n", "", BOTH),
    ),
    (HERMES, "<tool_call>\nnot json</tool_call> after", ("<tool_call>not json</tool_call> after", "", [])),
    (HERMES, '<tool_call>{"name": "f", "arguments": {"a": 1}}', ("", "", [("f", {"a": 1})])),
    (HERMES, '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>', ("", "", [("f", {"a": 1})])),
    (HERMES, '<tool_call>{"name": "f"}</tool_call>', ("", "", [("f", {})])),
    (HERMES, f"<tool_call>\n{CODER}\n</tool_call>", ("", "", [("f", {"city": "Paris", "n": 3})])),
    (HERMES, "a <tool_cal", ("a <tool_cal", "", [])),
    (LLAMA, LLAMA_F, ("", "", [("f", ARGS)])),
    (LLAMA, f'<|python_tag|>{LLAMA_F}; {{"name": "g", "parameters": {{}}}}', ("", "", BOTH)),
    (LLAMA, '{"answer": 42} is JSON', ('{"answer": 42} is JSON', "", [])),
    (LLAMA, "Hello.", ("Hello.", "", [])),
    (LLAMA, '<|python_tag|>print("x")', ('print("x")', "", [])),
    (MISTRAL_LIST, f'[TOOL_CALLS][{HERMES_F}, {{"name": "g", "arguments": {{}}}}]', ("", "", BOTH)),
    (MISTRAL_LIST, "Nothing [1] to call", ("Nothing [1] to call", "", [])),
    (MISTRAL, f"Well.[TOOL_CALLS]f[ARGS]{J}[TOOL_CALLS]g[CALL_ID]abcdefghi[ARGS]{{}}", ("Well.", "", BOTH)),
    (
        DEEPSEEK,
        f"Ok{ROUND}function<｜tool▁sep｜>f\n```json\n{J}\n```{END}\n"
        f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>g\n```json\n{{}}\n```{END}<｜tool▁calls▁end｜>",
        ("Ok", "", BOTH),
    ),
    (DEEPSEEK_31, f"{ROUND}f<｜tool▁sep｜>{J}{END}<｜tool▁calls▁end｜>", ("", "", [("f", ARGS)])),
    (
        HARMONY,
        "<|channel|>analysis<|message|>Hmm, {}.<|end|><|start|>assistant<|channel|>commentary to=functions.f "
        f"<|constrain|>json<|message|>{J}",
        ("", "Hmm, {}.", [("f", ARGS)]),
    ),
    (HARMONY, "<|channel|>final<|message|>Paris.", ("Paris.", "", [])),
    (
        HARMONY,
        "<|channel|>analysis<|message|>A<|end|><|start|>assistant<|channel|>commentary<|message|>Now:<|end|>"
        "<|start|>assistant to=functions.g<|channel|>commentary json<|message|>{}",
        ("Now:", "A", [("g", {})]),
    ),
    (FUNCTIONGEMMA, f"<start_function_call>{GEMMA}<end_function_call>", ("", "", [("f", GEMMA_ARGS)])),
    (FUNCTIONGEMMA, "<start_function_call>call:f{}<end_function_call>", ("", "", [("f", {})])),
    (
        FUNCTIONGEMMA,
        "x<start_function_call>no<end_function_call>",
        ("x<start_function_call>no<end_function_call>", "", []),
    ),
]


def read(family: Family, pieces: list[str], most: int = 128) -> Found:
    """What comes of pieces, put together as clients do: by index, id and name once, arguments joined."""
    reader = CallReader(family.read, family.short, most)
    said = [one for piece in pieces for one in reader.push(piece)] + reader.end()
    calls: dict[int, list[Any]] = {}
    for one in said:
        if isinstance(one, CallDelta) and one.name:
            assert one.index == len(calls) and one.id
            assert len(one.id) == 9 if family.short else one.id.startswith("call_")
            calls[one.index] = [one.name, ""]
        if isinstance(one, CallDelta):
            calls[one.index][1] += one.arguments
    text = "".join(one for one in said if isinstance(one, str) and not isinstance(one, Thought))
    thought = "".join(one for one in said if isinstance(one, Thought))
    return text, thought, [(name, json.loads(arguments)) for name, arguments in calls.values()]


@pytest.mark.parametrize("at", range(len(CASES)))
def test_calls_are_found_however_the_text_is_cut(at: int) -> None:
    family, text, expected = CASES[at]
    assert read(family, [text]) == expected
    assert read(family, list(text)) == expected
    rng = random.Random(at)
    for _ in range(40):
        cuts = sorted(rng.sample(range(len(text) + 1), min(len(text), rng.randrange(1, 8))))
        assert read(family, [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]) == expected


@pytest.mark.parametrize("at", range(len(CASES)))
def test_text_that_is_cut_off_or_garbled_ends_nothing(at: int) -> None:
    family, text, _ = CASES[at]
    rng = random.Random(at)
    for _ in range(200):
        letters = list(text[: rng.randrange(len(text) + 1)])
        for _ in range(rng.randrange(3)):
            if letters:
                letters[rng.randrange(len(letters))] = rng.choice('{}[]",:<|>\\ x')
        reader = CallReader(family.read, family.short)
        for letter in letters:
            reader.push(letter)
        reader.end()


def test_arguments_come_as_they_are_written() -> None:
    reader = CallReader(HERMES.read)
    assert reader.push('<tool_call>{"name": "f", "arg') == []
    begun = reader.push('uments": {"a": "b')
    assert isinstance(begun[0], CallDelta) and begun[0].name == "f"
    assert [one.arguments for one in begun[1:] if isinstance(one, CallDelta)] == ['{"a": "b']
    assert [one.arguments for one in reader.push("c") if isinstance(one, CallDelta)] == ["c"]
    assert [one.arguments for one in reader.push('"}}</tool_call>') if isinstance(one, CallDelta)] == ['"}']


def test_one_call_where_no_others_are_wanted() -> None:
    text = '<tool_call>{"name": "f", "arguments": {}}</tool_call><tool_call>{"name": "g", "arguments": {}}</tool_call>'
    assert read(HERMES, [text], most=1)[2] == [("f", {})]


def test_ids_are_their_own() -> None:
    assert len({new_call_id() for _ in range(100)}) == 100
    assert new_call_id(True).isalnum()


@pytest.mark.parametrize(
    ("template", "family"),
    [
        ("{{ '<tool_call>' }}", HERMES),
        ("nothing", HERMES),
        ('<|start_header_id|> {"name": x, "parameters": y}', LLAMA),
        ("[TOOL_CALLS] [", MISTRAL_LIST),
        ("[TOOL_CALLS]x[ARGS]", MISTRAL),
        ("<|channel|>analysis<|message|>", HARMONY),
        ("<｜tool▁call▁begin｜> ```json", DEEPSEEK),
        ("<｜tool▁call▁begin｜>", DEEPSEEK_31),
        ("<start_function_call>", FUNCTIONGEMMA),
    ],
)
def test_a_family_is_known_by_its_template(template: str, family: Family) -> None:
    assert family_of(template) is family
