"""What an operation's reference may ask of whoever runs it: the step, weights as float32, caches."""

from __future__ import annotations

from collections.abc import Sequence as Many
from typing import Any, Protocol

from numpy.typing import NDArray

from memfirst.codecs.base import F32
from memfirst.graph import KVCache, Sequence, StateCache, Step, Weight

Values = Many[NDArray[Any]]
"""An operation's inputs, in its order: f32 [rows, width], except `tokens`, which is i32 [rows]."""


class Runtime(Protocol):
    """The reference backend, as operations see it."""

    @property
    def step(self) -> Step:
        """The step that is being done."""

    @property
    def context(self) -> int:
        """Positions that sequences may grow to."""

    def weight(self, weight: Weight) -> F32:
        """The whole weight, dequantized, in its logical shape (this device's part of it)."""

    def rows(self, weight: Weight, ids: NDArray[Any]) -> F32:
        """Some rows of a matrix, dequantized: [len(ids), columns]."""

    def write_kv(self, cache: KVCache, sequence: Sequence, k: F32, v: F32) -> None:
        """Store positions past … past + new: k [new, heads, k_dim], v [new, heads, v_dim]."""

    def read_kv(self, cache: KVCache, sequence: Sequence) -> tuple[F32, F32]:
        """Positions 0 … past + new: k [positions, heads, k_dim], v [positions, heads, v_dim]."""

    def read_state(self, cache: StateCache, sequence: Sequence) -> F32:
        """[elements] of slot `state_read`; zeros where the sequence has no past."""

    def write_state(self, cache: StateCache, sequence: Sequence, state: F32) -> None:
        """Store [elements] in slot `state_write`."""

    def record_routing(self, op: str, counts: tuple[int, ...]) -> None:
        """Tokens that each expert of `op` received in this step."""

    def all_reduce(self, value: F32) -> F32:
        """The sum of `value` over all devices."""

    def all_gather(self, value: F32) -> F32:
        """The devices' values side by side: [rows, width] -> [rows, degree * width]."""

    def send(self, value: F32, to: int) -> None:
        """Hand `value` to another device."""

    def receive(self, source: int) -> F32:
        """What another device hands over."""
