"""What a request says of its answer's form, under the names of OpenAI, vLLM and llama.cpp."""

from __future__ import annotations

from typing import Any

from memfirst.errors import ConfigError
from memfirst.runtime.grammar import ANY_OBJECT, CHOICE, GRAMMAR, REGEX, SCHEMA, Grammar, grammar_of
from memfirst.server.fields import Sampled

VLLM = {"json": SCHEMA, "regex": REGEX, "choice": CHOICE, "grammar": GRAMMAR}
"""Names within `structured_outputs`, and after `guided_`."""
HARMLESS = {"disable_fallback", "disable_any_whitespace", "disable_additional_properties"}
"""Of vLLM's: how, not what."""


def grammar_asked(body: Sampled) -> Grammar | None:
    """What the answer must follow, None for nothing; ConfigError for two such things, or for what is none."""
    given = list(_asked(body))
    if len({name for name, _ in given}) > 1:
        raise ConfigError(f"{' and '.join(name for name, _ in given)} together", "one of them")
    return given[0][1] if given else None


def _asked(body: Sampled) -> list[tuple[str, Grammar]]:
    found = [("response_format", _of_format(getattr(body, "response_format", None)))]
    found += [(f"guided_{name}", _of(kind, getattr(body, f"guided_{name}"))) for name, kind in VLLM.items()]
    found += [("grammar", _of(GRAMMAR, body.grammar)), ("json_schema", _of(SCHEMA, body.json_schema))]
    found += [("structured_outputs", _of_vllm(body.structured_outputs))]
    return [(name, grammar) for name, grammar in found if grammar is not None]


def _of(kind: str, value: Any) -> Grammar | None:
    """Of one kind; None for nothing, as an empty text is to llama.cpp's clients."""
    return None if value is None or value == "" else grammar_of(**{kind: value})


def _of_vllm(given: dict[str, Any] | None) -> Grammar | None:
    asked = {name: value for name, value in (given or {}).items() if value not in (None, False)}
    unknown = sorted(asked.keys() - VLLM.keys() - HARMLESS - {"json_object"})
    if unknown:
        raise ConfigError(f"structured_outputs.{unknown[0]:.60}", f"{', '.join(VLLM)} or json_object")
    kinds = {VLLM[name]: value for name, value in asked.items() if name in VLLM}
    if asked.get("json_object"):
        kinds.setdefault(SCHEMA, ANY_OBJECT)
    return grammar_of(**kinds)


def _of_format(given: dict[str, Any] | None) -> Grammar | None:
    form = given or {"type": "text"}
    kind = form.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        given = form.get("schema")
        if given is not None and not isinstance(given, dict):
            raise ConfigError(f"response_format with the schema {given!r:.40}", "an object")
        return Grammar(SCHEMA, ANY_OBJECT) if given is None else grammar_of(schema=given)
    if kind != "json_schema":
        raise ConfigError(f"response_format of type {kind!r:.40}", "text, json_object or json_schema")
    named = form.get("json_schema")
    schema = named.get("schema") if isinstance(named, dict) else form.get("schema")
    if not isinstance(schema, dict | bool):
        raise ConfigError("response_format without a schema", 'json_schema: {"name": …, "schema": {…}}')
    return grammar_of(schema=schema)
