"""What kernels need to work together: atomic words, a pause, a clock, and calls by address."""

from collections.abc import Callable
from threading import Lock
from time import sleep

from memfirst.kernels.cpu.simd import emission, op

_one_at_a_time = Lock()
"""Interpreted, comparing and setting are two operations."""


@op(emission("atomic_load"), "int")
def atomic_load(a, index):
    """a[index], ordered before what follows."""
    return int(a[index])


@op(emission("atomic_store"), "void")
def atomic_store(a, index, value):
    """a[index] = value, ordered after what came before."""
    a[index] = value


@op(emission("atomic_swap_if"), "int")
def atomic_swap_if(a, index, old, new):
    """1 if a[index] was `old` and is now `new`, else 0."""
    with _one_at_a_time:
        if a[index] != old:
            return 0
        a[index] = new
        return 1


@op(emission("pause"), "void")
def pause():
    """Tell the processor that this loop waits."""
    sleep(0)  # interpreted workers take turns


@op(emission("ask_for"), "void")
def ask_for(address):
    """Ask for the cache line at an address: it comes while other work is done."""


interpreted_kernels: dict[int, Callable[[int, int, int, int], int]] = {}
"""What stands for code at an address where nothing is compiled."""


@op(emission("cycles"), "int")
def cycles():
    """The processor's time-stamp counter."""
    return 0


@op(emission("call_kernel"), "int")
def call_kernel(address, args, worker, lo, hi):
    """Call a kernel by address; interpreted ones have numbers instead, by which `interpreted_kernels` finds them."""
    return interpreted_kernels[address](args, worker, lo, hi)
