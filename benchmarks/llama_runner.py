"""Time llama-cpp-python or ik-llama-cpp-python; run by the peer's own Python, standard library only.

Only `llama_decode` is timed, called through ctypes with fixed token ids: no sampling, no text, no
Python objects per token (a call costs about 10 us, 0.2 % of a 5 ms token). It does what llama-bench
does: a warm-up, then `--reps` runs, each from an emptied cache. Prompts go in batches of 512.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

BATCH = 512


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line of one run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--package", choices=["llama_cpp", "ik_llama_cpp"], required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--prompt", type=int, default=0)
    parser.add_argument("--generate", type=int, default=0)
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--path", help="folder that holds the package")
    parser.add_argument("--set", action="append", default=[], help="field=int of the model or context params")
    return parser.parse_args(arguments)


def load_api(package: str) -> tuple[Any, Any]:
    """The module of C functions: ik's binding keeps it in a submodule and leaves some unbound."""
    api = importlib.import_module(package if package == "llama_cpp" else package + "._ctypes_api")
    library = api._lib if package != "llama_cpp" else api.llama_cpp._lib
    return api, library


def system_info(library: Any) -> str:
    """What the library was compiled for: instruction sets, by name."""
    library.llama_print_system_info.restype = ctypes.c_char_p
    return str(library.llama_print_system_info().decode())


def apply_settings(params_list: Sequence[Any], settings: Sequence[str]) -> None:
    """Set each field on the struct that has it; an unknown field is an error, not a silent default."""
    for setting in settings:
        name, value = setting.split("=")
        owners = [params for params in params_list if name in dict(params._fields_)]
        if not owners:
            raise SystemExit("no parameter named " + name)
        for params in owners:
            setattr(params, name, type(getattr(params, name))(int(value)))


class Peer:
    """A loaded model with one context of `n_ctx` tokens."""

    all_logits = False  # logits of every token of a batch, not of the last only

    def __init__(self, package: str, model: str, threads: int, n_ctx: int, *settings: str) -> None:
        self.api, self.library = load_api(package)
        self.api.llama_backend_init()
        model_params = self.api.llama_model_default_params()
        params = self.api.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = n_ctx, BATCH, BATCH
        params.n_threads = params.n_threads_batch = threads
        apply_settings([model_params, params], settings)
        self.model = self._made(self.api.llama_model_load_from_file(model.encode(), model_params), model)
        self.context = self._made(self.api.llama_init_from_model(self.model, params), "a context")
        self.vocab = self.api.llama_model_get_vocab(self.model)
        self.n_vocab = self.api.llama_vocab_n_tokens(self.vocab)
        self.batch = self.api.llama_batch_init(BATCH, 0, 1)

    @staticmethod
    def _made(handle: Any, what: str) -> Any:
        if not handle:
            raise SystemExit("the peer cannot load or make " + what)
        return handle

    def rewind(self, position: int) -> None:
        """Forget the cache from `position` on, so that a long prompt is read once and decoded after often."""
        if hasattr(self.api, "llama_get_memory"):
            self.api.llama_memory_seq_rm(self.api.llama_get_memory(self.context), 0, position, -1)
        else:
            self.library.llama_kv_cache_seq_rm(ctypes.c_void_p(self.context), 0, position, -1)

    def decode(self, tokens: Sequence[int], position: int) -> None:
        """One batch of up to 512 tokens at `position`; logits of the last, or of all."""
        batch, last = self.batch, len(tokens) - 1
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i] = token, position + i
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            batch.logits[i] = self.all_logits or i == last
        if self.api.llama_decode(self.context, batch):
            raise SystemExit(f"llama_decode failed at position {position}")
        self.library.llama_synchronize(ctypes.c_void_p(self.context))

    def tokens(self, n: int, start: int = 0) -> list[int]:
        """`n` fixed token ids, spread over the vocabulary."""
        return [(1009 * (start + i) + 17) % self.n_vocab for i in range(n)]

    def prefill(self, n: int) -> None:
        """Positions 0 .. n-1 in batches of 512."""
        for at in range(0, n, BATCH):
            self.decode(self.tokens(min(BATCH, n - at), at), at)

    def generate(self, n: int, position: int) -> None:
        """`n` single tokens from `position` on."""
        for i, token in enumerate(self.tokens(n, position)):
            self.decode([token], position + i)


def timed(work: Callable[..., None], *arguments: int) -> float:
    """Seconds that `work(*arguments)` took."""
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start


def one_run(peer: Peer, prompt: int, generate: int) -> float:
    """Tokens per second of the generation, or of the prompt where nothing is generated."""
    peer.rewind(prompt if generate else 0)
    if generate:
        return generate / timed(peer.generate, generate, prompt)
    return prompt / timed(peer.prefill, prompt)


def main() -> None:
    """Warm up, time, print one JSON object."""
    chosen = parse_arguments()
    if chosen.path:
        sys.path.insert(0, chosen.path)
    n_ctx = -(-(chosen.prompt + chosen.generate) // 256) * 256
    peer = Peer(chosen.package, chosen.model, chosen.threads, max(256, n_ctx), *chosen.set)
    if chosen.generate:
        peer.prefill(chosen.prompt)
    one_run(peer, chosen.prompt, min(chosen.generate, 16))  # warm-up
    samples = [one_run(peer, chosen.prompt, chosen.generate) for _ in range(chosen.reps)]
    print(json.dumps({"samples_tok_s": samples, "system_info": system_info(peer.library)}))
    sys.stdout.flush()
    os._exit(0)  # some versions of the bindings crash while the interpreter takes them down


if __name__ == "__main__":
    main()
