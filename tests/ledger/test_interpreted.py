"""The kernels run by Python: their loads are the price, and they compute what the compiled ones do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from memfirst.backends.cpu.backend import CpuBackend
from memfirst.backends.interpreted import InterpretedBackend
from memfirst.errors import BackendError
from tests.support.tiny_models import ARCHITECTURES, CODECS, STEPS, apart, fill_cache, options, tiny

HERE = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs tests/support/interpreted_ledger.py without compiled code; the folder with its logits."""
    folder = tmp_path_factory.mktemp("logits")
    environment = dict(os.environ, NUMBA_DISABLE_JIT="1", MEMFIRST_TEST_LOGITS=str(folder))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        str(HERE / "support" / "interpreted_ledger.py"),
    ]
    with (folder / "said").open("w") as said:
        done = subprocess.run(command, check=False, env=environment, cwd=HERE.parent, stdout=said, timeout=600)
    (folder / "code").write_text(str(done.returncode))
    return folder


def test_loads_are_the_price(interpreted: Path) -> None:
    assert (interpreted / "code").read_text() == "0", (interpreted / "said").read_text()
    assert len(list(interpreted.glob("*.npy"))) >= len(CODECS) * len(ARCHITECTURES) * 2


@pytest.mark.parametrize("codec", (*CODECS, "q4_k_m"))
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_compiled_kernels_agree(interpreted: Path, architecture: str, codec: str) -> None:
    """To some units in the last place of logits up to 4: the interpreted fma rounds twice, if rarely visibly."""
    backend = CpuBackend(*tiny(architecture, codec), options(1))
    try:
        for name, step in STEPS.items():
            path = interpreted / f"{architecture}-{codec}-{name}.npy"
            if path.exists():
                fill_cache(backend)
                found = backend.step(step, apart(step)).logits
                np.testing.assert_allclose(found, np.load(path), rtol=0, atol=4e-6)
    finally:
        backend.close()


def test_it_refuses_to_run_compiled() -> None:
    with pytest.raises(BackendError, match="NUMBA_DISABLE_JIT"):
        InterpretedBackend(*tiny("llama", "q4_0"), options(1))
