"""What the CPU's kernels do not do, refused before a program is built: an attribute that they ignore would be a
wrong answer. Pricing does not come this way."""

from __future__ import annotations

from collections.abc import Mapping

from memfirst import codecs
from memfirst.errors import UnsupportedError
from memfirst.graph import Graph, KVCache, Op
from memfirst.graph.ops.add import Add
from memfirst.graph.ops.attention import Attention
from memfirst.graph.ops.embed import Embed
from memfirst.graph.ops.glu import Glu
from memfirst.graph.ops.linear import Linear
from memfirst.graph.ops.norm import RMSNorm
from memfirst.graph.ops.rope import Rope
from memfirst.graph.ops.select import Select

KERNELS = (Embed, RMSNorm, Linear, Rope, Attention, Glu, Add, Select)

PLAIN: Mapping[type[Op], Mapping[str, object]] = {
    Embed: {"scale": 1.0},
    Linear: {"scale": 1.0, "softcap": 0.0},
    Rope: {"long_frequencies": (), "start": 0, "temperature": 0.0},
    Attention: {"softcap": 0.0, "sinks": None},
    Glu: {"activation": "silu"},
}
"""By operation, the attributes that its kernels do not know, with the one value that needs nothing of them."""


PACKED_FAMILIES = ("block32", "k256", "float")
"""Of codecs: those that products read."""


def check(graph: Graph, context: int) -> None:
    """For sequences of up to `context` positions: UnsupportedError naming what has no kernel."""
    try:
        _check_kinds(graph)
        for op in graph.ops:
            _check_attributes(op)
            _check_codecs(op)
        _check_caches(graph, context)
        _check_residual(graph)
    except UnsupportedError as error:
        found = f"the cpu backend does not run {graph.architecture} yet ({error})"
        if error.do:  # then something that the user may change
            raise UnsupportedError(found) from error
        readable = all(w.codec in codecs.CODECS for w in graph.weights().values())
        instead = "it is priced, and --backend reference runs it" if readable else "it is priced"
        raise UnsupportedError(found, do=instead) from error


def _check_kinds(graph: Graph) -> None:
    """All kinds of operation without a kernel, each by its first."""
    missing: dict[str, str] = {}
    for op in graph.ops:
        if not isinstance(op, KERNELS):
            missing.setdefault(type(op).__name__, op.name)
    if missing:
        raise UnsupportedError("no kernel for " + ", ".join(f"{kind} ({name})" for kind, name in missing.items()))


def _check_codecs(op: Op) -> None:
    for weight in op.weights:
        if len(weight.shape) > 1 and codecs.get(weight.codec).family not in PACKED_FAMILIES:
            raise UnsupportedError(f"no kernel for {weight.codec}, {weight.name}")


def _check_attributes(op: Op) -> None:
    for name, plain in PLAIN.get(type(op), {}).items():
        value = getattr(op, name)
        if value != plain:
            what = f"the {name} of {op.name}" + (f", {value}" if isinstance(value, int | float | str) else "")
            raise UnsupportedError(f"no kernel for {what}", f"{name} {plain!r}")


def _check_caches(graph: Graph, context: int) -> None:
    """A step has one list of first positions and one block table for all layers; a window that it cannot
    outgrow is none."""
    caches = [c for c in graph.caches if isinstance(c, KVCache)]
    windows = {c.window if c.window and c.window < context else context for c in caches}
    if len(windows) > 1:
        each = " and ".join(map(str, sorted(windows)))
        found = f"no kernel for layers that attend {each} positions"
        raise UnsupportedError(found, "the same window in all layers", f"or a context of {min(windows)}")


def _check_residual(graph: Graph) -> None:
    """There is one buffer for the residual, added to in place: norms read it, each before it changes."""
    residual, read = {op.output for op in graph.ops if isinstance(op, Embed)}, set[str]()
    for op in graph.ops:
        source = op.inputs[0]
        if isinstance(op, Select | Add) and source in residual:
            residual.add(op.output)
        elif isinstance(op, RMSNorm) and not op.heads:
            if source not in residual or source in read:
                raise UnsupportedError(
                    f"no kernel for {op.name}, a norm of {source}",
                    "one norm for each state of the residual",
                )
            read.add(source)
