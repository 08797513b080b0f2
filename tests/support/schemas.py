"""JSON schemas of many kinds, for answers that must follow one."""

from __future__ import annotations

from typing import Any


def record(**properties: Any) -> dict[str, Any]:
    """An object with just these, all of them required."""
    required = list(properties)
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


TEXT, SHORT = {"type": "string"}, {"type": "string", "maxLength": 12}
WHOLE, NUMBER, FLAG = {"type": "integer"}, {"type": "number"}, {"type": "boolean"}
POINT = record(x={"type": "integer", "minimum": 0, "maximum": 99}, y={"type": "integer", "minimum": 0, "maximum": 99})

SCHEMAS: dict[str, dict[str, Any]] = {
    "person": record(name=SHORT, age=WHOLE),
    "five fields": record(name=SHORT, age=WHOLE, email=SHORT, city=SHORT, married=FLAG),
    "enum": {"enum": ["red", "green", "blue"]},
    "enum of kinds": {"enum": ["a", 1, None, True, {"b": [2]}]},
    "const": record(kind={"const": "fixed"}, n=WHOLE),
    "null": {"type": "null"},
    "flag": FLAG,
    "whole": {"type": "integer", "minimum": 10, "maximum": 9999},
    "exclusive": {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 7},
    "number": {"type": "number", "minimum": 0, "maximum": 1},
    "multiple": {"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 1000},
    "pattern": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{4}$"},
    "date": {"type": "string", "format": "date"},
    "time": {"type": "string", "format": "date-time"},
    "uuid": {"type": "string", "format": "uuid"},
    "address": {"type": "string", "format": "ipv4"},
    "lengths": {"type": "string", "minLength": 3, "maxLength": 6},
    "points": {"type": "array", "items": POINT, "minItems": 2, "maxItems": 4},
    "strings": {"type": "array", "items": {"enum": ["yes", "no", "perhaps"]}, "minItems": 1, "maxItems": 5},
    "tuple": {"type": "array", "prefixItems": [SHORT, WHOLE, FLAG], "items": False, "minItems": 3},
    "nested": record(outer=record(inner=record(deep=record(value=WHOLE)))),
    "any of": {"anyOf": [record(kind={"const": "a"}, n=WHOLE), record(kind={"const": "b"}, text=SHORT)]},
    "one of": {"oneOf": [record(circle=WHOLE), record(square=WHOLE)]},
    "all of": {"allOf": [{"type": "object", "properties": {"a": WHOLE}, "required": ["a"]},
                         {"properties": {"b": FLAG}, "required": ["b"]}]},
    "optional": {"type": "object", "properties": {"a": WHOLE, "b": FLAG, "c": SHORT}, "additionalProperties": False},
    "nullable": record(nick={"type": ["string", "null"], "maxLength": 8}),
    "recursive": {"$ref": "#/$defs/tree", "$defs": {"tree": record(
        value={"type": "integer", "minimum": 0, "maximum": 9},
        children={"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 2})}},
    "definitions": {**record(a={"$ref": "#/$defs/p"}, b={"$ref": "#/$defs/p"}), "$defs": {"p": POINT}},
    "map": {"type": "object", "additionalProperties": {"type": "integer", "maximum": 100}, "maxProperties": 3},
    "tool call": record(name={"const": "get_weather"},
                        arguments=record(city=SHORT, unit={"enum": ["celsius", "fahrenheit"]})),
    "accents": {"enum": ["naïve", "日本語", "\"quoted\"\n"]},
    "escapes": record(**{"a\"b": WHOLE, "c\\d": FLAG}),
    "any object": {"type": "object"},
}  # fmt: skip

REFUSED: dict[str, tuple[Any, str]] = {
    "if": ({"type": "object", "if": {"required": ["a"]}, "then": {"required": ["b"]}}, "if"),
    "unique": ({"type": "array", "uniqueItems": True}, "uniqueItems"),
    "type": ({"type": "wizard"}, "wizard"),
    "reference": ({"$ref": "#/$defs/nothing"}, "/$defs/nothing"),
    "elsewhere": ({"$ref": "https://example.com/schema.json"}, "retriev"),
    "look-around": ({"type": "string", "pattern": "(?<=a)b"}, "look-around"),
    "nothing": ({"type": "object", "properties": {"a": False}, "required": ["a"]}, "'a'"),
    "empty": ({"enum": []}, "empty"),
    "itself": ({"$ref": "#"}, "nothing satisfies"),
    "format": ({"type": "string", "format": "frob"}, "frob"),
}
"""Schemas that cannot be followed, and what the refusal names."""


def nested(levels: int) -> dict[str, Any]:
    """Arrays in arrays."""
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


HOSTILE: dict[str, dict[str, Any]] = {
    "5,000 levels": {"schema": '{"type":"array","items":' * 5000 + "{}" + "}" * 5000},
    "an enum of 25,000": {"schema": {"enum": [f"v{i}" for i in range(25_000)]}},
    "an enum of 200,000": {"schema": {"enum": [f"v{i}" for i in range(200_000)]}},
    "8,000 properties": {"schema": {"type": "object", "properties": {f"p{i}": TEXT for i in range(8000)}}},
    "3,000 parts": {"schema": {"allOf": [{"properties": {f"a{i}": WHOLE}} for i in range(3000)]}},
    "alternatives": {"schema": {"anyOf": [record(**{f"p{j}": {"type": "string", "pattern": f"^[a-z]{{1,{i + j + 1}}}$"}
                                                    for j in range(10)}) for i in range(100)]}},
    "lengths": {"schema": {"type": "string", "maxLength": 2_000_000_000}},
    "items": {"schema": {"type": "array", "maxItems": 1_000_000_000, "items": {"type": "array", "minItems": 100_000}}},
    "60,000 groups": {"regex": "(" * 60_000 + "a" + ")" * 60_000},
    "catastrophic": {"regex": "(a+)+(b+)+(.*a){20}(.*c){50}$"},
    "repetitions": {"regex": "((a{0,1000}){0,1000}){0,1000}"},
    "groups of a grammar": {"grammar": "root ::= " + "(" * 60_000 + '"a"' + ")" * 60_000},
    "groups of Lark": {"grammar": "start: " + "(" * 60_000 + '"a"' + ")" * 60_000},
    "left recursion": {"grammar": 'root ::= root root | root "a" | "b" | ""\n'},
    "many rules": {"grammar": "root ::= r0\n" + "".join(f'r{i} ::= r{i + 1} r{i + 1} | "x"\n' for i in range(500))
                   + 'r500 ::= "y"\n'},
}  # fmt: skip
"""What must neither end a process nor take long: it is refused, or compiled."""
