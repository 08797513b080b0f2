"""Compiling the kernels that the cache lacks: in child processes, one per core, each importing Numba once."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue

from filelock import FileLock, Timeout

from memfirst.errors import BackendError
from memfirst.kernels.cpu import library
from memfirst.kernels.cpu.sources import Key

Child = subprocess.Popen[bytes]

_CHILD = [sys.executable, "-P", "-c", "from memfirst.kernels.cpu.compiling import main; main()"]

IDLE = "MEMFIRST_COMPILER_IDLE"
"""Set where a child may take only the time that nothing else wants."""

PATIENCE = 30.0
"""Seconds without a kernel after which what another process claims is compiled here too: it may be stopped."""


def compile_one(key: Key) -> bytes:
    """The cache file's content for one kernel."""
    from memfirst.kernels.cpu import build

    module, name = key[0].split(".")
    built = build.build(module, name, dict(key[1]))
    return library.encode(built.symbol, built.params, built.code)


def compile_all(paths: Mapping[Key, Path], progress: library.Progress | None) -> dict[Key, bytes]:
    """Compile kernels, keep each under its path where that can be written, and return them."""
    out: dict[Key, bytes] = {}
    if progress:
        progress(0, len(paths), "")
    for key, blob in _compiled(paths):
        out[key] = blob
        if progress:
            progress(len(out), len(paths), key[0])
    return out


_unwritable: set[Path] = set()
"""Folders of which this process has said so."""


def keep(path: Path, blob: bytes) -> None:
    """On disk; where that cannot be written, which is said once, for this process alone."""
    if path.parent not in _unwritable:
        try:
            library.write_atomically(path, blob)
            return
        except OSError as error:
            reason = error.strerror or type(error).__name__
            said = f"memfirst: {path.parent} cannot be written ({reason}); the next run compiles its kernels again"
            print(said, file=sys.stderr)
            _unwritable.add(path.parent)
    library.unsaved[path] = blob


def _compiled(paths: Mapping[Key, Path]) -> Iterator[tuple[Key, bytes]]:
    """Each key with its file, as children finish them; big tiles first, so that the children end together."""
    todo: SimpleQueue[Key] = SimpleQueue()
    done: SimpleQueue[tuple[Key, bytes]] = SimpleQueue()
    for key in sorted(paths, key=lambda k: int(dict(k[1]).get("TILE", 0)), reverse=True):
        todo.put(key)
    workers = min(len(paths), os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool, children(workers) as compilers:
        futures = [pool.submit(_feed, child, paths, todo, done) for child in compilers]
        for _ in paths:
            while True:
                try:
                    yield done.get(timeout=0.1)
                    break
                except Empty:
                    for future in futures:
                        if future.done():
                            future.result()  # raises what ended a child early


@contextmanager
def children(count: int, idle: bool = False) -> Iterator[list[Child]]:
    """Compiling processes, killed at the end: all is done by then, or something failed, or Ctrl-C was pressed.

    They have a process group of their own, so that a terminal's Ctrl-C reaches this process alone, but no session:
    Linux shares the processor between sessions first (autogroups), and priorities count only within one. At nice 19 in
    its own session one took 98 % of a core of two: SmolLM2 decoded 105 tokens/s beside it, not 200.

    idle  whether they take only the time that nothing else wants
    """
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
    environment.pop(IDLE, None)
    if idle:
        environment[IDLE] = "1"
    started: list[Child] = []
    try:
        for _ in range(count):
            started.append(
                subprocess.Popen(
                    _CHILD, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, process_group=0
                )
            )
        yield started
    finally:
        for child in started:
            child.kill()
        for child in started:
            child.wait()
            for pipe in (child.stdin, child.stdout):
                with suppress(OSError):  # what was still to be written
                    pipe.close()  # type: ignore[union-attr]


def _feed(
    child: Child, paths: Mapping[Key, Path], todo: SimpleQueue[Key], done: SimpleQueue[tuple[Key, bytes]]
) -> None:
    """Gives keys to one child until none is left; those that another process compiles come last, from its file."""
    latest = time.monotonic() + PATIENCE
    while True:
        try:
            key = todo.get_nowait()
        except Empty:
            return
        with _claim(paths[key]) as ours:
            blob = library.read(paths[key])
            if blob is None and (ours or time.monotonic() > latest):
                blob = compiled(child, key)
                keep(paths[key], blob)
                latest = time.monotonic() + PATIENCE
        if blob is None:
            todo.put(key)
            time.sleep(0.02)
        else:
            done.put((key, blob))


@contextmanager
def _claim(path: Path) -> Iterator[bool]:
    """Whether no other process compiles for this file now: several that start together (ranks, replicas) share the
    work. A claim ends with its process; where the folder cannot be written, everyone compiles."""
    lock = FileLock(path.with_suffix(".lock"), timeout=0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock.acquire()
    except Timeout:
        yield False
        return
    except OSError:
        yield True
        return
    try:
        yield True
    finally:
        with suppress(OSError):
            Path(lock.lock_file).unlink(
                missing_ok=True
            )  # before others get it: who has it open finds the kernel's file
        lock.release()


def compiled(child: Child, key: Key) -> bytes:
    """What a child makes of one key; BackendError where it dies of it."""
    if child.stdin is None or child.stdout is None:
        raise BackendError("a compiling process has no pipes")
    with suppress(BrokenPipeError):  # it died: its answer will be empty
        child.stdin.write(json.dumps(key).encode() + b"\n")
        child.stdin.flush()
    size = child.stdout.readline()
    if not size:
        raise BackendError(f"compiling {library.title(key)} failed", do="its reason is printed above")
    return child.stdout.read(int(size))


def main() -> None:
    """A child: keys as lines of JSON on stdin, for each the length of its file and the file on stdout."""
    gc.set_threshold(200_000, 50, 100)  # what Numba makes of a kernel lives until its end: looking for cycles finds few
    if IDLE in os.environ:
        step_back()
    asked: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_read, args=(asked,), daemon=True).start()
    while True:
        name, statics = json.loads(asked.get())
        blob = compile_one((name, tuple((n, v) for n, v in statics)))
        try:
            sys.stdout.buffer.write(b"%d\n" % len(blob) + blob)
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            os._exit(0)  # whoever asked has ended, as on Ctrl-C


def step_back() -> None:
    """From here on, run only where no other process wants the core."""
    if hasattr(os, "nice"):
        os.nice(19)
    if sys.platform == "linux":
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _read(asked: SimpleQueue[bytes]) -> None:
    """In a child's thread: keys, until the parent closes the pipe, or dies. A kernel that nobody waits for any more is
    not compiled to its end: at the lowest priority that takes minutes on a busy machine, and whoever reads what the
    parent's processes print, as mpiexec does, waits for it."""
    for line in sys.stdin.buffer:
        asked.put(line)
    os._exit(0)
