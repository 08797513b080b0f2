"""Options that several commands share, each with its help text."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

MODEL_HELP = "A path, a name (smollm2:135m; `memfirst list --catalogue`) or owner/repo[:QUANT] of the hub."

Model = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP, show_default=False)]


def tokens(text: str | int) -> int:
    """`16k` is 16 · 1024 tokens."""
    word = str(text).strip()
    digits, scale = (word[:-1], 1024) if word[-1:].lower() == "k" else (word, 1)
    if not digits.isdecimal() or len(digits) > 9:
        raise typer.BadParameter(f"{word[:20]!r} is no number of tokens: give one as in 4096 or 32k")
    return int(digits) * scale


def memory_bytes(text: str | int) -> int:
    """`500M` and `4G` are decimal, `4GiB` is binary."""
    scales = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}
    word = str(text).strip().lower()
    unit = word.lstrip("0123456789.")
    number, unit = word[: len(word) - len(unit)], unit.strip().removesuffix("b")
    if unit not in scales or not number.replace(".", "", 1).isdecimal() or len(number) > 20:
        raise typer.BadParameter(f"{str(text)[:20]!r} is no number of bytes: give one as in 500M, 4G or 4GiB")
    return int(float(number) * scales[unit])


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else there.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print the answer alone: no progress, notes or figures.")]
Offline = Annotated[bool, typer.Option("--offline", help="Use the cache only; touch no network.")]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        metavar="N",
        min=1,
        help="Worker threads. Exact: any number gives the same answer.",
        show_default="physical cores",
    ),
]


def memory_limit(text: str | int) -> int | Literal["auto"]:
    """Bytes, or "auto"."""
    return "auto" if str(text).strip().lower() == "auto" else memory_bytes(text)


Memory = Annotated[
    Any,
    typer.Option(
        "--memory",
        metavar="BYTES|auto",
        parser=memory_limit,
        help="Memory to use at most; weights beyond it stay on disk (4G, 4GiB; auto: what is free). Exact, slower.",
        show_default="all weights in memory",
    ),
]
Kv = Annotated[
    str,
    typer.Option(
        "--kv",
        metavar="CODEC",
        help="KV cache codec, or K/V apart: f16, q8_0, q4_0, f32, q8_0/q4_0. Quantized ones are lossy.",
    ),
]
Speculate = Annotated[
    str,
    typer.Option(
        "--speculate",
        metavar="auto|off",
        help="Check tokens that the text suggests several to a step. Exact: the same answer in fewer steps.",
    ),
]
Draft = Annotated[
    str | None,
    typer.Option(
        "--draft",
        metavar="MODEL",
        help="Let a small model of the same vocabulary propose tokens. Exact: the same answer in fewer steps.",
        show_default=False,
    ),
]
Pack = Annotated[
    str,
    typer.Option(
        "--pack",
        metavar="auto|plain",
        help="BF16 weights in memory: in 12 bits (auto: exact, a quarter smaller, faster alone), or as in the file.",
    ),
]
Head = Annotated[
    str,
    typer.Option(
        "--head",
        metavar="auto|full",
        help="Greedy answers read a sketch of the output head and few of its rows (auto: exact, more memory), or all.",
    ),
]
Split = Annotated[
    str,
    typer.Option(
        "--split", metavar="tensor|pipeline", show_default="one process has all of it",
        help="Of the processes that mpiexec -n N started, each runs a part: of every matrix, or of the layers. Exact.",
    ),
]  # fmt: skip
Ctx = Annotated[
    int | None,
    typer.Option(
        "--ctx",
        metavar="N",
        parser=tokens,
        help="Context size in tokens (4096, 32k).",
        show_default="8192, or what the model was trained for if less",
    ),
]
