"""Gemma 2 is Llama with a norm after attention and feed-forward too, a scaled embedding, softcaps, and a window
of 4096 positions on every other layer (arXiv:2408.00118).

Its norms multiply by 1 + weight; in GGUF, and as a folder is read here, the 1 is in the weight.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from math import sqrt

from memfirst.graph import Op
from memfirst.models import decoder, llama, windows
from memfirst.models.base import Architecture
from memfirst.models.decoder import Config, Layers
from memfirst.models.reader import ConfigReader

FAMILY = decoder.Family("gemma2", activation="gelu", tied=True, grouped=True)
DEEPEST, PERIOD = 46, 2
"""Layers of the 27B, the one size whose scores are scaled by hidden_size / heads; every other layer is local."""


@dataclass(frozen=True)
class PostNormLayers(Layers):
    """What attention and feed-forward give is normalised before it is added."""

    def added(self, at: str, x: str, y: str) -> list[Op]:
        layer, half = at.rsplit(".", 1)
        post = f"{layer}.post_{'attention' if half == 'attn' else 'ffw'}_norm"
        return [self.norm(post, y), *super().added(at, x, post)]


def own_hf(r: ConfigReader, c: Config) -> Config:
    """Softcaps (null: none), the scale of the scores and the windows."""
    r.only("use_bidirectional_attention", (False,))
    return windows.patterned(r, scaled(c, r.number("query_pre_attn_scalar"), *softcaps(r)), PERIOD)


def own_gguf(r: ConfigReader, c: Config) -> Config:
    """The same keys; the scale of the scores goes by the size, as llama.cpp has it."""
    return windows.gguf(r, scaled(c, queries(c, DEEPEST), *softcaps(r)), PERIOD)


def softcaps(r: ConfigReader) -> tuple[float, float]:
    """(of the scores, of the logits); absent or null: none."""
    scores, logits = (f"{of}_logit_softcapping" for of in ("attn", "final"))
    return _or_none(r, scores), _or_none(r, logits)


def _or_none(r: ConfigReader, key: str) -> float:
    return r.single(key) if r.raw(key) is not None else 0.0


def queries(c: Config, deepest: int) -> float:
    """`query_pre_attn_scalar` of the published sizes: head_dim, in the deepest hidden_size / heads."""
    return c.hidden_size // c.num_attention_heads if c.num_hidden_layers == deepest else c.head_dim


def scaled(c: Config, queries: float, scores: float = 0.0, logits: float = 0.0) -> Config:
    """Gemma's scales: the embedding by sqrt(hidden_size), scores by 1 / sqrt(queries), and softcaps."""
    return replace(
        c, embedding_multiplier=sqrt(c.hidden_size), attention_multiplier=1 / sqrt(queries),
        attn_logit_softcapping=scores, final_logit_softcapping=logits,
    )  # fmt: skip


build = partial(decoder.build, layers=PostNormLayers)
GGUF = partial(llama.from_gguf, family=FAMILY, own=own_gguf)
HF = partial(llama.from_hf, family=FAMILY, own=own_hf)
ARCHITECTURE = Architecture("gemma2", GGUF, HF, build)
