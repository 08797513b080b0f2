"""Jinja for untrusted templates: what could grow or run on is counted before it happens.

Jinja's own sandbox keeps a template from Python's internals, but lets it build 300 MB in a second. Here
1. only the filters, tests and methods that chat templates use exist, and text keeps track of what came with the
   messages (`memfirst.text.tracked`);
2. concatenation, slices and list, tuple and dict literals are rewritten to calls, so that every operation
   which makes a new value passes through `Budget.admit`: no value, printed out, exceeds the limit, however
   it is nested;
3. every loop iteration and call passes through `Budget.tick`, which ends a template whose CPU time is used up.
What is left between two ticks is straight-line code over bounded values.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import count
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from memfirst.text import template_filters, tracked

METHODS: dict[type, frozenset[str]] = {
    str: frozenset((
        "strip", "lstrip", "rstrip", "removeprefix", "removesuffix", "replace", "join", "split", "rsplit", "splitlines",
        "partition", "rpartition", "upper", "lower", "title", "capitalize", "startswith", "endswith", "find", "rfind",
        "index", "rindex", "count", "isdigit", "isdecimal", "isalpha", "isalnum", "isspace", "isupper", "islower",
        "isnumeric",
    )),
    dict: frozenset({"get", "items", "keys", "values"}),
    list: frozenset({"index", "count"}),
    tuple: frozenset({"index", "count"}),
}  # fmt: skip
MAX_RANGE = 20_000
"""Longest range."""


class TooMuchError(Exception):
    """The template asked for more than it may have: found, expected."""


class Budget:
    """What one rendering may use.

    Args:
        size: Characters of the largest value or output; all new values together may have 64 times as much.
        seconds: CPU time of this thread.
    """

    def __init__(self, size: int, seconds: float) -> None:
        self.size, self.left = size, 64 * size
        self._seconds, self._until = seconds, time.thread_time() + seconds

    def tick(self) -> None:
        """Count one loop iteration or call."""
        if time.thread_time() > self._until:
            raise TooMuchError(f"it ran for {self._seconds} s of CPU time, and was stopped")
        self.charge(64)

    def charge(self, size: int) -> None:
        """Count something of this size that is about to be made."""
        self.left -= size
        if size > self.size or self.left < 0:
            raise TooMuchError(f"it builds text of more than {self.size} characters")

    def admit(self, value: Any) -> Any:
        """Return the value if what it would print is within the size."""
        if isinstance(value, str):
            self.charge(len(value))
        elif isinstance(value, int) and value.bit_length() > 1024:
            raise TooMuchError("it computes with integers of more than 1024 bits")
        elif isinstance(value, list | tuple | dict):
            self.charge(sum(self._walk(value)))
        return value

    def _walk(self, value: Any) -> Iterator[int]:
        """Size of every leaf, where shared parts count each time; stops as soon as it is too much."""
        seen, stack = 0, [value]
        while stack:
            item = stack.pop()
            size = 4 + (len(item) if isinstance(item, str | range) else 0)
            seen += size
            yield size
            if seen > self.size or len(stack) > self.size:
                raise TooMuchError(f"it builds a value of more than {self.size} characters")
            if isinstance(item, dict):
                stack += [*item.keys(), *item.values()]
            elif isinstance(item, list | tuple):
                stack += item


class QuietNamespace(Namespace):
    """A namespace that prints as a word: it may hold itself, and printing what it holds would never end."""

    def __repr__(self) -> str:
        return "<namespace>"


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Renders under `budget`, which is set anew for each rendering."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})
    budget: Budget

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            extensions=[GenerationTag, "jinja2.ext.loopcontrols"],
        )
        self.concat = self._concat  # type: ignore[method-assign]
        self.filters = {name: self._counted(body) for name, body in template_filters.filters(self).items()}
        self.filters["text_"] = tracked.printed  # of each output: uncounted, `_concat` counts
        self.globals = {
            "range": self._range,
            "dict": dict,
            "namespace": QuietNamespace,
            "raise_exception": raise_exception,
            "strftime_now": strftime_now,
        }

    def charge(self, size: int) -> None:
        """Charge the rendering that runs now."""
        self.budget.charge(size)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Apply an arithmetic operator; what it makes is counted before it is made."""
        self.budget.tick()
        self.budget.charge(product_size(operator, left, right))
        if operator == "%" and isinstance(left, str):
            return self.budget.admit(tracked.printf(left, right))
        return self.budget.admit(super().call_binop(context, operator, left, right))

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """Call a function or method; those that multiply text are replaced by counted ones."""
        __self.budget.tick()
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(owner, str) and name in ("replace", "join"):
            for own in ("_loop_vars", "_block_vars"):  # Jinja's own arguments, in every loop and block
                kwargs.pop(own, None)
            bound = template_filters.replaced if name == "replace" else template_filters.joined
            return bound(__self.budget, owner, *args, **kwargs)
        return __self.budget.admit(super().call(__context, __obj, *args, **kwargs))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Allow only the listed methods of plain data; of anything else what Jinja's sandbox allows."""
        for kind, methods in METHODS.items():
            if isinstance(obj, kind):
                return attr in methods
        plain = obj is None or isinstance(obj, int | float | range)
        if plain or (callable(obj) and not isinstance(obj, LoopContext)):
            return False
        return super().is_safe_attribute(obj, attr, value)

    def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
        """Return an object's key that is named like a method of it (`tool.copy`), else raise at once."""
        if isinstance(obj, dict) and attribute in obj:
            return obj[attribute]
        raise SecurityError(f"it uses {str(attribute)[:40]!r} of a {type(obj).__name__}")

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Replace `str.format`: bounded widths, and attributes only where the sandbox allows them."""
        owner = getattr(value, "__self__", None)
        if not (isinstance(owner, str) and callable(value) and value.__name__ == "format"):
            return None
        return lambda *args, **named: self._format(owner, args, named)

    def _format(self, form: str, args: tuple[Any, ...], named: dict[str, Any]) -> str:
        fields, numbers = SandboxedFormatter(self), count()
        if re.search(r"\{[^{}]*:[^{}]*(\{|\d{4})", form):
            raise TooMuchError("it formats to a width of more than 999 characters")
        self.budget.charge(len(form) + form.count("{") * 1000)

        def value_of(name: str) -> Any:
            first = re.match(r"[^.\[]*", name)
            numbered = name if first and first[0] else f"{next(numbers)}{name}"
            return fields.get_field(numbered, args, named)[0]

        return tracked.formatted(form, value_of)

    def is_safe_callable(self, obj: Any) -> bool:
        """Allow what Jinja's sandbox allows, and of the types only those that templates construct."""
        return super().is_safe_callable(obj) and not (isinstance(obj, type) and obj not in (dict, QuietNamespace))

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return Rewriter().visit(super()._parse(source, name, filename))  # type: ignore[no-any-return]

    def _concat(self, parts: Any) -> str:
        parts = list(parts)
        self.budget.charge(sum(map(len, parts)))
        return tracked.concat(parts)

    def _range(self, *args: int) -> range:
        found = range(*args)
        if len(found) > MAX_RANGE:
            raise TooMuchError(f"it counts to {len(found)}, more than {MAX_RANGE}")
        return found

    def _counted(self, body: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a filter: it ticks, and its result is made at once (generators too) and counted."""
        from functools import wraps

        @wraps(body)
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.budget.tick()
            found = body(*args, **kwargs)
            return self.budget.admit(list(found) if isinstance(found, Iterator) else found)

        return counted


class Rewriter(NodeTransformer):
    """Rewrites the parts of a template that Jinja compiles to bare Python as counted calls."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return filtered(nodes.Tuple(node.nodes, "load"), "concat_")

    def visit_Output(self, node: nodes.Output) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.nodes = [one if isinstance(one, nodes.TemplateData) else filtered(one, "text_") for one in node.nodes]
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        at = node.arg
        if not isinstance(at, nodes.Slice):
            return node
        return filtered(node.node, "slice_", [part or nodes.Const(None) for part in (at.start, at.stop, at.step)])

    def _literal(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        return filtered(node, "literal_") if getattr(node, "ctx", "load") == "load" else node

    visit_List = visit_Tuple = visit_Dict = _literal  # noqa: N815

    def _body(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        node.body = [nodes.ExprStmt(filtered(nodes.Const(0), "tick_")), *node.body]
        return node  # type: ignore[no-any-return]

    visit_For = visit_Macro = visit_CallBlock = visit_Block = _body  # noqa: N815


class GenerationTag(Extension):
    """`{% generation %}…{% endgeneration %}` marks the model's words for training; here it is its body, in a scope."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> Any:
        """Parse the statements up to the end tag."""
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def filtered(node: nodes.Expr, name: str, args: list[nodes.Expr] | None = None) -> nodes.Filter:
    """Build `node | name(args)`."""
    return nodes.Filter(node, name, args or [], [], None, None)


def product_size(operator: str, left: Any, right: Any) -> int:
    """Bound what an operator makes, in characters; TooMuchError where there is no bound."""
    text = next((side for side in (left, right) if isinstance(side, str | list | tuple)), None)
    if operator == "%" and isinstance(left, str):
        return printf_size(left, right)
    if operator == "*" and text is not None:
        times = right if text is left else left
        if not isinstance(text, str):
            raise TooMuchError("it multiplies a list")
        return len(text) * max(times, 0) if isinstance(times, int) else 0
    if operator == "**" and (abs(left) > 1 << 32 or abs(right) > 32):
        raise TooMuchError(f"it raises {left} to the power of {right}")
    return sum(len(side) for side in (left, right) if isinstance(side, str | list | tuple))


def printf_size(form: str, values: Any) -> int:
    """Bound `"%5d" % value`: each directive may print all values and its width."""
    if re.search(r"%[^a-zA-Z%]*(\*|\d{4})", form):
        raise TooMuchError("it formats to a width of more than 999 characters")
    return len(form) + form.count("%") * (1000 + len(str(values)))


def raise_exception(message: str) -> None:
    """Refuse messages that the template can't render."""
    raise jinja2.exceptions.TemplateError(str(message)[:1000])


def strftime_now(form: str) -> str:
    """Format the local time by plain directives (no widths)."""
    if not isinstance(form, str) or len(form) > 200 or not re.fullmatch(r"(?:[^%]|%-?[A-Za-z%])*", form):
        raise SecurityError("strftime_now with such a format")
    made = datetime.now().strftime(form)
    return tracked.from_messages(made) if isinstance(form, tracked.Tracked) else made


__all__ = ["BoundedEnvironment", "Budget", "TooMuchError"]
