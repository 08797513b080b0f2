"""One entry for every form a model can have on disk."""

from __future__ import annotations

import os

from memfirst.errors import FormatError, ModelNotFoundError
from memfirst.formats.checkpoint import CONFIG, Checkpoint
from memfirst.formats.gguf import open_gguf
from memfirst.formats.mapped import list_folder, regular_file_size

FORMS = "a GGUF file, a safetensors folder or a config.json"


FOREIGN = (
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself", "fetch it: git lfs pull"),
    (b"<!doctype html", "an HTML page", "the download brought a web page: fetch the file again"),
    (b"<html", "an HTML page", "the download brought a web page: fetch the file again"),
    (b"%pdf", "a PDF document", ""),
    (b"pk\x03\x04", "a ZIP archive, as PyTorch's .pt and .bin files are", "take the model's safetensors or GGUF files"),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"ggjt", "a GGML file of before GGUF", "take a GGUF file of the model"),
    (b"tjgg", "a GGML file of before GGUF", "take a GGUF file of the model"),
)
"""What people hand over in a model's place, by its first bytes in lower case: what it is, and what to do."""


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a GGUF file, a folder of safetensors or a bare config.json, by what is in it.

    Raises ModelNotFoundError where nothing is there, FormatError where it is something else.
    """
    name = os.fspath(path)
    if not name or "\0" in name or not os.path.exists(name):
        raise ModelNotFoundError(f"there is no file or folder {name!r}", FORMS)
    if os.path.isdir(name):
        return _open_dir(name)
    return _open_file(name)


def _open_dir(folder: str) -> Checkpoint:
    if os.path.exists(os.path.join(folder, CONFIG)):
        from memfirst.formats.hf import open_folder

        return open_folder(folder)
    models = sorted(file for file in list_folder(folder) if file.endswith(".gguf"))
    hint = f"give one of its files, such as {models[0]}" if models else ""
    raise FormatError(f"the folder {folder} has no {CONFIG}", FORMS, hint)


def _open_file(path: str) -> Checkpoint:
    if regular_file_size(path) == 0:
        raise FormatError(f"{path} is empty", FORMS, "download or copy it again")
    head = _first_bytes(path, 512)
    for start, kind, do in FOREIGN:
        if head.lstrip()[: len(start)].lower() == start:
            raise FormatError(f"{path} is {kind}", FORMS, do)
    if head[:4] == b"GGUF" or path.endswith(".gguf"):
        return open_gguf(path)
    if path.endswith(".safetensors"):
        raise FormatError(f"{path} holds weights without a config", FORMS, "give the folder that it is in")
    if head.lstrip()[:1] == b"{":
        from memfirst.formats.hf import open_config

        return open_config(path)
    if _is_text(head):
        raise FormatError(f"{path} is a text file", FORMS, "to ask about it, name a model first: run MODEL < FILE")
    raise FormatError(f"{path} is not a model (it starts with {head[:16]!r})", FORMS)


def _first_bytes(path: str, count: int) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(count)
    except OSError as error:
        raise ModelNotFoundError(f"{path} cannot be read: {error}", FORMS) from error


def _is_text(head: bytes) -> bool:
    return all(byte >= 32 or byte in b"\t\n\r\f" for byte in head)
