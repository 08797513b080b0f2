"""`memfirst inspect`: what is in a model file, and what of it a token reads."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memfirst.cli.options import Json, Model, Offline

if TYPE_CHECKING:
    from memfirst.formats.checkpoint import Checkpoint, TensorInfo

Tensors = Annotated[bool, typer.Option("--tensors", help="List every tensor too.")]


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


def inspect(model: Model, tensors: Tensors = False, offline: Offline = False, as_json: Json = False) -> None:
    """Show what is in a model file, and what a token reads of it.

    Tensors by group and by codec, bits per weight, bytes on disk, bytes read per token, hyperparameters.
    """
    from memfirst import hub
    from memfirst.cli.display import print_json, progress
    from memfirst.formats.open import open_checkpoint

    with progress(quiet=as_json) as report:
        path = hub.resolve(model, offline=offline, progress=report)
    checkpoint = open_checkpoint(path)
    try:
        facts = describe(checkpoint, tensors)
        if as_json:
            print_json(facts)
        else:
            print(page(facts))
    finally:
        checkpoint.close()


def describe(checkpoint: Checkpoint, tensors: bool = False) -> dict[str, Any]:
    """Everything that `inspect` says, as plain data; bytes are integers."""
    infos = list(checkpoint.tensors.values())
    total = shares(infos, lambda _: "all")
    per_token = bytes_read_per_token(checkpoint)
    facts: dict[str, Any] = {
        "path": checkpoint.path,
        "kind": checkpoint.kind,
        "architecture": checkpoint.architecture,
        "hyperparameters": hyperparameters(checkpoint.metadata),
        "weights": total[0].weights if total else 0,
        "tensor_bytes": total[0].nbytes if total else 0,
        "file_bytes": _bytes_on_disk(checkpoint.path),
        "bits_per_weight": total[0].bits_per_weight if total else 0.0,
        "bytes_read_per_token": {"weights": per_token, "context": 0},
        "by_group": [_share_dict(s) for s in shares(infos, group_of)],
        "by_codec": [_share_dict(s) for s in shares(infos, lambda t: t.codec)],
    }
    if tensors:
        facts["tensors"] = [_tensor_dict(t) for t in infos]
    return facts


def _share_dict(share: Share) -> dict[str, Any]:
    keys = ("name", "tensors", "weights", "nbytes", "codecs", "bits_per_weight")
    return {k: getattr(share, k) for k in keys}


def _tensor_dict(info: TensorInfo) -> dict[str, Any]:
    return {k: getattr(info, k) for k in ("name", "shape", "codec", "nbytes")}


def group_of(info: TensorInfo) -> str:
    """What a tensor is for, by its GGUF name."""
    name = info.name.removesuffix(".weight").removesuffix(".bias").rpartition(".")[2]
    if info.name in ("token_embd.weight", "output.weight"):
        return {"token_embd.weight": "embedding", "output.weight": "head"}[info.name]
    if name.endswith("norm"):
        return "norms"
    if "_exps" in name:
        return "experts"
    prefixes = {"attn": "attention", "ffn": "feed-forward", "ssm": "state"}
    return prefixes.get(name.partition("_")[0], "other")


def shares(infos: Iterable[TensorInfo], key: Any) -> list[Share]:
    """Tensors summed by `key(tensor)`, the most bytes first."""
    groups: dict[str, list[TensorInfo]] = {}
    for info in infos:
        groups.setdefault(key(info), []).append(info)
    found = [_share(name, ts) for name, ts in groups.items()]
    return sorted(found, key=lambda s: (-s.nbytes, s.name))


def _share(name: str, infos: list[TensorInfo]) -> Share:
    weights, nbytes = sum(math.prod(t.shape) for t in infos), sum(t.nbytes for t in infos)
    return Share(name, len(infos), weights, nbytes, tuple(sorted({t.codec for t in infos})))


def bytes_read_per_token(checkpoint: Checkpoint) -> int:
    """Weight bytes that one decoded token reads, from the tensor table alone (design rules 1, 2 and 3).

    The input embedding counts one row; where it is tied (no `output.weight`) the head reads
    all of it besides. Of the experts, the routed share. An architecture that runs is priced by its Program
    instead; this is what can be said of every file.
    """
    read = 0.0
    for info in checkpoint.tensors.values():
        share = 1.0
        if info.name == "token_embd.weight":
            row = 1 / max(info.shape[0], 1)
            share = row if "output.weight" in checkpoint.tensors else 1 + row
        elif "_exps" in info.name:
            share = _routed_share(checkpoint.metadata, checkpoint.architecture)
        read += share * info.nbytes
    return round(read)


def _routed_share(metadata: Mapping[str, Any], architecture: str) -> float:
    """Experts used by a token ÷ experts, from the metadata; 1 where it does not say."""
    used = metadata.get(f"{architecture}.expert_used_count") or metadata.get("num_experts_per_tok")
    count = metadata.get(f"{architecture}.expert_count") or metadata.get("num_experts")
    return used / count if isinstance(used, int) and isinstance(count, int) and 0 < used <= count else 1.0


def hyperparameters(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata that is short enough to read: no vocabularies, merges or templates."""
    plain = (str, int, float, bool)
    short = {k: v for k, v in metadata.items() if isinstance(v, plain) and len(str(v)) <= 100}
    lengths = {
        f"{k}.length": len(v) for k, v in metadata.items() if hasattr(v, "__len__") and not isinstance(v, str)
    }
    return short | {k: n for k, n in lengths.items() if k.startswith("tokenizer")}


def _bytes_on_disk(path: str) -> int:
    """Bytes of the model's files: the file itself, all parts of a split one, or a folder's weights."""
    from pathlib import Path

    p = Path(path)
    if p.is_dir():
        return sum(f.stat().st_size for f in p.glob("*.safetensors"))
    if p.suffix == ".gguf" and "-of-" in p.stem:
        stem, _, rest = p.name.rpartition("-of-")
        return sum(f.stat().st_size for f in p.parent.glob(f"{stem[:-5]}*-of-{rest}"))
    return p.stat().st_size if p.exists() else 0


def page(facts: Mapping[str, Any]) -> str:
    """The facts as text."""
    from memfirst.cli.display import printable, size, table

    per_token = facts["bytes_read_per_token"]["weights"]
    head = [
        ("model", f"{facts['path']} ({facts['kind']}, architecture {facts['architecture']})"),
        ("weights", f"{facts['weights']:,}, {facts['bits_per_weight']:.2f} bits each"),
        ("tensors", f"{size(facts['tensor_bytes'])} ({facts['tensor_bytes']:,} bytes)"),
        ("on disk", f"{size(facts['file_bytes'])} ({facts['file_bytes']:,} bytes)"),
        ("a token reads", f"{size(per_token)} of weights ({per_token:,} bytes), and its context"),
    ]
    parts = [table(head), _share_table("group", facts["by_group"]), _share_table("codec", facts["by_codec"])]
    parts.append(table([(k, str(v)) for k, v in facts["hyperparameters"].items()]))
    if "tensors" in facts:
        shape = [
            (t["name"], "×".join(map(str, t["shape"])), t["codec"], f"{t['nbytes']:,}")
            for t in facts["tensors"]
        ]
        parts.append(table([("tensor", "shape", "codec", "bytes"), *shape], numbers=[3]))
    return printable("\n\n".join(p for p in parts if p))


def _share_table(title: str, rows: list[dict[str, Any]]) -> str:
    from memfirst.cli.display import size, table

    def cells(r: dict[str, Any]) -> tuple[str, ...]:
        numbers = (str(r["tensors"]), f"{r['weights']:,}", size(r["nbytes"]), f"{r['bits_per_weight']:.2f}")
        return (str(r["name"]), *numbers, ", ".join(r["codecs"]))

    lines = [cells(r) for r in rows]
    return table(
        [(title, "tensors", "weights", "bytes", "bits/weight", "codecs"), *lines], numbers=[1, 2, 3, 4]
    )
