"""GLM-4.5, 4.6, 4.7 and GLM-4.5-Air: Llama with half of each head rotated, and DeepSeek-V3's experts behind a few
dense layers (arXiv:2508.06471). Only the large ones normalize q and k.
"""

from __future__ import annotations

from dataclasses import replace

from memfirst.graph import Graph
from memfirst.models import decoder, experts, llama, windows
from memfirst.models.base import WeightProvider
from memfirst.models.builder import HEAD, Builder
from memfirst.models.decoder import Config, Family
from memfirst.models.experts import SIGMOID
from memfirst.models.reader import ConfigReader, Keys
from memfirst.models.rope import Defaults

FAMILY = Family(
    "glm4moe", windows.unused, Defaults(partial=0.5), eps=("rms_norm_eps", 1e-5), predicting=True,
    biases=("attention_bias", False, False),
)  # fmt: skip
KEYS: Keys = (
    decoder.KEYS | experts.KEYS | {experts.ROUTED: "expert_count", "num_nextn_predict_layers": "nextn_predict_layers"}
)


def read(r: ConfigReader) -> Config:
    """Whether q and k are normalized, and the experts."""
    c = decoder.read(r, FAMILY)
    if not r.gguf:
        r.require("attention_bias", "use_qk_norm", "n_shared_experts", "first_k_dense_replace", "norm_topk_prob")
    normed = "blk.0.attn_q_norm.weight" in r.tensors if r.gguf else r.flag("use_qk_norm")
    return replace(c.attention(qk_norm=HEAD) if normed else c, moe=experts.read_corrected(r, (SIGMOID,)))


def layer(b: Builder, i: int, x: str, c: Config) -> str:
    """Llama's; the feed-forward's norm is called after what it follows."""
    at = f"blk.{i}"
    y = b.attention(f"{at}.attn", b.rms_norm(f"{at}.attn_norm", x), c.heads[i])
    x = b.residual(f"{at}.attn_residual", x, y)
    y = llama.feed_forward(b, i, b.rms_norm(f"{at}.post_attention_norm", x), c)
    return b.residual(f"{at}.ffn_residual", x, y)


def build(c: Config, w: WeightProvider) -> Graph:
    """The model's operations in order."""
    return decoder.build(c, w, layer)


ARCHITECTURE = decoder.architecture("glm4moe", read, build, KEYS)
