"""dots.llm1 is Qwen3 with DeepSeek-V3's experts behind a dense layer: picked by corrected sigmoids, from no groups,
beside shared ones (arXiv:2506.05767).
"""

from __future__ import annotations

from dataclasses import replace

from memfirst.models import decoder, experts, llama, windows
from memfirst.models.builder import HEAD
from memfirst.models.decoder import Config, Family
from memfirst.models.experts import SIGMOID
from memfirst.models.reader import ConfigReader, Keys

FAMILY = Family("dots1", windows.unused, biases=("attention_bias", False, False))
KEYS: Keys = decoder.KEYS | experts.KEYS | {experts.ROUTED: "expert_count"}


def read(r: ConfigReader) -> Config:
    """Heads are normalized; no published model has a window. Its config.json has `topk_method`'s name for picking as
    `scoring_func`, too: sigmoids."""
    c = decoder.read(r, FAMILY)
    if not r.gguf:
        r.require("n_shared_experts", "first_k_dense_replace", "norm_topk_prob", "routed_scaling_factor")
    r.only("moe_layer_freq", (1,))
    return replace(c.attention(qk_norm=HEAD), moe=experts.read_corrected(r, (experts.CORRECTED, SIGMOID)))


ARCHITECTURE = decoder.architecture("dots1", read, llama.build, KEYS)
