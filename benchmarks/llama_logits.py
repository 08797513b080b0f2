"""Serve llama.cpp's tokens and logits over a pipe; run by the Python that has llama-cpp-python.

Requests are lines of JSON on standard input: {"text": ...} answers a line with the token ids,
{"tokens": [...]} (at most 512) answers n x vocabulary float32 values, raw, in the machine's order, and
{"tokens": [...], "greedy": n} a line with the n tokens that follow, each the likeliest.
Arguments: the model, threads, then field=int of the model's or context's parameters.
"""

from __future__ import annotations

import ctypes
import json
import sys

from llama_runner import BATCH, Peer  # type: ignore[import-not-found]  # beside this script


def tokenize(peer: Peer, text: str) -> list[int]:
    """Ids of plain text: no BOS, no special tokens parsed."""
    data = text.encode()
    ids = (ctypes.c_int32 * (len(data) + 8))()
    n = peer.api.llama_tokenize(peer.vocab, data, len(data), ids, len(ids), False, False)
    if n < 0:
        raise SystemExit(f"llama_tokenize returned {n}")
    return list(ids[:n])


def logits(peer: Peer, tokens: list[int]) -> bytes:
    """Rows in token order, each read through its index: a batch may be computed in another order."""
    peer.rewind(0)
    peer.decode(tokens, 0)
    row_bytes = 4 * peer.n_vocab
    rows = (peer.api.llama_get_logits_ith(peer.context, i) for i in range(len(tokens)))
    return b"".join(ctypes.string_at(row, row_bytes) for row in rows)


def greedy(peer: Peer, tokens: list[int], n: int) -> list[int]:
    """The n likeliest tokens that follow, one by one, the end token like any other."""
    peer.rewind(0)
    peer.decode(tokens, 0)
    found: list[int] = []
    for i in range(n):
        row = peer.api.llama_get_logits_ith(peer.context, len(tokens) - 1 if i == 0 else 0)
        found.append(max(range(peer.n_vocab), key=row.__getitem__))
        peer.decode(found[-1:], len(tokens) + i)
    return found


def main() -> None:
    """Say the vocabulary's size, then answer requests until the input ends."""
    model, threads, settings = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    peer = Peer("llama_cpp", model, threads, BATCH, *settings)
    peer.all_logits = True
    out = sys.stdout.buffer
    out.write(json.dumps({"n_vocab": peer.n_vocab}).encode() + b"\n")
    out.flush()
    for line in sys.stdin:
        request = json.loads(line)
        if "text" in request:
            out.write(json.dumps(tokenize(peer, request["text"])).encode() + b"\n")
        elif "greedy" in request:
            out.write(json.dumps(greedy(peer, request["tokens"], request["greedy"])).encode() + b"\n")
        else:
            out.write(logits(peer, request["tokens"]))
        out.flush()


if __name__ == "__main__":
    main()
