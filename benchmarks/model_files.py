"""The synthetic 1B Llama as GGUF files that every engine reads; each is written once.

    python -m benchmarks.peers $(python -m benchmarks.model_files FOLDER) --threads 2 --decode 128 --prefill 256

Prints their paths. 2048 wide, 16 layers, 32 query and 8 key/value heads, 8192 in the feed-forward, 49,152 tokens, tied.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from memfirst.convert.synthetic import synthetic, write
from memfirst.errors import MemfirstError

SHAPE = "llama-1b"
CODECS = ("q4_0", "q4_k_m", "q8_0")


def write_once(folder: Path, shape: str, codecs: Sequence[str]) -> list[Path]:
    """Paths of the models, in order; one that has its final name is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{shape}.{codec}.gguf" for codec in codecs]
    for path, codec in zip(paths, codecs, strict=True):
        if not path.exists():
            part = path.with_name(path.name + ".part")
            write(synthetic(shape, codec), part)
            os.replace(part, path)
    return paths


def main(arguments: list[str] | None = None) -> int:
    """Write what is missing, print all paths."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.model_files", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("codecs", nargs="*", default=CODECS, help="mixes, such as q4_k_m")
    parser.add_argument("--shape", default=SHAPE)
    chosen = parser.parse_args(arguments)
    try:
        paths = write_once(chosen.folder, chosen.shape, chosen.codecs)
    except (MemfirstError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(*paths, sep="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
