"""How weights are kept in memory when a model is loaded: BF16 in 12 bits where that is faster, else as in the file."""

from __future__ import annotations

from memfirst.backends.cpu.twelve_bits import NOTHING, Compiled, Found, measure, supported
from memfirst.codecs import bf12
from memfirst.formats.checkpoint import Checkpoint
from memfirst.graph import DISK, Graph
from memfirst.hardware import host
from memfirst.kernels.cpu.library import Library
from memfirst.lower.cpu import Lowering
from memfirst.progress import Progress
from memfirst.runtime.placing import PACK_AUTO, Limit, bytes_of, needed, within
from memfirst.runtime.sharing import Sharing
from memfirst.transform.sketched import where_worth_it
from memfirst.transform.twelve_bits import expected, packable


def with_sketched_head(lowering: Lowering, sharing: Sharing, threads: int, beside: int, progress: Progress) -> Lowering:
    """The same model, where it pays and there is memory for it with a sketch of its output head."""
    graph = where_worth_it(lowering.graph)
    if graph is lowering.graph:
        return lowering
    made = Lowering(graph, lowering.context)
    if needed(made, sharing, threads).total + beside > host.available_memory():
        progress.note("the output head has no sketch: there is no memory for it")
        return lowering
    return made


def lowered(
    graph: Graph, checkpoint: Checkpoint, context: int, sharing: Sharing, threads: int, limit: Limit | None, pack: str,
    progress: Progress, beside: int = 0,
) -> tuple[Lowering, Found]:  # fmt: skip
    """The model as it is run, with its BF16 matrices in 12 bits where they may be, and what was measured of these.

    What a step reads from disk is packed anew each time, so a model that `limit` leaves on disk in part is not packed.

    beside  bytes that something else takes

    Raises:
        CapacityError: Not even what must be in memory fits `limit`.
    """
    room = host.available_memory() if limit is None else bytes_of(limit)
    may = packable(graph) if pack == PACK_AUTO and supported() else {}
    least = sum(w.nbytes for w in expected(graph).weights().values()) if may else 0
    found = NOTHING
    if may and least + beside <= room:
        found = measure(may, checkpoint, threads, progress, Compiled(Library()))
    lowering = Lowering(graph.in_twelve_bits(found.aside), context)
    if limit is not None:
        if may and (not found.packed or needed(lowering, sharing, threads).total + beside > room):
            found, lowering = NOTHING, Lowering(graph, context)
        lowering = within(lowering, checkpoint, sharing, threads, limit, beside)
        if may and any(w.tier == DISK for w in lowering.graph.weights().values()):
            progress.note("BF16 weights are not packed in 12 bits: what is read from disk is read as the file has it")
    if found.plain:
        progress.note(
            f"{found.plain} of {found.plain + len(found.packed)} BF16 matrices stay plain: in 12 bits more than"
            f" {100 * bf12.MOST:.0f} % of their blocks would lie aside"
        )
    return lowering, found
