"""The house rules: who imports whom, how long things are, what is public, what the documents say."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from shutil import which

import pytest

import memfirst
from memfirst import errors
from memfirst.cli.app import COMMANDS

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "memfirst"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# Who may import whom. A room is a file or folder of memfirst/. Those of PLAN may import what stands before them
# (and each other within a pair); the rest import what their row names, and nothing else.
PLAN = [
    "errors",
    "files",
    "progress",
    "codecs",
    "formats",
    "catalog",
    "graph",
    "models|convert",
    "transform",
    "lower",
    "ledger",
]
PLAN += ["hardware", "predict", "plan"]
MAY_IMPORT = {
    "hub": "errors progress formats catalog __version__",
    "text": "errors progress formats",
    "kernels": "errors codecs graph lower progress",
    "speculate": "",
    "distributed": "errors codecs graph",
    "backends": "errors codecs formats graph models lower ledger kernels progress hardware",
}
BESIDES = {"plan": {"hub"}}
"""What one of PLAN imports besides: `plan` asks the hub for the header of a model that is named by its repository."""
ANYTHING_BELOW = ("runtime", "measure", "server", "cli", "__init__", "__main__")
NO_KERNELS = {"numba", "llvmlite", "memfirst.kernels", "memfirst.backends", "torch", "triton"}

LONGEST_FILE, LONGEST_FUNCTION, LONGEST_KERNEL = 500, 60, 120
COLLECTORS = {"utils", "util", "common", "helpers", "misc", "shared_utils"}
ERRORS = ["BackendError", "CapacityError", "ConfigError", "DownloadError", "FormatError", "MemfirstError",
          "ModelNotFoundError", "ProbeError", "TemplateError", "TokenizerError", "UnsupportedError"]  # fmt: skip
PUBLIC = ["Conversation", "Generation", "Ledger", "Logprob", "MemfirstError", "Model", "SamplingParams", "Token",
          "__version__", "errors", "load", "plan"]  # fmt: skip
"""memfirst.__all__, in order."""


def plan_side() -> set[str]:
    """Components that answer without a kernel."""
    return {name for step in PLAN for name in step.split("|")}


def allowed(component: str) -> set[str]:
    """What `component` may import, itself included."""
    if component in MAY_IMPORT:
        return {component, *MAY_IMPORT[component].split()}
    found: set[str] = set()
    for step in PLAN:
        found |= set(step.split("|"))
        if component in step.split("|"):
            return found | BESIDES.get(component, set())
    raise AssertionError(f"memfirst/{component} is new: say in tests/test_house.py what it may import")


def component(path: Path) -> str:
    """The first part of a source's path below memfirst/, without .py."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that a source imports, wherever in it, with the line; `from a import b` gives a.b."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def defs(path: Path) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    """Functions, methods and classes, but not what is nested in functions."""

    def walk(body: list[ast.stmt]) -> Iterator[ast.FunctionDef | ast.ClassDef]:
        for node in body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                yield node
            if isinstance(node, ast.ClassDef):
                yield from walk(node.body)

    yield from walk(tree(path).body)


def report(problems: list[str]) -> None:
    """Fail with all of them."""
    assert not problems, "\n" + "\n".join(problems)


def test_imports_go_one_way() -> None:
    problems = []
    for path in SOURCES:
        if component(path) in ANYTHING_BELOW:
            continue
        may = allowed(component(path))
        for name, line in imports(path):
            parts = name.split(".")
            if parts[0] == "memfirst" and parts[1] not in may:
                problems.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    report(problems)


def test_nothing_below_imports_the_top() -> None:
    """The engine and what measures it know neither server nor command line."""
    tops = {"memfirst.cli", "memfirst.server"}
    problems = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in SOURCES
        if component(path) not in ("cli", "server", "__main__")
        for name, line in imports(path)
        if ".".join(name.split(".")[:2]) in tops
    ]
    report(problems)


def test_numba_is_imported_by_kernels_only_and_by_no_plan() -> None:
    problems = []
    for path in SOURCES:
        for name, line in imports(path):
            top = name.split(".")[0]
            two = ".".join(name.split(".")[:2])
            if top in ("numba", "llvmlite") and component(path) != "kernels":
                problems.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
            if component(path) in plan_side() and {top, two} & NO_KERNELS:
                problems.append(f"{path.relative_to(ROOT)}:{line}: plan side imports {name}")
    report(problems)


def test_plan_side_reaches_no_kernel_when_it_runs() -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in SOURCES
        if component(path) in plan_side()
    ]
    code = (
        f"import importlib, sys\nfor m in {modules!r}: importlib.import_module(m)\n"
        f"forbidden = {sorted(NO_KERNELS)!r}\n"
        "print([m for m in sys.modules if any(m == n or m.startswith(n + '.') for n in forbidden)])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_heavy_packages_are_imported_where_they_are_used() -> None:
    """`import memfirst` costs a user nothing that is not used."""
    heavy = (
        "huggingface_hub",
        "tokenizers",
        "jinja2",
        "typer",
        "rich",
        "prompt_toolkit",
        "wcwidth",
        "numba",
        "llvmlite",
        "torch",
    )
    code = f"import sys, memfirst; print([m for m in {heavy!r} if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_sizes() -> None:
    problems = []
    for path in SOURCES:
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > LONGEST_FILE:
            problems.append(f"{path.relative_to(ROOT)} has {lines} lines; the most is {LONGEST_FILE}")
        most = LONGEST_KERNEL if component(path) == "kernels" else LONGEST_FUNCTION
        for node in defs(path):
            first = node.body[1 if ast.get_docstring(node) and len(node.body) > 1 else 0]  # kernels explain operands
            length = (node.end_lineno or 0) - first.lineno + 1  # the body; a command has 17 options
            if isinstance(node, ast.FunctionDef) and length > most:
                problems.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name} has {length} lines of {most}")
    report(problems)


def test_no_assert_no_pickle_no_fast_math() -> None:
    """A user's mistake is an error of ours; models are data; fast-math as a whole breaks isnan."""
    problems = []
    for path in SOURCES:
        where = path.relative_to(ROOT)
        problems += [f"{where}:{n.lineno} assert" for n in ast.walk(tree(path)) if isinstance(n, ast.Assert)]
        unsafe = {"pickle", "marshal", "shelve", "dill", "joblib"}
        problems += [f"{where}:{line} imports {n}" for n, line in imports(path) if n.split(".")[0] in unsafe]
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.keyword) and node.arg in ("fastmath", "allow_pickle"):
                value = node.value
                if isinstance(value, ast.Constant) and value.value is True:
                    problems.append(f"{where}:{value.lineno} {node.arg}=True")
    report(problems)


def test_no_file_collects() -> None:
    report([str(p.relative_to(ROOT)) for p in SOURCES if p.stem in COLLECTORS or p.parent.name in COLLECTORS])


def methods() -> Iterator[ast.FunctionDef]:
    """Every method of every class."""
    for path in SOURCES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef):
                yield from (n for n in node.body if isinstance(n, ast.FunctionDef))


def test_everything_public_says_what_it_is() -> None:
    """Methods of an interface are described once, where it is defined; instructions (kernels of at most five
    lines) by their names."""
    problems = []
    names = {m.name for m in methods() if ast.get_docstring(m)}
    described = {id(m) for m in methods() if m.name in names}
    for path in SOURCES:
        if path.read_text(encoding="utf-8").strip() and not ast.get_docstring(tree(path)):
            problems.append(f"{path.relative_to(ROOT)} has no docstring")
        for node in defs(path):
            instruction = component(path) == "kernels" and (node.end_lineno or 0) - node.lineno < 5
            public = not node.name.startswith(("_", "visit_")) and id(node) not in described
            if public and not instruction and not ast.get_docstring(node):
                problems.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name} has no docstring")
    report(problems)


def test_public_names() -> None:
    assert list(getattr(memfirst, "__all__", [])) == PUBLIC
    assert all(getattr(memfirst, name).__doc__ for name in PUBLIC)


def test_error_tree() -> None:
    found = {n: v for n, v in vars(errors).items() if isinstance(v, type) and issubclass(v, Exception)}
    assert sorted(found) == ERRORS
    assert all(issubclass(v, errors.MemfirstError) for v in found.values())
    error = errors.FormatError("found a", "b", "give c=1", "give --c 1")
    assert str(error) == "found a; expected b; give c=1"
    assert error.at_a_prompt() == "found a; expected b; give --c 1"
    assert errors.FormatError("found a", do="do c").at_a_prompt() == "found a; do c"


# documents


def tracked() -> list[Path]:
    """Text files that git tracks; all of the tree's own where this is no checkout."""
    try:
        ran = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in ran.stdout.split("\0") if name]
    return [p for p in paths if p.is_file() and b"\0" not in p.read_bytes()[:8192]]


def test_no_path_of_a_machine_and_no_registry() -> None:
    """Paths and hosts that mean something on one machine only."""
    slash = "/"  # so that this file does not name them
    hosts = ["pypi" + ".org", "python" + "hosted"]
    forbidden = [f"{slash}{folder}{slash}" for folder in ("work", "root", "tmp")] + hosts
    problems = []
    for path in tracked():
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            problems += [f"{path.relative_to(ROOT)}:{number} says {word}" for word in forbidden if word in line]
    report(problems)


def test_no_file_holds_half_a_merge_and_make_reads_its_targets() -> None:
    marks = re.compile(r"^(<{7}|>{7}|\|{7})( |$)", re.MULTILINE)
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("no git repository")
    texts = {name: (ROOT / name).read_bytes() for name in listed.stdout.splitlines() if (ROOT / name).is_file()}
    report([name for name, text in texts.items() if marks.search(text.decode("utf-8", "replace"))])
    if which("make"):
        targets = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=False)
        assert not targets.returncode, targets.stderr
        assert {"make demo", "make test"} <= {" ".join(line.split()[:2]) for line in targets.stdout.splitlines()}


def test_the_command_page_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("cli_page", ROOT / "docs" / "cli_page.py")
    assert spec and spec.loader
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == page.render(), "run: make docs"


@pytest.mark.parametrize("document", ["README.md", "docs/cli.md"])
def test_each_command_is_in_the_documents(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f"memfirst {name}" not in text] == []


def test_snippets_compile_and_links_lead_somewhere() -> None:
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        text = path.read_text(encoding="utf-8")
        for snippet in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
            compile(snippet, str(path), "exec")
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert (path.parent / link).exists(), f"{path.name} links to {link}"
