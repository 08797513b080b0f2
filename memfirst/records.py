"""`dataclass` and `replace` as the standard library's, where `frozen=True` compiles one method and not six.

Of a plan's start a fifth went into writing and compiling methods of 150 classes that mostly compare and print alike.
Here those are functions for all; `__init__` alone is compiled, and a copy with other values is made of the dictionary.
Type checkers see the standard library's.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataclasses import dataclass, replace
else:
    from collections.abc import Callable
    from operator import attrgetter
    from typing import Any

    def dataclass(
        cls: type | None = None, /, *, frozen: bool = False, repr: bool = True, kw_only: bool = False, **options: Any
    ) -> Any:
        """The class with its methods; other options than these are the standard library's own."""
        if cls is None:
            return lambda each: dataclass(each, frozen=frozen, repr=repr, kw_only=kw_only, **options)
        if options or not frozen:
            return dataclasses.dataclass(cls, frozen=frozen, repr=repr, kw_only=kw_only, **options)
        known = [base.__dataclass_params__ for base in cls.__mro__[1:] if dataclasses.is_dataclass(base)]
        bases = [base for base in known if base.frozen]
        for base in bases:
            base.frozen = False  # for a moment, or it would compile the two methods that refuse
        try:
            made = dataclasses.dataclass(cls, init=False, repr=False, eq=False, kw_only=kw_only)
        finally:
            for base in (*bases, cls.__dict__.get("__dataclass_params__")):
                if base is not None:
                    base.frozen = True  # the standard library's may inherit it
        fields = dataclasses.fields(made)
        same = _values([f.name for f in fields if f.compare])

        def equal(self: Any, other: Any) -> Any:
            return same(self) == same(other) if other.__class__ is self.__class__ else NotImplemented

        def hashed(self: Any) -> int:
            return hash(same(self))

        methods = {"__init__": _init(made, fields), "__eq__": equal, "__hash__": hashed,
                   "__setattr__": _frozen, "__delattr__": _frozen} | ({"__repr__": _shown} if repr else {})  # fmt: skip
        for name, method in methods.items():
            if name not in made.__dict__ or (name == "__hash__" and made.__dict__[name] is None):
                setattr(made, name, method)
        if all(f.init for f in fields) and not hasattr(made, "__post_init__"):
            _COPIED[made] = frozenset(f.name for f in fields)
        return made

    _COPIED: dict[type, frozenset[str]] = {}
    """Fields of the classes whose records are no more than these."""

    def replace(record: Any, /, **changes: Any) -> Any:
        """A record with other values."""
        names = _COPIED.get(record.__class__)
        if names is None or not names.issuperset(changes):
            return dataclasses.replace(record, **changes)
        new = object.__new__(record.__class__)
        values = new.__dict__
        values.update({name: value for name, value in record.__dict__.items() if name in names})  # no cached property
        values.update(changes)
        return new

    def _values(names: list[str]) -> Callable[[Any], Any]:
        """A record's values of those names, as a tuple."""
        if len(names) > 1:
            return attrgetter(*names)
        return lambda record: tuple(getattr(record, name) for name in names)

    def _frozen(self: Any, name: str, *value: Any) -> None:
        raise dataclasses.FrozenInstanceError(f"cannot {'assign to' if value else 'delete'} field {name!r}")

    def _shown(self: Any) -> str:
        shown = ", ".join(f"{f.name}={getattr(self, f.name)!r}" for f in dataclasses.fields(self) if f.repr)
        return f"{self.__class__.__qualname__}({shown})"

    def _init(cls: type, fields: tuple[dataclasses.Field[Any], ...]) -> Callable[..., None]:
        """Writes the values into the record's dictionary, as it may not be assigned to."""
        given: dict[str, Any] = {"_missing": dataclasses.MISSING}
        arguments, lines, by_name = ["self"], ["values = self.__dict__"], any(f.kw_only for f in fields)
        for f in sorted(fields, key=lambda f: f.kw_only):
            if f.kw_only and by_name:
                arguments, by_name = [*arguments, "*"], False
            default, value = "", f.name
            if f.default_factory is not dataclasses.MISSING:
                given[f"_make_{f.name}"] = f.default_factory
                default = "=_missing"
                value = f"_make_{f.name}() if {f.name} is _missing else {f.name}" if f.init else f"_make_{f.name}()"
            elif f.default is not dataclasses.MISSING:
                given[f"_default_{f.name}"] = f.default
                default = f"=_default_{f.name}"
                value = f.name if f.init else f"_default_{f.name}"
            arguments += [f"{f.name}{default}"] if f.init else []
            lines.append(f"values[{f.name!r}] = {value}")
        if hasattr(cls, "__post_init__"):
            lines.append("self.__post_init__()")
        exec(f"def __init__({', '.join(arguments)}):\n " + "\n ".join(lines), given)  # names are identifiers
        given["__init__"].__qualname__ = f"{cls.__qualname__}.__init__"
        return given["__init__"]


__all__ = ["dataclass", "replace"]
