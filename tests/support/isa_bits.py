"""Prints a digest of what each kernel computes: tests/kernels/test_kernels_isa.py runs it for every instruction set."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from memfirst.codecs.base import ROWS
from memfirst.kernels.cpu import isa
from tests.kernels.test_kernels import counts, kernel_of, matrix, quantize, random, silu
from tests.kernels.test_kernels_delta import CHANNELS, HEADS, KEY_HEADS, convolved, delta
from tests.kernels.test_kernels_ssm import channels, heads
from tests.kernels.test_kernels_state import AT, sequences
from tests.support import kept_compilers
from tests.support.attention_cases import Case, attention, keys
from tests.support.kernel_calls import call, guarded, key_of, library, zeros
from tests.support.tiny_models import CODECS

ATTENTION = (
    Case(2, 32),
    Case(2, 40, softcap=3.0),
    Case(3, 32, k_codec="q8_0", v_codec="q8_0", rotate=True),
    Case(3, 32, k_codec="q4_0", v_codec="q4_0", window=40),
)
LOOK_UPS = ("f16", "q5_1", "q2_k", "q3_k", "q6_k", "iq4_nl", "iq4_xs")  # each way of unpacking


def product(codec: str) -> bytes:
    x, (w, _) = random(3, 512, seed=3), matrix(codec, 3 * ROWS, 512)
    y = zeros("f32", 3, 3 * ROWS)
    made = {name: array.reshape(-1) for name, array in quantize(x, 256).items()}
    call(f"matmul.{kernel_of(codec)}", 0, 3 * ROWS, w=w, x=x, y=y.reshape(-1), step=counts(3), count=0, cols=512,
         stride_x=512, stride=3 * ROWS, private=0, add_to=0, CODEC=codec, TILE=1, **made)  # fmt: skip
    return y.tobytes()


def look_up(codec: str) -> bytes:
    w, _ = matrix(codec, 3 * ROWS, 512)
    x = zeros("f32", 3, 512)
    tokens = np.array([1, ROWS + 2, 3 * ROWS - 1], np.int32)
    call(f"embed.{kernel_of(codec)}", 0, 3, w=w, tokens=tokens, x=x.reshape(-1), cols=512, scale=1.0,
         CODEC=codec)  # fmt: skip
    return x.tobytes()


def recurrence(kernel: str) -> bytes:
    """Outputs of three tokens and the state after them: heads of 64, of which one register or four go at a time."""
    width, step = 256, sequences((3, 1, 0, 0))
    given = {
        name: random(3, width, seed=i).reshape(-1) for i, name in enumerate(("r", "k", "v", "decay", "key", "removed"))
    }
    state, out, own = zeros("f32", 5 + 64 * width), zeros("f32", 3 * width), random(3, 4, seed=9).reshape(-1)
    state[:] = random(state.size, seed=7)
    call(f"wkv.{kernel}", 0, width, **given, own=own, out=out, state=state, slot=0, width=width, HEAD=64, **step)
    return out.tobytes() + state.tobytes()


def every_half() -> tuple[bytes, bytes]:
    """All f16 but NaN as float32; and floats around every f16 and halfway to the next, rounded to f16."""
    halves = np.arange(1 << 16, dtype=np.uint16)
    halves = np.where((halves & 0x7FFF) > 0x7C00, 0, halves).astype(np.uint16)
    wide = zeros("f32", len(halves))
    call("embed.floats", 0, 1, w=np.repeat(halves, ROWS).view(np.uint8), tokens=np.zeros(1, np.int32), x=wide,
         cols=len(halves), scale=1.0, CODEC="f16")  # fmt: skip
    assert wide.tobytes() == halves.view(np.float16).astype(np.float32).tobytes()
    finite = wide[np.isfinite(wide)]
    around = np.concatenate([finite, finite * np.float32(1 + 2**-11), finite * np.float32(1 + 2**-12), finite * 2])
    around = np.concatenate([around, np.nextafter(around, np.float32(np.inf))])
    around = around[: len(around) // (32 * 64) * 32 * 64]
    cache, rows = zeros("u8", 2 * len(around)), len(around) // 32
    call("attention.write_values", 0, 32, v=around, cache=cache, slots=np.arange(rows, dtype=np.int32),
         step=counts(rows), count=0, heads=1, stride=32, block_bytes=64 * 64, values_at=0, floats=zeros("f32", 1),
         DIM=32, CODEC="kv_f16", ROTATE=0)  # fmt: skip
    with np.errstate(over="ignore"):
        assert cache.tobytes() == around.astype(np.float16).tobytes()
    return wide.tobytes(), cache.tobytes()


def shrunk(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Numbers between 0 and 1 that every processor computes alike, as NumPy's exp is not."""
    return 1 / (1 + np.abs(x))


def scans() -> tuple[bytes, bytes]:
    """Outputs of five tokens; states lie in another order where registers are of another width."""
    rows = sequences((5, 1, 0, 0))
    given = {
        "x": random(5, 256), "delta": np.abs(random(5, 256, seed=1)), "keys": random(5, 32, seed=2),
        "queries": random(5, 32, seed=3), "out": random(5, 256, seed=4),
    }  # fmt: skip
    state, rates = guarded(random(1, AT + CHANNELS * 16, seed=5)), -1 - np.abs(random(CHANNELS, 16, seed=6))
    by_channel = channels(given, rates, state, **rows).tobytes() + state.tobytes()
    del given["out"]
    given["decay"] = shrunk(given["delta"])
    return by_channel, heads(given, random(4, seed=7), zeros("f32", AT + 256 * 16), 64, 16, **rows).tobytes()


def main() -> None:
    statics = {"TILE": 1, "BLOCK": 32}
    parts = (("matmul", CODECS), ("embed", LOOK_UPS))
    wanted = {key_of(f"{part}.{kernel_of(c)}", {**statics, "CODEC": c}) for part, names in parts for c in names}
    library().load(wanted.union(*map(keys, ATTENTION)))  # together: in as many processes as there are cores
    made = {f"product {codec}": product(codec) for codec in CODECS}
    made |= {f"look-up {codec}": look_up(codec) for codec in LOOK_UPS}
    made["quantize"] = b"".join(a.tobytes() for a in quantize(random(2, 512), 32).values())
    made |= {kernel: recurrence(kernel) for kernel in ("wkv6", "wkv7")}
    made["silu"] = silu(random(999) * np.float32(20)).tobytes()
    made |= {f"attention {i}": attention(case)[0].tobytes() for i, case in enumerate(ATTENTION)}
    for name in ("tanh", "gelu", "gelu_erf"):
        out, x = zeros("f32", 999), random(999) * np.float32(4)
        call("elementwise.activate", 0, 999, x=x, out=out, step=counts(1), count=0, stride_x=0, stride=0, ACT=name)
        made[name] = out.tobytes()
    for name, bias, act in (("convolution", 0, ""), ("convolution, silu", 1, "silu")):
        tail, rows = random(1, AT + 3 * CHANNELS, seed=3), sequences((5, 1, 0, 0))
        x, taps, shift = random(5, CHANNELS), random(CHANNELS, 4), random(CHANNELS)
        made[name] = convolved(x, taps, shift, guarded(tail), 4, **rows, BIAS=bias, ACT=act).tobytes()
    for v in (64, 48):
        state = guarded(random(1, AT + HEADS * 32 * v, seed=3))
        given = {"qkv": random(5, 2 * KEY_HEADS * 32 + HEADS * v), "decay": shrunk(random(5, HEADS))}
        given["share"] = random(5, HEADS, seed=1)
        made[f"delta {v}"] = delta(given, state, 1, 32, v, **sequences((5, 1, 0, 0))).tobytes() + state.tobytes()
    made["channels"], made["heads"] = scans()
    out = zeros("f32", 999)
    x = random(999)
    call("delta.decays", 0, 999, alpha=x * np.float32(20), a=-np.abs(x), dt_bias=x, out=out, step=counts(1), count=0,
         stride_x=0, stride=0)  # fmt: skip
    made["decays"] = out.tobytes()
    made["f16 to f32"], made["f32 to f16"] = every_half()
    print("isa", isa.detect())
    for name, content in made.items():
        print(name, hashlib.sha256(content).hexdigest())


if __name__ == "__main__":
    with kept_compilers.shared():
        main()
