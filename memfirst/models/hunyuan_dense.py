"""Hunyuan (V1, dense) is Llama with a norm on each head's q and k after they are rotated, and a theta that is stretched
by a fixed factor.
"""

from __future__ import annotations

from memfirst.models import decoder, llama, windows
from memfirst.models.builder import HEAD
from memfirst.models.decoder import Config, Family
from memfirst.models.reader import ConfigReader

FAMILY = Family("hunyuan-dense", windows.unused, grouped=False, eps=("rms_norm_eps", 1e-5))
PLAIN = {"use_qk_norm": (True,), "use_cla": (False,), "norm_type": ("rms",), "use_rotary_pos_emb": (True,)}
"""Keys of its own files, and what its published models have there."""
UNUSED = (
    *("add_classification_head", "class_num", "dense_list", "cla_share_factor", "pool_type", "enable_lm_head_fp32"),
    *("im_end_id", "im_newline_id", "im_start_id", "mask_init_id", "pad_id", "sep_token_id", "org_vocab_size"),
    *("text_end_id", "text_start_id"),
)
"""Keys of other tasks, and ids."""


def read(r: ConfigReader, family: Family = FAMILY) -> Config:
    """The norms' place; keys that other Hunyuan models use."""
    for key, allowed in PLAIN.items():
        r.only(key, allowed)
    for key in UNUSED:
        r.raw(key)
    c = decoder.read(r, family).attention(qk_norm=HEAD, norm_after=True)
    r.only("attention_head_dim", (c.heads[0].head_dim,))
    return c


ARCHITECTURE = decoder.architecture("hunyuan-dense", read, llama.build)
