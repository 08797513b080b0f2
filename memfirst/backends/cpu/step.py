"""A step as the kernels see it: counts, and arrays by token, by cache group and by unit of attention."""

from __future__ import annotations

from collections.abc import Sequence as Many
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memfirst.codecs.base import ROWS
from memfirst.errors import BackendError, CapacityError, UnsupportedError
from memfirst.graph import CacheGroup, Graph, Sequence, Step
from memfirst.graph.ops.experts import Experts
from memfirst.graph.ops.sketched import sketched
from memfirst.kernels.cpu import arena
from memfirst.lower.attention import shared_reads
from memfirst.lower.items import cut
from memfirst.lower.step_fields import COUNTS, LIKELIEST, SPLIT, active_experts, count_of, in_group

BY_TOKEN = ("tokens", "positions", "ends", "table_at", "logit_rows", "all_rows")
GROUP_BY_TOKEN = ("slots", "starts", "charged")
GROUP_BY_ITEM = ("item_token", "item_tokens", "item_split", "item_last")
BY_SEQUENCE = ("sequence_at", "sequence_new", "sequence_past", "state_read", "state_write")


class StepArrays:
    """Arrays of fixed addresses, filled anew for each step; those of a cache group have its number in their name.

    blocks  that each cache group has; slots  of recurrent state
    """

    def __init__(
        self, capacity: int, context: int, sequences: int, graph: Graph, blocks: Many[int], slots: int
    ) -> None:
        self.context, self.sequences, self.vocab_size = context, sequences, graph.vocab_size
        shared = shared_reads(graph)
        self.groups = [Group(i, g, context, n, shared[i]) for i, (g, n) in enumerate(_pairs(graph, blocks))]
        self.slots = slots if graph.states else 0
        self.row = max((group.row for group in self.groups), default=1)
        items = max(capacity, min(capacity, 8) * -(-context // SPLIT))
        sizes = dict.fromkeys(BY_TOKEN, capacity) | dict.fromkeys(BY_SEQUENCE, sequences)
        for g in range(len(self.groups)):
            sizes |= {in_group(name, g): capacity for name in GROUP_BY_TOKEN}
            sizes |= {in_group(name, g): items for name in GROUP_BY_ITEM}
            sizes |= {in_group("first_part", g): capacity + 1, in_group("tables", g): sequences * self.row}
        self.arrays: dict[str, NDArray[Any]] = {name: arena.array("i32", n) for name, n in sizes.items()}
        self.tiles, self.sketched = -(-graph.vocab_size // ROWS), sketched(graph) is not None
        self.arrays["step"] = arena.array("i64", COUNTS + self.tiles)
        self.experts = {op.name: (op.up.shape[0], op.k) for op in graph.of(Experts)}
        self.arrays["routing"] = arena.array("i32", sum(experts for experts, _ in self.experts.values()))
        self.arrays["all_rows"][:] = np.arange(capacity)
        self._words = {name: array.data for name, array in self.arrays.items()}

    def most_counts(self) -> NDArray[np.int64]:
        """The counts of the step that is filled in, with as many active experts and listed tiles as there may be: what
        kernels count is known only afterwards."""
        counts = self.arrays["step"].copy()
        if counts[count_of(LIKELIEST)]:
            counts[count_of("head_tiles")] = self.tiles
        for i, (experts, k) in enumerate(self.experts.values()):
            counts[count_of(active_experts(i))] = min(experts, k * int(counts[count_of("tokens")]))
        return counts

    def routed(self) -> NDArray[np.int32] | None:
        """A copy of what kernels counted in the last step: tokens by expert, one operation after the other."""
        return self.arrays["routing"].copy() if self.experts else None

    def listed(self) -> int | None:
        """Tiles of the output head that the last step read in full, if it wanted the likeliest token only."""
        counts = self._words["step"]
        first = 1  # is computed where the others are listed
        return first + counts[count_of("head_tiles")] if counts[count_of(LIKELIEST)] else None

    def check(self, step: Step, tokens: Many[int] | NDArray[np.int32]) -> None:
        """Raises for a step that could not be done, but for its block tables."""
        if len(step.sequences) > self.sequences:
            raise CapacityError(f"a step of {len(step.sequences)} sequences", f"at most {self.sequences}")
        self._check_tokens(step, tokens)
        for sequence in step.sequences:
            self._check(sequence)
        if step.likeliest and (step.logits != 1 or step.head is not None):
            raise BackendError(f"the likeliest token of {step.logits} rows of logits", "of one, with all tokens")
        if self.slots and len(step.sequences) > 1:
            _check_slots(step)

    def fill(self, step: Step, tokens: Many[int] | NDArray[np.int32], workers: int) -> int:
        """Describe `step`; returns how many rows of logits it gives. Raises before kernels could read out of bounds."""
        self.check(step, tokens)
        for i, sequence in enumerate(step.sequences):
            self._tables(i, sequence)
        self._head(step.head if step.logits else None)
        self._count(LIKELIEST, int(step.likeliest and self.sketched))
        if len(step.sequences) == 1 and step.sequences[0].new == 1:
            return self._fill_one(step.sequences[0], int(tokens[0]))
        a, at, rows = self.arrays, 0, 0
        a["tokens"][: len(tokens)] = tokens
        for i, sequence in enumerate(step.sequences):
            end = at + sequence.new
            positions = np.arange(sequence.past, sequence.past + sequence.new)
            a["positions"][at:end] = positions if sequence.positions is None else sequence.positions
            a["ends"][at:end] = positions + 1
            a["table_at"][at:end] = i * self.row
            self._state(i, sequence, at)
            for group in self.groups:
                group.fill(a, sequence, positions, at)
            for row in sequence.logit_rows:
                a["logit_rows"][rows] = at + row
                rows += 1
            at = end
        self._count("tokens", at)
        for group in self.groups:
            self._count(in_group("items", group.index), group.items(a, step, workers))
        return self._counted(len(step.sequences), rows)

    def _fill_one(self, sequence: Sequence, token: int) -> int:
        """A decoded token: the same as above without arrays of one, which would take ten times as long (25 µs)."""
        a, past, rows = self._words, sequence.past, len(sequence.logit_rows)
        a["tokens"][0] = token
        a["positions"][0] = past if sequence.positions is None else sequence.positions[0]
        a["ends"][0] = past + 1
        a["table_at"][0] = a["logit_rows"][0] = 0
        self._state(0, sequence, 0)
        for group in self.groups:
            self._count(in_group("items", group.index), group.fill_one(a, sequence))
        self._count("tokens", 1)
        return self._counted(1, rows)

    def _state(self, i: int, sequence: Sequence, at: int) -> None:
        a = self._words
        a["sequence_at"][i], a["sequence_new"][i], a["sequence_past"][i] = at, sequence.new, sequence.past
        a["state_read"][i], a["state_write"][i] = sequence.state_read, sequence.state_write

    def _counted(self, sequences: int, logits: int) -> int:
        for name, count in (("logits", logits), ("any_logits", int(logits > 0)), ("sequences", sequences)):
            self._count(name, count)
        return logits

    def _head(self, tiles: tuple[int, ...] | None) -> None:
        """Which tiles of the output head are computed."""
        if tiles is not None:
            rising = all(a < b for a, b in pairwise(tiles))
            if not tiles or not rising or not 0 <= tiles[0] <= tiles[-1] < self.tiles:
                raise BackendError(f"tiles {tiles[:8]} of the output head", f"some of 0 to {self.tiles - 1}, ascending")
            self.arrays["step"][COUNTS : COUNTS + len(tiles)] = tiles
        self._count("head_tiles", -1 if tiles is None else len(tiles))

    def _count(self, name: str, count: int) -> None:
        self._words["step"][count_of(name)] = count

    def _check_tokens(self, step: Step, tokens: Many[int] | NDArray[np.int32]) -> None:
        if len(tokens) != step.tokens:
            raise BackendError(f"{len(tokens)} tokens", f"{step.tokens}, as the step says")
        if len(tokens) and not 0 <= min(tokens) <= max(tokens) < self.vocab_size:
            raise BackendError(f"token ids {min(tokens)} to {max(tokens)}", f"0 to {self.vocab_size - 1}")

    def _check(self, sequence: Sequence) -> None:
        if sequence.past < 0 or sequence.new < 1:
            raise BackendError(f"a sequence of {sequence.past} past and {sequence.new} new tokens", "at least one new")
        if sequence.parents is not None:
            raise UnsupportedError("a tree of tokens", "a chain, on the CPU backend")
        rows = sequence.logits
        if rows and not (0 <= min(rows) <= max(rows) < sequence.new and len(rows) <= sequence.new):
            raise BackendError(f"logits of {len(rows)} tokens: {rows[:8]}", f"each of 0 to {sequence.new - 1} once")
        self._check_positions(sequence)
        if sequence.past + sequence.new > self.context:
            raise CapacityError(f"a step to position {sequence.past + sequence.new}", f"at most {self.context}")
        if self.slots and not min(sequence.state_read, sequence.state_write) >= 0:
            raise BackendError(f"state slots {sequence.state_read}, {sequence.state_write}", "slots from 0")
        if self.slots and max(sequence.state_read, sequence.state_write) >= self.slots:
            raise CapacityError(f"state slots {sequence.state_read}, {sequence.state_write}", f"0 to {self.slots - 1}")

    def _check_positions(self, sequence: Sequence) -> None:
        """RoPE positions given apart from cache slots: one for each token, within the tables."""
        given = sequence.positions
        if given is None:
            return
        if len(given) != sequence.new or not 0 <= min(given) <= max(given) < self.context:
            raise BackendError(f"positions {given[:8]} for {sequence.new} tokens", f"each from 0 to {self.context - 1}")

    def _tables(self, i: int, sequence: Sequence) -> None:
        """Checks and copies a sequence's block tables; one that is the same object as before is known."""
        if len(sequence.tables) != len(self.groups):
            raise BackendError(f"{len(sequence.tables)} block tables", f"{len(self.groups)}, one for each cache group")
        for group, table in zip(self.groups, sequence.tables, strict=True):
            group.check(sequence, table)
            if group.new_table(i, table):
                self.arrays[in_group("tables", group.index)][i * self.row : i * self.row + len(table)] = table


class Group:
    """One cache group's part of the arrays."""

    def __init__(self, index: int, group: CacheGroup, context: int, blocks: int, shared: bool) -> None:
        cache = group.cache
        self.index, self.blocks, self.shared = index, blocks, shared
        self.cache, self.block, self.heads = cache, cache.block, cache.heads
        self.row = -(-context // self.block)
        self._known: list[tuple[int, ...]] = []
        self._names = {name: in_group(name, index) for name in (*GROUP_BY_TOKEN, *GROUP_BY_ITEM, "first_part")}

    def check(self, sequence: Sequence, table: tuple[int, ...]) -> None:
        """CapacityError for a table with too few blocks, or whose blocks do not exist."""
        end = sequence.past + sequence.new
        if end > len(table) * self.block:
            raise CapacityError(
                f"a step to position {end}", f"at most {len(table) * self.block}, in {len(table)} blocks"
            )
        if len(table) > self.row:
            raise CapacityError(f"{len(table)} blocks of one sequence", f"at most {self.row}")
        needed = table[self.cache.first(sequence.past) // self.block :]
        if needed and not 0 <= min(needed) <= max(needed) < self.blocks:
            raise CapacityError(f"blocks {min(needed)} to {max(needed)}", f"0 to {self.blocks - 1}")

    def new_table(self, i: int, table: tuple[int, ...]) -> bool:
        """Whether the `i`th sequence's table is another object than in the step before."""
        if i < len(self._known) and self._known[i] is table:
            return False
        self._known[i : i + 1] = [table]
        return True

    def fill(self, a: dict[str, NDArray[Any]], sequence: Sequence, positions: NDArray[np.int64], at: int) -> None:
        """Slots, and what each token attends."""
        names, end, table = self._names, at + sequence.new, sequence.tables[self.index]
        first = sequence.past // self.block
        blocks = np.asarray(table[first:], np.int64)
        a[names["slots"]][at:end] = blocks[positions // self.block - first] * self.block + positions % self.block
        starts, charged = a[names["starts"]], a[names["charged"]]
        starts[at:end] = self._starts(positions)
        charged[at : end - 1], charged[end - 1 : end] = starts[at + 1 : end], positions[-1:] + 1

    def _starts(self, positions: NDArray[np.int64]) -> NDArray[np.int64] | int:
        """The first position that each attends: `KVCache.first` of many."""
        window = self.cache.window
        if window is None:
            return 0
        return positions // window * window if self.cache.chunked else np.maximum(positions + 1 - window, 0)

    def fill_one(self, a: dict[str, Any], sequence: Sequence) -> int:
        """The same for a single token; returns its units of attention."""
        names, past, start = self._names, sequence.past, self.cache.first(sequence.past)
        table = sequence.tables[self.index]
        a[names["slots"]][0] = table[past // self.block] * self.block + past % self.block
        a[names["starts"]][0], a[names["charged"]][0] = start, past + 1
        token, tokens, split, last = (a[names[name]] for name in GROUP_BY_ITEM)
        n = 0
        for number in range(start // SPLIT, past // SPLIT + 1):
            token[n], tokens[n], split[n], last[n] = 0, 1, number, number
            n += 1
        a[names["first_part"]][0], a[names["first_part"]][1] = 0, n
        return n

    def items(self, a: dict[str, NDArray[Any]], step: Step, workers: int) -> int:
        """How attention is cut, see `memfirst.lower.items`; returns the number of items."""
        items, parts = cut(step.sequences, self.cache, workers, self.shared)
        for name, column in zip(GROUP_BY_ITEM, np.array(items).T, strict=True):
            a[self._names[name]][: len(items)] = column
        a[self._names["first_part"]][: len(parts)] = parts
        return len(items)


def _check_slots(step: Step) -> None:
    """BackendError for a slot of state that one sequence writes and another reads or writes: all go on at once."""
    written = {s.state_write for s in step.sequences}
    mixed = [s for s in step.sequences if s.past and s.state_read != s.state_write and s.state_read in written]
    if len(written) < len(step.sequences) or mixed:
        raise BackendError("sequences that share a slot of state that is written", "a slot to write for each sequence")


def _pairs(graph: Graph, blocks: Many[int]) -> list[tuple[CacheGroup, int]]:
    return list(zip(graph.cache_groups, blocks, strict=True))
