"""What a model needs, reads and reaches on a machine, before anything is downloaded.

plan([subject("llama-3:70b")], [place("rtx-4090")], Options()) -> one Plan for each pair
"""

from __future__ import annotations

import sys
from types import ModuleType

from memfirst.hardware.detect import HERE
from memfirst.plan.ask import ask
from memfirst.plan.find import find
from memfirst.plan.framework import FRAMEWORKS, Framework
from memfirst.plan.make import make, plan
from memfirst.plan.options import Options, Speculation
from memfirst.plan.place import Place, place, this_machine
from memfirst.plan.priced import Priced
from memfirst.plan.result import Distinct, Plan
from memfirst.plan.subject import Subject, subject
from memfirst.predict.prediction import Prediction

__all__ = [
    "FRAMEWORKS",
    "HERE",
    "Distinct",
    "Framework",
    "Options",
    "Place",
    "Plan",
    "Prediction",
    "Priced",
    "Speculation",
    "Subject",
    "ask",
    "find",
    "make",
    "place",
    "plan",
    "subject",
    "this_machine",
]  # fmt: skip


class _Callable(ModuleType):
    """`memfirst.plan` is this module and what a user calls: `memfirst.plan("llama-3:8b", on="rtx-4090")`."""

    __call__ = staticmethod(ask)


sys.modules[__name__].__class__ = _Callable
