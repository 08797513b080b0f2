"""What this machine measured for our own engine, and the time of a step that follows from it.

step_time(graph, decode(1000), load(), threads=2) -> Prediction
"""

from __future__ import annotations

from memfirst.predict.measured.parts import Comparison, measured_parts, predicted_parts
from memfirst.predict.measured.predict import prefill, step_time
from memfirst.predict.measured.store import Rate, Rates, fingerprint, load, rates_file, save
from memfirst.predict.measured.work import Work, program_for, works

__all__ = [
    "Comparison", "Rate", "Rates", "Work", "fingerprint", "load", "measured_parts", "predicted_parts", "prefill",
    "program_for", "rates_file", "save", "step_time", "works",
]  # fmt: skip
