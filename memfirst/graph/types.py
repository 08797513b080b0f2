"""What a model means: weights, operations in order, the caches they keep, and the step they are asked to do.

Plain data, no kernels and no NumPy arrays. Every type carries what later backends need (shards, tiers, block
tables, tree parents, state slots), so that pricing, planning and running read the same description.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import ceil, prod
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from memfirst import codecs
from memfirst.codecs import bf12, sketch

if TYPE_CHECKING:
    from memfirst.codecs.base import F32
    from memfirst.graph.runtime import Runtime, Values
    from memfirst.graph.traffic import Traffic


PACK = codecs.ROWS
"""Rows that are packed side by side."""

BLOCK = 64
"""Positions of a KV cache block, the unit of allocation."""

RELEASED = -1
"""A block table's entry for a block that was given back, because no later token attends it."""

FAST, SLOW, DISK = "fast", "slow", "disk"
"""Where weights live: in the memory that computes on them, in slower memory behind it, or on disk."""


@dataclass(frozen=True)
class Shard:
    """This device's part of a tensor: part `index` of `of` along `axis`.

    ranges  of a tensor that holds several values one after another: (start, length) of this device's part of each
    """

    axis: int
    index: int
    of: int
    ranges: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Weight:
    """One tensor as an operation uses it.

    shape    logical, last axis contiguous: (rows out, columns in), (experts, rows, columns) or (n,)
    codec    a name of `memfirst.codecs`
    alias    the tensor whose bytes these are, if stored once for two uses (tied embeddings)
    pack     "plain" as in the file, or "rows16": rows side by side by sixteen; "bf12", "rows16/bf12": BF16 in 12 bits
             (`memfirst.codecs.bf12`); "sketch": what `memfirst.codecs.sketch` makes of an output head
    padding  rows added so that the pack is whole
    aside    of BF16 in 12 bits, the blocks whose high bytes lie aside; counted: False where that many are expected
    shard    the part that this device holds; `shape` is already the part's
    tier     where the bytes live: FAST memory, SLOW memory, or DISK, from where each step reads them
    """

    name: str
    shape: tuple[int, ...]
    codec: str
    alias: str = ""
    pack: str = "plain"
    padding: int = 0
    shard: Shard | None = None
    device: int = 0
    tier: str = FAST
    aside: int = 0
    counted: bool = True

    @property
    def columns(self) -> int:
        """Length of the contiguous axis."""
        return self.shape[-1]

    @property
    def rows(self) -> int:
        """Rows of one matrix (of one expert), padding excluded."""
        return self.shape[-2] if len(self.shape) > 1 else 1

    @property
    def matrices(self) -> int:
        """How many matrices are stacked (experts), else 1."""
        return prod(self.shape[:-2])

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return codecs.sized(self.codec).matrix_bytes(1, self.columns)

    @property
    def lookup_bytes(self) -> int:
        """Bytes that looking up one row moves: a packed row lies among 15 others, on their cache lines. What of these
        lies aside comes besides."""
        if self.twelve_bits:
            return bf12.matrix_bytes(1, self.columns, 0)
        return self.row_bytes * (PACK if self.pack != "plain" else 1)

    @property
    def matrix_bytes(self) -> int:
        """Bytes of one matrix, padding included."""
        if self.twelve_bits:
            return bf12.matrix_bytes(self.groups, self.columns, self.aside)
        if self.pack == sketch.PACK:
            return sketch.matrix_bytes(self.rows, self.columns)
        return codecs.sized(self.codec).matrix_bytes(self.rows + self.padding, self.columns)

    @cached_property
    def nbytes(self) -> int:
        """Bytes of the whole tensor, scales and padding included."""
        return self.matrices * self.matrix_bytes

    @property
    def twelve_bits(self) -> bool:
        """Whether it is BF16, packed in 12 bits."""
        return self.pack.endswith("bf12")

    @property
    def groups(self) -> int:
        """Groups of sixteen rows of one matrix."""
        return -(-self.rows // PACK)

    @property
    def aside_bounds(self) -> tuple[int, int]:
        """The fewest and the most blocks aside: as counted, or none up to what is packed so at most."""
        return (self.aside, self.aside) if self.counted else (0, bf12.most_aside(self.groups, self.columns))

    @property
    def stored_bytes(self) -> int:
        """The same without padding: as a file has it."""
        return self.matrices * self.rows * self.row_bytes

    def packed(self) -> Weight:
        """The same weight with its rows side by side by sixteen."""
        pack = self.pack if self.pack == sketch.PACK else f"rows{PACK}{'/bf12' * self.twelve_bits}"
        return replace(self, pack=pack, padding=-self.rows % PACK)


@dataclass(frozen=True)
class Sequence:
    """One sequence's part of a step.

    past       positions already cached
    new        tokens of this step
    tables     for each of the graph's cache groups the sequence's block table, oldest block first; `RELEASED` where
               a window has moved past a block
    positions  RoPE positions of the new tokens; default past, past+1, …
    parents    for each new token the index of its parent among the new ones (-1: the past); default a chain
    logits     which new tokens need logits; default the last
    state_read, state_write  slots of recurrent state: rolling back means keeping the old slot
    """

    past: int
    new: int = 1
    tables: tuple[tuple[int, ...], ...] = ()
    positions: tuple[int, ...] | None = None
    parents: tuple[int, ...] | None = None
    logits: tuple[int, ...] | None = None
    state_read: int = 0
    state_write: int = 0

    @property
    def logit_rows(self) -> tuple[int, ...]:
        """Indices of the new tokens whose logits are asked for."""
        return tuple(range(self.new)[-1:]) if self.logits is None else self.logits


@dataclass(frozen=True)
class Step:
    """What one execution of a program does.

    capacity  tokens that buffers are sized for (fixed addresses); default the count
    routing   by expert operation, the tokens that each expert received: exact once recorded
    aside     by look-up, the blocks that lay aside of the rows that were looked up: known once recorded
    resident  by operation whose experts are on disk, how many of those that it read were in memory: known once recorded
    head      tiles of 16 rows of the output head that are computed, ascending: all tokens that may come are in these.
              Other logits are left as they were. None: all tiles
    likeliest only the largest of its one row of logits is wanted: where the head has a sketch, what cannot be it is not
              read, and is −inf; listed: the tiles that were read in full, known once recorded
    hidden    rows are those of the final norm, [hidden_size], not logits: the output head is not read
    """

    sequences: tuple[Sequence, ...]
    capacity: int | None = None
    routing: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    resident: Mapping[str, int] = field(default_factory=dict)
    aside: Mapping[str, int] = field(default_factory=dict)
    head: tuple[int, ...] | None = None
    likeliest: bool = False
    listed: int | None = None
    hidden: bool = False

    @property
    def tokens(self) -> int:
        """New tokens of all sequences."""
        return sum(s.new for s in self.sequences)

    @property
    def logits(self) -> int:
        """Rows that need logits."""
        return sum(len(s.logit_rows) for s in self.sequences)


def decode(past: int, batch: int = 1) -> Step:
    """One new token for each of `batch` sequences with `past` cached positions."""
    return Step(tuple(Sequence(past) for _ in range(batch)))


def prefill(tokens: int, past: int = 0) -> Step:
    """`tokens` of one prompt after `past` cached positions, logits for the last."""
    return Step((Sequence(past, tokens),))


@dataclass(frozen=True)
class KVCache:
    """Keys and values of one layer, or the latent of an MLA layer (heads 1, v_dim 0).

    window  positions attended at most; None: all
    chunked the window does not move with the token: positions fall into chunks of that many, and a token attends those
            of its own (Llama 4)
    block   positions per block, the unit of allocation
    rotate  heads are rotated by a Hadamard matrix before they are quantized (exact but for rounding)
    picked  entries that a token reads at most of all that are held: an indexer picks them; None: all
    every   positions that share one entry, written when the last of them is there
    """

    name: str
    heads: int
    k_dim: int
    v_dim: int
    k_codec: str = "f16"
    v_codec: str = "f16"
    window: int | None = None
    block: int = BLOCK
    rotate: bool = False
    device: int = 0
    picked: int | None = None
    every: int = 1
    chunked: bool = False

    @property
    def k_bytes(self) -> int:
        """Bytes of one position's keys."""
        return self.heads * _codec_bytes(self.k_codec, self.k_dim)

    @property
    def v_bytes(self) -> int:
        """Bytes of one position's values."""
        return self.heads * _codec_bytes(self.v_codec, self.v_dim)

    @property
    def position_bytes(self) -> int:
        """Bytes of one position."""
        return self.k_bytes + self.v_bytes

    def first(self, position: int) -> int:
        """The first position that a token at `position` attends."""
        if self.window is None:
            return 0
        return position // self.window * self.window if self.chunked else max(0, position + 1 - self.window)

    def entries(self, tokens: int) -> int:
        """Entries that so many positions have made."""
        return tokens // self.every

    def attended(self, sequence: Sequence) -> int:
        """Entries that the sequence's new tokens attend together."""
        end = self.entries(sequence.past + sequence.new)
        if self.picked is not None:
            end = min(end, self.picked * sequence.new)
        return min(end, sequence.past + sequence.new - self.first(sequence.past))

    def read_bytes(self, sequence: Sequence) -> int:
        """Read in one step: each attended entry once."""
        return self.attended(sequence) * self.position_bytes

    def write_bytes(self, sequence: Sequence) -> int:
        """Written in one step."""
        new = self.entries(sequence.past + sequence.new) - self.entries(sequence.past)
        return new * self.position_bytes

    def held_bytes(self, tokens: int) -> int:
        """Live entries of a sequence of `tokens`."""
        return self.entries(tokens - self.first(max(0, tokens - 1))) * self.position_bytes

    def first_block(self, tokens: int) -> int:
        """The first block that a sequence of `tokens` still needs: those before it lie behind the window."""
        return self.first(tokens) // self.block

    def blocks(self, tokens: int) -> int:
        """Blocks that a sequence of `tokens` holds between two steps."""
        return max(0, ceil(self.entries(tokens) / self.block) - self.first_block(tokens))

    def most_blocks(self, context: int, new: int) -> int:
        """Blocks that a sequence of up to `context` positions needs at most, in steps of up to `new` tokens."""
        whole = ceil(self.entries(context) / self.block)
        return whole if self.window is None else min(whole, (self.window + new - 3) // self.block + 2)

    def allocated_bytes(self, tokens: int) -> int:
        """Whole blocks."""
        return self.blocks(tokens) * self.block * self.position_bytes


@dataclass(frozen=True)
class StateCache:
    """Recurrent state of one layer: read once and written once per sequence and step.

    elements  values per sequence (convolution tail, scan state, token shift)
    slots     copies kept per sequence: 2 where a step may be rolled back
    """

    name: str
    elements: int
    codec: str = "f32"
    slots: int = 1
    device: int = 0

    @property
    def state_bytes(self) -> int:
        """Bytes of one slot."""
        return _codec_bytes(self.codec, self.elements)

    def held_bytes(self, tokens: int) -> int:
        """The same whatever the context."""
        return self.state_bytes if tokens else 0

    def allocated_bytes(self, tokens: int) -> int:
        """All slots."""
        return self.slots * self.state_bytes


Cache = KVCache | StateCache


@dataclass(frozen=True)
class CacheGroup:
    """Layers whose caches have the same shape: each sequence has one block table for all of them.

    A block holds `block` positions of every cache of the group, one cache after the other, keys before values.
    """

    caches: tuple[KVCache, ...]

    @property
    def cache(self) -> KVCache:
        """What its caches have in common."""
        return self.caches[0]

    @property
    def block_bytes(self) -> int:
        """Bytes of one block."""
        return len(self.caches) * self.cache.block * self.cache.position_bytes


Kind = TypeVar("Kind", bound="Op")


def _codec_bytes(codec: str, values: int) -> int:
    kind = codecs.BLOCK_TYPES[codec]
    return -(-values * kind.block_bytes // kind.block)


@dataclass(frozen=True)
class Op:  # no ABC: with its metaclass isinstance takes ten times as long, and a plan asks 70,000 times
    """One operation: `name`, the values it takes and the value it gives. Kinds are in `memfirst.graph.ops`."""

    name: str
    inputs: tuple[str, ...]
    output: str

    recurs: ClassVar[bool] = False  # it updates a recurrent state, as convolutions and shifts do not

    @property
    @abstractmethod
    def weights(self) -> tuple[Weight, ...]:
        """The weights it uses."""

    @abstractmethod
    def traffic(self) -> tuple[Traffic, ...]:
        """The memory it moves, as a function of the step."""

    @abstractmethod
    def flops(self, step: Step) -> int:
        """Floating-point (or integer) operations, a multiply-add counting 2."""

    @abstractmethod
    def reference(self, run: Runtime, inputs: Values) -> F32:
        """What it means, in NumPy float32: inputs [rows, width] -> [rows, width of the output]."""

    def with_weights(self, change: Mapping[str, Weight]) -> Op:
        """The same operation with some weights replaced, by name."""
        new: dict[str, Any] = {
            n: change[v.name] for n, v in vars(self).items() if isinstance(v, Weight) and v.name in change
        }
        return replace(self, **new) if new else self


@dataclass(frozen=True, repr=False)
class Graph:
    """A model: operations in order, its caches, and the sizes that buffers need.

    architecture  GGUF's name
    vocab_size    rows of the logits
    context       positions that the model was trained for
    """

    architecture: str
    ops: tuple[Op, ...]
    caches: tuple[Cache, ...]
    vocab_size: int
    hidden_size: int
    context: int

    def __repr__(self) -> str:
        return f"<Graph {self.architecture}: {len(self.ops)} operations, {len(self.weights())} weights>"

    @cached_property
    def _by_class(self) -> dict[type[Op], list[Op]]:
        found: dict[type[Op], list[Op]] = {}
        for op in self.ops:
            found.setdefault(type(op), []).append(op)
        return found

    def of(self, kind: type[Kind]) -> Iterator[Kind]:
        """Its operations of a class, by the few classes there are: to ask thousands of operations for theirs takes ten
        times as long."""
        for found, ops in self._by_class.items():
            if issubclass(found, kind):
                yield from ops  # type: ignore[misc]

    @cached_property
    def cache_groups(self) -> tuple[CacheGroup, ...]:
        """KV caches by shape, in order of appearance: the order of `Sequence.tables`."""
        found: dict[KVCache, list[KVCache]] = {}
        for cache in self.caches:
            if isinstance(cache, KVCache):
                found.setdefault(replace(cache, name=""), []).append(cache)
        return tuple(CacheGroup(tuple(caches)) for caches in found.values())

    @cached_property
    def group_of(self) -> dict[str, int]:
        """The index of each KV cache's group, by the cache's name."""
        return {c.name: i for i, group in enumerate(self.cache_groups) for c in group.caches}

    def own_tables(self, index: int, context: int, new: int) -> tuple[tuple[int, ...], ...]:
        """Block tables of sequence `index` where every sequence has blocks of its own, for up to `context` positions in
        steps of up to `new` tokens; a windowed group uses its blocks in turn."""
        tables = []
        for group in self.cache_groups:
            each = group.cache.most_blocks(context, new)
            tables.append(tuple(index * each + i % each for i in range(ceil(context / group.cache.block))))
        return tuple(tables)

    @cached_property
    def states(self) -> tuple[StateCache, ...]:
        """Recurrent state: a slot holds that of all layers, one after the other."""
        return tuple(c for c in self.caches if isinstance(c, StateCache))

    @property
    def moves(self) -> Iterator[tuple[str, Traffic]]:
        """The traffic of all operations, with weights as stored, each with its operation's name."""
        return ((op.name, move) for op in self.ops for read in op.traffic() for move in read.with_disk())

    def flops(self, step: Step) -> int:
        """Floating-point operations of a step."""
        return sum(op.flops(step) for op in self.ops)

    def weights(self) -> dict[str, Weight]:
        """Every stored tensor once, by name; an alias is not stored."""
        return {w.name: w for op in self.ops for w in op.weights if not w.alias}

    def in_twelve_bits(self, aside: Mapping[str, int], counted: bool = True) -> Graph:
        """The same graph with the named BF16 matrices, and those that share their bytes, packed in 12 bits, of which so
        many blocks lie aside."""

        def packed(op: Op) -> Op:
            stored = {w.name: aside[w.alias or w.name] for w in op.weights if (w.alias or w.name) in aside}
            named = (w for w in op.weights if w.name in stored)
            new = {w.name: replace(w, pack="bf12", aside=stored[w.name], counted=counted) for w in named}
            return op.with_weights(new)

        return replace(self, ops=tuple(packed(op) for op in self.ops)) if aside else self

    def with_tiers(self, tiers: Mapping[str, str]) -> Graph:
        """The same graph with the named tensors, and those that share their bytes, in other tiers."""

        def moved(op: Op) -> Op:
            stored = {w.name: tiers[w.alias or w.name] for w in op.weights if (w.alias or w.name) in tiers}
            return op.with_weights({w.name: replace(w, tier=stored[w.name]) for w in op.weights if w.name in stored})

        return replace(self, ops=tuple(moved(op) for op in self.ops)) if tiers else self
