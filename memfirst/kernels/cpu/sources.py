"""What a kernel's object code depends on: the code that it is compiled from, without comments and docstrings.

A kernel is compiled from its own text, from what its module and the modules that this imports define beside kernels,
from the codecs that its static parameters name, and by `build`. So a comment compiles nothing again, a changed kernel
only itself, and a changed helper the kernels that can reach it.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

PACKAGE = __name__.split(".", maxsplit=1)[0]
KERNELS = __name__.rpartition(".")[0]
COMPILER = f"{KERNELS}.build"
"""Every kernel's text goes through it."""

NOT_COMPILED = (f"{PACKAGE}.errors", f"{PACKAGE}.progress", f"{KERNELS}.spans")
"""Imported by modules of kernels, but no part of the code: errors, progress, and what interpreted kernels log."""

MOST_KNOWN = 512
"""Files that a `Sources` remembers across processes: a dozen versions of all that kernels are made of."""

_parsing = Lock()
"""CPython 3.11 counts the depth of all threads' trees together: two that parse at once may get a SystemError."""

Key = tuple[str, tuple[tuple[str, int | str], ...]]
"""A kernel ("matmul.block32") and its static parameters."""


@dataclass(frozen=True)
class Source:
    """One module: digests of what its kernels share and of each kernel's own text, and the modules it imports."""

    shared: str
    kernels: Mapping[str, str]
    imports: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> Source:
        """Read a module's source."""
        with _parsing:
            tree = ast.parse(text)
        imports = tuple(sorted(set(_imports(tree))))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
                node.body = node.body[1:]
        kernels = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef) and _is_kernel(node)}
        tree.body = [node for node in tree.body if node not in kernels.values()]
        return cls(_digest(ast.dump(tree)), {n: _digest(ast.dump(k)) for n, k in kernels.items()}, imports)


@dataclass
class Sources:
    """The modules below `root`, the folder of the package, by their names.

    known  what was found of files before, by the digest of their bytes: parsing takes 100 times as long as this
    new    whether something is to be remembered
    """

    root: Path
    known: dict[str, Source] = field(default_factory=dict)
    new: bool = False
    _modules: dict[str, Source | None] = field(default_factory=dict)
    _closures: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def digest(self, key: Key) -> str:
        """Name the code of a kernel for its static parameters; "" where there is no such module."""
        module, _, name = key[0].rpartition(".")
        starts = [f"{KERNELS}.{module}", COMPILER]
        starts += [f"{KERNELS}.{value}" for static, value in key[1] if static.endswith("CODEC")]
        own = self.source(starts[0])
        if own is None:
            return ""
        modules = sorted({reached for start in starts for reached in self.closure(start)})
        shared = [(one, found.shared) for one in modules if (found := self.source(one))]
        return _digest(json.dumps([key, own.kernels.get(name), shared]))[:16]

    def closure(self, module: str) -> tuple[str, ...]:
        """The module, and all that it imports: directly or by others."""
        if module not in self._closures:
            reached, todo = set[str](), [module]
            while todo:
                one = todo.pop()
                found = self.source(one) if one not in reached else None
                if found is not None:
                    reached.add(one)
                    todo += found.imports
            self._closures[module] = tuple(sorted(reached))
        return self._closures[module]

    def source(self, module: str) -> Source | None:
        """A module of the package; None for packages, for what is none of its modules, and for `NOT_COMPILED`."""
        if module not in self._modules:
            self._modules[module] = self._read(module)
        return self._modules[module]

    def _read(self, module: str) -> Source | None:
        if module in NOT_COMPILED or not module.startswith(f"{PACKAGE}."):
            return None
        try:
            raw = self.root.joinpath(*module.split(".")[1:]).with_suffix(".py").read_bytes()
        except OSError:
            return None
        name = hashlib.sha256(raw).hexdigest()
        if name not in self.known:
            self.known[name], self.new = Source.of(raw.decode("utf-8")), True
        return self.known[name]

    def encode(self) -> bytes:
        """What is known, for the next process; of too much, the oldest is forgotten."""
        last = list(self.known.items())[-MOST_KNOWN:]
        return json.dumps({name: [s.shared, dict(s.kernels), s.imports] for name, s in last}).encode()


def remembered(blob: bytes) -> dict[str, Source]:
    """What `Sources.encode` gave; empty where it is damaged."""
    known: dict[str, Source] = {}
    with suppress(ValueError, TypeError, AttributeError):
        for name, (shared, kernels, imports) in json.loads(blob).items():
            known[name] = Source(str(shared), dict(kernels), tuple(imports))
    return known


def _imports(tree: ast.Module) -> Iterator[str]:
    """Names that may be modules, wherever they are imported: `from a import b` may mean a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _is_kernel(node: ast.FunctionDef) -> bool:
    return any(isinstance(one, ast.Name) and one.id == "kernel" for one in node.decorator_list)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
