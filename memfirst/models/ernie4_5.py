"""ERNIE 4.5 (dense) is Llama whose files, of both forms, have adjacent values that rotate together."""

from __future__ import annotations

from memfirst.graph.ops.rope import INTERLEAVED
from memfirst.models import decoder, llama, windows
from memfirst.models.decoder import Config, Family
from memfirst.models.reader import ConfigReader
from memfirst.models.rope import Defaults

FAMILY = Family(
    "ernie4_5", windows.unused, Defaults(INTERLEAVED, theta=500_000.0), tied=True, eps=("rms_norm_eps", 1e-5),
    biases=("use_bias", "use_bias", "use_bias"),
)  # fmt: skip


def read(r: ConfigReader, family: Family = FAMILY) -> Config:
    """All as in Llama."""
    for key in ("compression_ratio", "weight_share_add_bias", "fuse_rms_norm", "use_rmsnorm", "ignored_index"):
        r.raw(key)  # of its own training framework
    return decoder.read(r, family)


ARCHITECTURE = decoder.architecture("ernie4_5", read, llama.build)
