"""Compile one kernel to object code: specialise its text, let Numba type it, let LLVM emit it.

This is the only module of the CPU kernels that needs Numba at run time. What it returns is machine code without
references to Numba's runtime, so `library` can keep it on disk and load it through llvmlite alone.
"""

from __future__ import annotations

import ast
import copy
import inspect
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

from memfirst.kernels.cpu import isa, lang

Static = int | str
"""A static parameter: a number, a word, or where its name ends in CODEC the name of a module of this package."""


@dataclass(frozen=True)
class Built:
    """Object code of one kernel: its entry symbol, and its parameters as (name, kind) in order."""

    symbol: str
    params: tuple[tuple[str, str], ...]
    code: bytes


class Specialise(ast.NodeTransformer):
    """Replaces static parameters by values, unrolls `static` loops, names each lane of a `lanes` list, and puts bodies
    of macros in place of their calls; what those use of their modules is added to `space`."""

    def __init__(self, values: Mapping[str, Any], space: dict[str, Any]) -> None:
        self.values: dict[str, Any] = dict(values)
        self.lists: set[str] = set()
        self.space = space
        self.expanded = 0

    def visit_Expr(self, node: ast.Expr) -> Any:
        if isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Name):
            called = self.space.get(node.value.func.id)
            if getattr(called, "is_macro", False):
                return self.statements(self.expand(called, node.value.args))
        return self.generic_visit(node)

    def expand(self, called: Any, arguments: list[ast.expr]) -> list[ast.stmt]:
        """The body of a macro: parameters that are given names or numbers become these, others get a variable first;
        its own variables get names that nothing else has."""
        self.expanded += 1
        definition = _definition(called)
        self.adopt(called)
        names: dict[str, ast.expr] = {}
        first: list[ast.stmt] = []
        for parameter, given in zip(definition.args.args, arguments, strict=True):
            if isinstance(given, ast.Name | ast.Constant):
                names[parameter.arg] = given
                continue
            own = self.own(parameter.arg)
            names[parameter.arg] = ast.Name(own, ast.Load())
            first.append(ast.Assign([ast.Name(own, ast.Store())], given))
        for node in ast.walk(definition):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.setdefault(node.id, ast.Name(self.own(node.id), ast.Load()))
        body = definition.body[1:] if ast.get_docstring(definition) is not None else definition.body
        return first + [_Rename(names).visit(statement) for statement in body]

    def own(self, name: str) -> str:
        """A name of this expansion's own; capitals stay capitals."""
        return f"{name}_M{self.expanded}" if name.isupper() else f"{name}_m{self.expanded}"

    def adopt(self, called: Any) -> None:
        """What a macro's text names of its module; TypeError where that is another thing in the kernel's."""
        for name in called.__code__.co_names:
            if name not in called.__globals__:
                continue
            value = called.__globals__[name]
            if self.space.setdefault(name, value) is not value:
                raise TypeError(f"{name} is one thing in {called.__name__} and another in the kernel that uses it")
            if name.isupper() and isinstance(value, int):
                self.values.setdefault(name, value)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        value = self.values.get(node.id)
        return ast.Constant(value) if isinstance(value, int | str) else node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        value = self.values.get(node.value.id) if isinstance(node.value, ast.Name) else None
        if not isinstance(value, ModuleType):
            return self.generic_visit(node)
        member = getattr(value, node.attr)
        return ast.Constant(member) if isinstance(member, int) else ast.Name(_joined(node), ast.Load())

    def visit_For(self, node: ast.For) -> Any:
        if not _is_call(node.iter, "static"):
            return self.generic_visit(node)
        variable, out = node.target.id, []  # type: ignore[attr-defined]
        for i in range(self.evaluate(node.iter.args[0])):  # type: ignore[attr-defined]
            self.values[variable] = i
            out += self.statements(node.body)
        self.values.pop(variable, None)
        return out or ast.Pass()

    def visit_If(self, node: ast.If) -> Any:
        try:
            taken = node.body if self.evaluate(node.test) else node.orelse
        except NameError:
            return self.generic_visit(node)
        return self.statements(taken) or ast.Pass()

    def visit_Assign(self, node: ast.Assign) -> Any:
        target = node.targets[0]
        if isinstance(target, ast.Name) and target.id.isupper():
            self.values[target.id] = self.evaluate(node.value)
            return None
        if not _is_call(node.value, "lanes"):
            return self.generic_visit(node)
        self.lists |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        return None

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        if isinstance(node.value, ast.Name) and node.value.id in self.lists:
            return ast.Name(f"{node.value.id}_{self.evaluate(node.slice)}", node.ctx)
        return self.generic_visit(node)

    def statements(self, body: list[ast.stmt]) -> list[ast.stmt]:
        """A body with each statement specialised: it may become none or several."""
        out: list[ast.stmt] = []
        for statement in body:
            result = self.visit(copy.deepcopy(statement))
            out += result if isinstance(result, list) else [result] if result is not None else []
        return out

    def evaluate(self, node: ast.expr) -> int:
        """The value of a static expression; NameError where it depends on something else."""
        tree = ast.fix_missing_locations(ast.Expression(self.visit(copy.deepcopy(node))))
        return int(eval(compile(tree, "<static>", "eval"), {"__builtins__": {}}))


class _Rename(ast.NodeTransformer):
    """Replaces names by expressions."""

    def __init__(self, names: Mapping[str, ast.expr]) -> None:
        self.names = names

    def visit_Name(self, node: ast.Name) -> ast.AST:
        given = self.names.get(node.id)
        if given is None:
            return node
        return ast.Name(given.id, node.ctx) if isinstance(given, ast.Name) else copy.deepcopy(given)


def _definition(function: Callable[..., Any]) -> ast.FunctionDef:
    definition = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    if not isinstance(definition, ast.FunctionDef):
        raise TypeError(f"{function} is not a function")
    return definition


def _is_call(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name


def _joined(node: ast.Attribute) -> str:
    return f"{node.value.id}__{node.attr}"  # type: ignore[attr-defined]


def resolve(statics: Mapping[str, Static]) -> dict[str, Any]:
    """Static values as a kernel sees them: names of codecs become the modules that read them."""
    package = __package__ or ""
    return {k: import_module(f"{package}.{v}") if k.endswith("CODEC") else v for k, v in statics.items()}


def specialise(function: Callable[..., Any], values: Mapping[str, Any], name: str) -> Callable[..., Any]:
    """The kernel's function with its static parameters fixed, under another name: plain Python that Numba can type."""
    definition, space = _specialised(function, values, name)
    return _made(definition, space, function)


def entry(function: Callable[..., Any], values: Mapping[str, Any], name: str) -> Callable[..., Any]:
    """As `specialise`, called with (args, worker, lo, hi): parameters come from 64-bit words at address `args`."""
    from memfirst.kernels.cpu import memory

    definition, space = _specialised(function, values, name)
    definition.args.args = [ast.arg("args"), *definition.args.args[-3:]]
    definition.body = ast.parse(_unpacking(params(function))).body + definition.body
    return _made(definition, space | {f"memory__{member}": getattr(memory, member) for member in dir(memory)}, function)


def _unpacking(kinds: Iterable[tuple[str, str]]) -> str:
    """Assigns a record's words to parameters."""
    word, lines = 0, []
    for name, kind in kinds:
        at = f"record__[{word}]"
        if kind in lang.ARRAYS:
            lines.append(f"{name} = memory__view_{kind}({at}, record__[{word + 1}])")
            word += 1
        else:
            lines.append(f"{name} = {at}" if kind == "int" else f"{name} = memory__float_of({at})")
        word += 1
    return "\n".join([f"record__ = memory__view_i64(args, {word})", *lines])


def _specialised(
    function: Callable[..., Any], values: Mapping[str, Any], name: str
) -> tuple[ast.FunctionDef, dict[str, Any]]:
    """Its definition, static parameters fixed and without annotations, and the names that it uses."""
    definition = _definition(function)
    definition.decorator_list, definition.args.kwonlyargs, definition.args.kw_defaults = [], [], []
    definition.returns, definition.name = None, name
    for argument in definition.args.args:
        argument.annotation = None
    space = dict(function.__globals__)
    definition.body = Specialise({**_constants(function), **values}, space).statements(definition.body)
    for static, value in values.items():
        if isinstance(value, ModuleType):
            space |= {f"{static}__{member}": getattr(value, member) for member in dir(value)}
    return definition, space


def _made(definition: ast.FunctionDef, space: dict[str, Any], origin: Callable[..., Any]) -> Callable[..., Any]:
    tree = ast.fix_missing_locations(ast.Module([definition], []))
    exec(compile(tree, origin.__code__.co_filename, "exec"), space)
    result: Callable[..., Any] = space[definition.name]
    return result


def _constants(function: Callable[..., Any]) -> dict[str, int]:
    """The numbers that its module names in capitals: static as well."""
    return {k: v for k, v in function.__globals__.items() if k.isupper() and isinstance(v, int)}


def params(function: Callable[..., Any]) -> tuple[tuple[str, str], ...]:
    """(name, kind) of each runtime parameter before `worker, lo, hi`."""
    arguments = list(inspect.signature(function).parameters.values())
    runtime = [a for a in arguments if a.kind is not a.KEYWORD_ONLY][:-3]
    return tuple((a.name, str(a.annotation)) for a in runtime)


def build(module: str, name: str, statics: Mapping[str, Static]) -> Built:
    """Compile kernel `name` of `memfirst.kernels.cpu.<module>` for the given static parameters."""
    kinds, result = compiled(module, name, statics)
    return Built(result.fndesc.llvm_func_name, kinds, _object_code(result.library))


def assembly(module: str, name: str, statics: Mapping[str, Static]) -> str:
    """The instructions of what `build` compiles, as text."""
    library = compiled(module, name, statics)[1].library
    text: str = library._codegen._tm.emit_assembly(library._final_module)
    return text


def compiled(module: str, name: str, statics: Mapping[str, Static]) -> tuple[tuple[tuple[str, str], ...], Any]:
    """Its parameters, and what Numba made of it."""
    from numba import types

    _use_found_features()
    function = getattr(import_module(f"{__package__}.{module}"), name)
    signature = types.int64(types.int64, types.int64, types.int64, types.int64)
    made: Any = lang.compiled(entry(function, resolve(statics), _unique(module, name, statics)), signature)
    return params(function), made.overloads[made.signatures[0]]


def _use_found_features() -> None:
    """Numba asks LLVM alone, which finds no feature of some ARM64 hosts; what the environment says stands."""
    from numba import config

    if config.CPU_FEATURES is None and isa.arm64():
        config.CPU_FEATURES = isa.target_features()


def _unique(module: str, name: str, statics: Mapping[str, Static]) -> str:
    """A name for its symbols that no other kernel has: all are linked together."""
    return "_".join(["memfirst", module, name, *(f"{k}_{v}" for k, v in sorted(statics.items()))])


def _object_code(library: Any) -> bytes:
    """Machine code of a finished Numba library (its optimised module, emitted once more by LLVM)."""
    code: bytes = library._codegen._tm.emit_object(library._final_module)
    return code
