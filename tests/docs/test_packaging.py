"""What is published: the wheel's data, its metadata, and the container file. `make wheel` installs and uses it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import memfirst

ROOT = Path(__file__).parent.parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_all_data_files_are_packaged() -> None:
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["memfirst"]
    packaged = {path for pattern in patterns for path in (ROOT / "memfirst").glob(pattern)}
    data = {p for p in (ROOT / "memfirst").rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")}
    assert data == packaged and ROOT / "memfirst" / "py.typed" in packaged


def test_the_version_is_one() -> None:
    assert PROJECT["project"]["version"] == memfirst.__version__
    assert f"## {memfirst.__version__} " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_container_copies_what_is_there() -> None:
    text = (ROOT / "Containerfile").read_text(encoding="utf-8")
    copied = [word for line in re.findall(r"^COPY (.*) \S+$", text, re.M) for word in line.split()]
    assert copied and all((ROOT / name).exists() for name in copied)
    named = {PROJECT["project"]["readme"], *PROJECT["project"]["license-files"], "pyproject.toml"}
    assert named <= set(copied), "the build reads them"


def test_make_says_all_targets_that_contributors_are_told() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    told = re.findall(r"^make (\w+)", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.M)
    assert len(told) == 4 and all(re.search(rf"^{name}:.*## ", makefile, re.M) for name in told)
