"""What the article *LLM inference is bound by memory, not FLOPs* states, each statement tested: docs/claims.md.

    python -m benchmarks.claims > docs/claims.md     the page
    python -m benchmarks.claims --claim 48           one statement: its command, its figures, the verdict
    python -m benchmarks.claims --measure            the few figures that this machine gives; kept as JSON

A statement is data and a function that gives cases; a case is a figure and whether it meets a stated criterion. The
verdict follows from the cases (`verdict.py`). Figures come from memfirst's graphs, mixes, machines and timing, or
from the published rows of benchmarks/data.
"""

from __future__ import annotations
