"""OLMo 2 and 3: attention and feed-forward read the residual itself, and what they give is normalized before it is
added (arXiv:2501.00656); q and k are normalized over the whole row. OLMo 3 has a window in three of four layers, which
no scaling stretches; in GGUF it calls itself olmo2.
"""

from __future__ import annotations

from memfirst.graph import Graph
from memfirst.models import decoder, windows
from memfirst.models.base import WeightProvider
from memfirst.models.builder import ROW, Builder
from memfirst.models.decoder import Config, Family
from memfirst.models.reader import ConfigReader
from memfirst.models.rope import Defaults

PERIOD = 4
FAMILY = Family("olmo2", windows.by_period(PERIOD, optional=True), grouped=False, eps=("rms_norm_eps", 1e-5))
THIRD = Family(
    "olmo2", windows.by_period(PERIOD, optional=True), Defaults(theta=500_000.0), grouped=False,
    eps=("rms_norm_eps", 1e-5),
)  # fmt: skip
"""OLMo 3, whose class has another theta where config.json states none."""


def read(r: ConfigReader) -> Config:
    """The windows (OLMo 2: none) and what layers with one rotate by."""
    third = not r.gguf and r.raw("model_type") == "olmo3"
    c = decoder.read(r, THIRD if third else FAMILY).attention(qk_norm=ROW)
    return decoder.rotated_in_windows(r, c)


def layer(b: Builder, i: int, x: str, c: Config) -> str:
    """Norms after attention and feed-forward only."""
    at = f"blk.{i}"
    y = b.attention(f"{at}.attn", x, c.heads[i])
    x = b.residual(f"{at}.attn_residual", x, b.rms_norm(f"{at}.post_attention_norm", y))
    y = b.swiglu(f"{at}.ffn", x, c.intermediate_size[i], bias=c.mlp_bias)
    return b.residual(f"{at}.ffn_residual", x, b.rms_norm(f"{at}.post_ffw_norm", y))


def build(c: Config, w: WeightProvider) -> Graph:
    """The model's operations in order."""
    return decoder.build(c, w, layer)


ARCHITECTURE = decoder.architecture("olmo2", read, build)
