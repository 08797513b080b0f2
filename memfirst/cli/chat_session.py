"""Conversations on disk, as JSON: `/save` and `/load` of a chat."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memfirst.errors import ConfigError, FormatError, ModelNotFoundError
from memfirst.files import replacing

if TYPE_CHECKING:
    from memfirst.cli.chat import Chat

MOST_BYTES = 1 << 26
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def state_folder() -> Path:
    """What chats keep: the history of what was typed, and conversations. XDG_STATE_HOME, or the system's place."""
    from platformdirs import user_state_path

    return Path(user_state_path("memfirst"))


def folder() -> Path:
    """Where named ones are."""
    return state_folder() / "chats"


def names() -> list[str]:
    """Those that were saved by name."""
    return sorted(path.stem for path in folder().glob("*.json"))


def path_of(name: str) -> Path:
    """A name's file; a path (with a slash, or ending in .json) is itself."""
    if "/" in name or os.sep in name or name.endswith(".json"):
        return Path(name).expanduser()
    if not _NAME.fullmatch(name):
        raise ConfigError(f"a name of {name[:40]!r}", "letters, digits, dots and dashes, or a path with a slash")
    return folder() / f"{name}.json"


def save(chat: Chat, name: str) -> Path:
    """Write the conversation and what was set; only this user may read it."""
    path, request = path_of(name), chat.request
    kept = {
        "memfirst_chat": 1, "model": str(chat.model.checkpoint.path), "system": chat.system, "turns": chat.turns,
        "parameters": asdict(request.params), "max_tokens": request.max_tokens, "stop": request.stop,
    }  # fmt: skip
    if path.parent == folder():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    elif not path.parent.is_dir():
        raise ConfigError(f"there is no folder {path.parent}", "a name, or a path in a folder that is there")
    with replacing(str(path), 0o600) as out:
        out.write(json.dumps(kept, ensure_ascii=False, indent=1).encode())
    return path


def restore(chat: Chat, name: str) -> None:
    """Go on with a saved conversation; FormatError for what is none."""
    path = path_of(name)
    if not path.exists():
        raise ModelNotFoundError(f"no saved chat {name}", f"one of {', '.join(names()) or 'none yet'}")
    found = _read(path)
    params = replace(chat.request.params, **found["parameters"])
    request = replace(chat.request, params=params, max_tokens=found["max_tokens"], stop=tuple(found["stop"]))
    chat.request, chat.system = request, found["system"]
    chat.turns = [(question, answer) for question, answer in found["turns"]]


def _read(path: Path) -> dict[str, Any]:
    """The file's content, checked: it may come from anybody."""
    if path.stat().st_size > MOST_BYTES:
        raise FormatError(f"{path.name} is larger than {MOST_BYTES} bytes", "a chat that was saved with /save")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        found = None
    if not (isinstance(found, dict) and found.get("memfirst_chat") == 1 and _is_whole(found)):
        raise FormatError(f"{path.name} is no saved chat", "a file that /save wrote")
    return found


def _is_whole(found: dict[str, Any]) -> bool:
    from memfirst.runtime.sampling import SamplingParams

    turns, stop, parameters = found.get("turns"), found.get("stop"), found.get("parameters")
    most = found.get("max_tokens", 0)
    return (
        isinstance(turns, list)
        and all(isinstance(t, list) and len(t) == 2 and all(isinstance(s, str) for s in t) for t in turns)
        and isinstance(stop, list)
        and all(isinstance(s, str) for s in stop)
        and isinstance(parameters, dict)
        and parameters.keys() <= vars(SamplingParams()).keys()
        and (most is None or (type(most) is int and most > 0))
        and isinstance(found.get("system", 0), str | None)
    )
