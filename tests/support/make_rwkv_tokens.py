"""Makes tests/data/rwkv_tokens.json: ids of the hard strings by RWKV's own tokenizer, and the tokens that decide them.

    python -m tests.support.make_rwkv_tokens FOLDER

FOLDER holds `rwkv_tokenizer.py` and `rwkv_vocab_v20230424.txt`, as the package `rwkv` has them (Apache 2.0). A text
becomes the same tokens of its vocabulary as of those that are parts of it, so only these are kept, of a megabyte.
"""

from __future__ import annotations

import json
import sys
from ast import literal_eval
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.support.hard_strings import hard_strings

FILE = Path(__file__).parent.parent / "data" / "rwkv_tokens.json"
COUNT, SEED = 400, 20
SIZE = 65536


def vocabulary(path: Path) -> dict[int, bytes]:
    """Tokens by id: a line is an id, a literal of text or bytes, and the number of bytes."""
    found: dict[int, bytes] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        id, literal = line[: line.rindex(" ")].split(" ", 1)
        token: Any = literal_eval(literal)
        found[int(id)] = token.encode() if isinstance(token, str) else token
    return found


def metadata() -> dict[str, Any]:
    """The fixture's vocabulary as llama.cpp's converter writes it; ids without a token are padding."""
    stored = json.loads(FILE.read_text(encoding="utf-8"))["tokens"]
    tokens = [stored.get(str(id), f"[PAD{id}]") for id in range(SIZE)]
    types = [1 if str(id) in stored else 5 for id in range(SIZE)]
    tokens[0], types[0] = "<s>", 3
    keys = {"model": "rwkv", "tokens": tokens, "token_type": types}
    keys |= {"bos_token_id": 0, "eos_token_id": 0, "eot_token_id": 261}
    return {f"tokenizer.ggml.{key}": value for key, value in keys.items()}


def main(folder: Path) -> None:
    strings, tokens = hard_strings(COUNT, SEED), vocabulary(folder / "rwkv_vocab_v20230424.txt")
    sys.path.insert(0, str(folder))
    tokenizer = import_module("rwkv_tokenizer").TRIE_TOKENIZER(str(folder / "rwkv_vocab_v20230424.txt"))
    text = "\0".join(strings).encode()
    kept = {id: repr(token)[2:-1] for id, token in tokens.items() if len(token) == 1 or token in text}
    ids = [tokenizer.encode(string) for string in strings]
    stored = {"count": COUNT, "seed": SEED, "tokens": kept, "ids": ids}
    FILE.write_text(json.dumps(stored, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
