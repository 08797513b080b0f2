"""StableLM (2 1.6B, Zephyr 3B): Llama with layer norms, of whose heads a quarter is rotated."""

from __future__ import annotations

from memfirst.graph import Graph
from memfirst.models import decoder, starcoder2, windows
from memfirst.models.base import WeightProvider
from memfirst.models.builder import Builder
from memfirst.models.decoder import Config, Family
from memfirst.models.reader import ConfigReader, Keys
from memfirst.models.rope import Defaults

FAMILY = Family(
    "stablelm", windows.unused, Defaults(partial=0.25), eps=("layer_norm_eps", 1e-5),
    biases=("use_qkv_bias", False, False),
)  # fmt: skip
KEYS: Keys = decoder.LAYER_NORM_KEYS | {"use_parallel_residual": "use_parallel_residual"}


def read(r: ConfigReader) -> Config:
    """The sizes with one residual for each half; the 12B's parallel ones and their norms of q and k are refused."""
    r.only("use_parallel_residual", (False,))
    r.only("qk_layernorm", (False,))
    return decoder.read(r, FAMILY)


def layer(b: Builder, i: int, x: str, c: Config) -> str:
    """Llama's, with layer norms."""
    at = f"blk.{i}"
    y = b.attention(f"{at}.attn", b.layer_norm(f"{at}.attn_norm", x), c.heads[i])
    x = b.residual(f"{at}.attn_residual", x, y)
    y = b.swiglu(f"{at}.ffn", b.layer_norm(f"{at}.ffn_norm", x), c.intermediate_size[i])
    return b.residual(f"{at}.ffn_residual", x, y)


def build(c: Config, w: WeightProvider) -> Graph:
    """The model's operations in order."""
    return decoder.build(c, w, layer, starcoder2.last_norm)


ARCHITECTURE = decoder.architecture("stablelm", read, build, KEYS)
