"""What is said of each kernel is what it is."""

from __future__ import annotations

import inspect
from importlib import import_module

import pytest

from memfirst.kernels.cpu import lang
from memfirst.lower.specs import KERNELS


@pytest.mark.parametrize("name", KERNELS)
def test_operands_are_those_of_its_signature(name: str) -> None:
    module, function = name.split(".")
    parameters = inspect.signature(getattr(import_module(f"memfirst.kernels.cpu.{module}"), function)).parameters
    statics = [p.name for p in parameters.values() if p.kind is p.KEYWORD_ONLY]
    operands = [p.name for p in parameters.values() if p.kind is not p.KEYWORD_ONLY]
    assert operands[-3:] == ["worker", "lo", "hi"]
    assert (KERNELS[name].operands, KERNELS[name].statics) == (tuple(operands[:-3]), tuple(statics))
    kinds = {p.annotation.strip('"') for p in parameters.values() if p.annotation is not p.empty}
    assert kinds <= {*lang.ARRAYS, *lang.SCALARS}


def test_every_kernel_of_a_step_has_a_spec() -> None:
    found = set()
    for module in (
        "activations", "attention", "conv", "delta", "elementwise", "embed", "experts", "heads", "latent", "matmul",
        "routed", "rwkv", "sketch", "ssm", "state", "wkv",
    ):  # fmt: skip
        loaded = import_module(f"memfirst.kernels.cpu.{module}")
        found |= {f"{module}.{name}" for name, f in vars(loaded).items() if getattr(f, "is_kernel", False)}
    assert found == set(KERNELS)


def test_a_call_with_other_operands_is_refused() -> None:
    with pytest.raises(TypeError, match=r"elementwise.add takes \('a', 'b'"):
        KERNELS["elementwise.add"].call({"a": 1, "b": 2}, "op")
