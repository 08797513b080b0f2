"""What profiles stand on: the walk's clock, which nothing reads that nobody asked for, and the peak of multiplying."""

from __future__ import annotations

import platform

import llvmlite.binding as llvm
import numpy as np
import pytest
from llvmlite import ir

from memfirst.kernels.cpu import build, instructions_thread
from memfirst.kernels.cpu.emit import I64, Emitter
from memfirst.kernels.cpu.peak import ROWS_HELD, TOKENS_HELD
from memfirst.kernels.cpu.simd import LANES
from memfirst.kernels.cpu.thread_pool import LOGGING_WALK, WALK
from tests.support.kernel_calls import call, zeros

CLOCK = "call i64 @llvm.readcyclecounter"


class _Nothing:
    """The signature of a function without arguments."""

    args, return_type = (), None


@pytest.mark.parametrize(
    ("triple", "machine", "instruction"),
    [
        ("x86_64-unknown-linux-gnu", "x86_64", "rdtsc"),
        ("x86_64-pc-windows-msvc", "AMD64", "rdtsc"),
        ("aarch64-unknown-linux-gnu", "aarch64", "mrs\tx0, CNTVCT_EL0"),
        ("arm64-apple-macosx", "arm64", "mrs\tx0, CNTVCT_EL0"),
    ],
)
def test_the_clock_is_one_that_programs_may_read(
    triple: str, machine: str, instruction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ARM's cycle counter, which LLVM's own instruction reads, traps outside the kernel."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    monkeypatch.setattr(platform, "machine", lambda: machine)
    module = ir.Module()
    module.triple = triple
    builder = ir.IRBuilder(ir.Function(module, ir.FunctionType(I64, []), "clock").append_basic_block())
    builder.ret(instructions_thread.cycles(Emitter(None, builder, _Nothing)))
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    text = llvm.Target.from_triple(triple).create_target_machine().emit_assembly(parsed)
    assert instruction in text
    assert "PMCCNTR" not in text.upper()


def test_a_walk_that_logs_nothing_reads_the_clock_only_to_be_patient() -> None:
    """When it begins, at the start of a phase, when it comes to a barrier, and while it waits there: never around the
    call of a kernel, where the other walk reads it twice."""
    name = WALK[0].split(".")
    plain, logging = (
        build.compiled(*name, dict(key[1]))[1].library.get_llvm_str().count(CLOCK) for key in (WALK, LOGGING_WALK)
    )
    assert plain == 4
    assert logging >= plain + 2 * 2 + 3, "two around each of two calls, one for each time of a phase"


@pytest.mark.parametrize(("kernel", "each"), [("multiply_int8", 4), ("multiply_f32", 1)])
def test_the_peak_is_of_products_that_are_computed(kernel: str, each: int) -> None:
    """Every sum of every round is in the result: the compiler has dropped none, and those are what is counted."""
    rounds = 3
    tokens = np.arange(512, dtype=np.int8 if each == 4 else np.float32) % 5
    weights = np.ones(1024, np.uint8) if each == 4 else np.ones(256, np.float32).view(np.uint8)
    y = zeros("f32", 16)
    done = call(f"peak.{kernel}", 0, rounds, w=weights, a=tokens, y=y)
    assert done == rounds * ROWS_HELD * TOKENS_HELD * LANES * each
    used = [
        int(tokens[each * (n + j) : each * (n + j) + each].sum()) for n in range(rounds) for j in range(TOKENS_HELD)
    ]
    assert y[:LANES].tolist() == [ROWS_HELD * sum(used)] * LANES
