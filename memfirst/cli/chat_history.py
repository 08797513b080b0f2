"""What was typed in chats, kept on disk for the arrow keys of later ones; for this user's eyes alone."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from prompt_toolkit.history import FileHistory

from memfirst.cli.chat_session import state_folder
from memfirst.errors import MemfirstError
from memfirst.files import replacing

MOST_BYTES = 1 << 20
"""A longer file is cut to its newer half when a chat begins."""


class ChatHistory(FileHistory):
    """Of this chat and, unless `private`, of those before. Where the disk refuses, of this chat alone."""

    def __init__(self, private: bool) -> None:
        self.kept = not private
        super().__init__(str(state_folder() / "chat_history"))

    def load_history_strings(self) -> Iterable[str]:
        """Those of earlier chats, the newest first."""
        if not self.kept:
            return []
        try:
            self._shorten()
            return list(super().load_history_strings())
        except OSError:
            return []

    def store_string(self, string: str) -> None:
        """Append one, readable by nobody else."""
        if not self.kept:
            return
        path = Path(os.fsdecode(self.filename))
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
            path.chmod(0o600)
            super().store_string(string)
        except OSError:
            self.kept = False

    def _shorten(self) -> None:
        path = Path(os.fsdecode(self.filename))
        if not path.exists() or path.stat().st_size <= MOST_BYTES:
            return
        newer = path.read_bytes()[-MOST_BYTES // 2 :]
        with suppress(MemfirstError), replacing(str(path), 0o600) as out:  # on a full disk it stays as long as it is
            out.write(newer[newer.find(b"\n#") :])  # from the beginning of an entry
