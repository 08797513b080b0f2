"""How far memfirst's and llama.cpp's answers are from float32 arithmetic on the same weights.

    python -m benchmarks.quality MODEL.gguf --llama-python PATH

Logits for the same tokens: the reference backend (float32 on dequantized weights, the definition), the cpu
backend, llama.cpp. Fast engines round activations; the KL divergence says what that costs. A second llama.cpp
without its flash attention is a yardstick: how often one engine agrees with itself when it rounds elsewhere.
Contexts are 512 tokens, each from an empty cache; tokens are llama.cpp's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.process import BenchmarkError
from memfirst.errors import MemfirstError

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
TEXT = Path(__file__).with_name("text.txt")
CONTEXT = 512
YARDSTICK = "llama.cpp, no flash attention"
LIMITS = {"perplexity": 0.003, "top1": 0.98}  # relative difference; share of equal first choices
MIN_TOKENS = 4096


class HasLogits(Protocol):
    """Anything that turns tokens [n] into logits f32 [n, vocabulary]."""

    def logits(self, tokens: Sequence[int]) -> F32:
        """Logits of every position, from an empty cache."""


def log_softmax(logits: F32) -> F64:
    """Natural logarithm of the probabilities, in float64; [n, vocabulary]."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def kl(p_logits: F32, q_logits: F32) -> F64:
    """KL(p || q) in nats for each row of [n, vocabulary]: Kullback and Leibler 1951, sum p (ln p - ln q)."""
    log_p, log_q = log_softmax(p_logits), log_softmax(q_logits)
    return np.asarray((np.exp(log_p) * (log_p - log_q)).sum(axis=-1))


def negative_log_likelihood(logits: F32, tokens: Sequence[int]) -> F64:
    """-ln p of each next token: logits [n, vocabulary], tokens [n] -> [n - 1], nats."""
    picked = np.asarray(tokens[1:], dtype=np.int64)
    return -log_softmax(logits[:-1])[np.arange(len(picked)), picked]


def perplexity(nll: F64) -> float:
    """exp of the mean negative log likelihood."""
    return float(np.exp(nll.mean()))


def agreement(p_logits: F32, q_logits: F32) -> float:
    """Share of rows with the same most likely token."""
    return float((p_logits.argmax(axis=-1) == q_logits.argmax(axis=-1)).mean())


class LlamaLogits:
    """llama.cpp behind a pipe (`llama_logits.py`)."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.n_vocab = int(json.loads(self._line())["n_vocab"])

    def _ask(self, request: dict[str, Any]) -> None:
        assert self.process.stdin is not None  # opened as a pipe below
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()

    def _line(self) -> bytes:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise BenchmarkError("llama.cpp's process ended early", do="run it by hand to see why")
        return line

    def tokenize(self, text: str) -> list[int]:
        """Ids of plain text, without BOS."""
        self._ask({"text": text})
        return [int(token) for token in json.loads(self._line())]

    def greedy(self, tokens: Sequence[int], n: int) -> list[int]:
        """The n likeliest tokens that follow, from an empty cache."""
        self._ask({"tokens": list(tokens), "greedy": n})
        return [int(token) for token in json.loads(self._line())]

    def logits(self, tokens: Sequence[int]) -> F32:
        """f32 [n, vocabulary] from an empty cache; n at most 512."""
        self._ask({"tokens": list(tokens)})
        assert self.process.stdout is not None
        data = self.process.stdout.read(4 * len(tokens) * self.n_vocab)
        if len(data) != 4 * len(tokens) * self.n_vocab:
            raise BenchmarkError("llama.cpp's process ended early", do="run it by hand to see why")
        return np.frombuffer(data, dtype=np.float32).reshape(len(tokens), self.n_vocab)


@contextmanager
def llama_logits(python: str, model: str, threads: int, *settings: str) -> Iterator[LlamaLogits]:
    """Start llama.cpp for the length of a `with`; settings are fields of its parameters, as "name=int"."""
    script = str(Path(__file__).with_name("llama_logits.py"))
    command = [python, script, model, str(threads), *settings]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **pipes) as process:  # type: ignore[call-overload]
        yield LlamaLogits(process)
        process.stdin.close()


def compare_chunk(engines: dict[str, HasLogits], tokens: Sequence[int]) -> dict[str, Any]:
    """One context: negative log likelihoods, KL to the reference, and equal first choices, by engine."""
    logits = {name: engine.logits(tokens) for name, engine in engines.items()}
    fast = [name for name in logits if name != "reference"]
    return {
        "nll": {name: negative_log_likelihood(found, tokens) for name, found in logits.items()},
        "kl": {name: kl(logits["reference"], logits[name]) for name in fast},
        "top1": {name: agreement(logits[name], logits["llama.cpp"]) for name in logits},
        "n": len(tokens),
    }


def summarize(chunks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Perplexity, mean KL with its standard error, and agreement with llama.cpp, over all contexts."""
    nll = {name: np.concatenate([c["nll"][name] for c in chunks]) for name in chunks[0]["nll"]}
    kls = {name: np.concatenate([c["kl"][name] for c in chunks]) for name in chunks[0]["kl"]}
    counts = np.array([c["n"] for c in chunks])
    return {
        "tokens": int(counts.sum()),
        "perplexity": {name: perplexity(values) for name, values in nll.items()},
        "kl_nats": {name: float(values.mean()) for name, values in kls.items()},
        "kl_standard_error": {n: float(v.std(ddof=1) / np.sqrt(len(v))) for n, v in kls.items()},
        "top1_as_llama": {name: float(np.average([c["top1"][name] for c in chunks], weights=counts)) for name in nll},
    }


def verdict(found: dict[str, Any]) -> dict[str, bool]:
    """Is memfirst at least as close to the reference as llama.cpp, and as good at predicting the text?"""
    ours, theirs = found["perplexity"]["memfirst"], found["perplexity"]["llama.cpp"]
    return {
        "tokens": found["tokens"] >= MIN_TOKENS,
        "kl": found["kl_nats"]["memfirst"] <= found["kl_nats"]["llama.cpp"],
        "perplexity": abs(ours / theirs - 1) <= LIMITS["perplexity"],
        "top1": found["top1_as_llama"]["memfirst"] >= LIMITS["top1"],
    }


def measure(model: str, python: str, threads: int, text: str) -> dict[str, Any]:
    """All contexts of the text; needs the two backends of memfirst and the peer."""
    import memfirst  # loading a model imports kernels: only where it is needed

    engines: dict[str, Any] = {
        "reference": memfirst.load(model, backend="reference"),
        "memfirst": memfirst.load(model, backend="cpu", threads=threads, ctx=CONTEXT),
    }
    plain = llama_logits(python, model, threads, "flash_attn_type=0")
    with llama_logits(python, model, threads) as llama, plain as yardstick:
        engines |= {"llama.cpp": llama, YARDSTICK: yardstick}
        tokens = llama.tokenize(text)
        full = range(0, len(tokens) - CONTEXT + 1, CONTEXT)  # whole contexts only
        chunks = [compare_chunk(engines, tokens[i : i + CONTEXT]) for i in full]
    found = summarize(chunks)
    return {**found, "ok": verdict(found)}


def main(arguments: list[str] | None = None) -> int:
    """Print the summary as JSON; exit code 1 where a bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--llama-python", required=True, help="Python that has llama-cpp-python")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--text", type=Path, default=TEXT)
    chosen = parser.parse_args(arguments)
    try:
        text = chosen.text.read_text(encoding="utf-8")
        found = measure(chosen.model, chosen.llama_python, chosen.threads, text)
    except (MemfirstError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(found, indent=1))
    return 0 if all(found["ok"].values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
