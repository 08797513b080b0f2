"""Rules of the ledger in plain integers: what a step moves, what a sequence occupies.

A tensor's bytes are given as (weights a block, bits a block): Q4_0 has 32 weights in 16 bytes and an f16 scale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as List
from dataclasses import dataclass
from fractions import Fraction
from math import prod

from tests.oracle.parts import ALWAYS, LOGITS, ROUTED, ROWS, Keys, Model, Tensor

Blocks = tuple[int, int]
Codecs = Callable[[str, int], Blocks]
"""(GGUF kind, layer) -> (weights a block, bits a block)."""

BLOCKS: dict[str, Blocks] = {
    # numbers
    "f32": (1, 32), "f16": (1, 16), "bf16": (1, 16),
    # 32 weights: nibbles (and a fifth bit), a half as scale, another as minimum
    "q4_0": (32, 32 * 4 + 16), "q4_1": (32, 32 * 4 + 16 + 16), "iq4_nl": (32, 32 * 4 + 16),
    "q5_0": (32, 32 * 5 + 16), "q5_1": (32, 32 * 5 + 16 + 16), "q8_0": (32, 32 * 8 + 16),
    "mxfp4": (32, 32 * 4 + 8),  # the scale is one byte, a power of two
    # 256 weights: 8 scales and 8 minimums of 6 bits under two halves; Q6_K: 16 scales of 8 bits under one
    # Q2_K: 16 scales and 16 minimums of 4 bits under two; Q3_K: 16 scales of 6 bits, IQ4_XS: 8, under one
    "q2_k": (256, 256 * 2 + 32 * 4 + 32), "q3_k": (256, 256 * 3 + 16 * 6 + 16), "iq4_xs": (256, 256 * 4 + 8 * 6 + 16),
    "q4_k": (256, 256 * 4 + 16 * 6 + 32), "q5_k": (256, 256 * 5 + 16 * 6 + 32), "q6_k": (256, 256 * 6 + 16 * 8 + 16),
}  # fmt: skip

PAGE = 64  # positions that memfirst allocates at a time
STATE_BITS = 32  # recurrent state is kept in f32
STATE_SLOTS = 2  # states cannot be cut back like keys: the one before is kept


@dataclass(frozen=True)
class Sequence:
    """Of one step: positions already cached, new tokens, and for how many of those logits are asked."""

    past: int
    new: int = 1
    logits: int = 1


@dataclass(frozen=True)
class Moved:
    """Bytes of one step. Experts: the expectation under uniform routing, and its bounds."""

    weights: int
    embedding: int
    head: int
    experts: Fraction
    experts_least: int
    experts_most: int
    kv_read: int
    kv_write: int
    state_read: int
    state_write: int


@dataclass(frozen=True)
class Held:
    """Bytes that are occupied: KV of live positions and in whole pages, state once and in all its copies."""

    weights: int
    kv_live: int
    kv_pages: int
    state_live: int
    state_slots: int


def size(shape: tuple[int, ...], blocks: Blocks, multiple: int = 1) -> int:
    """Bytes of a tensor; rows of a matrix are padded to `multiple` of them."""
    weights, bits = blocks
    assert shape[-1] % weights == 0, (shape, blocks)
    *stacked, rows = shape[:-1] if len(shape) > 1 else (1,)
    if len(shape) > 1:
        rows = -(-rows // multiple) * multiple
    return prod(stacked) * rows * (shape[-1] // weights) * bits // 8


def parameters(model: Model) -> int:
    """Numbers in the checkpoint, a table of two uses once."""
    return sum(prod(t.shape) for t in model.tensors if t.stored)


def distinct(experts: int, active: int, tokens: int) -> tuple[Fraction, int, int]:
    """Experts that `tokens` tokens pick together: expected (each misses one with 1 − k/E), least and most."""
    missed = Fraction(experts - active, experts) ** tokens
    return experts * (1 - missed), active if tokens else 0, min(experts, active * tokens)


def position_bytes(keys: Keys, k: Blocks, v: Blocks) -> int:
    """Keys and values of one position of one layer; an MLA latent has no values of its own."""
    return keys.heads * (size((keys.k_dim,), k) + (size((keys.v_dim,), v) if keys.v_dim else 0))


def before(keys: Keys, at: int) -> int:
    """Positions that a token at `at` no longer looks at: a window's has window − 1 of the past, a chunk's what the
    chunk has."""
    if keys.window is None:
        return 0
    return at - at % keys.window if keys.chunked else max(0, at + 1 - keys.window)


def attended(keys: Keys, past: int, new: int) -> int:
    """Positions that `new` tokens look at together: from the first that the first of them sees."""
    return past + new - before(keys, past)


def picked(t: Tensor, tokens: int, counts: List[int] | None) -> tuple[Fraction, int, int]:
    """Distinct experts of a tensor's layer: exact where the tokens that each of them received are known."""
    if counts is not None:
        n = sum(1 for c in counts if c)
        return Fraction(n), n, n
    return distinct(t.shape[0], t.active, tokens)


def price(
    model: Model,
    step: List[Sequence],
    codecs: Codecs,
    kv: tuple[Blocks, Blocks] = (BLOCKS["f16"], BLOCKS["f16"]),
    routing: Callable[[int], List[int]] | None = None,
    multiple: int = 1,
) -> Moved:
    """What one step moves.

    codecs    of each tensor
    kv        of keys and of values
    routing   layer -> tokens that each of its experts received
    multiple  rows that the target packs together: a looked-up row comes with the others
    """
    tokens, wanted = sum(s.new for s in step), sum(s.logits for s in step)
    sums = {ALWAYS: 0, LOGITS: 0, ROWS: 0}
    mean, least, most = Fraction(0), 0, 0
    for t in model.tensors:
        nbytes = size(t.shape, codecs(t.kind, t.layer), multiple)
        if t.use == ROUTED:
            n = picked(t, tokens, routing(t.layer) if routing else None)
            one = nbytes // t.shape[0]
            mean, least, most = mean + n[0] * one, least + n[1] * one, most + n[2] * one
        elif t.use == ROWS:
            sums[ROWS] += tokens * multiple * size(t.shape[1:], codecs(t.kind, t.layer))
        elif wanted if t.use == LOGITS else tokens:
            sums[t.use] += nbytes
    of = [(keys, position_bytes(keys, *kv)) for keys in model.keys.values()]
    state = sum(model.states.values()) * STATE_BITS // 8 * sum(1 for s in step if s.new)
    return Moved(
        sums[ALWAYS], sums[ROWS], sums[LOGITS], mean, least, most,
        sum(attended(keys, s.past, s.new) * nbytes for keys, nbytes in of for s in step),
        sum(s.new * nbytes for keys, nbytes in of if keys.own for s in step),
        state, state,
    )  # fmt: skip


def held(
    model: Model,
    contexts: List[int],
    codecs: Codecs,
    kv: tuple[Blocks, Blocks] = (BLOCKS["f16"], BLOCKS["f16"]),
    multiple: int = 1,
) -> Held:
    """What sequences of `contexts` tokens occupy (of none: no live state, but its slots); the rest as in `price`."""
    live = pages = 0
    for keys in model.keys.values():
        nbytes = position_bytes(keys, *kv) * keys.own
        for n in contexts:
            live += nbytes * (n - before(keys, n - 1) if n else 0)  # what the last token looked at
            whole = range(-(-n // PAGE))  # the next token, at n, looks at those that reach beyond what is before it
            pages += nbytes * PAGE * sum(1 for p in whole if (p + 1) * PAGE > before(keys, n))
    one = sum(model.states.values()) * STATE_BITS // 8
    stored = sum(size(t.shape, codecs(t.kind, t.layer), multiple) for t in model.tensors if t.stored)
    return Held(stored, live, pages, one * sum(1 for n in contexts if n), STATE_SLOTS * one * len(contexts))


def by_layer(model: Model, step: List[Sequence], kv: tuple[Blocks, Blocks]) -> dict[int, int]:
    """What a step reads of keys, values and states in each layer that has any."""
    busy = sum(1 for s in step if s.new)
    read = {i: values * STATE_BITS // 8 * busy for i, values in model.states.items()}
    for i, keys in model.keys.items():
        positions = sum(attended(keys, s.past, s.new) for s in step)
        read[i] = read.get(i, 0) + positions * position_bytes(keys, *kv)
    return read


def chunks(tokens: int, chunk: int) -> Iterator[Sequence]:
    """A prompt in pieces: each sees what came before it, the last asks for logits."""
    for past in range(0, tokens, chunk):
        new = min(chunk, tokens - past)
        yield Sequence(past, new, int(past + new == tokens))
