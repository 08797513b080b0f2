"""What a model file needs: someone who gives it weights by name, and who checks that all were taken."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from memfirst import codecs
from memfirst.errors import ConfigError, UnsupportedError
from memfirst.formats.checkpoint import Checkpoint
from memfirst.formats.names import hf_name
from memfirst.graph import Graph, Weight


class WeightProvider(Protocol):
    """Gives the weights that a model asks for."""

    def __call__(self, name: str, shape: tuple[int, ...]) -> Weight:
        """The weight of that name and shape; ConfigError where the file has another."""

    def has(self, name: str) -> bool:
        """Whether an optional tensor is there."""

    def values(self, name: str, count: int) -> tuple[float, ...]:
        """The numbers of a small f32 vector that becomes part of the graph itself, all above 0."""

    def leave(self, prefix: str) -> None:
        """Tensors under this prefix belong to the model, and no operation of a step uses them."""


class CheckpointWeights:
    """Weights of a file: each request is checked against its tensor table.

    header  the file may be a header alone, to be priced: numbers that become part of the graph are taken as 1
    """

    def __init__(self, checkpoint: Checkpoint, header: bool = False) -> None:
        self._checkpoint, self._header = checkpoint, header
        self._requested: set[str] = set()

    def __call__(self, name: str, shape: tuple[int, ...]) -> Weight:
        info = self._checkpoint.tensors.get(name)
        if info is None:
            raise ConfigError(f"the model has no tensor {self._called(name)}", f"one of shape {shape}")
        if info.shape != shape:
            raise ConfigError(f"tensor {self._called(name)} has shape {info.shape}", f"{shape}, as its config says")
        if len(shape) == 1 and info.codec != "f32":
            raise UnsupportedError(f"the vector {self._called(name)} is stored as {info.codec}", "f32")
        _check_blocks(name, info.codec, shape)
        self._requested.add(name)
        return Weight(name, shape, info.codec)

    def has(self, name: str) -> bool:
        return name in self._checkpoint.tensors

    def _called(self, name: str) -> str:
        """A tensor as the model's own files call it."""
        return hf_name(self._checkpoint.architecture, name) if self._checkpoint.kind == "hf" else name

    def values(self, name: str, count: int) -> tuple[float, ...]:
        self(name, (count,))
        if self._header:
            return (1.0,) * count
        found = np.array(self._checkpoint.read(name)).view(np.float32)
        if not (np.isfinite(found).all() and (found > 0).all()):
            raise ConfigError(f"tensor {name} holds values below or at 0", "positive numbers")
        return tuple(float(v) for v in found)

    def leave(self, prefix: str) -> None:
        self._requested |= {name for name in self._checkpoint.tensors if name.startswith(prefix)}

    def check_all_requested(self) -> None:
        """ConfigError naming tensors of the file that the model did not ask for; one of no elements asks nothing."""
        rest = [n for n, t in self._checkpoint.tensors.items() if n not in self._requested and t.nbytes]
        rest = sorted(self._called(n) for n in rest)
        if rest:
            raise ConfigError(
                f"{len(rest)} tensors not part of this model: {', '.join(rest[:5])}",
                "only tensors that its architecture and config call for",
            )


class ShapeOnly:
    """Invents weights of any shape: to price a model without its file.

    codec  one for all matrices (vectors stay f32), or a function of (name, shape)
    """

    def __init__(self, codec: str | Callable[[str, tuple[int, ...]], str]) -> None:
        self._codec = codec

    def __call__(self, name: str, shape: tuple[int, ...]) -> Weight:
        matrix = len(shape) > 1
        codec = self._codec(name, shape) if callable(self._codec) else self._codec if matrix else "f32"
        _check_blocks(name, codec, shape)
        return Weight(name, shape, codec)

    def has(self, name: str) -> bool:
        return False

    def values(self, name: str, count: int) -> tuple[float, ...]:
        raise ConfigError(f"tensor {name} has no values without a file")

    def leave(self, prefix: str) -> None:
        pass


def _check_blocks(name: str, codec: str, shape: tuple[int, ...]) -> None:
    kind = codecs.sized(codec)
    if shape[-1] % kind.block:
        raise ConfigError(f"rows of {name} have {shape[-1]} weights", f"whole {codec} blocks of {kind.block}")


C = TypeVar("C")


@dataclass(frozen=True)
class Architecture(Generic[C]):
    """One entry of the registry.

    from_gguf  (metadata, tensor names, allow_unknown) -> its Config
    from_hf    (config.json, allow_unknown) -> its Config
    build      (Config, weights) -> Graph
    keys       of hyperparameters, by their names in config.json their names in GGUF; empty: both are read apart
    to_gguf    Config -> those keys, where `keys` do not say, and the shapes of tensors that other loaders ask for
    """

    name: str
    from_gguf: Callable[[Mapping[str, Any], Container[str], bool], C]
    from_hf: Callable[[Mapping[str, Any], bool], C]
    build: Callable[[C, WeightProvider], Graph]
    keys: Mapping[str, str] = field(default_factory=dict)
    to_gguf: Callable[[C], tuple[Mapping[str, Any], Mapping[str, tuple[int, ...]]]] | None = None
