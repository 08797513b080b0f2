"""Writes tests/fixtures/recurrent/llama_cpp.npz: what llama.cpp computes from the files of `recurrent_files`.

    python -m tests.support.make_recurrent_fixture [NAME ...]

Needs llama_cpp and gguf, and no GPU. The files themselves are drawn again by the tests; `draw/NAME` says whether
they came out the same.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.support.recurrent_files import SPECS, VOCAB, random_arrays, write

FILE = Path(__file__).parent.parent / "fixtures" / "recurrent" / "llama_cpp.npz"
TOKENS = 24


def digest(arrays: dict[str, NDArray[np.float32]]) -> float:
    """One number that any other draw would change."""
    return float(sum(np.abs(a).sum(dtype=np.float64) for a in arrays.values()))


def logits(path: Path, tokens: NDArray[np.int32]) -> NDArray[np.float32]:
    """[tokens, vocabulary] of all positions, in one batch, on one thread."""
    llama: Any = importlib.import_module("llama_cpp")
    llama.llama_backend_init()
    options = llama.llama_model_default_params()
    options.n_gpu_layers = 0
    model = llama.llama_model_load_from_file(str(path).encode(), options)
    settings = llama.llama_context_default_params()
    settings.n_ctx, settings.n_threads, settings.n_threads_batch = 64, 1, 1
    settings.type_k = settings.type_v = settings.flash_attn_type = 0  # float32
    context = llama.llama_init_from_model(model, settings)
    batch = llama.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for i, token in enumerate(tokens):
        batch.token[i], batch.pos[i], batch.n_seq_id[i] = int(token), i, 1
        batch.seq_id[i][0], batch.logits[i] = 0, 1
    if llama.llama_decode(context, batch):
        raise RuntimeError(f"llama.cpp cannot run {path.name}")
    rows = [np.ctypeslib.as_array(llama.llama_get_logits_ith(context, i), (VOCAB,)) for i in range(len(tokens))]
    return np.stack(rows).copy()


def main() -> None:
    """All files, in float32; or those that are named, beside what is there."""
    tokens = np.random.default_rng(5).integers(0, VOCAB, TOKENS).astype(np.int32)
    found: dict[str, Any] = dict(np.load(FILE)) if sys.argv[1:] else {"tokens": tokens}
    with tempfile.TemporaryDirectory() as folder:
        for name in sys.argv[1:] or SPECS:
            spec = SPECS[name]
            path, arrays = Path(folder) / f"{name}.gguf", random_arrays(spec)
            write(path, spec, arrays)
            found[f"logits/{name}"], found[f"draw/{name}"] = logits(path, tokens), digest(arrays)
    FILE.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(FILE, **found)


if __name__ == "__main__":
    main()
