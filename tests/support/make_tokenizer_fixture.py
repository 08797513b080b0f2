"""Makes tests/data/tokenizer_*.json: two small vocabularies, and llama.cpp's ids for the hard strings.

    python -m tests.support.make_tokenizer_fixture [--vocabulary] [--model SMOLLM2.gguf]

Needs llama-cpp-python, regex and gguf. `--vocabulary` trains the vocabularies again: all ids change then.

llama.cpp is the oracle, except for APPROXIMATED: there it runs a simplified pattern (ASCII case or digits instead of
Unicode's, words of mixed case or text before digits in one piece), and BPE as it is defined, over the models' own
patterns, is the oracle.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from memfirst.text.merges import ScoredMerges
from memfirst.text.pretokenizers import TABLE
from tests.support.hard_strings import SPECIALS, hard_strings
from tests.support.slow_bpe import slow_bpe_ids

DATA = Path(__file__).parent.parent / "data"
COUNT, SEED, SHOWN = 1000, 20, 40
CONTROLS = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|endoftext|>"]

APPROXIMATED = (
    "deepseek-coder", "deepseek-llm", "tekken", "gpt-4o", "llama4", "kanana2", "minimax-m2", "talkie", "tiny_aya",
    "cohere2moe", "youtu", "kimi-k2", "granite-embed-multi-97m", "superbpe", "afmoe",
)  # fmt: skip


def digest(ids: list[list[int]]) -> str:
    """SHA-256 of all ids, as JSON."""
    return hashlib.sha256(json.dumps(ids).encode()).hexdigest()


def metadata(kind: str, pre: str = "") -> dict[str, Any]:
    """The vocabulary "bpe" or "spm" as GGUF metadata, with a pre-tokenizer's name."""
    found = json.loads((DATA / "tokenizer_vocab.json").read_text())[kind]
    types = [3 if i < len(CONTROLS) else 1 for i in range(len(found["tokens"]))]
    if kind == "spm":
        types = [6 if token.startswith("<0x") else type for token, type in zip(found["tokens"], types, strict=True)]
    types[0] = 2
    if kind == "bpe" and TABLE.get(pre, TABLE["default"]).characters:
        return _of_characters(pre)
    common = {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0, "tokens": found["tokens"]}
    own = {"model": "gpt2", "pre": pre, "merges": found.get("merges")}
    own = own if kind == "bpe" else {"model": "llama", "scores": found["scores"]}
    every = {**common, **own, "token_type": types, "add_bos_token": False}
    return {f"tokenizer.ggml.{key}": value for key, value in every.items()}


def _of_characters(pre: str) -> dict[str, Any]:
    """The SentencePiece vocabulary with listed merges, as Gemma 4 has."""
    fields = metadata("spm")
    tokens = fields["tokenizer.ggml.tokens"]
    ids = {token: id for id, token in enumerate(tokens)}
    scores = np.array(fields.pop("tokenizer.ggml.scores"), np.float32)
    fixed = frozenset(token for token in tokens if token in CONTROLS or token.startswith("<0x"))
    merges = [" ".join(pair) for pair in ScoredMerges(tokens, ids, scores, fixed).every()]
    model = {"model": "gemma4"} if pre == "gemma4" else {"model": "gpt2", "pre": pre}
    return {**fields, **{f"tokenizer.ggml.{key}": value for key, value in {**model, "merges": merges}.items()}}


def write_gguf(path: Path, fields: dict[str, Any]) -> None:
    """A GGUF file with that vocabulary and no weights."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    for key, number in {"context_length": 512, "embedding_length": 64, "block_count": 1}.items():
        writer.add_uint32(f"llama.{key}", number)
    writer.add_uint32("llama.feed_forward_length", 64)
    writer.add_uint32("llama.attention.head_count", 1)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    for key, value in fields.items():
        add = {bool: writer.add_bool, int: writer.add_uint32, str: writer.add_string, list: writer.add_array}
        add[type(value)](key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def llama_cpp_ids(path: Path, strings: list[str], special: bool = False) -> list[list[int]]:
    """What llama.cpp makes of the strings, control tokens as plain text unless `special`."""
    from llama_cpp import Llama

    model = Llama(str(path), vocab_only=True, verbose=False)
    return [model.tokenize(string.encode(), add_bos=False, special=special) for string in strings]


def reference(name: str, fields: dict[str, Any], strings: list[str]) -> dict[str, Any]:
    """Digests of the oracle's ids of the strings, and the first of them."""
    if name in APPROXIMATED:
        ids = slow_bpe_ids(fields, strings)
        return {"sha256": digest(ids), "shown": ids[:SHOWN]}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocab.gguf"
        write_gguf(path, fields)
        ids, special = llama_cpp_ids(path, strings), llama_cpp_ids(path, strings, special=True)
        return {"sha256": digest(ids), "shown": ids[:SHOWN], "special": digest(special)}


def train() -> dict[str, Any]:
    """Two vocabularies of merges across words, digits and spaces, so that only the cuts keep them apart."""
    texts = [text for text in hard_strings(6000, seed=99) if not any(special in text for special in SPECIALS)]
    return {"bpe": _train_bpe(texts), "spm": _train_spm(texts)}


def _train_bpe(texts: list[str]) -> dict[str, Any]:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=3000,
        special_tokens=CONTROLS,
        initial_alphabet=alphabet,
        max_token_length=12,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    model["merges"] = model["merges"][:-100]  # the last 100 tokens are words that no merge builds
    return {
        "tokens": sorted(model["vocab"], key=model["vocab"].get),
        "merges": [" ".join(m) for m in model["merges"]],
    }


def _train_spm(texts: list[str]) -> dict[str, Any]:
    """Pieces in the order of their merges, single characters last, as SentencePiece's BPE orders them."""
    from tokenizers import Tokenizer, models, trainers

    tokenizer = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(vocab_size=2500, limit_alphabet=250, max_token_length=10, show_progress=False)
    tokenizer.train_from_iterator((text.replace(" ", "▁").replace("\0", "") for text in texts), trainer)
    vocab = json.loads(tokenizer.to_str())["model"]["vocab"]
    pieces = sorted(vocab, key=lambda piece: (len(piece) == 1, vocab[piece]))
    fixed = CONTROLS + [f"<0x{byte:02X}>" for byte in range(256)]
    pieces = [piece for piece in pieces if piece not in fixed]
    scores = [0.0] * len(fixed) + [-float(rank) for rank in range(len(pieces))]
    return {"tokens": fixed + pieces, "scores": scores}


def main() -> None:
    """Write the vocabularies if asked, then the ids."""
    if "--vocabulary" in sys.argv or not (DATA / "tokenizer_vocab.json").exists():
        (DATA / "tokenizer_vocab.json").write_text(json.dumps(train(), ensure_ascii=False, separators=(",", ":")))
    strings = hard_strings(COUNT, SEED)
    bare = {**metadata("spm"), "tokenizer.ggml.add_space_prefix": False}
    kinds = {
        "spm": metadata("spm"),
        "spm without prefix": bare,
        **{pre: metadata("bpe", pre) for pre in sorted(TABLE)},
    }
    found = {name: reference(name, fields, strings) for name, fields in kinds.items()}
    if "--model" in sys.argv:  # the real SmolLM2-135M-Instruct
        ids = llama_cpp_ids(Path(sys.argv[sys.argv.index("--model") + 1]), strings)
        found["smollm2:135m"] = {"sha256": digest(ids), "shown": ids[:SHOWN]}
    (DATA / "tokenizer_ids.json").write_text(json.dumps({"count": COUNT, "seed": SEED, "ids": found}))


if __name__ == "__main__":
    main()
