"""Answers that follow a schema, an expression, choices or a grammar: as if each step's logits had been masked."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from llguidance import LLMatcher

import memfirst
from memfirst import Model
from memfirst.codecs.base import F32
from memfirst.errors import ConfigError
from memfirst.graph.traffic import HEAD
from memfirst.runtime.allowed import Allowed
from memfirst.runtime.grammar import Grammar, Grammars, _as_llguidance, _words_of, closed, grammar_of, unescaped
from memfirst.runtime.request import EOS, LENGTH, Request
from memfirst.runtime.sampling import Sampler, SamplingParams
from memfirst.text import Tokenizer
from tests.support.schemas import HOSTILE, REFUSED, SCHEMAS, TEXT, record

QUESTION = [{"role": "user", "content": "Give an example, as JSON."}]
TOKENS = 32

OTHERS: dict[str, dict[str, Any]] = {
    "a number": {"regex": "[0-9]{2,4}(\\.[0-9])?"},
    "a word": {"regex": "(?i)[a-z]{3,10}"},
    "choices": {"choice": ["yes", "no", "it depends", "im Übrigen"]},
    "GBNF": {"grammar": 'root ::= item ("," item){1,3}\nitem ::= [a-z]+ | "\\u0041" digit\ndigit ::= [0-9]\n'},
    "Lark": {"grammar": 'start: "x" /[0-9]{3}/ | %json {"type": "boolean"}'},
}
EVERY = {**{name: {"schema": schema} for name, schema in SCHEMAS.items()}, **OTHERS}


@pytest.fixture(scope="module")
def model(smollm2: Path) -> Iterator[Model]:
    with memfirst.load(smollm2, ctx=512, threads=2, progress=False) as made:
        yield made


class Masked(Request):
    """A request by the definition: every token from logits of which all others are excluded, by NumPy."""

    matcher: LLMatcher

    def choose(self, logits: F32) -> int:
        bits = np.frombuffer(self.matcher.compute_bitmask(), np.uint8)
        allowed = np.unpackbits(bits, bitorder="little")[: len(logits)]
        return self.sampler.sample(np.where(allowed, logits, -np.inf).astype(np.float32))

    def forced(self) -> None:
        return None

    def accept(self, id: int) -> str | None:
        if id not in self.stop_ids:
            assert self.matcher.consume_token(id)
        return super().accept(id)


def by_definition(model: Model, params: SamplingParams, grammar: Grammar) -> tuple[list[int], str]:
    """Ids and end of an answer, a step for each token."""
    vocab = model.graph.vocab_size
    prompt = model.encode(QUESTION)
    asked = Masked(prompt, lambda: Sampler(params, vocab), model.tokenizer, TOKENS, (), model.context, None, None)
    asked.matcher = LLMatcher(_words_of(model.tokenizer, vocab), _as_llguidance(grammar))
    model.engine.submit(asked)
    ids = []
    while (token := model.engine.next(asked)) is not None:
        ids += [] if token.id in asked.stop_ids else [token.id]
    return ids, asked.stop_reason


def ends_alike(one: tuple[list[int], str], other: tuple[list[int], str]) -> bool:
    """The same ids, and the same end unless both are of full length: a grammar may be complete there too."""
    return one[0] == other[0] and (one[1] == other[1] or len(one[0]) == TOKENS)


@pytest.mark.parametrize("name", EVERY)
def test_it_is_as_if_all_logits_were_masked(model: Model, name: str) -> None:
    asked = EVERY[name]
    grammar = grammar_of(**asked)
    assert grammar is not None
    drawn = SamplingParams(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=11)
    penalized = SamplingParams(seed=5, repetition_penalty=1.2)
    for params in (SamplingParams(temperature=0), (drawn, penalized)[list(EVERY).index(name) % 2]):
        answer = model.generate(QUESTION, params=params, max_tokens=TOKENS, **asked)
        found = (list(answer.ids), answer.stop_reason)
        assert ends_alike(found, by_definition(model, params, grammar)), (answer.text, params)
        if answer.stop_reason != EOS:
            assert answer.stop_reason == LENGTH
        elif "schema" in asked:
            jsonschema.validate(json.loads(answer.text), asked["schema"])
        elif "regex" in asked:
            assert re.fullmatch(asked["regex"], answer.text)
        elif "choice" in asked:
            assert answer.text in asked["choice"]


def test_beside_others_it_is_what_it_is_alone(model: Model) -> None:
    names = list(EVERY)
    several = [
        model.generate(QUESTION, max_tokens=TOKENS, seed=seed, temperature=1.0, **EVERY[name])
        for seed, name in enumerate(names)
    ]
    alone = [list(one.ids) for one in several]
    again = [
        model.generate(QUESTION, max_tokens=TOKENS, seed=seed, temperature=1.0, **EVERY[name])
        for seed, name in enumerate(names)
    ]
    free = model.generate(["Once upon a time"] * 3, max_tokens=30, temperature=0)
    turns = [iter(one) for one in [*again, *free]]
    found: list[list[int]] = [[] for _ in turns]
    left = set(range(len(turns)))
    while left:  # all read by turns: their steps are shared
        for i in sorted(left):
            token = next(turns[i], None)
            if token is None:
                left.discard(i)
            else:
                found[i].append(token.id)
    ends = model.tokenizer.stop_ids
    assert [[id for id in ids if id not in ends] for ids in found[: len(alone)]] == alone
    assert (
        found[-1]
        == found[-2]
        == found[-3]
        == list(model.generate("Once upon a time", max_tokens=30, temperature=0).ids)
    )


def test_tokens_without_a_choice_are_computed_with_the_next(model: Model) -> None:
    """Fewer steps than tokens, and each step's bytes are those that were predicted."""
    answer = model.generate(QUESTION, temperature=0, max_tokens=60, schema=SCHEMAS["tool call"])
    tokens = list(answer)
    timing = answer.timing
    assert timing.forced > 0 and timing.decode_steps + timing.forced + 1 == len(answer.ids)
    assert timing.decode_steps + 1 < 0.8 * len(answer.ids)
    computed = [token for token in tokens if token.predicted.tokens]
    assert len(computed) == len(tokens) - timing.forced
    assert any(token.predicted.tokens > 1 for token in computed[1:])
    for token in computed[-2:]:
        predicted, recorded = token.predicted.by_purpose(), token.recorded.by_purpose()
        assert {purpose: int(amount) for purpose, amount in recorded.items()}.items() <= {
            purpose: int(amount) for purpose, amount in predicted.items()
        }.items()
    with_logprobs = model.generate(QUESTION, temperature=0, max_tokens=60, schema=SCHEMAS["tool call"], logprobs=0)
    assert with_logprobs.ids == answer.ids and len(with_logprobs.logprobs) == len(answer.ids)


def test_of_the_head_only_tiles_with_allowed_tokens_are_read(model: Model) -> None:
    """As priced, in the ledger."""
    whole = int(model.price(context=64).by_purpose()[HEAD])
    shares = {}
    for name in ("tool call", "person", "points"):
        answer = model.generate(QUESTION, temperature=0, max_tokens=60, schema=SCHEMAS[name])
        read = []
        for token in answer:
            if token.predicted.tokens:
                (predicted, recorded) = (int(one.by_purpose()[HEAD]) for one in (token.predicted, token.recorded))
                assert predicted == recorded
                read.append(recorded / whole)
        shares[name] = sum(read) / len(read)
    assert shares["points"] <= 0.01 and max(shares.values()) < 0.6, shares
    free = model.generate(QUESTION, temperature=0, max_tokens=8, schema=SCHEMAS["points"], logprobs=0)
    assert all(int(token.recorded.by_purpose()[HEAD]) == whole for token in free if token.recorded.tokens)


def test_an_answer_that_is_begun_again_follows_its_grammar_from_the_start(model: Model) -> None:
    asked = EVERY["person"]
    answer = model.generate(QUESTION, temperature=0, max_tokens=TOKENS, **asked)
    expected = list(answer.ids)
    again = model.generate(QUESTION, temperature=0, max_tokens=TOKENS, **asked)
    stream = iter(again)
    first = [next(stream).id for _ in range(3)]
    again.request.begin()  # as where a step was interrupted
    again.request.sequence = None
    model.engine.scheduler.rebuild()
    assert first + [token.id for token in stream if token.id not in model.tokenizer.stop_ids] == expected


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_followed_is_named(model: Model, name: str) -> None:
    schema, says = REFUSED[name]
    with pytest.raises(ConfigError, match=re.escape(says)):
        model.generate(QUESTION, schema=schema)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"regex": "(a"}, "unclosed"),
        ({"regex": "[a&&b]"}, "nothing satisfies"),
        ({"regex": ""}, "text"),
        ({"choice": []}, "list of texts"),
        ({"choice": "yes"}, "list of texts"),
        ({"grammar": "root ::= x\n"}, "'x' not found"),
        ({"grammar": 'rot ::= "x"\n'}, "'root'"),
        ({"grammar": 'start: <|nothing|> "x"'}, "nothing"),
        ({"schema": "{", "regex": "a"}, "schema and regex together"),
        ({"schema": "{"}, "schema"),
        ({"schema": 3}, "int"),
        ({"schema": {"a": {1, 2}}}, "no JSON"),
        ({"schema": {"enum": ["x" * 300_000]}}, "262,144"),
    ],
)
def test_bad_arguments_are_said(model: Model, asked: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        model.generate(QUESTION, **asked)


@pytest.mark.parametrize("name", [name for name in HOSTILE if name != "8,000 properties"])
def test_hostile_grammars_are_refused_or_followed(model: Model, name: str) -> None:
    try:
        assert len(model.generate("x", temperature=0, max_tokens=4, **HOSTILE[name]).ids) <= 4
    except ConfigError as error:
        assert len(str(error)) < 600


def test_a_pydantic_model_is_a_schema(model: Model) -> None:
    pydantic = pytest.importorskip("pydantic")
    Person = pydantic.create_model("Person", name=(str, pydantic.Field(max_length=10)), age=(int, ...))
    answer = model.generate(QUESTION, schema=Person, temperature=0, max_tokens=60)
    assert Person.model_validate_json(str(answer)).name


def test_objects_that_list_their_properties_have_no_others() -> None:
    some = {"properties": {"a": TEXT}}
    assert closed(some | {}) == some | {"additionalProperties": False}
    for said in ({"additionalProperties": True}, {"patternProperties": {}}, {"anyOf": [{}]}):
        assert closed({**some, **said}) == {**some, **said}
    data = {"enum": [some], "const": some, "default": some}
    assert closed(dict(data)) == data
    together = {"allOf": [{"$ref": "#/$defs/x"}, {"properties": {"b": TEXT}}], "$defs": {"x": some, "y": some | {}}}
    found = closed(json.loads(json.dumps(together)))
    assert found["allOf"] == together["allOf"] and found["$defs"]["x"] == some
    assert found["$defs"]["y"] == some | {"additionalProperties": False}
    inside = closed({"items": {"properties": {"c": {"properties": {}}}}})
    assert inside["items"]["properties"]["c"]["additionalProperties"] is False


def test_white_space_does_not_go_on_for_ever(model: Model) -> None:
    constraint = model.grammars.constraint(Grammar("schema", json.dumps(record(a=TEXT))))
    for text in ("{", "\n", " "):
        (id,) = model.tokenizer.encode(text)
        assert id in constraint.allowed()
        constraint.accept(id)
    assert model.tokenizer.encode("\n")[0] not in constraint.allowed()


def test_other_ends_end_where_the_grammar_may(model: Model) -> None:
    (semicolon,) = model.tokenizer.encode(";")
    grammar = Grammar("regex", "[0-9]{2,}")
    constraint = model.grammars.constraint(grammar, [semicolon])
    (digit,) = model.tokenizer.encode("7")
    assert semicolon not in constraint.allowed()
    constraint.accept(digit)
    assert semicolon not in constraint.allowed()
    constraint.accept(digit)
    assert semicolon in constraint.allowed() and not constraint.ended


def test_compiled_grammars_are_kept_and_refused_ones_are_not(model: Model) -> None:
    grammars = Grammars(model.tokenizer, model.graph.vocab_size)
    made = grammars.compile(Grammar("regex", "a+"))
    assert grammars.compile(Grammar("regex", "a+")) is made
    for i in range(70):
        grammars.compile(Grammar("regex", f"b{{{i + 1}}}"))
    assert grammars.compile(Grammar("regex", "a+")) is not made


def test_bias_against_all_that_is_allowed_is_said(model: Model) -> None:
    words = ["yes", "no"]
    ids = model.grammars.constraint(Grammar("choice", json.dumps(words))).allowed().ids
    params = SamplingParams(temperature=0, logit_bias={int(id): float("-inf") for id in ids})
    answer = model.generate(QUESTION, params=params, choice=words)
    with pytest.raises(ConfigError, match="logit_bias"):
        str(answer)


@pytest.mark.parametrize("name", ["person", "a number", "choices", "GBNF", "Lark"])
def test_a_form_that_begins_behind_a_thought(model: Model, name: str) -> None:
    grammar = grammar_of(**EVERY[name])
    assert grammar is not None
    constraint = model.grammars.constraint(replace(grammar, after="</think>"))
    for id in model.tokenizer.encode("Well, {3}: a <b>.\n</think>\n\n"):
        assert id in constraint.allowed()
        constraint.accept(id)
    inner = model.grammars.constraint(grammar).allowed().ids.tolist()
    assert constraint.allowed().ids.tolist() == inner


def test_escapes_of_gbnf() -> None:
    assert unescaped(r'"\u00e9\U0001F600" [\u0041-\\u] \n') == '"é😀" [\\x41-\\\\u] \\n'
    assert unescaped(r"\ud800") == r"\ud800"


def test_a_vocabulary_whose_texts_begin_with_a_space(model: Model) -> None:
    """What is forced is forced as it is, also where the tokenizer would put a space before it."""

    class Spaced(Tokenizer):
        def encode(self, text: str, special: bool = False, bos: bool | None = None) -> list[int]:
            return super().encode(" " + text, special, bos)

    spaced = Spaced.__new__(Spaced)
    spaced.__dict__ = dict(model.tokenizer.__dict__)
    constraint = Grammars(spaced, model.graph.vocab_size).constraint(Grammar("regex", "naming things"))
    text = b""
    while not constraint.ended:
        id = constraint.allowed().only
        assert id is not None
        constraint.accept(id)
        text += spaced.piece(id)
    assert text == b"naming things"


@pytest.mark.parametrize("vocab", [1, 31, 32, 33, 250, 49152])
def test_sets_of_tokens(vocab: int) -> None:
    rng = np.random.default_rng(vocab)
    ids = sorted(set(rng.integers(0, vocab, 40).tolist()))
    made = Allowed.of([*ids, vocab, -1], vocab)
    assert made.count == len(ids) and made.ids.tolist() == ids
    assert [id in made for id in range(-1, vocab + 1)] == [id in set(ids) for id in range(-1, vocab + 1)]
    assert made.within(frozenset(ids)) and not made.within(frozenset(ids[1:]))
    assert made.only == (ids[0] if len(ids) == 1 else None)
