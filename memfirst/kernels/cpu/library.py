"""Compiled kernels on disk: found by a digest of what each depends on, loaded through llvmlite, without Numba.

A first use compiles (about a second a kernel, in parallel processes) and keeps the object code; later starts load it
in milliseconds. A folder names the versions of Numba, llvmlite and Python, the processor and the chosen instructions;
a file in it the kernel and a digest of its code (`sources`). So an edit or an upgrade can never meet stale code, and
compiles only what it changed. Several versions are kept, for installations that share the cache; see `prune`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from memfirst.errors import BackendError
from memfirst.kernels.cpu import isa
from memfirst.kernels.cpu.sources import Key, Source, Sources, remembered

Progress = Callable[[int, int, str], None]
"""Called with kernels compiled so far, kernels to compile, and the name of the last one."""


@dataclass(frozen=True)
class Entry:
    """A kernel in memory: the address of its entry, and its parameters as (name, kind)."""

    address: int
    params: tuple[tuple[str, str], ...]


VERSIONS, UNUSED_DAYS = 4, 30
"""A kernel's versions that are kept, and for how long where nobody loads them."""

ROOT = Path(__file__).parent.parent.parent
"""The folder of memfirst's sources."""

DAY = 86_400.0

unsaved: dict[Path, bytes] = {}
"""Kernels of this process whose files could not be written: compiled once, not once a model."""

SOURCES = "sources.json"
"""What `Sources` found of files, beside the object code."""


@cache
def environment() -> str:
    """Names what all object code depends on: the compiler's versions, the processor, the chosen instructions."""
    versions = [_version("numba"), _version("llvmlite"), sys.version.split()[0]]
    versions += [os.environ.get(name, "") for name in ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES")]
    named = json.dumps([versions, isa.host_name(), sorted(isa.host_features()), isa.detect()])
    return f"{isa.detect()}-{hashlib.sha256(named.encode()).hexdigest()[:16]}"


def _version(package: str) -> str:
    """What its folder of metadata is named after: importlib.metadata reads it for 6 ms more."""
    found = find_spec(package)
    folder = Path(found.origin).parent.parent if found and found.origin else Path()
    if names := sorted(path.stem for path in folder.glob(f"{package}-*.dist-info")):
        return " ".join(name.removeprefix(f"{package}-") for name in names)
    from importlib.metadata import version

    return version(package)


def cache_root() -> Path:
    """Where kernels are kept: MEMFIRST_CACHE_DIR, or the user's cache directory."""
    given = os.environ.get("MEMFIRST_CACHE_DIR")
    if given:
        return Path(given) / "kernels"
    from platformdirs import user_cache_path

    return Path(user_cache_path("memfirst")) / "kernels"


def title(key: Key) -> str:
    """A kernel and its static parameters, as a beginning of its files' names."""
    return "-".join([key[0], *(f"{name}={value}" for name, value in key[1])])


def encode(symbol: str, params: tuple[tuple[str, str], ...], code: bytes) -> bytes:
    """A cache file: one line of JSON, then object code."""
    head = {"symbol": symbol, "params": params, "sha256": hashlib.sha256(code).hexdigest()}
    return json.dumps(head).encode() + b"\n" + code


def decode(blob: bytes) -> tuple[str, tuple[tuple[str, str], ...], bytes] | None:
    """What `encode` was given; None where the file is cut short or damaged."""
    line, _, code = blob.partition(b"\n")
    try:
        head = json.loads(line)
        intact = head["sha256"] == hashlib.sha256(code).hexdigest()
        params = tuple((str(n), str(k)) for n, k in head["params"])
        return (str(head["symbol"]), params, code) if intact else None
    except (ValueError, KeyError, TypeError):
        return None


def read(path: Path) -> bytes | None:
    """A kernel's file; None where there is none, or it is damaged."""
    if path in unsaved:
        return unsaved[path]
    try:
        blob = path.read_bytes()
        if time.time() - path.stat().st_mtime > DAY:
            os.utime(path)  # so that `prune` sees that it is used
    except OSError:
        return None
    return blob if decode(blob) else None


def write_atomically(path: Path, blob: bytes) -> None:
    """Whole under its name, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, name = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(blob)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def prune(folder: Path, titles: Iterable[str]) -> None:
    """Remove what is no longer used: all but `VERSIONS` of these kernels' objects, and what was not loaded for
    `UNUSED_DAYS`, in other environments too. Processes that use them have read them; at worst one compiles again."""
    oldest = time.time() - UNUSED_DAYS * DAY
    with contextlib.suppress(OSError):
        for other in folder.parent.iterdir():
            if other != folder and other.is_dir() and _last_use(other) < oldest:
                shutil.rmtree(other, ignore_errors=True)
        wanted: dict[str, list[tuple[float, Path]]] = {name: [] for name in titles}
        for path in folder.iterdir():
            used = path.stat().st_mtime
            if used < oldest:
                path.unlink(missing_ok=True)
            elif path.suffix == ".o" and (name := path.name.rsplit(".", 2)[0]) in wanted:
                wanted[name].append((used, path))
        for versions in wanted.values():
            for _, path in sorted(versions, reverse=True)[VERSIONS:]:
                path.unlink(missing_ok=True)


def _last_use(folder: Path) -> float:
    return max(path.stat().st_mtime for path in (folder, *folder.iterdir()))


class Library:
    """Kernels loaded in this process."""

    def __init__(self, root: Path | None = None) -> None:
        import llvmlite.binding as llvm

        self.folder = (root or cache_root()) / environment()
        self.compiled: list[str] = []
        self.loaded: dict[Key, Entry] = {}
        self._sources = Sources(ROOT, self._remembered())
        self._llvm: Any = llvm
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        self._engines: list[Any] = []

    def path(self, key: Key) -> Path:
        """The cache file of a kernel as its sources are now."""
        return self.folder / f"{title(key)}.{self._sources.digest(key)}.o"

    def load(self, keys: Iterable[Key], progress: Progress | None = None) -> dict[Key, Entry]:
        """Entries of all `keys`; compiles those that the cache lacks."""
        keys = frozenset(keys)
        wanted = [key for key in sorted(keys) if key not in self.loaded]
        if not wanted:  # each sampler asks for the same: an execution engine of LLVM would be 40 kB
            return {key: self.loaded[key] for key in keys}
        blobs = {key: self._read(key) for key in wanted}
        missing = {key: self.path(key) for key, blob in blobs.items() if blob is None}
        if missing:
            from memfirst.kernels.cpu import compiling

            self.compiled += [title(key) for key in missing]
            blobs |= compiling.compile_all(missing, progress)
            prune(self.folder, [title(key) for key in missing])
        self._remember()
        self._link({key: blob for key, blob in blobs.items() if blob is not None})
        return {key: self.loaded[key] for key in keys}

    def has(self, keys: Iterable[Key]) -> bool:
        """Whether all of them are loaded or in the cache: nothing would be compiled."""
        return all(key in self.loaded or self._read(key) for key in keys)

    def _read(self, key: Key) -> bytes | None:
        return read(self.path(key))

    def _remembered(self) -> dict[str, Source]:
        try:
            return remembered((self.folder / SOURCES).read_bytes())
        except OSError:
            return {}

    def _remember(self) -> None:
        if self._sources.new and self.folder.is_dir():
            with contextlib.suppress(OSError):
                write_atomically(self.folder / SOURCES, self._sources.encode())
            self._sources.new = False

    def _link(self, blobs: dict[Key, bytes]) -> None:
        machine = self._llvm.Target.from_default_triple().create_target_machine(codemodel="jitdefault")
        engine = self._llvm.create_mcjit_compiler(self._llvm.parse_assembly(""), machine)  # owns the machine
        self._engines.append(engine)  # owns the code: must live as long as the entries
        found = {key: decode(blob) for key, blob in blobs.items()}
        for parts in found.values():
            if parts is None:
                raise BackendError("a kernel was compiled, but its object code is damaged")
            engine.add_object_file(self._llvm.ObjectFileRef.from_data(parts[2]))
        engine.finalize_object()
        for key, parts in found.items():
            if parts is not None:
                self.loaded[key] = Entry(engine.get_function_address(parts[0]), parts[1])
