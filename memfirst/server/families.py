"""How families of models write tool calls: read from their text, and as a rule that forces one.

The forms are those of the models' own chat templates; a family is known by what its template holds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from memfirst.server.calls import CallReader, Reading, json_call

NAME, ARGUMENTS = "{{name}}", "{{arguments}}"


@dataclass(frozen=True)
class Family:
    """A way to write calls.

    holds    texts of which the template has all
    marks    control tokens that the reader must see
    read     takes an answer's text apart
    one      a call, with NAME and ARGUMENTS in their places
    around   what stands before, between and behind calls; no text between: one call only
    short    ids of nine letters
    thinks   `read` tells thoughts apart itself, with tools or without
    plain    ARGUMENTS is JSON
    """

    name: str
    holds: tuple[str, ...]
    marks: tuple[str, ...]
    read: Callable[[CallReader], Reading]
    one: str
    around: tuple[str, str | None, str] = ("", None, "")
    short: bool = False
    thinks: bool = False
    plain: bool = True


def family_of(template: str) -> Family:
    """The family of a chat template. Others write calls as Hermes does, and are told so."""
    return next((family for family in FAMILIES if all(text in template for text in family.holds)), HERMES)


# --- Hermes, Qwen: <tool_call>{"name": …, "arguments": …}</tool_call>; Qwen3-Coder: <function=…><parameter=…>


def read_hermes(r: CallReader) -> Reading:
    """Text with calls between tags."""
    while (yield from r.until("<tool_call>")):
        yield from r.skip()
        found = (yield from _function(r)) if (yield from r.starts("<function=")) else (yield from json_call(r))
        if not found:
            r.say("<tool_call>")
            continue
        yield from r.skip()
        yield from r.starts("</tool_call>")
        yield from r.skip()


_PARAMETER = re.compile(r"<parameter=([^>\s]+)>\n?(.*?)\n?</parameter>", re.DOTALL)


def _function(r: CallReader) -> Reading:
    body, mark = yield from r.collect("</function>")
    name, opened, inner = body.partition(">")
    if not mark or not opened:
        r.text = f"<function={body}{mark}{r.text}"
        return False
    r.call(name.strip(), {key: _value(text) for key, text in _PARAMETER.findall(inner)})
    return True


def _value(text: str) -> Any:
    """A parameter that is JSON as such, any other as text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


# --- Llama 3: {"name": …, "parameters": …}, alone


def read_llama(r: CallReader) -> Reading:
    """An answer that is calls from its beginning, or from <|python_tag|> on."""
    while (first := (yield from r.peek())) == "{" or (first == "<" and (yield from _tag(r))):
        if first == "{" and not (yield from json_call(r)):
            break
        yield from r.skip(r"\s*;?\s*")
    while (yield from r.until("<|python_tag|>")):
        while (yield from r.peek()) == "{" and (yield from json_call(r)):
            yield from r.skip(r"\s*;?\s*")


def _tag(r: CallReader) -> Reading:
    return (yield from r.starts("<|python_tag|>"))


# --- Mistral: [TOOL_CALLS][{"name": …, "arguments": …}, …], later [TOOL_CALLS]name[ARGS]{…}


def read_mistral(r: CallReader) -> Reading:
    """Text, then calls."""
    while (yield from r.until("[TOOL_CALLS]")):
        first = yield from r.peek()
        if first in ("[", "{"):
            yield from r.skip(r"\s*\[?")
            while (yield from r.peek()) == "{" and (yield from json_call(r)):
                yield from r.skip(r"[\s,]*")
            yield from r.skip(r"\s*\]?\s*")
            continue
        name, mark = yield from r.collect("[CALL_ID]", "[ARGS]")
        id, mark = (yield from r.collect("[ARGS]")) if mark == "[CALL_ID]" else ("", mark)
        if not mark:
            r.say(f"[TOOL_CALLS]{name}")
            return
        yield from r.value(r.begin(name.strip(), id.strip()))
        yield from r.skip()


# --- DeepSeek


CALLS, CALL, SEP = "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>"
CALL_END, CALLS_END = "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"


def read_deepseek(r: CallReader) -> Reading:
    """V3 and R1 write `function`, the name, and arguments in a block of code; V3.1 the name and the arguments."""
    while mark := (yield from r.until(CALLS, CALL, CALLS_END)):
        if mark != CALL:
            yield from r.skip()
            continue
        name, mark = yield from r.collect(SEP)
        if not mark:
            r.say(CALL + name)
            return
        if name.strip() == "function":
            name, _ = yield from r.collect("\n")
        _, brace = yield from r.collect("{")
        r.text = brace + r.text
        yield from r.value(r.begin(name.strip()))
        yield from r.collect(CALL_END)
        yield from r.skip()


# --- gpt-oss: channels


ENDS = ("<|end|>", "<|call|>", "<|return|>", "<|start|>")


def read_harmony(r: CallReader) -> Reading:
    """Messages with a channel and, where they are calls, a recipient."""
    while True:
        header, mark = yield from r.collect("<|message|>")
        if not mark:
            r.say(re.sub(r"<\|[a-z]+\|>", "", header).removeprefix("assistant"))
            return
        to = re.search(r"to=functions\.([\w.-]+)", header)
        if to:
            index = r.begin(to[1])
            done = yield from r.until(*ENDS, sink=lambda text, index=index: r.argue(index, text))  # type: ignore[misc]
        else:
            channel = re.search(r"<\|channel\|>\s*(\w+)", header)
            analysis = channel is not None and channel[1] == "analysis"
            done = yield from r.until(*ENDS, sink=r.think if analysis else r.say)
        if not done:
            return


# --- FunctionGemma: call:name{key:<escape>text<escape>,number:3}


def read_functiongemma(r: CallReader) -> Reading:
    """Text with calls between tags, whose texts stand between <escape>."""
    opened, closed = "<start_function_call>", "<end_function_call>"
    while (yield from r.until(opened)):
        body, mark = yield from r.collect(closed)
        head = re.match(r"\s*call:([\w.-]+)(?=\{)", body)
        try:
            arguments, _ = _gemma_value(body, head.end()) if head else (None, 0)
        except (ValueError, IndexError, RecursionError):
            head = None
        if head is None or not isinstance(arguments, dict):
            r.say(opened + body + mark)
        else:
            r.call(head[1], arguments)


def _gemma_value(text: str, at: int) -> tuple[Any, int]:
    """A value at a place, and where it ends; ValueError or IndexError for what is none."""
    if text.startswith("<escape>", at):
        end = text.index("<escape>", at + 8)
        return text[at + 8 : end], end + 8
    if text[at] == "{":
        made: dict[str, Any] = {}
        while text[at] != "}":
            colon = text.index(":", at) if text[at + 1] != "}" else -1
            if colon < 0:
                return made, at + 2
            key = text[at + 1 : colon].removeprefix("<escape>").removesuffix("<escape>")
            made[key], at = _gemma_value(text, colon + 1)
        return made, at + 1
    if text[at] == "[":
        listed: list[Any] = []
        while text[at] != "]":
            if text[at + 1] == "]":
                return listed, at + 2
            one, at = _gemma_value(text, at + 1)
            listed.append(one)
        return listed, at + 1
    found = re.compile(r"[^,}\]]+").match(text, at)
    if found is None:
        raise ValueError(text[at : at + 20])
    return _value(found[0]), found.end()


JSON = f'{{"name": "{NAME}", "arguments": {ARGUMENTS}}}'

HERMES = Family(
    "hermes", ("<tool_call>",), ("<tool_call>", "</tool_call>"), read_hermes,
    f"<tool_call>\n{JSON}\n</tool_call>", ("", "\n", ""),
)  # fmt: skip
LLAMA = Family(
    "llama3", ("<|start_header_id|>", '"parameters"'), ("<|python_tag|>",), read_llama,
    f'{{"name": "{NAME}", "parameters": {ARGUMENTS}}}', ("", "; ", ""),
)  # fmt: skip
HARMONY = Family(
    "harmony", ("<|channel|>", "<|message|>"), ("<|channel|>", "<|message|>", "<|constrain|>", *ENDS), read_harmony,
    f"<|channel|>commentary to=functions.{NAME} <|constrain|>json<|message|>{ARGUMENTS}", thinks=True,
)  # fmt: skip
_DEEPSEEK = CALLS, CALL, SEP, CALL_END, CALLS_END
DEEPSEEK = Family(
    "deepseek", (CALL, "```json"), _DEEPSEEK, read_deepseek,
    f"{CALL}function{SEP}{NAME}\n```json\n{ARGUMENTS}\n```{CALL_END}", (CALLS, "\n", CALLS_END),
)  # fmt: skip
DEEPSEEK_31 = Family(
    "deepseek-v3.1",
    (CALL,),
    _DEEPSEEK,
    read_deepseek,
    f"{CALL}{NAME}{SEP}{ARGUMENTS}{CALL_END}",
    (CALLS, "", CALLS_END),
)
_GEMMA = "<start_function_call>", "<end_function_call>", "<escape>"
FUNCTIONGEMMA = Family(
    "functiongemma", _GEMMA[:1], _GEMMA, read_functiongemma,
    f"{_GEMMA[0]}call:{NAME}{ARGUMENTS}{_GEMMA[1]}", ("", "", ""), plain=False,
)  # fmt: skip
_MISTRAL = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
MISTRAL = Family(
    "mistral", _MISTRAL[:2], _MISTRAL, read_mistral, f"[TOOL_CALLS]{NAME}[ARGS]{ARGUMENTS}", ("", "", ""), short=True
)
MISTRAL_LIST = Family(
    "mistral-list", _MISTRAL[:1], _MISTRAL, read_mistral, JSON, ("[TOOL_CALLS][", ", ", "]"), short=True
)  # fmt: skip
FAMILIES = HARMONY, DEEPSEEK, DEEPSEEK_31, FUNCTIONGEMMA, MISTRAL, MISTRAL_LIST, HERMES, LLAMA
