"""Answers that follow a JSON schema, a regular expression, a list of choices or a grammar.

llguidance says after each token which may come next (Koo et al., "Automata-based constraints for language model
decoding", arXiv 2407.08103, describe the idea): 43 µs a token on average. Text that is forced is forced in the tokens
that the model's own tokenizer makes of it.
"""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from memfirst.errors import ConfigError
from memfirst.runtime.allowed import Allowed
from memfirst.text import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

SCHEMA, REGEX, CHOICE, GRAMMAR = "schema", "regex", "choice", "grammar"

MOST_BYTES = 256 << 10
"""Of a schema or a grammar; published ones have up to 200 kB."""
KEPT = 64
"""Compiled grammars that are kept, the longest unused gone first."""
MOST_STATES = 50_000
"""States of a grammar's lexer, of 1 to 2 kB each."""

SPACES = r"(\x20|\x0A[\x20\x09]{0,20})"
"""White space between the parts of JSON: any amount would let small models write nothing else."""
ANY_OBJECT = '{"type": "object"}'

_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|.)", re.DOTALL)
_ERROR = re.compile(r"error: (.+)")


@dataclass(frozen=True)
class Grammar:
    """What an answer follows, uncompiled.

    kind   SCHEMA, REGEX, CHOICE or GRAMMAR
    text   the schema as JSON, the expression, the choices as a JSON list, or the grammar in GBNF or Lark
    after  the text behind which it begins, and up to two blank lines; anything may stand before that
    """

    kind: str
    text: str
    after: str = ""

    def __post_init__(self) -> None:
        if len(self.text) * 4 > MOST_BYTES and len(self.text.encode()) > MOST_BYTES:
            raise ConfigError(f"a {self.kind} of {len(self.text.encode()):,} bytes", f"at most {MOST_BYTES:,}")


def grammar_of(
    schema: object = None, regex: str | None = None, choice: Sequence[str] | None = None, grammar: str | None = None
) -> Grammar | None:
    """The one that is given, or None; ConfigError for two of them, or for another type.

    schema  a mapping, its JSON, or a pydantic model
    """
    given = {SCHEMA: schema, REGEX: regex, CHOICE: choice, GRAMMAR: grammar}
    kinds = [kind for kind, one in given.items() if one is not None]
    if not kinds:
        return None
    if len(kinds) > 1:
        raise ConfigError(f"{' and '.join(kinds)} together", "one of them")
    kind = kinds[0]
    if kind == SCHEMA:
        return Grammar(SCHEMA, _json_schema(schema))
    if kind == CHOICE:
        words = [] if choice is None or isinstance(choice, str) else list(choice)
        if not words or not all(isinstance(word, str) and word for word in words):
            raise ConfigError(f"choice is {choice!r:.80}", "a list of texts, none of them empty")
        return Grammar(CHOICE, json.dumps(words))
    text = given[kind]
    if not isinstance(text, str) or not text:
        raise ConfigError(f"{kind} is {text!r:.80}", "a text")
    return Grammar(kind, text)


def _json_schema(schema: object) -> str:
    made = getattr(schema, "model_json_schema", None)
    schema = made() if callable(made) else schema
    if not isinstance(schema, str | Mapping | bool):
        raise ConfigError(f"a schema of type {type(schema).__name__}", "a mapping, its JSON, or a pydantic model")
    try:
        return schema if isinstance(schema, str) else json.dumps(schema)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"a schema that is no JSON ({error})", "an object of texts, numbers and lists") from None


class Grammars:
    """Compiles grammars for one vocabulary; safe to use from several threads.

    vocab  tokens that the model has logits for, at least those of the tokenizer
    """

    def __init__(self, tokenizer: Tokenizer, vocab: int) -> None:
        self._tokenizer, self._vocab = tokenizer, max(vocab, tokenizer.vocab_size)
        self._compiled: OrderedDict[Grammar, LLMatcher] = OrderedDict()
        self._lock = threading.Lock()
        self._words: LLTokenizer | None = None

    def warm_up(self) -> LLTokenizer:
        """Read the vocabulary, which the first grammar would wait for: 0.25 s for 49,152 tokens."""
        with self._lock:
            self._words = self._words or _words_of(self._tokenizer, self._vocab)
            return self._words

    def __contains__(self, grammar: Grammar) -> bool:
        """Whether it is compiled already."""
        return grammar in self._compiled

    def compile(self, grammar: Grammar) -> LLMatcher:
        """Its matcher before the first token; ConfigError for what is malformed, unknown, too complex, or allows
        nothing."""
        with self._lock:
            found = self._compiled.get(grammar)
            if found is not None:
                self._compiled.move_to_end(grammar)
                return found
        made = _compiled(grammar, self.warm_up())
        with self._lock:
            self._compiled[grammar] = made
            while len(self._compiled) > KEPT:
                self._compiled.popitem(last=False)
        return made

    def constraint(self, grammar: Grammar, end_ids: Sequence[int] = ()) -> Constraint:
        """For one answer, which may also end with one of `end_ids`."""
        return Constraint(self.compile(grammar).deep_copy(), self._vocab, end_ids)


class Constraint:
    """Where one answer is in its grammar.

    end_ids  tokens that end it besides the tokenizer's, where the grammar lets it end
    """

    def __init__(self, matcher: LLMatcher, vocab: int, end_ids: Sequence[int] = ()) -> None:
        self._matcher, self._vocab, self._end_ids = matcher, vocab, end_ids

    def allowed(self) -> Allowed:
        """The tokens that may come next, those that end the answer only where it may end; ConfigError where that
        takes too long to find out."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.int32)
        if self._matcher.is_error():
            raise _too_complex(self._matcher)
        if not self._end_ids or not self._matcher.is_accepting():
            return Allowed(bits, self._vocab)
        made = Allowed(bits.copy(), self._vocab)
        made.add(self._end_ids)
        return made

    def accept(self, id: int) -> None:
        """This token came."""
        if not self._matcher.consume_token(id):
            raise _too_complex(self._matcher)

    @property
    def ended(self) -> bool:
        """The grammar is complete, and nothing can follow."""
        return self._matcher.is_stopped() and not self._matcher.is_error()


class _Words:
    """The vocabulary as llguidance's `TokenizerWrapper` asks for it."""

    def __init__(self, tokenizer: Tokenizer, vocab: int) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = min(tokenizer.stop_ids, default=None)
        self.bos_token_id = tokenizer.special_ids.get("bos")
        self.tokens = [tokenizer.piece(id, special=True) for id in range(vocab)]
        self.special_token_ids = sorted(id for id in tokenizer.controls if id < vocab)
        self._ids = {piece: id for id, piece in enumerate(self.tokens) if piece and id not in tokenizer.controls}
        self._longest = max(map(len, self._ids), default=1)

    def __call__(self, text: str | bytes) -> list[int]:
        """Tokens of a text, without BOS, that are this text and nothing else; of bytes, which it is probed with."""
        raw = text if isinstance(text, bytes) else text.encode()
        ids = self._tokenizer.encode(raw.decode("utf-8", "replace"), bos=False)
        if b"".join(self.tokens[id] for id in ids) == raw:
            return ids
        return self._greedy(raw)  # a tokenizer that puts a space before every text

    def _greedy(self, raw: bytes) -> list[int]:
        ids, at = list[int](), 0
        while at < len(raw):
            ends = range(min(len(raw), at + self._longest), at, -1)
            end = next((end for end in ends if raw[at:end] in self._ids), None)
            if end is None:
                return ids  # a vocabulary without all bytes: what follows is not forced
            ids.append(self._ids[raw[at:end]])
            at = end
        return ids


def _words_of(tokenizer: Tokenizer, vocab: int) -> LLTokenizer:
    from llguidance import LLTokenizer, TokenizerWrapper

    ends = sorted(tokenizer.stop_ids)
    return LLTokenizer(TokenizerWrapper(_Words(tokenizer, vocab)), eos_token=ends or None)


def _compiled(grammar: Grammar, words: LLTokenizer) -> LLMatcher:
    from llguidance import LLMatcher, LLParserLimits

    limits = LLParserLimits(max_lexer_states=MOST_STATES, verbose_errors=False)
    try:
        matcher = LLMatcher(words, _placed(grammar), log_level=0, limits=limits)
    except ValueError as error:
        raise _refused(grammar, str(error)) from None
    if not matcher.is_error():
        matcher.compute_bitmask()  # a grammar that allows nothing is found out here
    if matcher.is_error():
        raise _refused(grammar, matcher.get_error())
    return matcher


def _placed(grammar: Grammar) -> str:
    """As llguidance reads it, with what may stand before it."""
    written = _as_llguidance(grammar)
    if not grammar.after:
        return written
    try:
        inner = json.loads(written)["grammars"][0]
    except ValueError:  # Lark as it is
        inner = {"lark_grammar": written}
    before = (
        f"start: before blank? @answer\nbefore[suffix={json.dumps(grammar.after)}]: /(?s:.*)/\nblank: /\\n{{1,2}}/\n"
    )
    return json.dumps({"grammars": [{"lark_grammar": before}, {**inner, "name": "answer"}]})


def _as_llguidance(grammar: Grammar) -> str:
    from llguidance import LLMatcher, grammar_from

    if grammar.kind == SCHEMA:
        options: Any = {"whitespace_pattern": SPACES, "lenient": False}
        return LLMatcher.grammar_from_json_schema(json.dumps(closed(parsed(grammar.text))), overrides=options)
    return grammar_from("grammar", unescaped(grammar.text)) if grammar.kind == GRAMMAR else _plain(grammar)


def _plain(grammar: Grammar) -> str:
    from llguidance import LLMatcher, grammar_from

    return LLMatcher.grammar_from_regex(grammar.text) if grammar.kind == REGEX else grammar_from("choice", grammar.text)


def parsed(schema: str) -> Any:
    """A schema's JSON; ValueError for what is none."""
    try:
        made = json.loads(schema)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return made if not isinstance(made, bool) else {} if made else {"enum": []}


def closed(schema: Any) -> Any:
    """The schema, where objects that list their properties have no others unless it says so: small models would go on
    inventing some. Alternatives that must hold together (`allOf`) are left as they are, and what these refer to."""
    parts = [part for one in _schemas(schema) for part in _list(one.get("allOf"))]
    references = {ref for part in parts for ref in _references(part)}
    for name in ("$defs", "definitions"):
        defined = _mapping(_mapping(schema).get(name)).items()
        parts += [one for key, one in defined if f"#/{name}/{key}" in references]
    together = {id(part) for part in parts}
    for one in _schemas(schema):
        if "properties" in one and id(one) not in together and not _SAY_MORE & one.keys():
            one["additionalProperties"] = False
    return schema


_SAY_MORE = {"additionalProperties", "unevaluatedProperties", "patternProperties", "allOf", "anyOf", "oneOf", "$ref"}
_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
_SINGLE = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "additionalItems")


def _schemas(schema: Any) -> Iterator[dict[str, Any]]:
    """A schema and all in it; not what only looks like one, as values of `enum` do."""
    left = [schema]
    while left:
        one = left.pop()
        if not isinstance(one, dict):
            continue
        yield one
        for name in _MAPS:
            left += _mapping(one.get(name)).values()
        for name in _LISTS:
            left += _list(one.get(name))
        left += [one[name] for name in _SINGLE if name in one]


def _references(schema: Any) -> Iterator[str]:
    for one in _schemas(schema):
        if isinstance(ref := one.get("$ref"), str):
            yield ref


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def unescaped(gbnf: str) -> str:
    """GBNF with `\\u…` and `\\U…` as the characters that they mean, which llguidance's converter takes from there."""

    def character(found: re.Match[str]) -> str:
        code = found[1] or found[2]
        if code is None or (point := int(code, 16)) > 0x10FFFF or 0xD800 <= point < 0xE000:
            return found[0]
        return f"\\x{point:02x}" if point < 128 else chr(point)

    return _ESCAPE.sub(character, gbnf)


def _refused(grammar: Grammar, said: str) -> ConfigError:
    """What llguidance says of a grammar, as one line of sensible length."""
    said = said.removeprefix("Failed to convert the grammar from GBNF to Lark: ").replace("<non-verbose/>", "")
    if said.startswith("NoExtensionBias"):
        said = "nothing satisfies it"
    last = _ERROR.findall(said)
    line = " ".join((f"{said.split(':')[0]}: {last[-1]}" if last and len(said) > 200 else said).split())
    return ConfigError(f"the {grammar.kind} cannot be followed: {line[:300]}")


def _too_complex(matcher: LLMatcher) -> ConfigError:
    line = " ".join(matcher.get_error().replace("<non-verbose/>", "").split())
    return ConfigError(f"the answer's grammar became too complex: {line[:200]}", "a simpler one")
