"""Grammars of requests, compiled in a process of their own before the engine hears of them.

A thread could not be stopped, and some schemas of 200 kB compile for 12 s. What takes longer than `COMPILE_SECONDS`,
more memory than `MEMORY`, or ends the process is refused like what is malformed; the next one finds a new process.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import signal
import sys
import threading
import time
from collections import OrderedDict
from multiprocessing.connection import Connection

from memfirst.errors import BackendError, ConfigError
from memfirst.formats.open import open_checkpoint
from memfirst.runtime.grammar import Grammar, Grammars
from memfirst.text import Tokenizer

COMPILE_SECONDS = 2.0
START_SECONDS = 60.0
MEMORY = 2 << 30
"""Bytes that the process may have: of address space where the system bounds that, else of resident memory."""
LOOK_SECONDS = 0.05
"""Between two looks at resident memory: a process that touches 2 GB a second is 0.1 GB above its bound by then."""
KNOWN, MOST_WAITING = 256, 16
"""Grammars whose fate is remembered, and those that wait for the process at most."""


class CompilerBusyError(BackendError):
    """Too many grammars wait."""


class Compiler:
    """Says whether grammars can be followed; for one event loop. Its process starts with the first of them."""

    def __init__(self, model_path: str) -> None:
        self._path = model_path
        self._refusals: OrderedDict[Grammar, ConfigError | None] = OrderedDict()
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._worker: Worker | None = None

    async def check(self, grammar: Grammar) -> None:
        """ConfigError for a grammar that cannot be followed, or takes too long to compile."""
        if grammar not in self._refusals:
            if self._waiting >= MOST_WAITING:
                raise CompilerBusyError(f"{self._waiting} grammars wait to be compiled", "fewer", "try again")
            self._waiting += 1
            try:
                async with self._turn:
                    refusal = self._refusals.get(grammar) or await asyncio.to_thread(self._refusal, grammar)
            finally:
                self._waiting -= 1
            self._refusals[grammar] = refusal
            if len(self._refusals) > KNOWN:
                self._refusals.popitem(last=False)
        elif (refusal := self._refusals[grammar]) is not None:
            self._refusals.move_to_end(grammar)
        if refusal is not None:
            raise refusal

    def _refusal(self, grammar: Grammar) -> ConfigError | None:
        self._worker = worker = self._worker or Worker(self._path)
        try:
            return worker.refusal(grammar)
        except TimeoutError:
            found = f"the {grammar.kind} takes more than {COMPILE_SECONDS:.0f} s to compile"
        except (EOFError, OSError, MemoryError):
            found = f"the {grammar.kind} takes more memory to compile than there is for it"
        worker.close()
        self._worker = Worker(self._path)  # starts meanwhile
        return ConfigError(found, "a simpler one")

    def close(self) -> None:
        """End the process."""
        if self._worker is not None:
            self._worker.close()


class Worker:
    """The process, and the pipe to it."""

    def __init__(self, model_path: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=main, args=(theirs, model_path), name="memfirst grammars", daemon=True)
        self._process.start()
        theirs.close()
        self._ready = False

    def refusal(self, grammar: Grammar) -> ConfigError | None:
        """Why a grammar cannot be followed, None if it can; TimeoutError, or EOFError where the process ended."""
        if not self._ready and not self._pipe.poll(START_SECONDS):
            raise BackendError("the process that compiles grammars did not start", do="try again")
        if not self._ready:
            self._pipe.recv_bytes()
            self._ready = True
        self._pipe.send_bytes(json.dumps([grammar.kind, grammar.text, grammar.after]).encode())
        self._wait()
        said = json.loads(self._pipe.recv_bytes())
        return ConfigError(*said) if said else None

    def _wait(self) -> None:
        """Until there is an answer; MemoryError where the process holds more than it may, TimeoutError as above."""
        if bounds_address_space():
            if not self._pipe.poll(COMPILE_SECONDS):
                raise TimeoutError
            return
        import psutil

        watched, end = psutil.Process(self._process.pid), time.monotonic() + COMPILE_SECONDS
        while not self._pipe.poll(LOOK_SECONDS):
            try:
                held = watched.memory_info().rss
            except psutil.Error as error:
                raise EOFError("the process has ended") from error
            if held > MEMORY:
                raise MemoryError
            if time.monotonic() > end:
                raise TimeoutError

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._pipe.close()
        threading.Thread(target=self._process.join, daemon=True).start()


def bounds_address_space() -> bool:
    """Whether the system ends a process that maps more than it may; macOS takes no such limit, Windows has none."""
    return sys.platform == "linux"


def main(pipe: Connection, model_path: str) -> None:
    """The process's whole life: a grammar comes, why it is refused goes back."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the HTTP process decides
    if bounds_address_space():
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        checkpoint = open_checkpoint(model_path)
        tokenizer = Tokenizer.of(checkpoint)
        checkpoint.close()
        grammars = Grammars(tokenizer, tokenizer.vocab_size)
        grammars.warm_up()
        pipe.send_bytes(b"ready")
        while True:
            grammar = Grammar(*json.loads(pipe.recv_bytes()))
            try:
                grammars.compile(grammar)
                said: list[str] = []
            except ConfigError as error:
                said = [error.found, error.expected, error.do, error.command]
            pipe.send_bytes(json.dumps(said).encode())
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the HTTP process is gone
