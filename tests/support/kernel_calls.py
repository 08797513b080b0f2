"""Kernels called by hand, compiled or interpreted as the process does: operands by name, in guarded memory."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memfirst.kernels.cpu import build, lang
from memfirst.kernels.cpu.library import Library
from memfirst.kernels.cpu.sources import Key
from memfirst.kernels.cpu.spans import Span, SpanLog
from memfirst.kernels.cpu.thread_pool import bits, native

GUARD = 64
"""Bytes before and behind an array that a kernel must not write."""


@cache
def library() -> Library:
    """Kernels of this test run, from the cache where they are there."""
    return Library()


def guarded(array: NDArray[Any]) -> NDArray[Any]:
    """A copy between guards; see `intact`."""
    room = np.full(array.nbytes + 2 * GUARD, 0xA5, np.uint8)
    inside = room[GUARD : GUARD + array.nbytes].view(array.dtype)
    inside[:] = array.reshape(-1)
    return inside


def intact(inside: NDArray[Any]) -> bool:
    """Whether nothing was written around an array made by `guarded`."""
    room = inside.base
    assert isinstance(room, np.ndarray)
    while isinstance(room.base, np.ndarray):
        room = room.base
    return bool((room[:GUARD] == 0xA5).all() and (room[GUARD + inside.nbytes :] == 0xA5).all())


def key_of(kernel: str, operands: Mapping[str, Any]) -> Key:
    """The kernel and its static parameters, which are among `operands`."""
    module, name = kernel.split(".")
    function = getattr(import_module(f"memfirst.kernels.cpu.{module}"), name)
    statics = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    return kernel, tuple(sorted((s, operands[s]) for s in statics))


def call(kernel: str, lo: int, hi: int, worker: int = 0, **operands: Any) -> int:
    """Run `kernel` ("matmul.floats") on units lo..hi; operands and static parameters by name, others are ignored."""
    key = key_of(kernel, operands)
    if lang.INTERPRETED:
        return _interpreted(key, operands, worker, lo, hi)
    entry = library().load([key])[key]
    words: list[int] = []
    for operand, kind in entry.params:
        given = operands[operand]
        if kind in lang.ARRAYS:
            assert given.dtype == lang.ARRAYS[kind] and given.flags.c_contiguous, f"{operand} is {given.dtype}"
            words += [given.ctypes.data, given.size]
        else:
            words.append(bits(float(given) if kind == "float" else int(given)))
    record = np.array(words, np.int64)
    read = native(entry)(record.ctypes.data, worker, lo, hi)
    assert all(intact(a) for a in operands.values() if isinstance(a, np.ndarray) and _is_guarded(a)), "wrote outside"
    return read


LOG = SpanLog()
"""What interpreted kernels touch of the arrays that it watches."""


def _interpreted(key: Key, operands: Mapping[str, Any], worker: int, lo: int, hi: int) -> int:
    module, name = key[0].split(".")
    function = getattr(import_module(f"memfirst.kernels.cpu.{module}"), name)
    given = [
        Span.over(operands[n], LOG) if kind in lang.ARRAYS else np.float32(operands[n]) if kind == "float"
        else int(operands[n]) for n, kind in build.params(function)
    ]  # fmt: skip
    with np.errstate(all="ignore"):
        return int(function(*given, worker, lo, hi, **build.resolve(dict(key[1]))))


def _is_guarded(array: NDArray[Any]) -> bool:
    base = array.base
    while isinstance(base, np.ndarray) and isinstance(base.base, np.ndarray):
        base = base.base
    return isinstance(base, np.ndarray) and base.nbytes == array.nbytes + 2 * GUARD


def zeros(kind: str, *shape: int) -> NDArray[Any]:
    """Guarded zeros of a kernel's parameter kind."""
    return guarded(np.zeros(shape, lang.ARRAYS[kind])).reshape(shape)
