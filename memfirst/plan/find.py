"""A model by whatever name a user has for it: its files here, a row of the catalogue, or its header on the hub."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from memfirst.catalog.configs import look_up
from memfirst.catalog.paths import exists
from memfirst.convert.mixes import PRICED
from memfirst.errors import ModelNotFoundError
from memfirst.plan.subject import Subject, subject
from memfirst.progress import Progress, Silent

if TYPE_CHECKING:
    from memfirst.hub.names import Ref


def find(
    name: str,
    codec: str = "",
    engine: str = "",
    *,
    allow_unknown: bool = False,
    offline: bool = False,
    progress: AbstractContextManager[Progress] | None = None,
) -> Subject:
    """The model called `name`, read no further than its header; of one whose header alone is here, no path to run.

    Args:
        name: A path, a name of the catalogue (`llama-3:8b`), or a repository of the hub (`owner/repo[:QUANT]`).
        codec: Codec mix of the weights; "" for the file's own, or what `engine` usually runs.
        engine: The engine whose usual codec is taken where there are no weights.
        allow_unknown: Ignore hyperparameters that memfirst does not know.
        offline: Ask nobody, and take what is on this disk.
        progress: Entered while the hub is asked, and told how far that is.

    Raises:
        ModelNotFoundError, DownloadError: It is nowhere, or cannot be reached.
        FormatError, ConfigError, UnsupportedError: It is no model, or one that has no price.
    """
    headers: list[Path] = []

    def local(name: str) -> Path | None:
        path, whole = _files(name, offline, progress or nullcontext(Silent()))
        headers.extend([path] if path and not whole else [])
        return path

    found = subject(name, codec, engine, allow_unknown, local)
    return replace(found, path="") if headers else found


def _files(name: str, offline: bool, progress: AbstractContextManager[Progress]) -> tuple[Path | None, bool]:
    """Files of `name` and whether they are whole: at a path, in the cache, or, of what the catalogue does not have,
    its header from the hub. No files for a name of the catalogue without any."""
    if exists(Path(name).expanduser()):
        return Path(name).expanduser(), True
    from memfirst import hub
    from memfirst.hub.names import parse

    try:
        ref = parse(name)
    except ModelNotFoundError:
        if look_up(name):
            return None, True
        raise
    path = ref if isinstance(ref, Path) else hub.local(ref)
    if path is not None or isinstance(ref, Path) or _catalogued(name):
        return path, True
    return _header(ref, offline, progress), False


def _catalogued(name: str) -> bool:
    """Whether the catalogue has it, in a mix whose bytes are known."""
    found = look_up(name)
    return found is not None and (not found[1] or found[1] in PRICED)


def _header(ref: Ref, offline: bool, progress: AbstractContextManager[Progress]) -> Path:
    from memfirst.hub.header import described

    with progress as report:
        return described(ref, offline=offline, progress=report)
