"""`make wheel`: build the wheel, install it with pip, uv and pipx into fresh environments, and use it elsewhere.

Every Python of PYTHONS that is found takes part, with pip; the newest also with uv and pipx, fetched for that. What is
run: the version, a plan, an answer of the small real model, and mypy --strict and pyright on a program that uses the
public names. The folder is not the clone's, so nothing is imported from there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
MODEL = "smollm2:135m"

PROGRAM = """
import memfirst

model: memfirst.Model = memfirst.load("smollm2:135m", ctx=256, progress=False)
answer = model.generate("The capital of France is", max_tokens=1, temperature=0, logprobs=2)
text: str = str(answer)
several: list[memfirst.Generation] = model.generate(["One,", "Two,"], max_tokens=1)
chat: memfirst.Conversation = model.chat(system="Be brief.", temperature=0, max_tokens=4)
token: memfirst.Token = next(iter(chat.ask("Hello")))
ledger: memfirst.Ledger = token.recorded
shares: dict[str, int] = {purpose: int(amount) for purpose, amount in ledger.by_purpose().items()}
print(text, sum(shares.values()), [one.text for one in several])
"""
WRONG = 'import memfirst\nmemfirst.load(3, ctx="long")\n'
"""Types must be seen: of this a checker complains."""


def main() -> int:
    """Build, check the contents, and use it with every Python."""
    with tempfile.TemporaryDirectory() as folder:
        wheel = build(Path(folder))
        contents(wheel)
        found = list(pythons())
        for python in found:
            with_pip(python, wheel, Path(folder))
        with_tools(found[-1], wheel, Path(folder))
    print(f"{wheel.name} works with Python {', '.join(version(python) for python in found)}; with pip, uv and pipx")
    return 0


def build(folder: Path) -> Path:
    """The wheel, from a copy of what the repository holds."""
    source = folder / "source"
    shutil.copytree(ROOT / "memfirst", source / "memfirst", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder / "dist", source], folder)
    return next((folder / "dist").glob("memfirst-*.whl"))


def contents(wheel: Path) -> None:
    """All of the package's files are in it, and nothing else."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    wanted = {str(p.relative_to(ROOT)) for p in (ROOT / "memfirst").rglob("*") if p.is_file() and p.suffix != ".pyc"}
    if names != wanted:
        raise SystemExit(f"the wheel lacks {sorted(wanted - names)} and has {sorted(names - wanted)} besides")


def pythons() -> Iterator[str]:
    """Interpreters of PYTHONS on the path or among pyenv's."""
    for wanted in PYTHONS:
        candidates = [
            shutil.which(f"python{wanted}"),
            *map(str, Path.home().glob(f".pyenv/versions/{wanted}.*/bin/python")),
        ]
        working = [c for c in candidates if c and version(c).startswith(f"{wanted}.")]
        if working:
            yield working[-1]
        else:
            print(f"Python {wanted} is not here: not tried")


def version(python: str) -> str:
    """What the interpreter calls itself; "" where it does not run."""
    code = "import platform; print(platform.python_version())"
    ran = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return ran.stdout.strip() if ran.returncode == 0 else ""


def with_pip(python: str, wheel: Path, folder: Path) -> None:
    """A fresh environment with the wheel and both type checkers."""
    made = folder / f"pip-{version(python)}"
    run([python, "-m", "venv", made], folder)
    run([made / "bin/python", "-m", "pip", "install", "--quiet", wheel, "mypy", "pyright"], folder)
    use(made / "bin", folder)
    elsewhere = folder / f"use-{version(python)}"
    elsewhere.mkdir()
    (elsewhere / "program.py").write_text(PROGRAM)
    (elsewhere / "wrong.py").write_text(WRONG)
    print(run([made / "bin/python", "program.py"], elsewhere).strip())
    for checker in (["mypy", "--strict"], ["pyright", "--pythonpath", str(made / "bin/python")]):
        run([made / "bin" / checker[0], *checker[1:], "program.py"], elsewhere)
        ran = subprocess.run(
            [made / "bin" / checker[0], *checker[1:], "wrong.py"], cwd=elsewhere, capture_output=True, check=False
        )
        if ran.returncode == 0:
            raise SystemExit(f"{checker[0]} sees no types: {WRONG}")


def with_tools(python: str, wheel: Path, folder: Path) -> None:
    """The same with uv and with pipx, from an environment of their own."""
    tools = folder / "tools"
    run([python, "-m", "venv", tools], folder)
    run([tools / "bin/python", "-m", "pip", "install", "--quiet", "uv", "pipx"], folder)
    run([tools / "bin/uv", "venv", "--quiet", "--python", python, folder / "uv"], folder)
    run([tools / "bin/uv", "pip", "install", "--quiet", "--python", folder / "uv/bin/python", wheel], folder)
    use(folder / "uv/bin", folder)
    homes = {"PIPX_HOME": str(folder / "pipx"), "PIPX_BIN_DIR": str(folder / "pipx-bin")}
    run([tools / "bin/pipx", "install", "--quiet", "--python", python, wheel], folder, homes)
    use(folder / "pipx-bin", folder)


def use(bin: Path, folder: Path) -> None:
    """The command, away from the clone."""
    run([bin / "memfirst", "--version"], folder)
    run([bin / "memfirst", "plan", "llama-3:8b", "--on", "rtx-4090"], folder)
    answer = run(
        [bin / "memfirst", "run", MODEL, "The capital of France is", "--raw", "--temp", "0", "-n", "1"], folder
    )
    if "Paris" not in answer:
        raise SystemExit(f"{bin}: an answer without Paris: {answer}")


def run(words: Sequence[str | Path], folder: Path, more: dict[str, str] | None = None) -> str:
    """A command's output; ends with it where the command fails."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    ran = subprocess.run(
        [str(word) for word in words], cwd=folder, env=clean | (more or {}), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    if ran.returncode:
        raise SystemExit(f"{' '.join(map(str, words))} failed with {ran.returncode}:\n{ran.stdout}")
    return ran.stdout


if __name__ == "__main__":
    raise SystemExit(main())
