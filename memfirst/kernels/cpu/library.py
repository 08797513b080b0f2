"""Compiled kernels on disk: found by a digest of everything they depend on, loaded through llvmlite, without Numba.

A first use compiles (about a second a kernel, in parallel processes) and keeps the object code; later starts load it
in milliseconds. The digest covers the kernels' sources, the versions of Numba, llvmlite and Python, the processor and
the chosen instructions, so an edit or an upgrade can never meet stale code.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from memfirst.errors import BackendError
from memfirst.kernels.cpu import isa
from memfirst.lower import step_fields

Key = tuple[str, tuple[tuple[str, int | str], ...]]
"""A kernel ("matmul.block32") and its static parameters."""

Progress = Callable[[int, int, str], None]
"""Called with kernels compiled so far, kernels to compile, and the name of the last one."""


@dataclass(frozen=True)
class Entry:
    """A kernel in memory: the address of its entry, and its parameters as (name, kind)."""

    address: int
    params: tuple[tuple[str, str], ...]


COMPILED_IN = (step_fields,)
"""Modules elsewhere whose constants are compiled in: splits and blocks of attention."""


@cache
def digest() -> str:
    """Names everything that the object code depends on."""
    h = hashlib.sha256()
    for path in (*sorted(Path(__file__).parent.glob("*.py")), *(Path(str(m.__file__)) for m in COMPILED_IN)):
        h.update(path.name.encode() + b"\0" + path.read_bytes())
    versions = [version("numba"), version("llvmlite"), sys.version.split()[0]]
    versions += [os.environ.get(name, "") for name in ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES")]
    h.update(json.dumps([versions, isa.host_name(), sorted(isa.host_features()), isa.detect()]).encode())
    return h.hexdigest()[:24]


def cache_root() -> Path:
    """Where kernels are kept: MEMFIRST_CACHE_DIR, or the user's cache directory."""
    given = os.environ.get("MEMFIRST_CACHE_DIR")
    if given:
        return Path(given) / "kernels"
    from platformdirs import user_cache_path

    return Path(user_cache_path("memfirst")) / "kernels"


def file_name(key: Key) -> str:
    """The cache file of a kernel."""
    statics = "-".join(f"{name}={value}" for name, value in key[1])
    return f"{key[0]}-{statics}.o" if statics else f"{key[0]}.o"


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


class Library:
    """Kernels loaded in this process."""

    def __init__(self, root: Path | None = None) -> None:
        import llvmlite.binding as llvm

        self.folder = (root or cache_root()) / digest()
        self.compiled: list[str] = []
        self.loaded: dict[Key, Entry] = {}
        self._llvm: Any = llvm
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        self._engines: list[Any] = []

    def load(self, keys: Iterable[Key], progress: Progress | None = None) -> dict[Key, Entry]:
        """Entries of all `keys`; compiles those that the cache lacks."""
        keys = frozenset(keys)
        wanted = [key for key in sorted(keys) if key not in self.loaded]
        blobs = {key: self._read(key) for key in wanted}
        missing = [key for key, blob in blobs.items() if blob is None]
        if missing:
            from memfirst.kernels.cpu import compiling

            self.compiled += [file_name(key) for key in missing]
            blobs |= compiling.compile_all(missing, self.folder, progress)
        self._link({key: blob for key, blob in blobs.items() if blob is not None})
        return {key: self.loaded[key] for key in keys}

    def has(self, keys: Iterable[Key]) -> bool:
        """Whether all of them are loaded or in the cache: nothing would be compiled."""
        return all(key in self.loaded or self._read(key) for key in keys)

    def _read(self, key: Key) -> bytes | None:
        try:
            blob = (self.folder / file_name(key)).read_bytes()
        except OSError:
            return None
        return blob if decode(blob) else None

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
