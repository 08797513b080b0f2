"""`plan --replicas`: N times as fast on machines of their own, hardly faster on one memory bus."""

from __future__ import annotations

import pytest

from memfirst.cli.plan_page import page
from memfirst.errors import ConfigError
from memfirst.graph.traffic import KV_READ
from memfirst.plan import Options, make, place, subject
from memfirst.plan.replicas import seconds_beside
from memfirst.predict.prediction import Prediction, Term


def test_total_and_per_user() -> None:
    one = make(subject("llama-3:8b"), place("epyc 9654"), Options(batch=4, context=2048))
    three = make(subject("llama-3:8b"), place("epyc 9654"), Options(batch=4, context=2048, replicas=3))
    twelve = make(subject("llama-3:8b"), place("epyc 9654"), Options(batch=12, context=2048))
    found = three.replicas
    assert found is not None and one.rate and twelve.rate and one.replicas is None
    assert (three.rate, found.count, found.each) == (one.rate, 3, 4)
    assert found.apart == 3 * one.rate and found.joined == twelve.rate
    assert one.rate <= found.shared < 1.5 * one.rate
    assert found.weights == 2 * (one.step_bytes - one.amounts[KV_READ].mean)
    said = " ".join(page(three, ()).split())
    assert f"3 on machines of their own {found.apart:.0f} tok/s, {found.apart / 12:.1f} for each of 12" in said
    assert "share its memory bus" in said and f"one server for all {found.joined:.0f} tok/s" in said
    assert three.json()["replicas"]["one_machine"] == {"tok_s": found.shared, "tok_s_per_user": found.shared / 12}


def test_what_is_shared_takes_longer_and_what_is_not_does_not() -> None:
    terms = (Term("weights", 0.010), Term("compute", 0.002), Term("overhead", 0.001))
    step = Prediction(0.013, None, None, terms, "weights", 4.0)
    assert seconds_beside(step, 1) == pytest.approx(0.013) and seconds_beside(step, 3) == pytest.approx(0.037)


def test_what_does_not_fit_has_no_replicas_either() -> None:
    assert make(subject("llama-3:70b"), place("rtx-4090"), Options(codec="f16", replicas=2)).replicas is None
    with pytest.raises(ConfigError, match="replicas is 0"):
        Options(replicas=0)
