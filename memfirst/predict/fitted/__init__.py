"""Seconds of a step on a machine of the catalogue, as named terms, with an interval and the term that binds.

predict(cost(graph, step), find_machine("rtx-4090"), Deployment("llama.cpp")) -> Prediction
"""

from __future__ import annotations

from memfirst.predict.fitted.cost import BACKENDS, FITTED, PARALLEL, PIPELINE, TENSOR, Cost, Deployment, cost
from memfirst.predict.fitted.pieces import COMPUTE, EXPERTS, KV, LINK, OVERHEAD, TERMS, WEIGHTS
from memfirst.predict.fitted.predict import Observation, predict

__all__ = [
    "BACKENDS",
    "COMPUTE",
    "EXPERTS",
    "FITTED",
    "KV",
    "LINK",
    "OVERHEAD",
    "PARALLEL",
    "PIPELINE",
    "TENSOR",
    "TERMS",
    "WEIGHTS",
    "Cost",
    "Deployment",
    "Observation",
    "cost",
    "predict",
]  # fmt: skip
