"""What a loaded model is, in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from memfirst.cli.display import printable

if TYPE_CHECKING:
    from memfirst import Model

LONGEST = 80


@dataclass(frozen=True)
class About:
    """Name, architecture, weights, and the codec that most of their bytes are in."""

    name: str
    architecture: str
    weights: int
    codec: str
    license: str


def about(model: Model) -> About:
    """From its files; what they say of themselves is cut and cannot steer a terminal."""
    checkpoint = model.checkpoint
    infos = list(checkpoint.tensors.values())
    bytes_of: dict[str, int] = {}
    for info in infos:
        bytes_of[info.codec] = bytes_of.get(info.codec, 0) + info.nbytes
    return About(
        name=_text(checkpoint.metadata.get("general.name")) or Path(checkpoint.path).stem or checkpoint.architecture,
        architecture=checkpoint.architecture,
        weights=sum(math.prod(info.shape) for info in infos),
        codec=max(bytes_of, key=lambda codec: bytes_of[codec], default="no codec"),
        license=_text(checkpoint.metadata.get("general.license")),
    )


def _text(found: object) -> str:
    return printable(" ".join(found.split()))[:LONGEST] if isinstance(found, str) else ""
