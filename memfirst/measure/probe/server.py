"""What a server says of itself: which one it is, its models, how much context and how many requests at once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from memfirst.errors import ProbeError
from memfirst.measure.probe.client import Client, NotJsonError, StatusError, shown

LLAMA, VLLM, OLLAMA, OTHER = "llama.cpp", "vLLM", "Ollama", "unknown"

_RUNNING = re.compile(rb"^vllm:num_requests_running\{[^}\n]*\} ([0-9.]+)", re.MULTILINE)
_MOST_MODELS = 10_000


@dataclass(frozen=True)
class Server:
    """kind     one of this module's names
    version  its own, "" where it does not say
    model    the id that requests name
    context  tokens that a request may hold, prompt and answer; None where it does not say
    slots    requests that it serves at a time; None where it does not say
    busy     requests that it was serving before we asked anything
    file     the model file's path on the server, where it says
    """

    kind: str
    version: str
    model: str
    context: int | None
    slots: int | None
    busy: int
    file: str


def discover(client: Client, served: str = "") -> Server:
    """Ask /v1/models, then what the kind of server offers. ProbeError if there is no such model, or no such API."""
    row = _choose(_models(client), served)
    name = shown(row["id"], 300) if len(row["id"]) > 300 else row["id"]
    props = _optional(client, "/props")
    if isinstance(props.get("total_slots"), int):
        return _llama(client, name, props)
    version = _version(client, "/version")
    if version and ("max_model_len" in row or row.get("owned_by") == "vllm"):
        return Server(VLLM, version, name, _count(row.get("max_model_len")), None, _running(client), "")
    version, kind = (version, OTHER) if version else (_version(client, "/api/version"), OLLAMA)
    return Server(kind if version else OTHER, version, name, _count(row.get("max_model_len")), None, 0, "")


def _models(client: Client) -> list[dict[str, Any]]:
    """The rows of /v1/models; some gateways send these alone, without the object around them."""
    found = client.value("/v1/models")
    data = found.get("data") if isinstance(found, dict) else found
    rows = [r for r in data if isinstance(r, dict)] if isinstance(data, list) else []
    rows = [r for r in rows if isinstance(r.get("id"), str) and r["id"]][:_MOST_MODELS]
    if not rows:
        raise ProbeError(f"{client.address}/v1/models lists no model", "at least one", "load one in the server")
    return rows


def _choose(rows: list[dict[str, Any]], served: str) -> dict[str, Any]:
    names = [row["id"] for row in rows]
    listed = ", ".join(shown(n, 60) for n in names[:8]) + (", …" if len(names) > 8 else "")
    if served:
        if served not in names:
            raise ProbeError(f"the server has no model {shown(served)!r}", f"one of {listed}")
        return rows[names.index(served)]
    if len(rows) > 1:
        raise ProbeError(f"the server has {len(rows)} models: {listed}", do="choose one with --served NAME")
    return rows[0]


def _llama(client: Client, name: str, props: dict[str, Any]) -> Server:
    """llama.cpp's own server."""
    settings = props.get("default_generation_settings")
    context = _count(settings.get("n_ctx")) if isinstance(settings, dict) else None
    version, path = props.get("build_info"), props.get("model_path")
    busy = _busy_slots(client) if props.get("endpoint_slots") is not False else 0
    return Server(
        LLAMA, shown(version, 40) if isinstance(version, str) else "", name, context,
        _count(props["total_slots"]), busy, shown(path, 300) if isinstance(path, str) else "",
    )  # fmt: skip


def _optional(client: Client, path: str) -> dict[str, Any]:
    """The object at `path`, empty where the server has none: not every server has this page, nor answers JSON."""
    try:
        return client.get(path)
    except (StatusError, NotJsonError):
        return {}


def _version(client: Client, path: str) -> str:
    version = _optional(client, path).get("version")
    return shown(version, 40) if isinstance(version, str) else ""


def _busy_slots(client: Client) -> int:
    """llama.cpp: slots that are working; /slots is a list, so it is read as text."""
    try:
        return client.text("/slots").count(b'"is_processing":true')
    except StatusError:
        return 0


def _running(client: Client) -> int:
    """vLLM: requests in the running batches."""
    try:
        return int(sum(float(n) for n in _RUNNING.findall(client.text("/metrics"))))
    except (StatusError, ValueError):
        return 0


def _count(value: object) -> int | None:
    """A positive number of tokens or slots; None for nonsense."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 31 else None
