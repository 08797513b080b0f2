"""What drafted tokens give on a text of the user's: its second half as the answer to its first, with and without."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from memfirst.backends.cpu.backend import CpuBackend
from memfirst.codecs.base import F32
from memfirst.errors import ConfigError
from memfirst.formats.checkpoint import Checkpoint
from memfirst.graph import decode
from memfirst.progress import Progress, Silent
from memfirst.runtime.model import Model, load
from memfirst.runtime.report import drafts_of
from memfirst.runtime.request import Request

ROUNDS = 5
"""Times that each is measured, by turns."""

LEAST = 32
"""Tokens of a text that say something."""


class Known:
    """A sampler that knows the answer."""

    def __init__(self, ids: Sequence[int]) -> None:
        self._ids, self._at = ids, 0

    def sample(self, logits: F32, banned: Iterable[int] = (), allowed: object = None) -> int:
        """The answer's next token, whatever the logits."""
        return self._ids[self._at]

    def accept(self, id: int) -> None:
        """It came."""
        self._at += 1

    def accept_prompt(self, ids: Iterable[int]) -> None:
        """Nothing depends on it."""


@dataclass(frozen=True)
class DraftsMeasured:
    """Of one text.

    prompt, answer  tokens of its halves
    plain, fast     tokens a second without and with drafts; ratio: the median of both by turns
    steps, drafted, kept  of the answer with drafts, in the last round
    plain_bytes, fast_bytes  streamed bytes a token, as counted
    draft_steps  of a draft model, in the same
    """

    model: str
    threads: int
    prompt: int
    answer: int
    plain: float
    fast: float
    ratio: float
    steps: int
    drafted: int
    kept: int
    plain_bytes: float
    fast_bytes: float
    draft_steps: int = 0

    def report(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def page(self) -> str:
        """A line for each, and what drafts gave."""
        fewer = f", {self.plain_bytes / self.fast_bytes:.2f} times fewer" if self.fast_bytes else ""
        model = f", {self.draft_steps} of the draft model" if self.draft_steps else ""
        kept = f"{self.steps} steps{model}, {self.kept} of {self.drafted} drafts kept"
        head = f"{Path(self.model).name}, {self.threads} threads: {self.answer} tokens after {self.prompt}"
        rows = [
            f"{name:5} {speed:7.1f} tok/s {each / 1e6:8.1f} MB a token"
            for name, speed, each in (("off", self.plain, self.plain_bytes), ("auto", self.fast, self.fast_bytes))
        ]
        return f"{head}, as the text has them\n{rows[0]}\n{rows[1]}{fewer}\n\nby turns ×{self.ratio:.2f}: {kept}"


def measure(
    source: str | os.PathLike[str] | Checkpoint,
    text: str,
    *,
    threads: int | None = None,
    generate: int = 256,
    ctx: int | None = None,
    kv: str = "f16",
    draft: str | os.PathLike[str] | Checkpoint | None = None,
    pack: str = "auto",
    progress: Progress | None = None,
) -> DraftsMeasured:
    """Decode up to `generate` tokens of the text's second half after its first; ConfigError for a text too short.

    Args:
        source: As for `load`.
        draft: As for `load`.
        text: Of a kind that the model will be asked to write: an answer with the prompt that it is for.
    """
    progress = progress or Silent()
    with load(source, threads=threads, ctx=ctx, kv=kv, draft=draft, progress=progress, pack=pack) as model:
        backend = model.backend
        if not isinstance(backend, CpuBackend):
            raise ConfigError("nothing to measure", "the cpu backend")
        ids = model.encode(text)[: model.longest - 1]
        if len(ids) < LEAST:
            raise ConfigError(f"a text of {len(ids)} tokens", f"{LEAST} or more")
        half = len(ids) // 2
        prompt, answer = ids[:half], ids[half : half + generate]
        progress.note("compiling what is left of the kernels for small steps")
        backend.finish_compiling()
        if model.engine.speculation.model is not None:
            model.engine.speculation.model.backend.finish_compiling()
        runs: list[tuple[float, float]] = []
        for i in range(ROUNDS):
            (plain, before), (fast, after) = (_answer(model, prompt, answer, on) for on in (False, True))
            runs.append((plain, fast))
            progress.update("by turns", i + 1, ROUNDS, unit="")
        plain_s, fast_s = (median(seconds) for seconds in zip(*runs, strict=True))
        drafts = drafts_of(after, backend, model.longest)
        count, timing = len(answer) - 1, after.timing
        return DraftsMeasured(
            model.checkpoint.path or "synthetic", backend.options.threads, len(prompt), len(answer),
            count / plain_s, count / fast_s, median(a / b for a, b in runs), timing.decode_steps, timing.drafted,
            timing.kept, _bytes(model, before), sum(drafts.per_token.values()) if drafts else _bytes(model, after),
            timing.draft_steps,
        )  # fmt: skip


def _answer(model: Model, prompt: Sequence[int], answer: Sequence[int], drafts: bool) -> tuple[float, Request]:
    """Seconds of all tokens but the first."""
    known: Any = Known
    request = Request(
        prompt, partial(known, answer), model.tokenizer, len(answer), (), model.longest, ahead=None, speculate=drafts
    )
    request.stop_ids = frozenset()
    model.engine.submit(request)
    model.engine.next(request)
    start = time.perf_counter()
    while model.engine.next(request) is not None:
        pass
    return time.perf_counter() - start, request


def _bytes(model: Model, request: Request) -> float:
    """Streamed bytes a token, without drafts."""
    return model.price(decode(len(request.prompt) + request.generated // 2)).bytes_per_token
