"""A full disk while a file is written: one clear line, no part of a file left, and nothing else lost."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import MutableMapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from memfirst.cli import bench, chat_history, chat_session, run_command
from memfirst.errors import CapacityError
from memfirst.runtime.sampling import SamplingParams
from memfirst.server.access import Access, open_log


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes are taken, but the disk has no room when they are to be kept."""

    def no_room(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_room)


WRITES = [
    ["bench", "--synthetic", "llama-3.2:1b", "--layers", "1", "--codec", "q4_0", "--write"],
    ["plan", "llama-3:8b", "--on", "rtx-4090", "--plot"],
]


@pytest.mark.parametrize("args", WRITES, ids=["write", "plot"])
def test_a_command_leaves_no_part_of_a_file(
    args: list[str], full: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if args[-1] == "--plot":
        pytest.importorskip("matplotlib")
    else:
        shape = SimpleNamespace(kind="gguf", architecture="llama", name="m")
        monkeypatch.setattr("memfirst.convert.synthetic.synthetic", lambda *args, **more: shape)
        monkeypatch.setattr("memfirst.convert.synthetic.write_checkpoint", written)
    assert run_command([*args, str(tmp_path / "out.png")]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("memfirst: ")]
    assert len(lines) == 1 and "the disk is full" in lines[0], lines
    assert os.listdir(tmp_path) == []


def written(checkpoint: object, path: str, metadata: object) -> None:
    from memfirst.convert.gguf_write import write_gguf

    write_gguf(path, {"k": 1}, [], lambda info: [])


def test_a_saved_chat_and_what_was_typed_keep_what_was_there(
    full: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_session, "state_folder", lambda: tmp_path)
    monkeypatch.setattr(chat_history, "state_folder", lambda: tmp_path)
    monkeypatch.setattr(chat_history, "MOST_BYTES", 8)
    (tmp_path / "chats").mkdir()
    (tmp_path / "chats" / "talk.json").write_text("before")
    (tmp_path / "chat_history").write_text("\n# now\n+a\n\n# later\n+b\n")
    request = SimpleNamespace(params=SamplingParams(), max_tokens=None, stop=())
    model = SimpleNamespace(checkpoint=SimpleNamespace(path="m.gguf"))
    chat: Any = SimpleNamespace(request=request, model=model, system="", turns=[])
    with pytest.raises(CapacityError, match="the disk is full"):
        chat_session.save(chat, "talk")
    assert list(chat_history.ChatHistory(private=False).load_history_strings()) == ["b", "a"]
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["chat_history", "chats", "talk.json"]
    assert (tmp_path / "chats" / "talk.json").read_text() == "before"


def test_a_trace_keeps_what_was_there(full: None, tmp_path: Path) -> None:
    (tmp_path / "trace.json").write_text("before")
    with pytest.raises(CapacityError, match="the disk is full"):
        bench._write_trace(SimpleNamespace(profiles=[]), tmp_path / "trace.json")
    assert os.listdir(tmp_path) == ["trace.json"] and (tmp_path / "trace.json").read_text() == "before"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_device_is_written_to_and_stays() -> None:
    with pytest.raises(CapacityError, match="the disk is full"):
        bench._write_trace(SimpleNamespace(profiles=[]), Path("/dev/full"))
    assert Path("/dev/full").is_char_device()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_access_log_that_is_full_ends_no_request(capsys: pytest.CaptureFixture[str]) -> None:
    sent: list[Any] = []

    async def app(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"ok"})

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message["type"])

    access = Access(app, open_log("/dev/full"))
    scope = {"type": "http", "method": "GET", "path": "/", "client": ("here", 1)}
    for _ in range(2):
        asyncio.run(access(scope, send, send))
    assert len(sent) == 4
    err = capsys.readouterr().err
    assert err == "memfirst: the access log loses lines: No space left on device\n", "said once"
