"""Whether MODEL is a path: asked before its name is looked up."""

from __future__ import annotations

from pathlib import Path

from memfirst.errors import ModelNotFoundError


def exists(path: Path) -> bool:
    """Whether a file or folder is there; ModelNotFoundError where a folder above it may not be entered."""
    try:
        return path.exists()
    except PermissionError as error:
        raise ModelNotFoundError(f"cannot look for {path}: {error.strerror}") from error
    except OSError:  # longer than any name of a file
        return False
