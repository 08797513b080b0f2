"""Weights on disk: in which order a step reads them, where they lie in memory meanwhile, and what waits for them.

Those that every step reads pass through a ring: each has a place of its own there, the same in every step, so that
kernels find it by a fixed address, and overwrites what was read some weights before. Routed experts go to slots of a
pool, from which they are evicted when others need them; kernels find them by a table. A program is cut into stretches
of phases: one that needs such weights begins when they are there, and gives their places free when it ends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

from memfirst.graph import DISK, Weight
from memfirst.graph.ops.embed import Embed
from memfirst.graph.ops.experts import Experts
from memfirst.graph.traffic import WeightTraffic
from memfirst.graph.types import PACK
from memfirst.lower.packing import rows16_bytes
from memfirst.lower.program import (
    PAGE,
    SLICE,
    Phase,
    Pool,
    Program,
    Ref,
    RoutedFromDisk,
    Streamed,
    Streaming,
    Stretch,
)

_TRIES = 64
"""Sizes of a ring that are tried, between the least that could do and one largest weight more."""


class Uses:
    """Which of some weights each phase of a program uses, as numbers of `names`."""

    def __init__(self, program: Program, names: Sequence[str]) -> None:
        number = {name: i for i, name in enumerate(names)}
        self.by_phase = [sorted({number[n] for n in weights_of(p) if n in number}) for p in program.phases]
        count = len(names)
        self.reached: list[int] = []
        """Of the weights, those that some phase up to this one uses: the number behind the last."""
        most = 0
        for used in self.by_phase:
            most = max([most, *(n + 1 for n in used)])
            self.reached.append(most)
        self.kept: list[int] = []
        """The first that this phase or one after it uses."""
        least = count
        for used in reversed(self.by_phase):
            least = min([least, *used])
            self.kept.append(least)
        self.kept.reverse()

    def windows(self) -> set[tuple[int, int]]:
        """(first, last + 1) of the weights that must be in memory at once."""
        return {(a, b) for a, b in zip(self.kept, self.reached, strict=True) if a < b}

    def stretches(self, routed: Sequence[tuple[str, ...]]) -> Iterator[Stretch]:
        """All phases in order: those that need weights or experts one by one, others as many as follow each other."""
        start = 0
        for at, used in enumerate(self.by_phase):
            if not used and not routed[at]:
                continue
            if start < at:
                yield Stretch(start, at)
            start = at + 1
            frees = self.kept[start] if start < len(self.kept) else self.reached[-1]
            needs = self.reached[at] if used else 0
            yield Stretch(at, start, needs, min(frees, needs), routed[at])
        if start < len(self.by_phase):
            yield Stretch(start, len(self.by_phase))


def weights_of(phase: Phase, kernels: str = "matmul.") -> Iterator[str]:
    """The matrices that a phase's matmuls (or other kernels) read, by stored name."""
    for task in phase.tasks:
        for call in task.calls:
            operand = dict(call.args).get("w")
            if isinstance(operand, Ref) and operand.space == "weight" and call.kernel.startswith(kernels):
                yield operand.name


def streaming(programs: Sequence[Program], names: Sequence[str] | None = None, cache: int = 0) -> Streaming:
    """How all these programs of one graph read the weights that lie on disk, or those of `names` if they did.

    The first program's order is that of all; the ring has room for what any phase needs at once, and one weight more.
    The last program does the largest steps. Pools of experts take about `cache` bytes, at least what a layer may need.
    """
    first, largest = programs[0], programs[-1].capacity
    on_disk = [n for n, w in first.weights.items() if w.tier == DISK] if names is None else names
    order = in_order(first, on_disk)
    tables = _tables(first, set(on_disk), largest)
    routed, pools = _pools(first, set(on_disk), cache)
    read = [first.weights[name] for name in (*order, *(t for r in routed for t in r.tensors))]
    request = max((min(w.matrix_bytes, max(SLICE, rows16_bytes(w))) for w in read), default=0)
    sizes = [_aligned(first.weights[name].nbytes) for name in order]
    windows = {w for program in programs for w in Uses(program, order).windows()}
    places, ring = _layout(sizes, windows) if order else ([], 0)
    heads = _heads(first)
    weights = tuple(
        Streamed(name, first.weights[name].nbytes, places[i], _behind(i, places, sizes), name in heads)
        for i, name in enumerate(order)
    )
    return Streaming(weights, ring, request, tables, routed, pools)


def looked_up(table: Weight) -> dict[str, Ref]:
    """Operands of who looks up the step's tokens in a table: of one on disk their rows are there, in their order."""
    if table.tier == DISK:
        return {"w": Ref("rows", table.name), "tokens": Ref("step", "all_rows")}
    return {"w": Ref("weight", table.alias or table.name), "tokens": Ref("step", "tokens")}


def in_order(program: Program, names: Sequence[str]) -> list[str]:
    """The matrices among `names`, as the program's phases come to them."""
    wanted = set(names)
    return list(dict.fromkeys(n for phase in program.phases for n in weights_of(phase) if n in wanted))


def _tables(program: Program, names: set[str], tokens: int) -> dict[str, int]:
    """Tables that are looked up and lie on disk, with room for a row of each token, in whole groups as packed."""
    found = {op.weight.name: op.weight for op in program.graph.of(Embed)}
    rows = -(-tokens // PACK) * PACK
    return {name: rows * weight.row_bytes for name, weight in found.items() if name in names}


def _pools(program: Program, names: set[str], cache: int) -> tuple[tuple[RoutedFromDisk, ...], tuple[Pool, ...]]:
    """Routed experts among `names`, and pools for them, one for each size of an expert: each holds at least all experts
    of a layer, which a prompt may need at once, and beyond that the same share of its experts as the others."""
    routed: list[RoutedFromDisk] = []
    sizes: list[int] = []
    counted: Counter[int] = Counter()
    counts = 0
    for op in program.graph.of(Experts):
        tensors = [w.alias or w.name for w in (*op.inner, op.down)]
        if set(tensors) <= names:
            each = [_aligned(program.weights[name].matrix_bytes) for name in tensors]
            if sum(each) not in sizes:
                sizes.append(sum(each))
            pool, experts = sizes.index(sum(each)), op.up.shape[0]
            offsets = tuple(accumulate(each, initial=0))[:-1]
            routed.append(RoutedFromDisk(op.name, experts, tuple(tensors), offsets, pool, counted[pool], counts))
            counted[pool] += experts
        counts += op.up.shape[0]
    least = [max(r.experts for r in routed if r.pool == pool) for pool in range(len(sizes))]
    more = max(0, cache - sum(n * size for n, size in zip(least, sizes, strict=True)))
    beyond = sum((counted[pool] - n) * sizes[pool] for pool, n in enumerate(least))
    share = min(1.0, more / beyond) if beyond else 0.0
    return tuple(routed), tuple(
        Pool(size, least[pool] + int((counted[pool] - least[pool]) * share), counted[pool])
        for pool, size in enumerate(sizes)
    )


def _heads(program: Program) -> set[str]:
    """Stored names of what is read for logits only."""
    reads = [read for _, read in program.moves if isinstance(read, WeightTraffic)]
    needed = {read.weight.alias or read.weight.name for read in reads if not read.head}
    return {read.weight.alias or read.weight.name for read in reads if read.head} - needed


def _aligned(nbytes: int) -> int:
    return -(-nbytes // PAGE) * PAGE


def _layout(sizes: Sequence[int], windows: set[tuple[int, int]]) -> tuple[list[int], int]:
    """Places in the smallest ring found in which no window, nor the weight that is read behind it, overlaps itself.

    Behind a step's last weights come its first, whose places are what they are: where no ring has room for these too,
    they wait until the step is over.
    """
    count = len(sizes)
    ahead = [(a, min(b - a + 1, count)) for a, b in windows]
    within = [(a, n if a + n <= count else b - a) for (a, n), (_, b) in zip(ahead, windows, strict=True)]
    least = max(sum(sizes[(a + k) % count] for k in range(n)) for a, n in ahead)
    grain = _aligned(max(sizes) // _TRIES + 1)
    for needed in (ahead, within):
        for ring in range(least, least + 2 * max(sizes) + grain, grain):
            places = _places(sizes, ring)
            if not any(_overlaps_itself(a, n, places, sizes) for a, n in needed):
                return places, ring
    return _places(sizes, sum(sizes)), sum(sizes)


def _places(sizes: Sequence[int], ring: int) -> list[int]:
    """One behind the other, and again from the start where the rest is too small."""
    places, at = [], 0
    for size in sizes:
        at = 0 if at + size > ring else at
        places.append(at)
        at += size
    return places


def _overlaps_itself(first: int, count: int, places: Sequence[int], sizes: Sequence[int]) -> bool:
    spans = sorted((places[i % len(sizes)], sizes[i % len(sizes)]) for i in range(first, first + count))
    return any(at + size > following for (at, size), (following, _) in pairwise(spans))


def _behind(number: int, places: Sequence[int], sizes: Sequence[int]) -> int:
    """How many weights before it the nearest lies that it overwrites: itself at the latest, a step before."""
    count, start = len(sizes), places[number]
    for back in range(1, count):
        other = (number - back) % count
        if places[other] < start + sizes[number] and start < places[other] + sizes[other]:
            return back
    return count


def stretches(program: Program) -> tuple[Stretch, ...]:
    """The program's phases, cut where they wait for weights from disk or for other processes: one stretch where none
    do."""
    streamed = program.streaming
    pooled = {name for r in streamed.routed for name in r.tensors}
    routed = [tuple(dict.fromkeys(n for n in weights_of(p, "routed.") if n in pooled)) for p in program.phases]
    found = Uses(program, [s.name for s in streamed.weights]).stretches(routed)
    stops = sorted({exchange.phase for exchange in program.exchanges})
    return tuple(part for stretch in found for part in _cut(stretch, stops))


def _cut(stretch: Stretch, stops: Sequence[int]) -> Iterator[Stretch]:
    """A stretch cut before phases at which values are exchanged; one that waits for weights is a single phase."""
    starts = [stretch.start, *(stop for stop in stops if stretch.start < stop < stretch.end)]
    for start, end in pairwise([*starts, stretch.end]):
        yield replace(stretch, start=start, end=end)
