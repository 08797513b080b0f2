"""Gemma 3 is Gemma 2 with norms on q and k, five local layers to a global one, a theta for each, and no softcaps.

From 4B on config.json wraps the text model in `text_config`, which leaves out what all sizes share; only the
text model is built and priced. There its embedding has 262,208 rows, in GGUF the 262,144 that are tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from memfirst.errors import ConfigError, UnsupportedError
from memfirst.models import decoder, gemma2, llama, windows
from memfirst.models.base import Architecture
from memfirst.models.decoder import Config
from memfirst.models.reader import ConfigReader

FAMILY = decoder.Family("gemma3", qk_norm=True, activation="gelu", tied=True, grouped=True)
DEEPEST, PERIOD = 62, 6
GLOBAL_THETA, LOCAL_THETA = 1e6, 1e4

SHARED: Mapping[str, Any] = {
    "vocab_size": 262_208, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
    "max_position_embeddings": 131_072, "rms_norm_eps": 1e-6, "query_pre_attn_scalar": 256,
}  # fmt: skip
"""What the published `text_config`s leave out: Gemma 3 4B's values (transformers' Gemma3TextConfig)."""

WRAPPER = frozenset(
    (
        *("architectures", "model_type", "transformers_version", "dtype", "torch_dtype", "initializer_range"),
        *("boi_token_index", "eoi_token_index", "image_token_index", "mm_tokens_per_image", "vision_config"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "text_config", "_attn_implementation_autoset"),
        *("boi_token_id", "eoi_token_id", "image_token_id", "tie_word_embeddings"),
    )
)
"""Keys beside `text_config`: of the vision tower, which decoding text does not read, and of other engines."""


def from_hf(config: Mapping[str, Any], allow_unknown: bool = False) -> Config:
    """Read a config.json, wrapped or not."""
    text = config.get("text_config")
    if text is None:
        return llama.from_hf(_with_thetas(config), allow_unknown, FAMILY, own_hf)
    if not isinstance(text, Mapping):
        raise ConfigError(f"text_config is {str(text)[:60]!r}", "an object")
    outer = ConfigReader(config)
    outer.check_unknown(WRAPPER, allow_unknown)
    inner = dict(SHARED) | {key: value for key, value in text.items() if value is not None}
    tied = outer.flag("tie_word_embeddings", default=True)
    return llama.from_hf(_with_thetas({"tie_word_embeddings": tied} | inner), allow_unknown, FAMILY, own_hf)


def _with_thetas(config: Mapping[str, Any]) -> dict[str, Any]:
    """One form of the two: `rope_theta` and `rope_local_base_freq`, or `rope_parameters` by kind of layer."""
    flat = {"rope_theta": GLOBAL_THETA, "rope_local_base_freq": LOCAL_THETA} | dict(config)
    kinds = flat.pop("rope_parameters", None)
    if kinds is None:
        return flat
    if not isinstance(kinds, Mapping) or not all(isinstance(v, Mapping) for v in kinds.values()):
        raise ConfigError(f"rope_parameters is {str(kinds)[:60]!r}", "an object for each kind of layer")
    ConfigReader(kinds).check_unknown((windows.FULL, windows.LOCAL), allow_unknown=False)
    local = ConfigReader(kinds.get(windows.LOCAL, {}))
    local.only("rope_type", ("default",))
    flat["rope_local_base_freq"] = local.raw("rope_theta", flat["rope_local_base_freq"])
    local.check_unknown((), allow_unknown=False)
    return flat | {"rope_parameters": dict(kinds.get(windows.FULL, {}))}


def own_hf(r: ConfigReader, c: Config) -> Config:
    """The scale of the scores, the softcap of the logits (null so far), the windows and their theta."""
    r.only("use_bidirectional_attention", (False,))
    local = r.single("rope_local_base_freq", low=1.0)
    return _local(r, windows.patterned(r, c, PERIOD), r.number("query_pre_attn_scalar"), local)


def own_gguf(r: ConfigReader, c: Config) -> Config:
    """The same; the scale of the scores goes by the size, as llama.cpp has it."""
    local = r.single("rope.freq_base_swa", LOCAL_THETA, low=1.0)
    return _local(r, windows.gguf(r, c, PERIOD), gemma2.queries(c, DEEPEST), local)


def _local(r: ConfigReader, c: Config, queries: float, theta: float) -> Config:
    scores, logits = gemma2.softcaps(r)
    if scores:
        raise UnsupportedError(f"attn_logit_softcapping is {scores}", "none, in Gemma 3")
    return replace(gemma2.scaled(c, queries, logits=logits), rope_local_base_freq=theta)


GGUF = partial(llama.from_gguf, family=FAMILY, own=own_gguf)
ARCHITECTURE = Architecture("gemma3", GGUF, from_hf, gemma2.build)
