"""HF names of gated delta nets, and how their tensors become GGUF's.

Several heads of values share a head of queries and keys. Folders have them key head by key head, and so has GGUF of
Qwen3-Next; of Qwen3.5 it has first each key head's first value head, then each one's second, and so on: `tiled`. Rows
of z, of the gates and of the convolution move with their heads, as do the columns that the last projection reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memfirst.codecs.base import F32, U8
from memfirst.errors import FormatError
from memfirst.formats.counts import head_count
from memfirst.formats.recurrent_names import taps

Config = Mapping[str, Any]
Transform = Callable[[U8, Config], U8]


def same(x: NDArray[Any], config: Config) -> NDArray[Any]:
    """As it is."""
    return x


def decay(rows: U8, config: Config) -> U8:
    """A_log, f32 [heads, 4 bytes] -> A = −e^A_log."""
    out: F32 = -np.exp(rows.view("<f4"))
    return out.view(np.uint8)


def _order(config: Config) -> NDArray[np.int64]:
    """For each head of values of GGUF's its place in the folder."""
    heads, keys = (head_count(config, f"linear_num_{kind}_heads") for kind in ("value", "key"))
    if heads % keys:
        raise FormatError(f"{heads} value heads over {keys} key heads", "as many for each key head")
    return np.arange(heads).reshape(keys, heads // keys).T.reshape(-1)


def tiled(rows: U8, config: Config) -> U8:
    """Rows of all heads of values, as many of each."""
    order = _order(config)
    if len(rows) % len(order):
        raise FormatError(f"{len(rows)} rows for {len(order)} heads", "as many for each head")
    return rows.reshape(len(order), -1, rows.shape[1])[order].reshape(rows.shape)


def tiled_behind_keys(rows: U8, config: Config) -> U8:
    """Rows of queries, keys and values, of which those of values move."""
    before = _keys_width(config)
    return np.concatenate([rows[:before], tiled(rows[before:], config)])


def _keys_width(config: Config) -> int:
    """Rows of queries and keys together."""
    return 2 * head_count(config, "linear_num_key_heads") * head_count(config, "linear_key_head_dim")


def tiled_columns(rows: U8, config: Config) -> U8:
    """[hidden, bytes] whose columns are all heads of values."""
    order = _order(config)
    if rows.shape[1] % len(order):
        raise FormatError(f"rows of {rows.shape[1]} bytes for {len(order)} heads", "as many for each head")
    return rows.reshape(len(rows), len(order), -1)[:, order].reshape(rows.shape)


def tiled_decay(rows: U8, config: Config) -> U8:
    """`decay`, head by head."""
    return tiled(decay(rows, config), config)


def tiled_taps(x: NDArray[Any], config: Config) -> NDArray[Any]:
    """[channels, 1, kernel] -> [channels, kernel], with the channels of values in GGUF's order."""
    plain, before, order = taps(x, config), _keys_width(config), _order(config)
    values = plain[before:].reshape(len(order), -1, plain.shape[1])[order]
    return np.concatenate([plain[:before], values.reshape(-1, plain.shape[1])])


def queries_keys_values(x: NDArray[Any], config: Config) -> NDArray[Any]:
    """Of [key heads · (query, key, values, gates), hidden] all queries, all keys, all values."""
    return np.concatenate([part.reshape(-1, x.shape[1]) for part in _by_key_head(x, config)[:3]])


def gates(x: NDArray[Any], config: Config) -> NDArray[Any]:
    """The rest of it."""
    return _by_key_head(x, config)[3].reshape(-1, x.shape[1])


def _by_key_head(x: NDArray[Any], config: Config) -> list[NDArray[Any]]:
    """[key heads, rows, hidden] of queries, keys, values and gates."""
    keys, dim = head_count(config, "linear_num_key_heads"), head_count(config, "linear_key_head_dim")
    values = head_count(config, "linear_num_value_heads") * head_count(config, "linear_value_head_dim") // keys
    return np.split(x.reshape(keys, 2 * dim + 2 * values, x.shape[1]), (dim, 2 * dim, 2 * dim + values), axis=1)


QWEN3_NEXT: Mapping[str, tuple[str, Transform]] = {
    "linear_attn.in_proj_ba.weight": ("ssm_ba.weight", same),
    "linear_attn.out_proj.weight": ("ssm_out.weight", same),
    "linear_attn.norm.weight": ("ssm_norm.weight", same),
    "linear_attn.dt_bias": ("ssm_dt.bias", same),
    "linear_attn.A_log": ("ssm_a", decay),
}
QWEN3_5: Mapping[str, tuple[str, Transform]] = {
    "linear_attn.in_proj_qkv.weight": ("attn_qkv.weight", tiled_behind_keys),
    "linear_attn.in_proj_z.weight": ("attn_gate.weight", tiled),
    "linear_attn.in_proj_b.weight": ("ssm_beta.weight", tiled),
    "linear_attn.in_proj_a.weight": ("ssm_alpha.weight", tiled),
    "linear_attn.out_proj.weight": ("ssm_out.weight", tiled_columns),
    "linear_attn.norm.weight": ("ssm_norm.weight", same),
    "linear_attn.dt_bias": ("ssm_dt.bias", tiled),
    "linear_attn.A_log": ("ssm_a", tiled_decay),
}
"""What keeps its shape; the rest is in `expert_names`."""


def rows(block: str, table: Mapping[str, tuple[str, Transform]]) -> Mapping[str, tuple[str, Transform]]:
    """The table of a whole model, whose layers' names begin with `block`."""
    return {f"{block}{hf}": (f"blk.{{}}.{gguf}", transform) for hf, (gguf, transform) in table.items()}
