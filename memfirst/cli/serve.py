"""`memfirst serve`: an OpenAI-compatible server."""

from __future__ import annotations

import asyncio
import ipaddress
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from memfirst.catalog import DEFAULT_MODEL
from memfirst.cli import streams
from memfirst.cli.options import (
    MODEL_HELP,
    Ctx,
    Draft,
    Head,
    Kv,
    Memory,
    Offline,
    Pack,
    Speculate,
    Split,
    Threads,
    memory_bytes,
)  # fmt: skip
from memfirst.errors import ConfigError, UnsupportedError


def _option(*names: str, help: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, **more)


def _list(*names: str, help: str, metavar: str, **more: Any) -> Any:
    return _option(*names, help=help, metavar=metavar, show_default=False, **more)


MaybeModel = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP, show_default=True)]
Host = Annotated[
    str, _option("--host", metavar="ADDRESS", help="Address to listen on. Others than loopback need --api-key.")
]
Port = Annotated[int, _option("--port", metavar="N", min=0, max=65535, help="0: any that is free.")]
Keys = Annotated[
    list[str] | None,
    _list(
        "--api-key",
        metavar="KEY|@FILE",
        envvar="MEMFIRST_API_KEY",
        help="Requests must bring it; several may be given.",
    ),
]
NoAuth = Annotated[bool, _option("--no-auth", help="Serve an address that others reach without a key.")]
Served = Annotated[
    list[str] | None,
    _list("--name", "--served-model-name", "--alias", metavar="NAME", help="What requests call the model."),
]
Hosts = Annotated[
    list[str] | None, _list("--allow-host", metavar="NAME", help="A name in Host besides addresses and localhost.")
]
Origins = Annotated[
    list[str] | None,
    _list(
        "--allow-origin",
        metavar="URL",
        help="A site whose pages may use the server; localhost: every port of this machine.",
    ),
]
Sequences = Annotated[
    int | None,
    _option(
        "--max-sequences", "--parallel", "--max-num-seqs", metavar="N", min=1, max=256, show_default="16",
        help="Requests that share a step at most; more wait.",
    ),
]  # fmt: skip
KvMemory = Annotated[
    int | None,
    _option(
        "--kv-memory", metavar="BYTES", parser=memory_bytes, help="KV cache that all requests share: 500M, 4G, 4GiB.",
        show_default="a context for each sequence, within half of the free memory",
    ),
]  # fmt: skip
Spill = Annotated[
    int | None,
    _option(
        "--spill", metavar="BYTES", parser=memory_bytes, show_default="as many as the KV cache",
        help="File for KV cache that has to leave memory, unlinked at once; 0: it is computed again.",
    ),
]  # fmt: skip
KeepKv = Annotated[
    bool, _option("--keep-kv", help="Keep that file: prompts and conversations go on from it after a restart.")
]
Queue = Annotated[int, _option("--max-queue", metavar="N", min=0, help="Requests that wait at most; others get 503.")]
Wait = Annotated[
    float, _option("--max-wait", metavar="SECONDS", min=0, help="Predicted wait at most; for longer others get 503.")
]
AccessLog = Annotated[
    str,
    _list(
        "--access-log", metavar="FILE", help="A line of JSON for each request, never what was said; -: standard error."
    ),
]
Replicas = Annotated[
    list[str] | None,
    _list(
        "--replica",
        metavar="URL",
        help="Serve no model here: hand requests to servers that run, the one that is free first.",
    ),
]
Pooling = Annotated[
    str,
    _option(
        "--pooling", metavar="mean|cls|last", show_default="what the model's file says",
        help="Serve embeddings, made of the tokens' hidden rows: their mean, the first's or the last's.",
    ),
]  # fmt: skip
Template = Annotated[
    str,
    _option(
        "--chat-template", metavar="FILE|chatml", show_default="the model's own",
        help="Jinja template that conversations go through instead.",
    ),
]  # fmt: skip
Defaults = Annotated[
    list[str] | None,
    _list(
        "--default",
        metavar="NAME=VALUE",
        help="What a request asks for that does not say it: temperature=0.7, max_tokens=1024, …",
    ),
]
NoPage = Annotated[bool, _option("--no-page", help="No live page at /.")]

SEQUENCES = 16


OF_A_MODEL = (
    "model", "name", "threads", "ctx", "kv", "speculate", "draft", "max_sequences", "kv_memory", "spill", "keep_kv",
    "memory", "pack", "head", "pooling", "chat_template", "default", "max_queue", "max_wait", "split", "offline",
)  # fmt: skip
"""Options that a front door's replicas have, each its own."""


def serve(
    context: typer.Context,
    model: MaybeModel = DEFAULT_MODEL,
    *,
    replica: Replicas = None,
    host: Host = "127.0.0.1",
    port: Port = 8080,
    api_key: Keys = None,
    no_auth: NoAuth = False,
    name: Served = None,
    allow_host: Hosts = None,
    allow_origin: Origins = None,
    threads: Threads = None,
    ctx: Ctx = None,
    kv: Kv = "f16",
    speculate: Speculate = "auto",
    draft: Draft = None,
    max_sequences: Sequences = None,
    kv_memory: KvMemory = None,
    spill: Spill = None,
    keep_kv: KeepKv = False,
    memory: Memory = None,
    pack: Pack = "auto",
    head: Head = "full",
    pooling: Pooling = "",
    chat_template: Template = "",
    default: Defaults = None,
    max_queue: Queue = 256,
    max_wait: Wait = 120,
    no_page: NoPage = False,
    access_log: AccessLog = "",
    split: Split = "",
    offline: Offline = False,
) -> None:
    """Serve a model to many users by OpenAI's API.

    Requests share each read of the weights. A request's answer is the same alone and beside others. Ctrl-C lets running
    answers end, a second one does not.

    \b
    memfirst serve smollm2:135m                         http://127.0.0.1:8080/v1
    memfirst serve smollm2:135m --port 0 --ctx 4096
    memfirst serve --replica http://10.0.0.2:8080 --replica http://10.0.0.3:8080
    """
    keys = keys_of(api_key or [])
    check_exposed(host, keys, no_auth)
    try:
        from memfirst.server.run import Server, listen
    except ModuleNotFoundError as error:
        raise UnsupportedError(
            f"the server needs {error.name}", "fastapi, uvicorn and prometheus-client", "pip install 'memfirst[serve]'"
        ) from None
    if replica:
        _check_front(context)
        _front(replica, host, port, keys, allow_host, allow_origin, not no_page, access_log)
        return
    from memfirst.cli import engine

    if engine.ran_as_follower(split, model, threads, kv, offline):
        return
    from memfirst.cli.display import progress
    from memfirst.server.engine import Loading
    from memfirst.server.fields import defaults_of
    from memfirst.server.settings import Settings
    from memfirst.text.chat import ChatTemplate

    source = ChatTemplate.read(chat_template) if chat_template else ""
    with progress(notes=True) as report:
        listening = listen(host, port)
        path = os.path.abspath(engine.path_of(model, offline, report))
        small = os.path.abspath(engine.path_of(draft, offline, report)) if draft else None
        names = tuple(name or (model if not os.path.exists(model) else Path(model).stem,))
        settings = Settings(
            names[0], (*names[1:], "default"), keys, tuple(allow_host or ()), tuple(allow_origin or ()), max_queue,
            max_wait, not no_page, access_log, path, chat_template=source,
            defaults=defaults_of(default or ()),
        )  # fmt: skip
        report.note(f"loading {names[0]}; until it is ready /health says 503")
        loading = Loading(
            path, engine.share_of_threads(threads, split), ctx, kv, max_sequences or SEQUENCES, kv_memory or "auto",
            speculate, "auto" if spill is None else spill, keep_kv, memory, small, pack, head, split,
            pooling,
        )  # fmt: skip
        server = Server(loading, settings, listening, report)
        asyncio.run(server.run(lambda made: said_ready(made, host, keys)))
    streams.note("memfirst: stopped")


def _check_front(context: typer.Context) -> None:
    """BadParameter for an option that has a meaning only where a model runs."""
    sources = {name: context.get_parameter_source(name) for name in OF_A_MODEL}
    given = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    if given:
        said = "MODEL" if given[0] == "model" else f"--{given[0].replace('_', '-')}"
        raise typer.BadParameter(f"{said} is for a server of a model: give it to the replicas, not beside --replica")


def _front(
    urls: list[str], host: str, port: int, keys: tuple[str, ...], hosts: list[str] | None, origins: list[str] | None,
    page: bool, access_log: str,
) -> None:  # fmt: skip
    """Serve by replicas until a signal."""
    from memfirst.cli.display import progress
    from memfirst.server.front.run import FrontServer
    from memfirst.server.run import listen
    from memfirst.server.settings import Settings

    settings = Settings("", (), keys, tuple(hosts or ()), tuple(origins or ()), page=page, access_log=access_log)
    shown = f"[{host}]" if ":" in host else host

    def said(made: FrontServer) -> None:
        up = sum(replica.up for replica in made.door.replicas)
        streams.note(f"{up} of {len(urls)} replicas on http://{shown}:{made.port}/v1{' (with a key)' if keys else ''}")

    async def main() -> None:
        await FrontServer(urls, settings, listen(host, port), report).run(said)

    with progress(notes=True) as report:
        asyncio.run(main())
    streams.note("memfirst: stopped")


def said_ready(server: Any, host: str, keys: tuple[str, ...]) -> None:
    """Say where it listens, and what it can hold."""
    loaded = server.service.loaded
    shown = f"[{host}]" if ":" in host else host
    tokens = loaded.blocks[0] * loaded.block if loaded.blocks else 0
    kv = f", {tokens:,} of KV cache ({loaded.memory['kv'] / 1e6:,.0f} MB)" if tokens else ""
    streams.note(
        f"{server.service.settings.name} on http://{shown}:{server.port}/v1{' (with a key)' if keys else ''}: "
        f"{loaded.threads} threads, {loaded.sequences} requests a step, {loaded.context:,} tokens of context{kv}"
    )


def keys_of(given: list[str]) -> tuple[str, ...]:
    """API keys; @FILE has one a line. ConfigError for an empty one, or a file that cannot be read."""
    found: list[str] = []
    for one in given:
        if not one.startswith("@"):
            found.append(one)
            continue
        try:
            lines = Path(one[1:]).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "not UTF-8"
            raise ConfigError(
                f"the file of API keys {one[1:]} cannot be read: {why}", "a text file, a key a line"
            ) from None
        found += [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if (given and not all(found)) or any(not key.isprintable() for key in found):
        raise ConfigError("an empty API key", "at least one character")
    return tuple(found)


def check_exposed(host: str, keys: tuple[str, ...], no_auth: bool) -> None:
    """ConfigError for an address that others reach, without a key and without saying so."""
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    if not local and not keys and not no_auth:
        raise ConfigError(
            f"--host {host} without an API key: whoever reaches it may use it", "--api-key KEY", "or say --no-auth"
        )
