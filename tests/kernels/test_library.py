"""Compiled kernels on disk: what is damaged, stale, unwritable or made by two at once."""

from __future__ import annotations

import ast
import os
import shutil
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from memfirst.errors import BackendError
from memfirst.kernels.cpu import compiling, isa, library
from memfirst.kernels.cpu.library import Library
from memfirst.kernels.cpu.sources import MOST_KNOWN, NOT_COMPILED, Key, Source, Sources, remembered
from memfirst.kernels.cpu.thread_pool import native

KEY: Key = ("walk.read_cycles", ())
ROOT = Path(__file__).parent.parent.parent


def file_of(made: Library) -> Path:
    return made.path(KEY)


def works(made: Library) -> bool:
    entry = made.load([KEY])[KEY]
    read = native(entry)
    first = read(0, 0, 0, 0)
    return entry.params == () and read(0, 0, 0, 0) > first


@pytest.mark.usefixtures("fresh_compilers")
def test_what_was_compiled_is_loaded_without_numba(tmp_path: Path) -> None:
    made = Library(tmp_path)
    assert works(made)
    assert made.compiled == [library.title(KEY)]
    code = (
        "import sys; from pathlib import Path; from memfirst.kernels.cpu.library import Library\n"
        f"made = Library(Path({str(tmp_path)!r})); made.load([{KEY!r}])\n"
        "assert not made.compiled and 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.usefixtures("fresh_compilers")
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
    again = Library(blocked)
    assert works(again) and not again.compiled, "the process keeps what it compiled, for every model"


def test_others_cannot_read_or_change_the_folder(tmp_path: Path) -> None:
    made = Library(tmp_path / "new")
    made.load([KEY])
    assert stat.S_IMODE(made.folder.stat().st_mode) & 0o022 == 0
    assert not list(made.folder.glob("tmp*")), "nothing half-written is left"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Key]:
    """What compiling processes are asked for."""
    keys: list[Key] = []
    really = compiling.compiled

    def compiled(child: compiling.Child, key: Key) -> bytes:
        keys.append(key)
        return really(child, key)

    monkeypatch.setattr(compiling, "compiled", compiled)
    return keys


def test_who_starts_together_shares_the_work(tmp_path: Path, asked: list[Key]) -> None:
    """As ranks and replicas do: each kernel is compiled by one of them, and all load it."""
    keys: list[Key] = [KEY, ("elementwise.add", ()), ("elementwise.scale", ()), ("elementwise.add_bias", ())]
    both = [Library(tmp_path), Library(tmp_path)]
    with ThreadPoolExecutor(2) as pool:
        loaded = list(pool.map(lambda made: made.load(keys), both))
    assert sorted(asked) == sorted(keys)
    assert [set(found) for found in loaded] == [set(keys)] * 2
    assert not list(both[0].folder.glob("*.lock"))


def test_a_claim_that_nobody_works_on_is_not_waited_for(
    tmp_path: Path, asked: list[Key], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process is stopped, or on another machine that shares the folder."""
    monkeypatch.setattr(compiling, "PATIENCE", 0.2)
    made = Library(tmp_path)
    with compiling._claim(file_of(made)) as ours:
        assert ours
        assert works(made) and asked == [KEY]


MATMUL: Key = ("matmul.block32", (("CODEC", "q4_1"), ("TILE", 1)))
OTHERS: dict[str, Key] = {
    "the same codec": ("matmul.block32", (("CODEC", "q4_1"), ("TILE", 4))),
    "another codec": ("matmul.block32", (("CODEC", "q4_0"), ("TILE", 1))),
    "another family": ("matmul.k256", (("CODEC", "q4_k"), ("TILE", 1))),
    "attention": ("attention.merge", (("K_CODEC", "kv_f16"), ("V_CODEC", "kv_f16"))),
    "scale": ("elementwise.scale", ()),
    "add": ("elementwise.add", ()),
    "walk": ("walk.walk", ()),
}
Edit = tuple[str, str, str]

CODE = "\n\ndef _added():\n    return 1\n"
EDITS: dict[str, tuple[str, Edit, set[str]]] = {
    "a comment": ("kernels/cpu/q4_1.py", ("", "", "# why\n"), set()),
    "a docstring": ("kernels/cpu/q4_1.py", ('"""', '"""More of ', ""), set()),
    "blank lines": ("kernels/cpu/simd.py", ("\n\n\n", "\n\n\n\n", ""), set()),
    "a codec": ("kernels/cpu/q4_1.py", ("", "", CODE), {"matmul", "the same codec"}),
    "a kernel": ("kernels/cpu/elementwise.py", ("def scale(", "def scale(y, ", ""), {"scale"}),
    "beside the kernels": ("kernels/cpu/elementwise.py", ("", "", CODE), {"scale", "add"}),
    "a size elsewhere": ("lower/step_fields.py", ("SPLIT = 512", "SPLIT = 256", ""), {"attention"}),
    "a size in a module between": ("kernels/cpu/softmax.py", ("", "", "\nMORE = 1\n"), {"attention"}),
    "what all use": ("kernels/cpu/lang.py", ("", "", CODE), {"matmul", *OTHERS}),
    "the compiler": ("kernels/cpu/build.py", ("", "", CODE), {"matmul", *OTHERS}),
    "who loads them": ("kernels/cpu/thread_pool.py", ("", "", CODE), set()),
    "errors": ("errors.py", ("", "", CODE), set()),
}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package's sources that kernels are made of, to be changed."""
    for folder in ("kernels/cpu", "lower", "codecs"):
        shutil.copytree(ROOT / "memfirst" / folder, tmp_path / folder)
    shutil.copy(ROOT / "memfirst" / "errors.py", tmp_path)
    return tmp_path


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_changes_the_digests_of_what_it_reaches(copy: Path, edit: str) -> None:
    file, (old, new, end), changes = EDITS[edit]
    keys = {"matmul": MATMUL, **OTHERS}
    before = Sources(copy)
    usual = {name: before.digest(key) for name, key in keys.items()}
    assert usual == {name: Sources(library.ROOT).digest(key) for name, key in keys.items()}, "the same code elsewhere"
    assert len(set(usual.values())) == len(keys)
    path = copy / file
    text = path.read_text()
    changed = (text.replace(old, new, 1) if old else text) + end
    assert changed != text
    path.write_text(changed)
    after = Sources(copy, remembered(before.encode()))
    assert {name for name, key in keys.items() if after.digest(key) != usual[name]} == changes
    assert after.digest(MATMUL) == Sources(copy).digest(MATMUL), "what was remembered is what is read"


def test_what_is_remembered_is_bounded_and_may_be_damaged(copy: Path) -> None:
    made = Sources(copy)
    made.digest(MATMUL)
    assert made.new and not Sources(copy, dict(made.known)).new
    assert len(remembered(made.encode())) == len(made.known) > 10
    made.known |= {str(i): Source("", {}, ()) for i in range(MOST_KNOWN)}
    assert len(remembered(made.encode())) == MOST_KNOWN
    for damaged in (b"", b"{", b"[]", b'{"a": 1}', b'{"a": [1, 2]}', b"\xff"):
        assert remembered(damaged) == {}


def test_each_import_of_a_kernel_is_a_module_of_its_own() -> None:
    """What a package re-exports would be compiled in without changing a digest."""
    made = Sources(library.ROOT)
    for path in Path(library.__file__).parent.glob("*.py"):
        for module in made.closure(f"memfirst.kernels.cpu.{path.stem}"):
            tree = ast.parse(library.ROOT.joinpath(*module.split(".")[1:]).with_suffix(".py").read_text())
            for node in (n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)):
                if (node.module or "").startswith("memfirst.") and node.module not in NOT_COMPILED:
                    names = [f"{node.module}.{alias.name}" for alias in node.names]
                    known = [made.source(name) or name in NOT_COMPILED for name in names]
                    assert made.source(str(node.module)) or all(known), (module, names)


def test_the_folder_names_processor_and_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    def fresh() -> str:
        library.environment.cache_clear()
        return library.environment()

    try:
        usual = fresh()
        assert fresh() == usual
        for name in ("host_name", "detect"):
            monkeypatch.setattr(isa, name, lambda: "another")
            assert fresh() != usual
            monkeypatch.undo()
        monkeypatch.setenv("NUMBA_CPU_NAME", "generic")
        assert fresh() != usual
    finally:
        library.environment.cache_clear()


def test_only_what_changed_is_compiled_and_old_versions_go(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other: Key = ("elementwise.add_bias", ())
    cache = copy / "cache"
    monkeypatch.setattr(library, "ROOT", copy)
    walk = copy / "kernels" / "cpu" / "walk.py"
    old = Library(cache)
    old.load([KEY, other])
    for version in range(library.VERSIONS):
        walk.write_text(walk.read_text() + f"\nVERSION_{version} = 0\n")
        made = Library(cache)
        made.load([KEY, other])
        assert made.compiled == [library.title(KEY)]
        made.load([other])
    found = [path.name for path in old.folder.iterdir()]
    assert sum(name.startswith("walk.read_cycles.") for name in found) == library.VERSIONS
    assert sum(name.startswith("elementwise.add_bias.") for name in found) == 1
    assert not old.path(KEY).exists(), "the oldest"
    assert works(old), "who has loaded it goes on"
    walk.write_text(walk.read_text() + "\n# a comment\n")
    again = Library(cache)
    assert works(again) and not again.compiled


def test_what_nobody_used_for_long_goes_when_something_is_compiled(tmp_path: Path) -> None:
    made = Library(tmp_path)
    made.folder.mkdir(parents=True)
    unused, used = time.time() - (library.UNUSED_DAYS + 1) * library.DAY, time.time() - 2 * library.DAY
    files = {
        tmp_path / "avx2-of-another-machine" / "a.o": unused,
        tmp_path / "of-another-version" / "a.o": used,
        made.folder / "matmul.block32-CODEC=q4_1-TILE=1.00.o": unused,
        made.folder / "matmul.block32-CODEC=q4_1-TILE=1.01.o": used,
        made.folder / "tmp-of-a-process-that-was-killed": unused,
    }
    for path, when in files.items():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
        for one in (path, path.parent):
            os.utime(one, (when, when))
    made.load([KEY])
    assert [path for path in files if path.exists()] == [path for path, when in files.items() if when == used]
    assert not (tmp_path / "avx2-of-another-machine").exists()


def test_an_object_that_is_used_is_marked_so(tmp_path: Path) -> None:
    Library(tmp_path).load([KEY])
    path = Library(tmp_path).path(KEY)
    long_ago = time.time() - 20 * library.DAY
    os.utime(path, (long_ago, long_ago))
    Library(tmp_path).load([KEY])
    assert time.time() - path.stat().st_mtime < library.DAY


@pytest.mark.usefixtures("fresh_compilers")
@pytest.mark.parametrize(
    "key", [("matmul.block32", (("CODEC", "f16"), ("TILE", 1))), ("matmul.nothing", ()), ("nothing.at_all", ())]
)
def test_a_kernel_that_does_not_compile_is_an_error_and_no_hang(
    key: Key, tmp_path: Path, capfd: pytest.CaptureFixture[str]
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


def test_what_is_loaded_costs_nothing_more(tmp_path: Path) -> None:
    """A server's every request asks again for what finds its candidates."""
    made = Library(tmp_path)
    first = made.load([KEY])
    engines, folder = len(made._engines), sorted(path.stat().st_mtime_ns for path in made.folder.iterdir())
    for _ in range(100):
        assert made.load([KEY]) == first
    assert len(made._engines) == engines == 1
    assert sorted(path.stat().st_mtime_ns for path in made.folder.iterdir()) == folder


@pytest.mark.usefixtures("fresh_compilers")
def test_progress_counts_to_the_end(tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    keys: list[Key] = [KEY, ("elementwise.add_bias", ())]
    Library(tmp_path).load(keys, lambda done, total, name: seen.append((done, total, name)))
    assert [s[:2] for s in seen] == [(0, 2), (1, 2), (2, 2)]
    assert {s[2] for s in seen[1:]} == {k[0] for k in keys}


def test_a_file_holds_what_it_was_given() -> None:
    given = "symbol", (("w", "u8"), ("n", "int")), b"\x7fELF\n\n code"
    assert library.decode(library.encode(*given)) == given
    assert compiling.compile_one(KEY)


@pytest.mark.usefixtures("fresh_compilers")
def test_a_compiling_child_takes_no_module_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numba.py").write_text("raise SystemExit('taken from the working directory')")
    monkeypatch.chdir(tmp_path)
    made = library.Library(tmp_path / "cache")
    made.load([KEY])
    assert made.compiled == [library.title(KEY)]


def test_a_compiling_child_ends_with_its_parent(tmp_path: Path) -> None:
    """In the midst of a kernel too: else it keeps what the parent prints to open, and mpiexec waits for its end."""
    begun = tmp_path / "begun"
    code = f"""
import pathlib, time
from memfirst.kernels.cpu import compiling
def compile_one(key):
    pathlib.Path({str(begun)!r}).touch()
    time.sleep(600)
compiling.compile_one = compile_one
compiling.main()
"""
    child = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    assert child.stdin is not None
    child.stdin.write(b'["walk.read_cycles", []]\n')
    until = time.monotonic() + 60
    while not begun.exists() and time.monotonic() < until:
        time.sleep(0.02)
    assert begun.exists() and child.poll() is None
    child.stdin.close()
    assert child.wait(30) == 0
