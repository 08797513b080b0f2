"""Rules that join nodes. Each leaves every bit and every byte as it was; without them a program has more phases.

    split       a fused tensor's matmul → one matmul for each part that is read by itself
    accumulate  matmul, then the residual's Add → a matmul that adds to the residual
    chain       columns that were just computed are worked on while they are in cache: norm of heads, RoPE, cache write,
                gating, softcap, a recurrence
    add_rows    an Add of what was just normed (a post-norm) goes token by token, behind the norm
    rows        what is done token by token behind each other: norm, then quantization

`MEMFIRST_FUSE=none` turns them off, a list of names leaves only those on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace

from memfirst.codecs import ROWS as PACK
from memfirst.errors import ConfigError
from memfirst.graph import Graph, Weight
from memfirst.lower.nodes import COLUMNS, EXPERTS, TOKENS, UNITS, Node, NodeCall, NodeOperand, Nodes, Place, Touch
from memfirst.lower.packing import rows16_bytes
from memfirst.lower.program import Ref
from memfirst.lower.specs import KERNELS

Rule = Callable[["Order", Nodes, Graph], None]


def chosen() -> tuple[str, ...]:
    """The rules that are on, by the environment; ConfigError for a name that is none."""
    asked = os.environ.get("MEMFIRST_FUSE", "all")
    names = {"all": tuple(RULES), "none": ()}.get(asked, tuple(asked.split(",")))
    unknown = set(names) - set(RULES)
    if unknown:
        raise ConfigError(f"MEMFIRST_FUSE={asked}", f"all, none, or some of {','.join(RULES)}")
    return names


def fuse(made: Nodes, graph: Graph, names: tuple[str, ...]) -> None:
    """Applies rules, in their order."""
    order = Order(made.nodes)
    for name, rule in RULES.items():
        if name in names:
            rule(order, made, graph)
    made.nodes = order.sorted()


def split(order: Order, made: Nodes, graph: Graph) -> None:
    """Matmuls whose output is only read in parts of whole register rows."""
    weights = graph.weights()
    for node in order.sorted():
        parts = _parts(order, node) if _is_matmul(node) and node.first else []
        if parts:
            order.replace(node, [_part(node, weights, part, i) for i, part in enumerate(parts)])


def _parts(order: Order, node: Node) -> list[Touch]:
    """What others read of a matmul's output, if that cuts it into parts by sixteen columns; else nothing. The padding
    behind the last column is the last part's."""
    whole = node.first
    others = [n for n in order.touching(whole.storage) if n is not node] if whole else []
    touches = {t for n in others for t in (*n.reads, *n.writes) if whole and t.meets(whole)}
    parts = sorted(touches, key=lambda t: t.at)
    if whole is None or len(parts) < 2 or not all(p.width and p.at % PACK == 0 for p in parts):
        return []
    parts[-1] = parts[-1]._replace(width=-(-parts[-1].width // PACK) * PACK)
    ends = [p.at + p.width for p in parts]
    return parts if [p.at for p in parts] == [0, *ends[:-1]] and ends[-1] == whole.width else []


def _part(node: Node, weights: Mapping[str, Weight], part: Touch, index: int) -> Node:
    """The matmul of some rows: weight, bias and output begin further on. The first accounts for the traffic of all."""
    calls = [_shifted(call, weights, part.at) for call in node.calls]
    name = node.name if index == 0 else f"{node.name}_{index}"
    moves = node.moves if index == 0 else ()
    return replace(
        node, name=name, calls=calls, units=part.width, reads=list(node.reads), writes=[part], moves=moves, first=part
    )


def _shifted(call: NodeCall, weights: Mapping[str, Weight], columns: int) -> NodeCall:
    whole = any(name == "first" for name, _ in call.args)  # its kernel is told which rows of the matrix it computes

    def moved(name: str, operand: NodeOperand) -> NodeOperand:
        if name == "first" and isinstance(operand, int):
            return operand + columns
        if name == "w" and isinstance(operand, Ref) and not whole:
            return operand._replace(offset=operand.offset + columns // PACK * rows16_bytes(weights[operand.name]))
        if name in ("y", "bias") and isinstance(operand, Place | Ref):
            return operand._replace(offset=operand.offset + columns)
        return operand

    return call._replace(args=tuple((name, moved(name, operand)) for name, operand in call.args))


def accumulate(order: Order, made: Nodes, graph: Graph) -> None:
    """A matmul without a bias whose output only an Add reads, which works in place of its other input."""
    for add in [n for n in order.sorted() if [c.kernel for c in n.calls] == ["elementwise.add"]]:
        args = dict(add.calls[0].args)
        a, b, target = args["a"], args["b"], add.writes[0]
        if a != args["out"] or not isinstance(a, Place) or not isinstance(b, Place):
            continue
        touching = order.touching(b.storage)
        if len(touching) != 2 or touching[1] is not add or not _is_matmul(touching[0]):
            continue
        source = touching[0]
        if len(source.calls) != 1 or (b.offset, source.units) != (0, add.units):
            continue
        if any(t.meets(target) for n in order.between(source, add, target.storage) for t in (*n.reads, *n.writes)):
            continue
        before = source.storages
        source.calls = [_with(source.calls[0], y=a, add_to=1, stride=args["stride"])]
        source.moves += add.moves
        source.reads.append(target)
        source.writes, source.first = [target], target
        order.remove(add)
        order.moved(source, before)
        del made.storages[b.storage]


def chain(order: Order, made: Nodes, graph: Graph) -> None:
    """Nodes over the same columns, one behind the other: behind those of its sources that have the most matmuls before
    them, as gate and up. The others are done in an earlier phase, as the values that RWKV-7 blends with the first
    layer's, and need not be columns."""
    depth: dict[Node, int] = {}
    for node in order.sorted():
        sources = order.sources(node)
        before = max((depth[n] for n in sources), default=0)
        depth[node] = before + (node.over == UNITS or _begins(node))
        if node.over not in (COLUMNS, EXPERTS) or _begins(node) or not sources:
            continue
        deepest = [n for n in sources if depth[n] == before]
        if any(n.over != node.over or not _same_columns(n, node) for n in deepest):
            continue
        place = deepest[-1] if deepest[-1] is sources[-1] else node
        clear = not any(_conflict(n, node) for n in order.between(place, node, *node.storages))
        if clear and not any(_conflict(s, n) for s in deepest for n in order.between(s, place, *s.storages)):
            joined, storages = deepest[0], deepest[0].storages
            for other in (*deepest[1:], node):
                joined.follow(other)
            order.moved(joined, storages, place)
            for other in (*deepest[1:], node):
                order.remove(other)


def add_rows(order: Order, made: Nodes, graph: Graph) -> None:
    """A norm whose output only an Add reads: both by tokens, one behind the other."""
    for add in [n for n in order.sorted() if [c.kernel for c in n.calls] == ["elementwise.add"]]:
        args = dict(add.calls[0].args)
        touching = order.touching(b.storage) if isinstance(b := args["b"], Place) else []
        if len(touching) != 2 or touching[1] is not add or (touching[0].over, touching[0].per) != (TOKENS, TOKENS):
            continue
        norm = touching[0]
        if any(_conflict(n, add) for n in order.between(norm, add, *add.storages)):
            continue
        operands = {name: args[name] for name in ("a", "b", "out", "stride_a", "stride_b", "stride")}
        add.calls = [KERNELS["activations.add_rows"].call({**operands, "width": add.units}, add.calls[0].op)]
        add.over, add.units, add.per, add.align, add.first = TOKENS, 1, TOKENS, 1, None
        before = norm.storages
        order.remove(add)
        norm.follow(add)
        order.moved(norm, before)


def rows(order: Order, made: Nodes, graph: Graph) -> None:
    """Nodes over the same tokens that every worker may do for itself, one behind the other."""
    for node in order.sorted():
        if node.over != TOKENS or not node.repeats or node.other_rows:
            continue
        sources = order.sources(node)
        source = sources[-1] if sources else None
        if source is None or source.over != TOKENS or not source.repeats or source.per != node.per:
            continue
        if not any(_conflict(n, node) for n in order.between(source, node, *node.storages)):
            before = source.storages
            order.remove(node)
            source.follow(node)
            order.moved(source, before)


class Order:
    """Nodes by place and by the storages that they touch, while rules move and remove them."""

    def __init__(self, nodes: list[Node]) -> None:
        self._place: dict[Node, float] = {node: i for i, node in enumerate(nodes)}
        self._by_storage: dict[str, list[Node]] = {}
        for node in nodes:
            for name in node.storages:
                self._by_storage.setdefault(name, []).append(node)

    def touching(self, storage: str) -> list[Node]:
        """Those that touch a storage, in order."""
        return self._by_storage.get(storage, [])

    def sources(self, node: Node) -> list[Node]:
        """Those that last wrote what `node` reads or writes, in order."""
        place, found = self._place[node], set[Node]()
        for touch in {*node.reads, *node.writes}:
            for other in reversed(self._by_storage[touch.storage]):
                if self._place[other] >= place:
                    continue
                met = [w for w in other.writes if w.meets(touch)]
                if met:
                    found.add(other)
                if any(touch.within(w) for w in met):
                    break
        return sorted(found, key=self._place.__getitem__)

    def between(self, first: Node, last: Node, *storages: str) -> list[Node]:
        """Those between two that touch one of the storages."""
        low, high = self._place[first], self._place[last]
        return [n for name in storages for n in self._by_storage[name] if low < self._place[n] < high]

    def remove(self, node: Node) -> None:
        """It is part of another now."""
        for name in node.storages:
            self._by_storage[name].remove(node)
        del self._place[node]

    def replace(self, node: Node, parts: list[Node]) -> None:
        """These stand in its place."""
        place = self._place[node]
        self.remove(node)
        for i, part in enumerate(parts):
            self._place[part] = place + i / len(parts)
            self._sort(part)

    def moved(self, node: Node, before: set[str], to: Node | None = None) -> None:
        """It touched `before`, and other storages now; `to`: it stands where that one stood."""
        for name in before:
            self._by_storage[name].remove(node)
        if to is not None:
            self._place[node] = self._place[to]
        self._sort(node)

    def _sort(self, node: Node) -> None:
        for name in node.storages:
            nodes = self._by_storage.setdefault(name, [])
            nodes.append(node)
            nodes.sort(key=self._place.__getitem__)

    def sorted(self) -> list[Node]:
        """All that are left."""
        return sorted(self._place, key=self._place.__getitem__)


RULES: dict[str, Rule] = {
    "split": split,
    "accumulate": accumulate,
    "add_rows": add_rows,
    "chain": chain,
    "rows": rows,
}


def _is_matmul(node: Node) -> bool:
    return bool(node.calls) and node.calls[0].kernel.startswith("matmul.")


def _begins(node: Node) -> bool:
    """Whether it begins with a matmul, of experts, by head or plain: others follow it, it follows none."""
    return _is_matmul(node) or (bool(node.calls) and node.calls[0].kernel.startswith(("routed.", "heads.")))


def _conflict(first: Node, second: Node) -> bool:
    """Whether their order matters."""
    a = any(w.meets(t) for w in first.writes for t in (*second.reads, *second.writes))
    return a or any(w.meets(t) for w in second.writes for t in first.reads)


def _same_columns(source: Node, node: Node) -> bool:
    """Whether `node`, on some columns, needs only what `source` made on the same ones."""
    if source.per != node.per or source.units != node.units or source.first is None:
        return False
    met = [t for t in (*node.reads, *node.writes) if any(w.meets(t) for w in source.writes)]
    made = [w for w in source.writes if any(w.meets(t) for t in met)]
    return all(t.at == w.at for t in met for w in made)


def _with(call: NodeCall, **new: NodeOperand) -> NodeCall:
    return call._replace(args=tuple((name, new.get(name, operand)) for name, operand in call.args))
