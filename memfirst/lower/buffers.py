"""Storages → buffers: two whose lifetimes, in phases, do not meet share memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from memfirst.lower.nodes import NodeCall, Place, PrivateStride, Scratch, Storage
from memfirst.lower.phases import Stage
from memfirst.lower.program import Buffer, Call, Operand, Ref


@dataclass
class Assigned:
    """Buffers by name, the one that each array of a storage lies in, and of storages that each worker has by itself
    the rows that one worker has."""

    buffers: dict[str, Buffer]
    place: dict[tuple[str, str], str]
    private: Mapping[str, int]
    _statics: dict[object, tuple[tuple[str, int | str], ...]] = field(default_factory=dict)
    _args: dict[int, tuple[NodeCall, tuple[tuple[str, Operand], ...]]] = field(default_factory=dict)

    def resolve(self, call: NodeCall, capacity: int) -> Call:
        """The call with buffers for operands, and for steps of that many tokens."""
        statics = self._statics.get((capacity, call.statics))  # most calls have the same ones
        if statics is None:
            statics = tuple((name, value(capacity) if callable(value) else value) for name, value in call.statics)
            self._statics[capacity, call.statics] = statics
        known = self._args.get(id(call))  # which is kept beside them, so that no other call gets its number
        if known is None:
            known = self._args[id(call)] = call, self._operands(call)
        return Call(call.kernel, statics, known[1], call.op, call.purpose)

    def _operands(self, call: NodeCall) -> tuple[tuple[str, Operand], ...]:
        args = []
        for name, given in call.args:
            operand: Operand
            if isinstance(given, Place):
                operand = Ref("buffer", self.place[given.storage, given.array], given.offset)
            elif isinstance(given, PrivateStride):
                operand = self.private.get(given.storage, 0)
            elif isinstance(given, Scratch):
                operand = self._scratch(given)
            else:
                operand = given
            args.append((name, operand))
        return tuple(args)

    def _scratch(self, wanted: Scratch) -> Ref:
        """A buffer of its own for each size: workers' parts of two sizes would overlap."""
        name = f"{wanted.name}.{wanted.items}"
        self.buffers.setdefault(name, Buffer(name, wanted.kind, wanted.items, 1, private=True))
        return Ref("buffer", name)


def assign(stages: list[Stage], storages: Mapping[str, Storage], output: str, room: int) -> Assigned:
    """Buffers for steps of up to `room` tokens: the smallest free one that fits, else the largest free one made larger;
    the output's stays its own."""
    private = frozenset(t.storage for stage in stages for node in stage.prologue for t in node.writes)
    first, last = _lifetimes(stages, storages)
    made: list[Buffer] = []
    free_from: list[int] = []
    alike: dict[tuple[str, int, bool], list[int]] = {}
    place: dict[tuple[str, str], str] = {}
    for name in sorted(first, key=first.__getitem__):
        storage = storages[name]
        rows = storage.rows(room) if storage.rows else 0
        ends = len(stages) if name == output else last[name] + 1
        for array, (kind, width) in storage.arrays.items():
            key = kind, rows, name in private
            same = alike.setdefault(key, [])
            free = [i for i in same if free_from[i] <= first[name]] if name != output else []
            fits = [i for i in free if made[i].width >= width]
            if fits:
                i = min(fits, key=lambda i: made[i].width)
            elif free:
                i = max(free, key=lambda i: made[i].width)
                made[i] = replace(made[i], width=width)
            else:
                i = len(made)
                made.append(Buffer(f"{kind}.{i}", kind, width, rows, key[2]))
                free_from.append(0)
                same.append(i)
            free_from[i] = ends
            place[name, array] = made[i].name
    rows_of = {name: storages[name].rows for name in private}
    own = {name: rows(room) if rows else room for name, rows in rows_of.items()}
    return Assigned({buffer.name: buffer for buffer in made}, place, own)


def _lifetimes(stages: list[Stage], storages: Mapping[str, Storage]) -> tuple[dict[str, int], dict[str, int]]:
    """The first and the last phase that touches each storage."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for at, stage in enumerate(stages):
        for node in (*stage.prologue, *stage.nodes):
            for touch in (*node.reads, *node.writes):
                if touch.storage in storages:
                    first.setdefault(touch.storage, at)
                    last[touch.storage] = at
    return first, last
