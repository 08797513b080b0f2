"""The tools of a request: checked, described to models whose template knows none, and calls that are asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from memfirst.errors import ConfigError
from memfirst.runtime.grammar import GRAMMAR, SCHEMA, SPACES, Grammar, closed
from memfirst.server.families import ARGUMENTS, NAME, Family
from memfirst.server.fields import Chat
from memfirst.text import Tokenizer

COMPACT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""JSON as Python writes it, which templates show models: nearly every token of it is forced."""
MOST_CALLS = 16

_NAME = re.compile(r"[\w.-]{1,64}\Z", re.ASCII)

DESCRIBED = (
    "You can call functions. Their signatures, one a line:\n<tools>\n{tools}\n</tools>\n"
    "To call one, write its name and its arguments as JSON between tags:\n"
    '<tool_call>\n{{"name": "NAME", "arguments": {{...}}}}\n</tool_call>'
)


def check_tools(chat: Chat) -> list[dict[str, Any]]:
    """The functions of a request that may be called; ConfigError for what is no tool, or a choice of none."""
    functions = [_function(tool) for tool in chat.tools or ()]
    choice = chat.tool_choice
    if choice == "none":
        return []
    if isinstance(choice, dict):
        name = (choice.get("function") or {}).get("name") if choice.get("type") == "function" else None
        if not isinstance(name, str):
            raise ConfigError(f"tool_choice {choice!r:.60}", 'none, auto, required or {"type": "function", …}')
        named = [function for function in functions if function["name"] == name]
        if not named:
            raise ConfigError(f"tool_choice of {name!r:.60}", "one of the tools")
        return named
    if choice == "required" and not functions:
        raise ConfigError("tool_choice required without tools", "some tools")
    return functions


def _function(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = tool.get("function")
    if tool.get("type", "function") != "function" or not isinstance(function, dict):
        raise ConfigError(f"a tool {tool!r:.80}", 'one like {"type": "function", "function": {"name": …}}')
    name, parameters = function.get("name"), function.get("parameters")
    if not isinstance(name, str) or not _NAME.match(name):
        raise ConfigError(f"a function called {name!r:.80}", "1 to 64 letters, digits, _, - and dots")
    if parameters is not None and not isinstance(parameters, dict):
        raise ConfigError(f"parameters of {name} that are a {type(parameters).__name__}", "a JSON schema")
    return function


def is_forced(chat: Chat) -> bool:
    """Whether the answer must be a call."""
    return chat.tool_choice == "required" or isinstance(chat.tool_choice, dict)


def forced(
    family: Family, functions: Sequence[Mapping[str, Any]], tokenizer: Tokenizer, several: bool, form: Grammar | None
) -> Grammar:
    """A grammar of one call or several to these functions; with a form, of either."""
    if not family.plain:
        raise ConfigError("a forced tool call", "tool_choice auto: this model writes arguments in no JSON")
    before, between, behind = family.around
    rules = [f"one: {' | '.join(f'call{i}' for i in range(len(functions)))}"]
    for i, function in enumerate(functions):
        schema = closed(json.loads(json.dumps(function.get("parameters") or {"type": "object", "properties": {}})))
        schema = {"type": "object", **schema, "x-guidance": COMPACT}
        head, _, tail = family.one.replace(NAME, function["name"]).partition(ARGUMENTS)
        parts = [*_literals(head, tokenizer), f"arguments{i}", *_literals(tail, tokenizer)]
        rules += [f"call{i}: {' '.join(parts)}", f"arguments{i}: %json {json.dumps(schema)}"]
    more = " ".join([*_literals(between or "", tokenizer), "one"])
    repeated = f"({more}){{0,{MOST_CALLS - 1}}}" if several and between is not None else ""
    calls = " ".join([*_literals(before, tokenizer), "one", repeated, *_literals(behind, tokenizer)])
    thought = ["thought?"] if family.thinks else []
    rules += [_thought(tokenizer)] if family.thinks else []
    opened = _literals("<|channel|>final<|message|>", tokenizer) if family.thinks else []
    rules += [] if form is None else [f"form: {' '.join(opened)} %json {_as_json(form)}"]
    start = " ".join([*thought, "calls" if form is None else "(calls | form)"])
    return Grammar(GRAMMAR, "\n".join(["%llguidance {}", f"start: {start}", f"calls: {calls}", *rules]))


def final(form: Grammar, tokenizer: Tokenizer) -> Grammar:
    """A form of the last message of an answer in channels."""
    if form.kind != SCHEMA:
        raise ConfigError(f"a {form.kind}", "a JSON schema: this model's answers have channels")
    opened = " ".join(_literals("<|channel|>final<|message|>", tokenizer))
    rules = f"start: thought? {opened} %json {_as_json(form)}", _thought(tokenizer)
    return Grammar(GRAMMAR, "\n".join(["%llguidance {}", *rules]))


def _as_json(form: Grammar) -> str:
    return json.dumps({"x-guidance": {"whitespace_pattern": SPACES}, **closed(json.loads(form.text))})


def _thought(tokenizer: Tokenizer) -> str:
    opened, done = (
        _literals(text, tokenizer) for text in ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant")
    )
    return f"thought: {' '.join(opened)} /(?s:.*)/ {' '.join(done)}"


def calls_or(form: Grammar, family: Family, functions: Sequence[Mapping[str, Any]], tokenizer: Tokenizer) -> Grammar:
    """Calls, or an answer in a form."""
    if form.kind != SCHEMA:
        raise ConfigError(f"tools together with a {form.kind}", "tools and a JSON schema, or one of them")
    return forced(family, functions, tokenizer, True, form)


def _literals(text: str, tokenizer: Tokenizer) -> list[str]:
    """A text for a Lark rule, its control tokens by their ids."""
    controls = {token: id for id, token in tokenizer.controls.items() if token and token in text}
    if not controls:
        return [json.dumps(text, ensure_ascii=False)] if text else []
    parts = re.split(f"({'|'.join(re.escape(token) for token in sorted(controls, key=len, reverse=True))})", text)
    return [
        f"<[{controls[part]}]>" if part in controls else json.dumps(part, ensure_ascii=False) for part in parts if part
    ]


def described(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Messages for a template that knows no tools: these are described in the system message, and calls and what came
    of them are texts."""
    if not tools:
        return [_plain(message) for message in messages]
    lines = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    said = DESCRIBED.format(tools=lines)
    made = [_plain(message) for message in messages]
    if made and made[0]["role"] == "system":
        return [{**made[0], "content": f"{_content(made[0])}\n\n{said}"}, *made[1:]]
    return [{"role": "system", "content": said}, *made]


def _plain(message: Mapping[str, Any]) -> Mapping[str, Any]:
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{_content(message)}\n</tool_response>"}
    calls = [call.get("function") or {} for call in message.get("tool_calls") or ()]
    if not calls:
        return message
    written = [
        json.dumps({name: call.get(name) for name in ("name", "arguments")}, ensure_ascii=False) for call in calls
    ]
    texts = [_content(message), *(f"<tool_call>\n{text}\n</tool_call>" for text in written)]
    return {"role": message["role"], "content": "\n".join(text for text in texts if text)}


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(str(part.get("text", "")) for part in content)
