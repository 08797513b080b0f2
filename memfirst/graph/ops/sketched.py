"""An output head with a sketch, from which most of its rows are known not to be the likeliest token's."""

from __future__ import annotations

from dataclasses import dataclass, field

from memfirst.graph import Graph, Weight
from memfirst.graph.ops.linear import Linear
from memfirst.graph.traffic import ActivationTraffic, SketchedTraffic, SketchTraffic, Traffic


@dataclass(frozen=True)
class SketchedHead(Linear):
    """The same values; of a step that wants only the likeliest token, logits of rows that cannot be it are −inf.

    sketch  of `weight`, as `memfirst.codecs.sketch` makes it
    """

    sketch: Weight = field(kw_only=True)

    @property
    def weights(self) -> tuple[Weight, ...]:
        return (*super().weights, self.sketch)

    def traffic(self) -> tuple[Traffic, ...]:
        activations = ActivationTraffic(self.weight.columns + self.weight.rows, self.head)
        return SketchTraffic(self.sketch), self.tiles, activations

    @property
    def tiles(self) -> SketchedTraffic:
        """What a step reads of the head itself."""
        return SketchedTraffic(self.weight)


def sketched(graph: Graph) -> SketchedHead | None:
    """The output head, where it has a sketch."""
    op = graph.ops[-1]
    return op if isinstance(op, SketchedHead) else None
