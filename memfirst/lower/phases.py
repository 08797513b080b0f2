"""Nodes → phases: what does not wait for another may run beside it; a barrier stands between phases.

With few tokens a step's small inputs (norms, quantization) are made by every worker for itself in the prologue of the
phase that reads them, which is cheaper than a barrier (1.4 to 2.5 µs).
"""

from __future__ import annotations

from dataclasses import dataclass

from memfirst.lower.nodes import TOKENS, Node, Place, PrivateStride, Touch


@dataclass
class Stage:
    """A phase in the making: nodes that run side by side, and what every worker does before."""

    nodes: list[Node]
    prologue: list[Node]


def stages(nodes: list[Node], inline: bool) -> list[Stage]:
    """All nodes in phases; `inline`: with prologues."""
    order = Dependencies(nodes)
    private = {i for i, node in enumerate(nodes) if inline and node.over == TOKENS and node.repeats}
    while True:
        levels = order.levels(private)
        wrong = order.misplaced(levels, private)
        if not wrong:
            break
        private -= wrong
    made = [Stage([], []) for _ in range(1 + max(levels))]
    for i, node in enumerate(nodes):
        stage = made[levels[i]]
        (stage.prologue if i in private else stage.nodes).append(node)
    return [stage for stage in made if stage.nodes]


class Dependencies:
    """For each node those before it that it reads from, and those that only must be over before it writes."""

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes
        self.sources: list[list[int]] = []
        self.others: list[list[int]] = []
        self.readers: list[list[int]] = [[] for _ in nodes]
        written: dict[str, list[tuple[Touch, int]]] = {}
        read: dict[str, list[tuple[Touch, int]]] = {}
        for k, node in enumerate(nodes):
            self.sources.append(sorted({j for t in node.reads for w, j in written.get(t.storage, ()) if w.meets(t)}))
            after = {j for t in node.writes for old in (written, read) for w, j in old.get(t.storage, ()) if w.meets(t)}
            self.others.append(sorted(after))
            for j in self.sources[k]:
                self.readers[j].append(k)
            for t in node.writes:  # whoever comes later waits for this node, and it for what it writes over
                for old in (written, read):
                    old[t.storage] = [(w, j) for w, j in old.get(t.storage, ()) if not w.within(t)]
                written[t.storage].append((t, k))
            for t in node.reads:
                read.setdefault(t.storage, []).append((t, k))

    def levels(self, private: set[int]) -> list[int]:
        """The phase of each node; a prologue's is that of the nodes that read it."""
        levels = [0] * len(self.nodes)
        for k, sources in enumerate(self.sources):
            after = [levels[j] + (j not in private) for j in sources] + [levels[j] + 1 for j in self.others[k]]
            levels[k] = max(after, default=0)
        for i in sorted(private, reverse=True):
            levels[i] = max((levels[k] for k in self.readers[i]), default=levels[i])
        return levels

    def misplaced(self, levels: list[int], private: set[int]) -> set[int]:
        """Prologues that more than one phase reads, or a kernel that knows no private copies; that read what their own
        phase writes, or whose inputs it writes over; or whose range is not that of the phase's other prologues."""
        wrong = set()
        per: dict[int, tuple[str, int]] = {}
        for k, others in enumerate(self.others):
            wrong |= {j for j in others if j in private and levels[j] >= levels[k]}
        for i in sorted(private):
            level = levels[i]
            if not self.readers[i] or any(levels[k] != level for k in self.readers[i]):
                wrong.add(i)
            if any(levels[j] >= level for j in self.sources[i] if j not in private):
                wrong.add(i)
            if any(self._takes_shared(i, k) for k in self.readers[i]):
                wrong.add(i)
            range_of = self.nodes[i].per, self.nodes[i].units
            if per.setdefault(level, range_of) != range_of:
                wrong.add(i)
        return wrong

    def _takes_shared(self, i: int, k: int) -> bool:
        """Whether node `k` reads what `i` writes by a kernel that knows no private copies."""
        if self.nodes[k].exchange:
            return True
        made = {t.storage for t in self.nodes[i].writes}
        for call in self.nodes[k].calls:
            read = {o.storage for _, o in call.args if isinstance(o, Place)}
            known = {o.storage for _, o in call.args if isinstance(o, PrivateStride)}
            if read & made and not known & made:
                return True
        return False
