"""Compiled kernels on disk: what is damaged, stale, unwritable or made by two at once."""

from __future__ import annotations

import ast
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from memfirst.errors import BackendError
from memfirst.kernels.cpu import compiling, isa, library
from memfirst.kernels.cpu.library import Library
from memfirst.kernels.cpu.thread_pool import native
from memfirst.lower import step_fields

KEY: library.Key = ("walk.read_cycles", ())
ROOT = Path(__file__).parent.parent.parent


def file_of(made: Library) -> Path:
    return made.folder / library.file_name(KEY)


def works(made: Library) -> bool:
    entry = made.load([KEY])[KEY]
    read = native(entry)
    first = read(0, 0, 0, 0)
    return entry.params == () and read(0, 0, 0, 0) > first


def test_what_was_compiled_is_loaded_without_numba(tmp_path: Path) -> None:
    made = Library(tmp_path)
    assert works(made)
    assert made.compiled == [library.file_name(KEY)]
    code = (
        "import sys; from pathlib import Path; from memfirst.kernels.cpu.library import Library\n"
        f"made = Library(Path({str(tmp_path)!r})); made.load([{KEY!r}])\n"
        "assert not made.compiled and 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text", "no digest"])
def test_a_damaged_file_is_compiled_again(tmp_path: Path, damage: str) -> None:
    assert works(Library(tmp_path))
    path = file_of(Library(tmp_path))
    blob = path.read_bytes()
    flipped = blob[:-100] + bytes([blob[-100] ^ 1]) + blob[-99:]
    damaged = {"cut": blob[:-1], "flipped": flipped, "empty": b"", "text": b"{}\n" * 9, "no digest": b"[1]\n"}
    path.write_bytes(damaged[damage])
    again = Library(tmp_path)
    assert works(again)
    assert again.compiled
    assert path.read_bytes() == blob, "the same code, kept again"


def test_a_cache_that_cannot_be_written_is_said_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")  # a file where the folder should be: refused to root too
    made = Library(blocked)
    assert works(made)
    made.load([("activations.rms_norm", ()), ("elementwise.add_bias", ())])
    said = capfd.readouterr().err
    assert "cannot be written" in said
    assert said.count("memfirst:") == 1, "once a process, however often it compiles"


def test_others_cannot_read_or_change_the_folder(tmp_path: Path) -> None:
    made = Library(tmp_path / "new")
    made.load([KEY])
    assert stat.S_IMODE(made.folder.stat().st_mode) & 0o022 == 0
    assert not list(made.folder.glob("tmp*")), "nothing half-written is left"


def test_the_digest_names_sources_processor_and_instructions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fresh() -> str:
        library.digest.cache_clear()
        return library.digest()

    try:
        usual = fresh()
        assert fresh() == usual
        source = tmp_path / "kernels"
        source.mkdir()
        for path in Path(library.__file__).parent.glob("*.py"):
            (source / path.name).write_bytes(path.read_bytes())
        monkeypatch.setattr(library, "__file__", str(source / "library.py"))
        assert fresh() == usual, "the same sources elsewhere"
        (source / "q4_0.py").write_text((source / "q4_0.py").read_text() + "\n")
        assert fresh() != usual
        monkeypatch.undo()
        shared = tmp_path / "step_fields.py"
        shared.write_text(Path(step_fields.__file__).read_text().replace("SPLIT = 512", "SPLIT = 256"))
        monkeypatch.setattr(step_fields, "__file__", str(shared))
        assert fresh() != usual, "a size that is compiled in"
        monkeypatch.undo()
        for name in ("host_name", "detect"):
            monkeypatch.setattr(isa, name, lambda: "another")
            assert fresh() != usual
            monkeypatch.undo()
        monkeypatch.setenv("NUMBA_CPU_NAME", "generic")
        assert fresh() != usual
    finally:
        library.digest.cache_clear()


def test_the_digest_covers_what_kernels_import() -> None:
    """A constant from elsewhere would be compiled in without changing the digest."""
    imported = set[str]()
    for path in Path(library.__file__).parent.glob("*.py"):
        nodes = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom))
        if path.name not in ("library.py", "spans.py"):  # neither is compiled
            imported |= {str(node.module) for node in nodes}
    outside = {name for name in imported if name.startswith("memfirst.")} - {"memfirst.errors", "memfirst.progress"}
    outside = {name for name in outside if not name.startswith("memfirst.kernels.cpu")}
    assert outside == {module.__name__ for module in library.COMPILED_IN}


@pytest.mark.parametrize(
    "key", [("matmul.block32", (("CODEC", "f16"), ("TILE", 1))), ("matmul.nothing", ()), ("nothing.at_all", ())]
)
def test_a_kernel_that_does_not_compile_is_an_error_and_no_hang(
    key: library.Key, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    started = time.monotonic()
    with pytest.raises(BackendError, match=f"compiling {key[0]}.* failed"):
        Library(tmp_path).load([KEY, key, ("elementwise.add_bias", ())])
    assert time.monotonic() - started < 60
    assert "Error" in capfd.readouterr().err, "the reason is printed"


def test_two_processes_may_compile_at_once(tmp_path: Path) -> None:
    code = f"from memfirst.kernels.cpu.library import Library; assert Library().load([{KEY!r}])"
    environment = dict(os.environ, MEMFIRST_CACHE_DIR=str(tmp_path))
    both = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment) for _ in range(2)]
    assert [child.wait(timeout=120) for child in both] == [0, 0]
    made = Library(tmp_path / "kernels")
    assert works(made)
    assert not made.compiled


def test_progress_counts_to_the_end(tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    keys: list[library.Key] = [KEY, ("elementwise.add_bias", ())]
    Library(tmp_path).load(keys, lambda done, total, name: seen.append((done, total, name)))
    assert [s[:2] for s in seen] == [(1, 2), (2, 2)]
    assert {s[2] for s in seen} == {k[0] for k in keys}


def test_a_file_holds_what_it_was_given() -> None:
    given = "symbol", (("w", "u8"), ("n", "int")), b"\x7fELF\n\n code"
    assert library.decode(library.encode(*given)) == given
    assert compiling.compile_one(KEY)


def test_a_compiling_child_takes_no_module_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numba.py").write_text("raise SystemExit('taken from the working directory')")
    monkeypatch.chdir(tmp_path)
    made = library.Library(tmp_path / "cache")
    made.load([KEY])
    assert made.compiled == [library.file_name(KEY)]
