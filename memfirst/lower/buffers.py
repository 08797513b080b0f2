"""Storages → buffers: two whose lifetimes, in phases, do not meet share memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from memfirst.lower.nodes import PrivateStride, Storage
from memfirst.lower.phases import Stage
from memfirst.lower.program import Buffer, Call, Operand, Ref


@dataclass
class Assigned:
    """Buffers, the one that each storage lies in, and which storages each worker has by itself."""

    buffers: list[Buffer]
    place: dict[str, str]
    private: frozenset[str]

    def resolve(self, call: Call, capacity: int) -> Call:
        """The call with buffers for operands."""
        args = []
        for name, given in call.args:
            operand: Operand | PrivateStride = given
            if isinstance(given, Ref) and given.space == "value":
                operand = Ref("buffer", self.place[given.name], given.offset)
            elif isinstance(given, PrivateStride):
                operand = capacity if given.storage in self.private else 0
            args.append((name, operand))
        return Call(call.kernel, call.statics, tuple(args), call.op, call.purpose)  # type: ignore[arg-type]


def assign(stages: list[Stage], storages: Mapping[str, Storage], output: str) -> Assigned:
    """The smallest free buffer that fits, else the largest free one made larger; the output's stays its own."""
    private = frozenset(t.storage for stage in stages for node in stage.prologue for t in node.writes)
    first, last = _lifetimes(stages, storages)
    made: list[Buffer] = []
    free_from: list[int] = []
    alike: dict[tuple[str, int, bool], list[int]] = {}
    place: dict[str, str] = {}
    for name in sorted((n for n in storages if n in first), key=lambda n: first[n]):
        storage, begins = storages[name], first[name]
        key = storage.kind, storage.rows, storage.scratch or name in private
        same = alike.setdefault(key, [])
        free = [i for i in same if free_from[i] <= begins] if name != output else []
        fits = [i for i in free if made[i].width >= storage.width]
        if fits:
            i = min(fits, key=lambda i: made[i].width)
        elif free:
            i = max(free, key=lambda i: made[i].width)
            made[i] = replace(made[i], width=storage.width)
        else:
            i = len(made)
            made.append(Buffer(f"{storage.kind}.{i}", storage.kind, storage.width, storage.rows, key[2]))
            free_from.append(0)
            same.append(i)
        free_from[i] = len(stages) if name == output else last[name] + 1
        place[name] = made[i].name
    return Assigned(made, place, private)


def _lifetimes(stages: list[Stage], storages: Mapping[str, Storage]) -> tuple[dict[str, int], dict[str, int]]:
    """The first and the last phase that touches each storage."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for at, stage in enumerate(stages):
        for name in {t for node in (*stage.prologue, *stage.nodes) for t in node.storages} & set(storages):
            first.setdefault(name, at)
            last[name] = at
    return first, last
