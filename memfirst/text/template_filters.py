"""The filters that chat templates have, each bounded; and the text operations that multiply."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from jinja2 import filters as builtin

from memfirst.text.tracked import concat, from_messages, join, printed, replace

if TYPE_CHECKING:
    from memfirst.text.sandbox import BoundedEnvironment, Budget

# These make nothing longer than a few times their input, in one pass over it, and no text but parts of it.
PLAIN = (
    "abs", "attr", "capitalize", "count", "d", "default", "dictsort", "first", "float", "groupby", "int", "items",
    "last", "length", "list", "lower", "map", "max", "min", "random", "reject", "rejectattr", "reverse", "select",
    "selectattr", "sort", "trim", "truncate", "unique", "upper", "wordcount",
)  # fmt: skip

MAX_WIDTH = 1000
MAX_DIGITS = 100


def filters(environment: BoundedEnvironment) -> dict[str, Callable[..., Any]]:
    """Map names to filters. `concat_`, `slice_`, `literal_` and `tick_` stand for syntax."""
    budget = environment.charge
    own: dict[str, Callable[..., Any]] = {
        "tojson": tojson,
        "join": lambda value, d="", attribute=None: _join(environment, value, d, attribute),
        "replace": lambda text, old, new, count=-1: replaced(environment.budget, printed(text), old, new, count),
        "format": lambda form, *values: environment.call_binop(None, "%", printed(form), values),
        **dict.fromkeys(("string", "safe"), printed),
        **dict.fromkeys(("e", "escape", "forceescape"), escaped),
        "sum": lambda values, attribute=None, start=0: _sum(environment, values, attribute, start),
        "round": rounded,
        "batch": lambda values, n, fill=None: builtin.do_batch(values, _width(budget, n), fill),
        "slice": lambda values, n, fill=None: builtin.sync_do_slice(values, _width(budget, n), fill),
        "center": _untracked(lambda text, width=80: str(text).center(_width(budget, width))),
        "indent": _untracked(lambda text, *how, **named: _indent(budget, str(text), *how, **named)),
        "striptags": _untracked(lambda text: _striptags(budget, str(text))),
        "title": _untracked(builtin.do_title),
        "urlencode": _untracked(lambda value: _urlencode(budget, value)),
        "wordwrap": _untracked(lambda text, *how, **named: _wordwrap(environment, str(text), *how, **named)),
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
    """Write JSON as Hugging Face's templates expect it: not escaped for HTML. Its text counts as the messages'."""
    if indent is not None and not (isinstance(indent, int) and 0 <= indent <= 16):
        raise ValueError("tojson takes an indent of 0 to 16")
    separators = None if separators is None else tuple(str(part)[:8] for part in separators)
    made = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    return from_messages(made)


def joined(budget: Budget, glue: str, parts: Any) -> str:
    """Return `glue.join(parts)`, parts printed if they aren't text."""
    texts = [printed(part) for part in parts]
    budget.charge(sum(map(len, texts)) + len(glue) * len(texts))
    return join(glue, texts) if glue else concat(texts)


def replaced(budget: Budget, text: str, old: str, new: str, count: int | None = -1) -> str:
    """Return `text.replace(old, new, count)`."""
    old, new, count = printed(old), printed(new), -1 if count is None else int(count)
    hits = text.count(old) if count < 0 else min(count, text.count(old))
    budget.charge(len(text) + hits * len(new))
    return replace(text, old, new, count)


def escaped(value: Any) -> str:
    """Escape for HTML, as Jinja's `escape`."""
    text = printed(value)
    for character, name in (("&", "&amp;"), (">", "&gt;"), ("<", "&lt;"), ("'", "&#39;"), ('"', "&#34;")):
        text = replace(text, character, name)
    return text


def rounded(value: Any, precision: int = 0, method: Any = "common") -> float:
    """Round as Jinja's `round`, to at most MAX_DIGITS digits."""
    if not -MAX_DIGITS <= int(precision) <= MAX_DIGITS:
        raise ValueError(f"round takes a precision of at most {MAX_DIGITS}")
    return builtin.do_round(value, int(precision), method)


def _join(environment: BoundedEnvironment, value: Any, glue: str, attribute: Any) -> str:
    if attribute is not None:
        value = [environment.getitem(item, attribute) for item in value]
    return joined(environment.budget, printed(glue), value)


def _sum(environment: BoundedEnvironment, values: Iterable[Any], attribute: Any, start: Any) -> Any:
    """Add one by one, counted: `sum` of lists copies all that came before each time."""
    if attribute is not None:
        values = map(builtin.make_attrgetter(environment, attribute), values)
    for value in values:
        start = environment.call_binop(None, "+", start, value)
    return start


def _untracked(body: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a filter that does not track its text: it is the messages' if anything of theirs goes in."""

    def built(*args: Any, **named: Any) -> str:
        made = str(body(*args, **named))
        ours = all(value is None or type(value) in (str, int, float, bool) for value in (*args, *named.values()))
        return made if ours else from_messages(made)

    return built


def _width(charge: Callable[[int], None], width: Any) -> int:
    """Check a number of columns or items, and charge for it."""
    if not 0 <= int(width) <= MAX_WIDTH:
        raise ValueError(f"a width of 0 to {MAX_WIDTH} was expected")
    charge(int(width))
    return int(width)


def _indent(charge: Callable[[int], None], text: str, width: Any = 4, first: bool = False, blank: bool = False) -> str:
    prefix = width if isinstance(width, str) else " " * _width(charge, width)
    charge(len(text) + len(prefix) * (text.count("\n") + 1))
    return str(builtin.do_indent(text, prefix, first, blank))


def _striptags(charge: Callable[[int], None], text: str) -> str:
    charge(len(text) + text.count("<") * len(text) // 64)  # it copies the text for each tag
    return builtin.do_striptags(text)


def _urlencode(charge: Callable[[int], None], value: Any) -> str:
    charge(12 * len(str(value)))
    return builtin.do_urlencode(value)


def _wordwrap(
    environment: BoundedEnvironment,
    text: str,
    width: Any = 79,
    break_long_words: bool = True,
    wrapstring: str = "\n",
    break_on_hyphens: bool = True,
) -> str:
    environment.charge(len(text) * (1 + len(wrapstring)))
    width = max(1, _width(environment.charge, width))
    return builtin.do_wordwrap(environment, text, width, break_long_words, wrapstring, break_on_hyphens)
