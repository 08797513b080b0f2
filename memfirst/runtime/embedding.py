"""Texts as vectors: requests that are done with their prompt, and what their hidden rows are pooled to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from memfirst.codecs.base import F32
from memfirst.errors import CapacityError, ConfigError, UnsupportedError
from memfirst.formats.checkpoint import Checkpoint
from memfirst.formats.json_file import parse_object
from memfirst.formats.mapped import read_bounded
from memfirst.runtime.request import Request
from memfirst.runtime.sampling import Sampler
from memfirst.text import StopStrings, Tokenizer

if TYPE_CHECKING:
    from memfirst.runtime.model import Model

MEAN, CLS, LAST = "mean", "cls", "last"
POOLINGS = (MEAN, CLS, LAST)
"""A text's vector is the mean of its tokens' hidden rows, that of its first, or that of its last."""

EMBEDDED = "embedded"
"""Why such a request ended."""

GGUF = {1: MEAN, 2: CLS, 3: LAST}
"""Values of GGUF's `pooling_type` that make one vector of a text."""


MOST_CONFIG = 1 << 20
"""Bytes of a pooling's config."""


class Embedding(Request):
    """A text to be pooled. Its rows are added one by one in float64, so that cuts and neighbours change nothing."""

    def __init__(self, prompt: Sequence[int], tokenizer: Tokenizer, limit: int, pooling: str, client: str = "") -> None:
        self.pooling = pooling
        super().__init__(prompt, _no_sampler, tokenizer, 0, (), limit, ahead=None, client=client)

    def begin(self) -> None:
        """As of `Request`; nothing is generated."""
        self.ids, self.stop_reason, self.stops = list(self.prompt), "", StopStrings(())
        self.pooled = 0
        """Tokens at its beginning whose rows were taken."""
        self._sum: np.ndarray[Any, np.dtype[np.float64]] | None = None

    @property
    def reusable(self) -> int:
        """Tokens whose rows nobody wants any more may come from the cache."""
        return self.pooled if self.pooling == MEAN or (not self.pooled and self.pooling == CLS) else len(self.ids) - 1

    def rows(self, past: int, new: int) -> tuple[int, ...]:
        """Which of `new` tokens after `past` give a hidden row that is wanted."""
        if self.pooling == MEAN:
            return tuple(range(max(0, self.pooled - past), new))
        last = past + new == len(self.ids)
        first = self.pooling == CLS and past == 0
        return tuple(sorted({*([0] if first else []), *([new - 1] if last else [])}))

    def take_rows(self, past: int, rows: Sequence[int], values: Sequence[F32]) -> None:
        """The step's hidden rows that it wanted."""
        for row, value in zip(rows, values, strict=True):
            if self._sum is None or self.pooling == MEAN:
                self._sum = value.astype(np.float64) if self._sum is None else self._sum + value
            self.pooled = past + row + 1
        if self.pooled == len(self.ids):
            self.stop_reason = EMBEDDED

    @property
    def vector(self) -> F32:
        """Its rows, pooled: f32 [hidden_size]."""
        if self._sum is None:
            raise ConfigError("a text whose rows are not there", "one that was embedded")
        return (self._sum / (len(self.ids) if self.pooling == MEAN else 1)).astype(np.float32)


def _no_sampler() -> Sampler:
    raise UnsupportedError("a token of an embedding", "its vector")


def embed(model: Model, texts: Any, pooling: str, normalize: bool = True, dimensions: int | None = None) -> F32:
    """What `Model.embed` does."""
    if not pooling:
        do = f"choose one of {', '.join(POOLINGS)}"
        raise ConfigError(f"{model.name} says nothing of a pooling", "a model made for embeddings", do)
    check_pooling(pooling)
    check_dimensions(dimensions, model.graph.hidden_size)
    check_causal(model.checkpoint)
    one = isinstance(texts, str) or all(isinstance(id, int) for id in texts)
    several: Sequence[Any] = [texts] if one else texts
    prompts = [model.tokenizer.encode(text) if isinstance(text, str) else list(text) for text in several]
    for ids in prompts:
        check_length(ids, model.longest)
    model.backend.warm_up_hidden()
    requests = [Embedding(ids, model.tokenizer, model.longest, pooling) for ids in prompts]
    try:
        for request in requests:
            model.engine.submit(request)
        for request in requests:
            model.engine.next(request)
    finally:
        for request in requests:
            model.engine.cancel(request)
    made = np.stack([finished(request.vector, normalize, dimensions) for request in requests])
    return made[0] if one else made


def check_length(ids: Sequence[int], longest: int) -> None:
    """ConfigError for a text without a token, CapacityError for one that the context cannot hold."""
    if not ids:
        raise ConfigError("a text without a token", "some text")
    if len(ids) > longest:
        found = f"the input has {len(ids)} tokens: it is too large"
        raise CapacityError(found, f"at most the context of {longest}", "shorten it or cut it into several")


def check_dimensions(dimensions: int | None, width: int) -> None:
    """ConfigError for more than there are."""
    if dimensions is not None and not 1 <= dimensions <= width:
        raise ConfigError(f"{dimensions} dimensions", f"1 to {width}")


def finished(vector: F32, normalize: bool = True, dimensions: int | None = None) -> F32:
    """A vector cut to its first `dimensions`, then of length 1."""
    made = vector[:dimensions].astype(np.float64)
    length = float(np.sqrt((made * made).sum()))
    return (made / length if normalize and length else made).astype(np.float32)


def pooling_of(checkpoint: Checkpoint) -> str:
    """How the model's file says that it is pooled: GGUF's `pooling_type`, or a folder's `1_Pooling/config.json` as
    sentence-transformers writes it; "" where it says nothing."""
    if checkpoint.kind == "gguf":
        found = checkpoint.metadata.get(f"{checkpoint.architecture}.pooling_type")
        return GGUF.get(found, "") if isinstance(found, int) else ""
    path = Path(checkpoint.path, "1_Pooling", "config.json")
    return _of_folder(parse_object(read_bounded(str(path), MOST_CONFIG), str(path))) if path.is_file() else ""


def _of_folder(config: Mapping[str, Any]) -> str:
    keys = {"pooling_mode_mean_tokens": MEAN, "pooling_mode_cls_token": CLS, "pooling_mode_lasttoken": LAST}
    return next((pooling for key, pooling in keys.items() if config.get(key) is True), "")


def check_pooling(pooling: str) -> str:
    """ConfigError for one that is none."""
    if pooling not in POOLINGS:
        raise ConfigError(f"a pooling of {pooling[:40]!r}", ", ".join(POOLINGS))
    return pooling


def check_causal(checkpoint: Checkpoint) -> None:
    """UnsupportedError for a model whose tokens attend to those behind them, which its embeddings would lack."""
    if checkpoint.metadata.get(f"{checkpoint.architecture}.attention.causal") is False:
        found = f"embeddings of {checkpoint.architecture}, whose tokens attend to those behind them"
        raise UnsupportedError(found, "a model that is read in one direction")
