"""Attention by its kernels, and by softmax in float64 of what they cached: around blocks, splits and registers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memfirst import codecs
from memfirst.graph import KVCache
from memfirst.kernels.cpu.sources import Key
from memfirst.lower.step_fields import BLOCK, SPLIT, attention_scratch
from tests.support.kernel_calls import call, key_of, zeros
from tests.support.slow_int8 import int8, rotated

CONTEXTS = (1, 15, 16, 17, 63, 64, 65, 511, 512, 513, 1300)
HEADS, BLOCKS = 2, 24
Array = NDArray[Any]


@dataclass(frozen=True)
class Case:
    """What an attention is compiled for; `window` 0: all positions."""

    group: int
    k_dim: int
    v_dim: int = 0
    k_codec: str = "f16"
    v_codec: str = "f16"
    rotate: bool = False
    window: int = 0
    softcap: float = 0.0
    sinks: bool = False
    contexts: tuple[int, ...] = CONTEXTS
    outlier: float = 1.0  # times the first value of each key and value
    nan_from: int = 0  # keys and values of positions from here on are no numbers

    @property
    def cache(self) -> KVCache:
        """As a graph describes it."""
        return KVCache("kv", HEADS, self.k_dim, self.v_dim or self.k_dim, self.k_codec, self.v_codec)


def statics(case: Case, tile: int = 1) -> dict[str, Any]:
    """Static parameters of `attend`."""
    c = case.cache
    return {
        "GROUP": case.group, "K_DIM": c.k_dim, "V_DIM": c.v_dim, "KCODEC": f"kv_{c.k_codec}",
        "VCODEC": f"kv_{c.v_codec}", "ROTATE": int(case.rotate), "SOFTCAP": int(case.softcap > 0),
        "TILE": tile,
    }  # fmt: skip


def keys(case: Case, tile: int = 1) -> set[Key]:
    """The kernels that `attention` needs."""
    c, rotate = case.cache, int(case.rotate)
    merge = {"DIM": c.v_dim, "GROUP": case.group, "SINKS": int(case.sinks), "ROTATE": rotate}
    return {
        key_of("attention.write_keys", {"DIM": c.k_dim, "CODEC": f"kv_{c.k_codec}", "ROTATE": rotate}),
        key_of("attention.write_values", {"DIM": c.v_dim, "CODEC": f"kv_{c.v_codec}", "ROTATE": rotate}),
        key_of("attention.attend", statics(case, tile)), key_of("attention.merge", merge),
    }  # fmt: skip


class Cached:
    """A cache of two layers on scattered blocks, the second written by the kernels: operands, and what it holds."""

    def __init__(self, case: Case) -> None:
        rng, c, self.case = np.random.default_rng(7), case.cache, case
        n = max(case.contexts)
        self.k, self.v = (rng.standard_normal((n, HEADS, dim), np.float32) for dim in (c.k_dim, c.v_dim))
        for x in (self.k, self.v):
            x[..., 0] *= np.float32(case.outlier)
            x[case.nan_from or n :] = np.nan
        self.tables = rng.permutation(BLOCKS).astype(np.int32)
        self.positions = np.arange(n)
        layer, stride = BLOCK * c.position_bytes, 8 + HEADS * max(c.k_dim, c.v_dim)
        self.values_at = layer + BLOCK * c.k_bytes
        self.made: dict[str, Any] = {
            "cache": zeros("u8", BLOCKS * 2 * layer), "block_bytes": 2 * layer, "keys_at": layer, "heads": HEADS,
            "values_at": self.values_at, "tables": self.tables, "step": np.array([n] + [0] * 7, np.int64), "count": 0,
            "slots": (self.tables[self.positions // BLOCK] * BLOCK + self.positions % BLOCK).astype(np.int32),
        }  # fmt: skip
        self.made["cache"][:] = 0xFF  # f16 and f32 that are no numbers: whatever was not written must not count
        for name, x, codec, due in (("k", self.k, c.k_codec, c.k_bytes), ("v", self.v, c.v_codec, c.v_bytes)):
            wide = np.zeros((n, stride), np.float32)
            dim = x.shape[2]
            wide[:, : HEADS * dim] = x.reshape(n, -1)
            floats = zeros("f32", 3 * dim)
            for h in range(HEADS):
                wrote = call(f"attention.write_{'keys' if name == 'k' else 'values'}", dim * h, dim * h + dim, DIM=dim,
                             CODEC=f"kv_{codec}", ROTATE=int(case.rotate), stride=stride, floats=floats,
                             **{name: wide.reshape(-1)}, **self.made)  # fmt: skip
                assert wrote == n * due // HEADS

    def held(self) -> tuple[Array, Array]:
        """Keys and values as the cache's bytes say [positions, heads, dim], in float64 (rotated, where they are)."""
        c, blocks = self.case.cache, self.made["cache"].reshape(BLOCKS, -1)
        keys_at = self.made["keys_at"]
        keys = blocks[:, keys_at : keys_at + BLOCK * c.k_bytes].reshape(BLOCKS, HEADS, -1)
        values = blocks[:, self.values_at : self.values_at + BLOCK * c.v_bytes].reshape(BLOCKS, HEADS, -1)
        both = _keys(keys, c.k_codec, c.k_dim), _values(values, c.v_codec, c.v_dim)
        order = self.tables[self.positions // BLOCK], self.positions % BLOCK
        k, v = (x[order[0], :, order[1]].astype(np.float64) for x in both)
        return k, v


def _keys(raw: Array, codec: str, dim: int) -> Array:
    """[blocks, heads, bytes] -> [blocks, heads, positions, dim]."""
    head = (*raw.shape[:2], BLOCK // 16)
    if codec in ("f16", "f32"):
        plain = np.ascontiguousarray(raw).view(f"<f{int(codec[1:]) // 8}")
        return plain.reshape(*head, dim, 16).swapaxes(-1, -2).reshape(*raw.shape[:2], BLOCK, dim)
    c = codecs.get(codec)
    rows = c.unpack(np.ascontiguousarray(raw).reshape(-1, dim // 32, 16 * c.block_bytes))
    return c.dequantize(rows.reshape(-1, c.block_bytes)).reshape(*raw.shape[:2], BLOCK, dim)


def _values(raw: Array, codec: str, dim: int) -> Array:
    if codec in ("f16", "f32"):
        return np.ascontiguousarray(raw).view(f"<f{int(codec[1:]) // 8}").reshape(*raw.shape[:2], BLOCK, dim)
    c = codecs.get(codec)
    parts = np.ascontiguousarray(raw).reshape(-1, BLOCK * c.block_bytes)
    quants = parts[:, 2 * BLOCK :].reshape(-1, BLOCK // 2, c.block_bytes - 2, 2).swapaxes(-1, -2)
    scales = parts[:, : 2 * BLOCK].reshape(-1, BLOCK, 2)
    blocks = np.concatenate([scales, quants.reshape(-1, BLOCK, c.block_bytes - 2)], axis=-1)
    found = c.dequantize(blocks.reshape(-1, c.block_bytes)).reshape(*raw.shape[:2], dim // 32, BLOCK, 32)
    return found.swapaxes(2, 3).reshape(*raw.shape[:2], BLOCK, dim)


def attention(case: Case, by_split: bool = False, tile: int = 1, each: int = 1) -> tuple[Array, Array, int, int]:
    """What the kernels give for a query at the end of each context, what softmax gives, bytes counted and due.

    tile  queries that share each read, of items of `each`
    """
    cached = Cached(case)
    made, c, group, n = dict(cached.made), case.cache, case.group, len(case.contexts)
    rng = np.random.default_rng(8)
    q = rng.standard_normal((n, HEADS * group, c.k_dim), np.float32) * np.float32(2)
    sinks = rng.standard_normal(HEADS * group).astype(np.float32) * np.float32(3)
    ends = np.array(case.contexts, np.int32)
    starts = np.maximum(ends - case.window, 0).astype(np.int32) if case.window else np.zeros(n, np.int32)
    made |= items(starts, ends, by_split, each)
    units, whole = int(made["first_part"][-1]) * HEADS, -(-c.v_dim // 16) * 16
    made |= {name: zeros(kind, 2 * size) for name, (kind, size) in attention_scratch(group, c.k_dim).items()}
    wide = np.pad(q.reshape(n, -1), ((0, 0), (0, 8)))  # as a part of a fused q, k and v
    made |= {
        "q": wide.reshape(-1), "stride": wide.shape[1], "top": zeros("f32", units * group), "starts": starts,
        "total": zeros("f32", units * group), "part": zeros("f32", units * group * whole), "cap": case.softcap,
        "step": np.array([len(made["item_token"])], np.int64), "count": 0,
        "ends": ends, "charged": ends, "table_at": np.zeros(n, np.int32), "scale": c.k_dim**-0.5,
        **statics(case, tile),
    }  # fmt: skip
    units = len(made["item_token"]) * HEADS
    half = units // 2
    read = call("attention.attend", 0, half, worker=1, **made) + call("attention.attend", half, units, **made)
    out = zeros("f32", n, HEADS * group * c.v_dim)
    made |= {"floats": zeros("f32", 4 * whole), "sinks": sinks, "DIM": c.v_dim, "SINKS": int(case.sinks)}
    counted = call("attention.merge", 0, n, out=out.reshape(-1), private=0, **made)
    assert counted == (sinks.nbytes if case.sinks else 0)
    expected = softmax(case, q, *cached.held(), starts, ends, sinks if case.sinks else None)
    return out, expected.reshape(n, -1), read, int((ends - starts).sum()) * c.position_bytes


def items(starts: Array, ends: Array, by_split: bool, each: int = 1) -> dict[str, Array]:
    """Units of work: tokens one after the other, `each` at a time, or a split of their context each."""
    first, last = starts // SPLIT, (ends - 1) // SPLIT
    spans = []
    for t in range(0, len(starts), each):
        n = min(each, len(starts) - t)
        spans.append((t, n, first[t], last[t + n - 1]))
    if by_split:
        spans = [(t, n, i, i) for t, n, begin, end in spans for i in range(begin, end + 1)]
    token, tokens, begin, end = np.array(spans, np.int32).T.copy()
    parts = np.concatenate([[0], np.cumsum(last - first + 1 if by_split else np.ones_like(first))]).astype(np.int32)
    return {"item_token": token, "item_tokens": tokens, "item_split": begin, "item_last": end, "first_part": parts}


def softmax(case: Case, q: Array, k: Array, v: Array, starts: Array, ends: Array, sinks: Array | None) -> Array:
    """In float64, of queries that are int8 where keys are, with values rotated back."""
    c = case.cache
    q = rotated(q) if case.rotate else q
    if c.k_codec in ("q8_0", "q4_0"):
        codes, scales = int8(q, 32)
        q = codes * np.repeat(scales.astype(np.float64), 32, axis=-1)
    out = np.empty((*q.shape[:2], c.v_dim))
    for t, (start, end) in enumerate(zip(starts, ends, strict=True)):
        for h in range(q.shape[1]):
            scores = k[start:end, h // case.group] @ q[t, h].astype(np.float64) * c.k_dim**-0.5
            if case.softcap:
                scores = case.softcap * np.tanh(scores / case.softcap)
            top = scores.max() if sinks is None else max(scores.max(), sinks[h])
            weights = np.exp(scores - top)
            total = weights.sum() + (0 if sinks is None else np.exp(sinks[h] - top))
            out[t, h] = weights @ v[start:end, h // case.group] / total
    return rotated(out) if case.rotate else out
