"""From settings to a server that runs until it is told to stop."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import socket
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

import uvicorn

from memfirst.errors import ConfigError, MemfirstError
from memfirst.formats.checkpoint import Checkpoint
from memfirst.formats.open import open_checkpoint
from memfirst.progress import Progress
from memfirst.server.app import application
from memfirst.server.compiler import Compiler
from memfirst.server.engine import Loading
from memfirst.server.link import EngineDiedError, EngineLink
from memfirst.server.prompt import Prompts
from memfirst.server.protocol import LimitedProtocol
from memfirst.server.service import Service
from memfirst.server.settings import CONNECTIONS, DRAIN_SECONDS, KEEP_ALIVE_SECONDS, MOST_HEADER_BYTES, Settings
from memfirst.server.signals import stop_on_signals


def listen(host: str, port: int) -> socket.socket:
    """A bound socket, before a model is loaded for minutes; ConfigError where the port is taken."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigError(f"the address {host}", "one of this machine", str(error)) from None
    family, kind, protocol, _, address = found[0]
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind(address)
        made.listen(CONNECTIONS)
    except OSError as error:
        made.close()
        do = "choose another with --port, or 0 for any that is free"
        raise ConfigError(f"{host}:{port} cannot be listened on ({error.strerror})", "a free port", do) from None
    made.setblocking(False)
    return made


def digest_of(checkpoint: Checkpoint) -> str:
    """A name for these weights: tensors' names, shapes and codecs, and the first bytes of the largest."""
    made = hashlib.sha256()
    for name, info in sorted(checkpoint.tensors.items()):
        made.update(f"{name} {info.shape} {info.codec}\n".encode())
    largest = max(checkpoint.tensors.values(), key=lambda info: info.nbytes)
    made.update(checkpoint.read(largest.name).reshape(-1)[: 1 << 16].tobytes())
    return made.hexdigest()


class Http:
    """An ASGI application behind a socket, with limits of ours and without uvicorn's handling of signals."""

    def __init__(self, application: Any, listening: socket.socket) -> None:
        self._listening = listening
        config = uvicorn.Config(
            application, http=LimitedProtocol, ws="none", lifespan="off", log_config=None,
            access_log=False, timeout_keep_alive=KEEP_ALIVE_SECONDS, server_header=False, date_header=True,
            h11_max_incomplete_event_size=MOST_HEADER_BYTES, limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=int(DRAIN_SECONDS),
        )  # fmt: skip
        self._server = uvicorn.Server(config)

    async def run(self) -> None:
        """Serve until `stop`."""
        config = self._server.config
        if not config.loaded:
            config.load()
        self._server.lifespan = config.lifespan_class(config)
        await self._server.startup(sockets=[self._listening])
        await self._server.main_loop()
        await self._server.shutdown(sockets=[self._listening])

    def stop(self, now: bool = False) -> None:
        """Let answers end within `DRAIN_SECONDS`; `now`: at once."""
        self._server.should_exit = True
        if now:
            self._server.force_exit = True


class Server:
    """A server of one model.

    Raises (from `start`):
        MemfirstError: The model cannot be loaded.
    """

    def __init__(self, loading: Loading, settings: Settings, listening: socket.socket, progress: Progress) -> None:
        self._listening, self._progress = listening, progress
        self.link = EngineLink(loading, settings.max_queue, settings.max_wait, progress)
        checkpoint = open_checkpoint(loading.model)
        settings = replace(settings, digest=digest_of(checkpoint))
        prompts, compiler = Prompts(checkpoint, self._context, settings.chat_template), Compiler(loading.model)
        self.service = Service(settings, self.link, prompts, int(time.time()), compiler)
        checkpoint.close()
        self._http = Http(application(self.service), listening)
        self._stopped = asyncio.Event()

    def _context(self) -> int | None:
        return self.link.loaded.context if self.link.loaded else None

    @property
    def port(self) -> int:
        """Where it listens."""
        found: int = self._listening.getsockname()[1]
        return found

    async def run(self, ready: Any = None) -> None:
        """Load the model, serve until a signal says stop, then let requests end. `ready` is called once it serves."""
        stop_on_signals(self.stop)
        loading = asyncio.ensure_future(self._start())
        stopping = asyncio.ensure_future(self._stopped.wait())
        try:
            await asyncio.wait({loading, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if loading.done():
                loading.result()
                await self._serve(ready)
        finally:
            stopping.cancel()
            loading.cancel()
            with suppress(asyncio.CancelledError, MemfirstError):
                await loading
            await self.link.close(0.0)
            self.service.compiler.close()
            self._listening.close()

    async def _start(self) -> None:
        """The engine's process, and meanwhile tokenizer and template in this one. Then garbage is looked for among its
        80,000 objects for the last time: that takes 50 ms, in which no stream gets a token."""
        prepared = asyncio.create_task(asyncio.to_thread(self.service.prompts.prepare))
        try:
            await self.link.start()
        finally:
            await prepared
        gc.collect()
        gc.freeze()

    async def _serve(self, ready: Any) -> None:
        http = asyncio.ensure_future(self._http.run())
        if ready is not None:
            ready(self)
        ends = [asyncio.ensure_future(self._stopped.wait())]
        if self.link.split:
            ends.append(asyncio.ensure_future(self.link.failed.wait()))
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        await self.link.close(DRAIN_SECONDS)
        self._http.stop()
        await http
        if not self._stopped.is_set():
            raise EngineDiedError("the engine's process ended", "one that runs", "start all processes again")

    def stop(self) -> None:
        """As a signal does: finish what runs, within `DRAIN_SECONDS`; a second one ends it now."""
        if self._stopped.is_set():
            self._http.stop(now=True)
            self.link.kill()
        self._stopped.set()
