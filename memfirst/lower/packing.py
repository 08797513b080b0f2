"""How the CPU keeps a weight, which kernels read it, and for how many tokens at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from memfirst import codecs
from memfirst.graph import Op, Weight
from memfirst.graph.ops.channel_scan import ChannelScan
from memfirst.graph.ops.conv import CausalConv1d
from memfirst.graph.ops.experts import Experts
from memfirst.graph.ops.norm import RMSNorm
from memfirst.graph.ops.scan import SelectiveScan
from memfirst.graph.ops.token_lerp import TokenLerp
from memfirst.graph.ops.wkv6 import Wkv6
from memfirst.lower.nodes import NodeOperand, NodeStatic, OfCapacity, Scratch

ELEMENTWISE = (RMSNorm, SelectiveScan, TokenLerp, Wkv6)
"""Operations whose weights of several axes are vectors side by side, and no matrices."""

BY_CHANNEL = (CausalConv1d, ChannelScan)
"""Operations whose matrices have a row of numbers for each channel."""


def cpu_weights(op: Op) -> Iterator[Weight]:
    """An operation's weights as the CPU keeps them: matrices packed by sixteen rows, vectors as float32, also where
    there is one for each expert; a convolution's taps are both."""
    biases = [b.name for b in (op.gate_b, op.up_b, op.down_b) if b is not None] if isinstance(op, Experts) else []
    for w in op.weights:
        vector = len(w.shape) == 1 or isinstance(op, ELEMENTWISE) or w.name in biases
        kept = replace(w, codec="f32") if vector or isinstance(op, BY_CHANNEL) else w
        yield kept if vector else kept.packed()


def family(weight: Weight) -> str:
    """Which kernels read it: "block32", "k256", "k256_16", "float", or another without kernels here."""
    return codecs.get(weight.codec).family


def kernel_of(weight: Weight) -> str:
    """The kernel of its family."""
    kind = family(weight)
    if weight.twelve_bits:
        return "bf12"
    return "floats" if kind == "float" else kind


def wide(weight: Weight) -> bool:
    """Whether the activations that it meets are quantized 256 at a time: its sums are over so many columns."""
    return family(weight) in ("k256", "k256_16")


def matmul_operands(weight: Weight) -> dict[str, NodeOperand]:
    """What a matmul of BF16 in 12 bits takes besides: the matrix is given whole, and rows are unpacked."""
    if not weight.twelve_bits:
        return {}
    return {
        "groups": weight.groups,
        "first": 0,
        "unpacked": Scratch("unpacked", "u8", rows16_bytes(weight)),
    }


def look_up(weight: Weight) -> tuple[dict[str, NodeOperand], dict[str, NodeStatic]]:
    """Operands of a look-up besides the table, and its codec: BF16 in 12 bits has a kernel of its own."""
    return ({"groups": weight.groups}, {}) if weight.twelve_bits else ({}, {"CODEC": weight.codec})


def rows16_bytes(weight: Weight) -> int:
    """Bytes of sixteen rows, as they lie together."""
    return codecs.ROWS * weight.row_bytes


def offset_of(weight: Weight) -> int:
    """Bytes before a weight's first row in the tensor whose bytes it shares, of which it may be some rows."""
    first = weight.shard.ranges[0][0] if weight.alias and weight.shard else 0
    return first // codecs.ROWS * rows16_bytes(weight) if first else 0


def int8_tile(capacity: int) -> int:
    """Tokens that share one load of a weight's bytes."""
    return min(capacity, 8)


def float_tile(capacity: int) -> int:
    """The same where activations are float32."""
    return capacity if capacity <= 4 else 3 if capacity <= 6 else 4


def tile_of(weight: Weight) -> OfCapacity:
    """Which of both a matmul takes."""
    return float_tile if family(weight) == "float" else int8_tile


def routed_tile(capacity: int) -> int:
    """The largest tile of an expert's tokens: the kernels take smaller powers of two by themselves."""
    return 1 if capacity == 1 else 4 if capacity <= 4 else 8


def routed_float_tile(capacity: int) -> int:
    """The same where activations are float32."""
    return min(routed_tile(capacity), 4)
