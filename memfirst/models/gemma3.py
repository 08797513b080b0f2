"""Gemma 3 is Gemma 2 with norms on q and k, five local layers to a global one, a theta for each, and no softcaps.

From 4B on config.json wraps the text model in `text_config`, which leaves out what all sizes share; only the
text model is built and priced. There its embedding has 262,208 rows, in GGUF the 262,144 that are tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memfirst.errors import UnsupportedError
from memfirst.models import decoder, gemma2, windows
from memfirst.models.builder import HEAD
from memfirst.models.decoder import Config, Family
from memfirst.models.reader import ConfigReader
from memfirst.models.rope import Defaults

DEEPEST, PERIOD = 62, 6
GLOBAL_THETA, LOCAL_THETA = 1e6, 1e4
FAMILY = Family(
    "gemma3", windows.by_period(PERIOD), Defaults(theta=GLOBAL_THETA), activation="gelu", tied=True
)  # fmt: skip

SHARED: Mapping[str, Any] = {
    "vocab_size": 262_208, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
    "max_position_embeddings": 131_072, "rms_norm_eps": 1e-6, "query_pre_attn_scalar": 256,
}  # fmt: skip
"""What the published `text_config`s leave out: Gemma 3 4B's values (transformers' Gemma3TextConfig)."""


def read(r: ConfigReader) -> Config:
    """The scales, the softcap of the logits (null so far), the windows and their theta."""
    r.only("use_bidirectional_attention", (False,))
    c = gemma2.scaled(r, decoder.read(r, FAMILY), DEEPEST).attention(qk_norm=HEAD)
    if scores := gemma2.softcap(r, "attn_logit_softcapping"):
        raise UnsupportedError(f"attn_logit_softcapping is {scores}", "none, in Gemma 3")
    return decoder.rotated_in_windows(r, c, LOCAL_THETA)


ARCHITECTURE = decoder.architecture("gemma3", read, gemma2.build, gemma2.KEYS, SHARED)
