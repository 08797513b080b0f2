"""What a server was started with, and the limits that every request is held to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MOST_BODY = 8 << 20
"""Bytes of a request's body."""
MOST_DEPTH = 64
"""Levels of nesting of a request's JSON."""
BODY_SECONDS = 30.0
HEADER_SECONDS = 10.0
WRITE_SECONDS = 30.0
"""A client that takes nothing of its answer for so long is dropped."""
MOST_HEADERS, MOST_HEADER_BYTES = 100, 32 << 10
CONNECTIONS, CONNECTIONS_PER_ADDRESS = 1024, 64
KEEP_ALIVE_SECONDS = 75
"""Pooled clients keep connections for a minute; a server that closes them earlier breaks their next request."""
DRAIN_SECONDS = 10.0
MOST_CHOICES, MOST_STOPS, MOST_BIASES, MOST_MESSAGES, MOST_TOOLS, MOST_WORDS = 16, 16, 1024, 4096, 128, 4096


@dataclass(frozen=True)
class Settings:
    """How the HTTP side serves.

    name         what the model is called in requests; aliases: other names that mean it
    keys         API keys, one of which a request must bring; empty: none is asked for
    hosts        values of Host that are taken besides addresses and localhost
    origins      values of Origin that browsers may come from besides the page's own
    max_queue    requests that wait at most; max_wait: predicted seconds of waiting
    page         whether `/` is the live page
    access_log   a file that gets a line for each request; "-": the standard error; "": none
    defaults     of requests that do not say them: `fields.SETTABLE`
    chat_template  the source of what conversations go through; "": the model's own
    """

    name: str
    aliases: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    max_queue: int = 256
    max_wait: float = 120.0
    page: bool = True
    access_log: str = ""
    model_path: str = ""
    digest: str = ""
    notes: tuple[str, ...] = field(default=())
    chat_template: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)
