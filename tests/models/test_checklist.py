"""docs/add-an-architecture.md is a checklist: what of it is missing for an architecture is printed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from memfirst import models
from memfirst.catalog.configs import configs
from memfirst.formats.architectures import CLASSES, architecture_of
from memfirst.formats.names import TABLES
from tests.oracle import ATTENTION, HYBRID, RECURRENT
from tests.support import dense_gguf
from tests.support.byte_cases import CONFIGS
from tests.support.dense_configs import MODELS as DENSE
from tests.support.experts_configs import MODELS as EXPERTS

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "add-an-architecture.md"
FIXTURES = ROOT / "tests" / "fixtures"

STATE = (
    *("mamba", "mamba2", "rwkv6", "rwkv7", "jamba", "granitehybrid", "qwen3next", "qwen35", "qwen35moe"),
    *("lfm2", "lfm2moe", "nemotron_h", "nemotron_h_moe", "falcon-h1"),
)
"""Their published configs are functions of tests/support/recurrent_configs.py, their files recurrent_files.py's."""
NO_FOLDERS = ("rwkv6", "rwkv7")
"""Published as GGUF and PyTorch files only: transformers has no such model to compare with, nor names."""

NO_CLASS = ("deepseek",)
"""transformers has no such model: its logits are llama.cpp's, see tests/models/test_llama_cpp.py."""


def described(config: dict[str, object]) -> str:
    return architecture_of(config)


def with_logits() -> set[str]:
    """Architectures of the committed folders that have logits of transformers."""
    folders = [p.parent for p in FIXTURES.rglob("config.json") if (p.parent / "expected.npz").exists()]
    return {described(json.loads((folder / "config.json").read_text())) for folder in folders}


def missing(name: str) -> list[str]:
    """Numbers and files of the guide's table that know nothing of the architecture."""
    shown = {"model_type": "nemotron_h", "layers_block_type": ["moe" if name.endswith("_moe") else "mlp"]}
    kinds = {kind for kind in CONFIGS if architecture_of(shown | {"model_type": kind}) == name}
    dense = {described(config) for config, *_ in DENSE.values()}
    routed = {described(known.config) for known in EXPERTS.values()}
    found = {
        "3 memfirst/formats/names.py (TABLES)": name in TABLES or name in NO_FOLDERS,
        "3 memfirst/formats/architectures.py (CLASSES)": name in CLASSES.values() or name == "deepseek2",
        "4 tests/oracle": bool(kinds & ({*ATTENTION, *RECURRENT, *HYBRID})),
        "5 tests/support/byte_cases.py": bool(kinds),
        "6 tests/fixtures": name in with_logits() or name in (*NO_FOLDERS, *NO_CLASS),
        "7 tests/support/dense_gguf.py": name in dense_gguf.WRITERS or name in routed or name in STATE,
        "8 tests/support/dense_configs.py": name in dense | routed or name in STATE,
        "9 memfirst/catalog/configs.json": name in {described(dict(m.config)) for m in configs()},
    }
    return [what for what, there in found.items() if not there]


@pytest.mark.parametrize("name", models.ARCHITECTURES)
def test_nothing_of_the_checklist_is_missing(name: str) -> None:
    found = missing(name)
    assert not found, f"{name}: see docs/add-an-architecture.md\n" + "\n".join(found)


def test_the_checklist_sees_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new name has nothing but its entry."""
    assert [what.split()[0] for what in missing("brand-new")] == ["3", "3", "4", "5", "6", "7", "8", "9"]


def test_each_file_of_the_checklist_exists() -> None:
    named = set(re.findall(r"`((?:memfirst|tests|docs)/[\w/.]+)`", GUIDE.read_text(encoding="utf-8")))
    assert len(named) > 12
    assert [name for name in named if "NAME" not in name and not (ROOT / name).exists()] == []
