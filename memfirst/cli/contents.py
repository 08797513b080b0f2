"""What `inspect` says of a checkpoint, as plain data."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from memfirst.errors import ConfigError, UnsupportedError
from memfirst.formats.checkpoint import Checkpoint, TensorInfo
from memfirst.formats.hf import text_alone
from memfirst.graph import Graph, decode
from memfirst.graph.traffic import KV_READ, STREAMED
from memfirst.ledger import price
from memfirst.lower import cpu
from memfirst.lower.program import Program
from memfirst.models import build
from memfirst.models.unknown import unknown
from memfirst.runtime.arguments import DEFAULT_CONTEXT

NOT_KNOWN: Mapping[str, Any] = {"bytes_per_token": {}, "bytes_per_token_of_context": None}


@dataclass(frozen=True)
class Share:
    """Some tensors together: how many, their weights, their bytes, the codecs among them."""

    name: str
    tensors: int
    weights: int
    nbytes: int
    codecs: tuple[str, ...]

    @property
    def bits_per_weight(self) -> float:
        """Bits per weight as stored, scales and padding included."""
        return 8 * self.nbytes / self.weights if self.weights else 0.0


def describe(checkpoint: Checkpoint, tensors: bool = False) -> dict[str, Any]:
    """Everything that `inspect` says; bytes are integers. A model that cannot be run is described too."""
    graph, program, why_not = _lowered(checkpoint)
    known = graph is not None
    runs = known and not why_not and checkpoint.has_bytes
    graph = graph or _by_tensors(checkpoint)
    infos = list(checkpoint.tensors.values()) or _from_graph(graph)
    total = next(iter(shares(infos, lambda _: "all")), Share("all", 0, 0, 0, ()))
    facts: dict[str, Any] = {
        "path": checkpoint.path,
        "kind": checkpoint.kind,
        "architecture": checkpoint.architecture,
        "runs": runs,
        "why_not": why_not if checkpoint.has_bytes or not known else "it has shapes, but no weights",
        "weights": total.weights,
        "bits_per_weight": total.bits_per_weight,
        "tensor_bytes": total.nbytes,
        "file_bytes": _bytes_on_disk(checkpoint.path),
        "left_out": text_alone(checkpoint),
        "estimated": not known,
        **(_price(program or graph) if graph else NOT_KNOWN),
        "unread": unread(checkpoint, graph if known else None),
        "by_group": [_as_dict(s) for s in shares(infos, group_of)],
        "by_codec": [_as_dict(s) for s in shares(infos, lambda t: t.codec)],
        "hyperparameters": hyperparameters(checkpoint.metadata),
    }
    return facts | ({"tensors": [asdict(t) for t in infos]} if tensors else {})


def unread(checkpoint: Checkpoint, graph: Graph | None) -> dict[str, int]:
    """Tensors of the file that no decoded token reads, by the first two parts of their names how many: layers that
    predict further tokens, most of all."""
    used = graph.weights() if graph else checkpoint.tensors
    return dict(Counter(".".join(name.split(".")[:2]) for name in checkpoint.tensors if name not in used))


def _lowered(checkpoint: Checkpoint) -> tuple[Graph | None, Program | None, str]:
    """The model's graph and its program, as far as there are, and why the cpu backend does not run it ("": it does)."""
    try:
        graph = build(checkpoint)
    except (UnsupportedError, ConfigError) as e:
        return None, None, str(e)
    try:
        return graph, cpu.lower(graph, 1, min(graph.context, DEFAULT_CONTEXT), 1), ""
    except UnsupportedError as e:
        return graph, None, str(e)


def _price(model: Graph | Program) -> dict[str, Any]:
    """Bytes that a token reads at an empty context, by purpose, and what each token of context adds."""
    first, second = (price(model, decode(past)).by_purpose() for past in (0, 1))
    read = {purpose: int(first[purpose]) for purpose in STREAMED if purpose in first}
    grows = int(second[KV_READ]) - int(first[KV_READ]) if KV_READ in first else 0
    return {"bytes_per_token": read, "bytes_per_token_of_context": grows}


def _by_tensors(checkpoint: Checkpoint) -> Graph | None:
    """Of a model that has no graph here, what its tensors tell; None where they tell too little."""
    try:
        return unknown(checkpoint).graph
    except (UnsupportedError, ConfigError):
        return None


def _from_graph(graph: Graph | None) -> list[TensorInfo]:
    """The tensors that a bare config implies."""
    stored = graph.weights().values() if graph else ()
    return [TensorInfo(w.name, w.shape, w.codec, w.nbytes) for w in stored]


def _as_dict(share: Share) -> dict[str, Any]:
    return asdict(share) | {"bits_per_weight": share.bits_per_weight}


def group_of(info: TensorInfo) -> str:
    """What a tensor is for, by its GGUF name."""
    if info.name in ("token_embd.weight", "output.weight"):
        return {"token_embd.weight": "embedding", "output.weight": "head"}[info.name]
    name = info.name.removesuffix(".weight").removesuffix(".bias").rpartition(".")[2]
    if ".nextn." in info.name:
        return "further tokens"
    if name.endswith(("norm", "norm_2")) or name == "time_mix_ln":
        return "norms"
    if "_exps" in name:
        return "experts"
    prefixes = {"attn": "attention", "ffn": "feed-forward", "ssm": "state", "time": "state", "channel": "feed-forward"}
    prefixes["exp"] = "experts"
    return "state" if ".shortconv." in info.name else prefixes.get(name.partition("_")[0], "other")


def shares(infos: Iterable[TensorInfo], key: Callable[[TensorInfo], str]) -> list[Share]:
    """Tensors summed by `key(tensor)`, the most bytes first."""
    groups: dict[str, list[TensorInfo]] = {}
    for info in infos:
        groups.setdefault(key(info), []).append(info)
    found = [_share(name, members) for name, members in groups.items()]
    return sorted(found, key=lambda s: (-s.nbytes, s.name))


def _share(name: str, infos: list[TensorInfo]) -> Share:
    weights, nbytes = sum(math.prod(t.shape) for t in infos), sum(t.nbytes for t in infos)
    return Share(name, len(infos), weights, nbytes, tuple(sorted({t.codec for t in infos})))


def hyperparameters(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata that is short enough to read: of vocabularies and merges only the length, no templates."""
    plain = (str, int, float, bool)
    short = {k: v for k, v in metadata.items() if isinstance(v, plain) and len(str(v)) <= 100}
    arrays = {k: v for k, v in metadata.items() if k.startswith("tokenizer.") and not isinstance(v, plain)}
    return short | {f"{k}.length": len(v) for k, v in arrays.items() if hasattr(v, "__len__")}


def _bytes_on_disk(path: str) -> int:
    """Bytes of the model's files: the file itself, all parts of a split one, or a folder's weights."""
    p = Path(path)
    if p.is_dir():
        return sum(f.stat().st_size for f in p.glob("*.safetensors"))
    if p.suffix == ".gguf" and "-of-" in p.stem:
        stem, _, rest = p.name.rpartition("-of-")
        same = [f for f in p.parent.iterdir() if f.name.startswith(stem[:-5]) and f.name.endswith(f"-of-{rest}")]
        return sum(f.stat().st_size for f in same)
    return p.stat().st_size if p.exists() else 0
