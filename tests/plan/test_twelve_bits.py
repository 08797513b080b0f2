"""A plan of BF16 weights knows how memfirst keeps them, and that others do not."""

from __future__ import annotations

import pytest

from memfirst.graph import decode
from memfirst.plan import make
from memfirst.plan.options import Options
from memfirst.plan.place import place
from memfirst.plan.subject import subject


@pytest.mark.parametrize(("engine", "share"), [("memfirst", 0.757), ("llama.cpp", 1.0)])
def test_only_memfirst_keeps_bf16_in_twelve_bits(engine: str, share: float) -> None:
    model = subject("llama-3.2:1b", "bf16")
    plan = make(model, place("ryzen-9-7950x"), Options(engine=engine, context=1024))
    stored = sum(w.nbytes for w in model.graph.weights().values())
    needs = plan.memory.needs
    assert (needs.weights + needs.host) / stored == pytest.approx(share, abs=0.004)
    assert plan.amounts["weights"].exact == (engine != "memfirst")
    said = [note for note in plan.notes if "kept in 12 bits" in note]
    assert len(said) == (engine == "memfirst")
    if said:
        low, high = (float(n.replace(",", "")) * 1e6 for n in said[0].split(": ")[1].split(" MB")[0].split(" to "))
        assert low < needs.weights < high < 0.78 * stored


def test_users_of_a_server_read_twelve_bits_too() -> None:
    """A step for eight users reads what the plan's own step of eight sequences reads."""
    model, where = subject("llama-3.2:1b", "bf16"), place("ryzen-9-7950x")
    options = Options(engine="memfirst", context=1024, batch=8, users=8)
    packed, stored = where.priced(model, options), model.priced("f16")
    step = decode(1023, 8)
    assert sum(a.mean for a in packed.amounts(step).values()) == make(model, where, options).step_bytes
    assert packed.cost(step).weights / stored.cost(step).weights == pytest.approx(0.757, abs=0.01)
