"""Which weights of a model stay in memory where not all of them fit, and which a step reads from disk.

Tables of which only rows are looked up go first: a step needs a few of them. Then routed experts, of which a step
needs some: as many are kept in memory as there is room for. Then matrices, as few bytes as must be, spread evenly over
the step, so that the disk reads while resident layers are computed. What is streamed needs room to pass through, so a
large matrix (the head) stays where smaller ones can go instead.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from memfirst.formats.checkpoint import Checkpoint
from memfirst.graph import DISK, Weight
from memfirst.graph.ops.experts import Experts
from memfirst.lower.cpu import Lowering
from memfirst.lower.program import Program, Ref
from memfirst.lower.streaming import weights_of

SMALLEST = 1 << 14
"""Bytes below which a matrix stays: a request of its own to the disk costs more than they are worth."""


@dataclass(frozen=True)
class Unit:
    """Matrices that the same phase reads: they go or stay together."""

    names: tuple[str, ...]
    nbytes: int


@dataclass(frozen=True)
class Placement:
    """Where the weights of a model are.

    on_disk   names of those that are not in memory; streamed: bytes of them that every step with logits reads
    memory    bytes that the others take, and what those on disk pass through; missing: of them, more than there is room
    experts   bytes that keep routed experts which lie on disk
    """

    on_disk: tuple[str, ...]
    streamed: int
    memory: int
    missing: int
    experts: int = 0

    def of(self, lowering: Lowering) -> Lowering:
        """The same model with these tiers."""
        if not self.on_disk:
            return lowering
        graph = lowering.graph.with_tiers(dict.fromkeys(self.on_disk, DISK))
        return Lowering(graph, lowering.context, self.experts)


def place(lowering: Lowering, room: int, keep: Collection[str] = ()) -> Placement:
    """All weights in `room` bytes of memory or else the fewest on disk; `missing` where the least is too much.

    Args:
        lowering: The model, all of it in memory.
        room: Bytes for weights and what streaming takes.
        keep: Weights that cannot be read from disk.
    """
    program = lowering.program(1, 1)
    whole = _placement(lowering, program, (), (), room)
    if not whole.missing:
        return whole
    tables = tuple(name for name in _only_looked_up(program) if name not in keep)
    found = _placement(lowering, program, tables, (), room)
    if not found.missing:
        return found
    first = (*tables, *_routed(program, keep))
    found = _placement(lowering, program, first, (), room)
    if found.missing:
        return _streamed(lowering, program, first, keep, room)
    return _placement(lowering, program, first, (), room, room - found.memory) if found.experts else found


def _streamed(
    lowering: Lowering, program: Program, tables: tuple[str, ...], keep: Collection[str], room: int
) -> Placement:
    """The fewest bytes on disk with which all fits: tried with units up to each size, as larger ones need a larger
    ring. Where nothing fits, what needs least memory."""
    units = [u for u in _units(program) if not set(u.names) & set(keep) and u.nbytes >= SMALLEST]
    found = [_placement(lowering, program, tables, (), room)]
    for most in sorted({u.nbytes for u in units}):
        movable = [u for u in units if u.nbytes <= most]
        wanted, available = 0, sum(u.nbytes for u in movable)
        while wanted < available:
            wanted = min(available, wanted + found[-1].missing) if wanted else min(available, found[0].missing)
            found.append(_placement(lowering, program, tables, _spread(movable, wanted), room))
            if not found[-1].missing:
                break
    fitting = [p for p in found if not p.missing]
    return min(fitting, key=lambda p: p.streamed) if fitting else min(found, key=lambda p: p.memory)


def _placement(
    lowering: Lowering, program: Program, tables: tuple[str, ...], units: tuple[Unit, ...], room: int, more: int = 0
) -> Placement:
    """With `tables` and `units` on disk; `more`: bytes for experts beyond those that a layer needs."""
    names = (*tables, *(name for unit in units for name in unit.names))
    away, passing = set(names), lowering.streaming(names)
    if more:
        passing = lowering.streaming(names, passing.cached + more)
    memory = passing.nbytes + sum(w.nbytes for name, w in program.weights.items() if name not in away)
    return Placement(names, sum(u.nbytes for u in units), memory, max(0, memory - room), passing.cached)


def _spread(units: list[Unit], wanted: int) -> tuple[Unit, ...]:
    """About `wanted` bytes of them, evenly over all."""
    share, owed, chosen = wanted / sum(u.nbytes for u in units), 0.0, []
    for unit in units:
        owed += unit.nbytes * share
        if owed >= unit.nbytes / 2:
            owed -= unit.nbytes
            chosen.append(unit)
    return tuple(chosen)


def _routed(program: Program, keep: Collection[str]) -> Iterator[str]:
    """Matrices of routed experts, of operations all of whose can be read from disk."""
    for op in program.graph.ops:
        if isinstance(op, Experts):
            names = [w.alias or w.name for w in (*op.inner, op.down)]
            if not set(names) & set(keep):
                yield from names


def _units(program: Program) -> Iterator[Unit]:
    """What can be streamed, by the first phase that reads it: matrices that only matmuls and look-ups read."""
    other = _otherwise_read(program)
    taken: set[str] = set()
    for phase in program.phases:
        names = tuple(n for n in dict.fromkeys(weights_of(phase)) if n not in taken and n not in other)
        taken |= set(names)
        if names:
            yield Unit(names, sum(program.weights[n].nbytes for n in names))


def _otherwise_read(program: Program) -> set[str]:
    """Stored names that other kernels than matmuls and look-ups read."""
    plain = ("matmul.", "embed.")
    refs = (o for c in program.calls if not c.kernel.startswith(plain) for _, o in c.args if isinstance(o, Ref))
    return {ref.name for ref in refs if ref.space == "weight"}


def _only_looked_up(program: Program) -> tuple[str, ...]:
    """Tables that no matmul reads."""
    looked = {o.name for c in program.calls if c.kernel.startswith("embed.") for _, o in c.args if isinstance(o, Ref)}
    whole = {name for phase in program.phases for name in weights_of(phase)} | _otherwise_read(program)
    return tuple(name for name in program.weights if name in looked and name not in whole)


def unreadable(program: Program, checkpoint: Checkpoint) -> set[str]:
    """Names of the weights that no step can read from a file: what `read` gives is made of it."""

    def streams(name: str, weight: Weight) -> bool:
        return checkpoint.tensors[name].codec == weight.codec and bool(checkpoint.extents(name))

    return {name for name, weight in program.weights.items() if not streams(name, weight)}
