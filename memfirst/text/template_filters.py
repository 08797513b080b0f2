"""The filters that chat templates have, each bounded; and the text operations that multiply."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jinja2 import filters as builtin

if TYPE_CHECKING:
    from memfirst.text.sandbox import BoundedEnvironment, Budget

# These make nothing longer than a few times their input, in one pass over it.
PLAIN = (
    *(
        "abs",
        "capitalize",
        "count",
        "d",
        "default",
        "dictsort",
        "e",
        "escape",
        "first",
        "float",
        "int",
        "items",
    ),
    *("last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "reverse", "safe"),
    *("select", "selectattr", "sort", "string", "title", "trim", "unique", "upper", "wordcount"),
)


def filters(environment: BoundedEnvironment) -> dict[str, Callable[..., Any]]:
    """Name -> filter. `concat_`, `slice_`, `literal_` and `tick_` stand for syntax."""
    own: dict[str, Callable[..., Any]] = {
        "tojson": tojson,
        "join": lambda value, d="", attribute=None: _join(environment, value, d, attribute),
        "replace": lambda text, old, new, count=-1: replaced(environment.budget, str(text), old, new, count),
        "indent": lambda text, *how, **named: _indent(environment.budget, text, *how, **named),
        "format": lambda form, *values: environment.call_binop(None, "%", str(form), values),
        "concat_": lambda parts: joined(environment.budget, "", parts),
        "slice_": lambda value, start, stop, step: value[start:stop:step],
        "literal_": lambda value: value,
        "tick_": lambda value: value,
    }
    found: dict[str, Callable[..., Any]] = {name: builtin.FILTERS[name] for name in PLAIN}
    return {**found, **own}


def tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """JSON as Hugging Face's templates expect it: not escaped for HTML."""
    if indent is not None and not (isinstance(indent, int) and 0 <= indent <= 16):
        raise ValueError("tojson takes an indent of 0 to 16")
    separators = None if separators is None else tuple(str(part)[:8] for part in separators)
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def joined(budget: Budget, glue: str, parts: Any) -> str:
    """`glue.join(parts)`, parts printed if they aren't text."""
    texts = [str(part) for part in parts]
    budget.charge(sum(map(len, texts)) + len(glue) * len(texts))
    return glue.join(texts)


def replaced(budget: Budget, text: str, old: str, new: str, count: int | None = -1) -> str:
    """`text.replace(old, new, count)`."""
    old, new, count = str(old), str(new), -1 if count is None else int(count)
    hits = text.count(old) if count < 0 else min(count, text.count(old))
    budget.charge(len(text) + hits * len(new))
    return text.replace(old, new, count)


def _join(environment: BoundedEnvironment, value: Any, glue: str, attribute: Any) -> str:
    if attribute is not None:
        value = [environment.getitem(item, attribute) for item in value]
    return joined(environment.budget, str(glue), value)


def _indent(budget: Budget, text: Any, width: Any = 4, first: bool = False, blank: bool = False) -> str:
    if not isinstance(width, str) and not 0 <= int(width) <= 1000:
        raise ValueError("indent takes a width of 0 to 1000")
    prefix = width if isinstance(width, str) else " " * int(width)
    text = str(text)
    budget.charge(len(text) + len(prefix) * (text.count("\n") + 1))
    return str(builtin.do_indent(text, prefix, first, blank))
