"""A step as the kernels see it: counts, and arrays by token and by unit of attention."""

from __future__ import annotations

from collections.abc import Sequence as Many
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memfirst.errors import BackendError, CapacityError, UnsupportedError
from memfirst.graph import Graph, KVCache, Sequence, Step
from memfirst.kernels.cpu import arena
from memfirst.lower.cpu_calls import FIELDS, SPLIT


class StepArrays:
    """Arrays of fixed addresses, filled anew for each step."""

    def __init__(self, capacity: int, context: int, sequences: int, graph: Graph) -> None:
        self.page = next((c.page for c in graph.caches if isinstance(c, KVCache)), 1)
        self.heads = max((c.heads for c in graph.caches if isinstance(c, KVCache)), default=1)
        self.sequences, self.vocab_size = sequences, graph.vocab_size
        self.context, self.splits = context, -(-context // SPLIT)
        self.window = next((c.window for c in graph.caches if isinstance(c, KVCache)), None)
        self.row = -(-context // self.page)
        items = max(capacity, min(capacity, 8) * self.splits)
        by_token = ("tokens", "positions", "slots", "starts", "ends", "charged", "table_at", "logit_rows")
        sizes = dict.fromkeys(by_token, capacity)
        sizes |= dict.fromkeys(("item_token", "item_split", "item_last"), items)
        sizes |= {"first_item": capacity + 1, "all_rows": capacity, "tables": sequences * self.row}
        self.arrays: dict[str, NDArray[Any]] = {name: arena.array("i32", n) for name, n in sizes.items()}
        self.arrays["step"] = arena.array("i64", 8)
        self.arrays["all_rows"][:] = np.arange(capacity)
        self._words = {name: array.data for name, array in self.arrays.items()}
        self._tables: list[tuple[int, ...]] = []

    def fill(self, step: Step, tokens: Many[int] | NDArray[np.int32], workers: int) -> int:
        """Describe `step`; returns how many rows of logits it gives. Raises before kernels could read out of bounds."""
        if len(step.sequences) > self.sequences:
            raise CapacityError(f"a step of {len(step.sequences)} sequences", f"at most {self.sequences}")
        self._check_tokens(step, tokens)
        if len(step.sequences) == 1 and step.sequences[0].new == 1:
            return self._fill_one(step.sequences[0], int(tokens[0]))
        a, at, rows = self.arrays, 0, 0
        a["tokens"][: len(tokens)] = tokens
        for i, sequence in enumerate(step.sequences):
            self._check(sequence)
            self._table(i, sequence.pages)
            end = at + sequence.new
            positions = np.arange(sequence.past, sequence.past + sequence.new)
            a["positions"][at:end] = positions if sequence.positions is None else sequence.positions
            pages = np.asarray(sequence.pages[sequence.past // self.page :], np.int64)
            first = sequence.past // self.page
            a["slots"][at:end] = pages[positions // self.page - first] * self.page + positions % self.page
            a["ends"][at:end] = positions + 1
            a["starts"][at:end] = 0 if self.window is None else np.maximum(positions + 1 - self.window, 0)
            a["charged"][at : end - 1], a["charged"][end - 1 : end] = a["starts"][at + 1 : end], positions[-1:] + 1
            a["table_at"][at:end] = i * self.row
            for row in sequence.logit_rows:
                a["logit_rows"][rows] = at + row
                rows += 1
            at = end
        self._count(at, rows, self._items(at, workers))
        return rows

    def _fill_one(self, sequence: Sequence, token: int) -> int:
        """A decoded token: the same as below without arrays of one, which would take ten times as long (25 µs)."""
        self._check(sequence)
        self._table(0, sequence.pages)
        a, past, rows = self._words, sequence.past, len(sequence.logit_rows)
        start = 0 if self.window is None else max(past + 1 - self.window, 0)
        a["tokens"][0] = token
        a["positions"][0] = past if sequence.positions is None else sequence.positions[0]
        a["slots"][0] = sequence.pages[past // self.page] * self.page + past % self.page
        a["starts"][0], a["ends"][0], a["charged"][0] = start, past + 1, past + 1
        a["table_at"][0] = a["logit_rows"][0] = a["first_item"][0] = n = 0
        for split in range(start // SPLIT, past // SPLIT + 1):
            a["item_token"][n], a["item_split"][n], a["item_last"][n] = 0, split, split
            n += 1
        a["first_item"][1] = n
        self._count(1, rows, n)
        return rows

    def _count(self, tokens: int, logits: int, items: int) -> None:
        counts = {"tokens": tokens, "logits": logits, "items": items, "any_logits": int(logits > 0)}
        for name, count in counts.items():
            self._words["step"][FIELDS[name]] = count

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
        end = sequence.past + sequence.new
        if end > self.context or end > len(sequence.pages) * self.page:
            held = min(self.context, len(sequence.pages) * self.page)
            raise CapacityError(f"a step to position {end}", f"at most {held}, the context that was asked for")

    def _check_positions(self, sequence: Sequence) -> None:
        """RoPE positions given apart from cache slots: one for each token, within the tables."""
        given = sequence.positions
        if given is None:
            return
        if len(given) != sequence.new or not 0 <= min(given) <= max(given) < self.context:
            raise BackendError(f"positions {given[:8]} for {sequence.new} tokens", f"each from 0 to {self.context - 1}")

    def _table(self, i: int, pages: tuple[int, ...]) -> None:
        if i < len(self._tables) and self._tables[i] is pages:
            return
        if len(pages) > self.row:
            raise CapacityError(f"{len(pages)} pages of one sequence", f"at most {self.row}")
        if pages and not 0 <= min(pages) <= max(pages) < self.sequences * self.row:
            raise CapacityError(f"pages {min(pages)} to {max(pages)}", f"0 to {self.sequences * self.row - 1}")
        self.arrays["tables"][i * self.row : i * self.row + len(pages)] = pages
        self._tables[i : i + 1] = [pages]

    def _items(self, tokens: int, workers: int) -> int:
        """Units of attention: a token each, or with few tokens a split of its context each."""
        a = self.arrays
        first, last = a["starts"][:tokens] // SPLIT, (a["ends"][:tokens] - 1) // SPLIT
        if tokens > 8 or tokens * self.heads >= 8 * workers or (first == last).all():
            a["item_token"][:tokens] = a["all_rows"][:tokens]
            a["item_split"][:tokens], a["item_last"][:tokens] = first, last
            a["first_item"][: tokens + 1] = np.arange(tokens + 1)
            return tokens
        n = 0
        for t in range(tokens):
            a["first_item"][t] = n
            for split in range(first[t], last[t] + 1):
                a["item_token"][n], a["item_split"][n], a["item_last"][n] = t, split, split
                n += 1
        a["first_item"][tokens] = n
        return n
