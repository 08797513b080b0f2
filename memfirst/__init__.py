"""memfirst: language-model inference that counts its bytes.

import memfirst

with memfirst.load("smollm2:135m") as model:
    for token in model.generate([{"role": "user", "content": "Why is the sky blue?"}], max_tokens=64):
        print(token.text, end="")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memfirst.errors import MemfirstError
    from memfirst.ledger import Ledger
    from memfirst.runtime.generation import Generation
    from memfirst.runtime.model import Model, load
    from memfirst.runtime.request import Token
    from memfirst.runtime.sampling import SamplingParams

__version__ = "0.1.0"
__all__ = ["Generation", "Ledger", "MemfirstError", "Model", "SamplingParams", "Token", "__version__", "load"]

_HOMES = {
    "Generation": "runtime.generation",
    "Ledger": "ledger",
    "MemfirstError": "errors",
    "Model": "runtime.model",
    "SamplingParams": "runtime.sampling",
    "Token": "runtime.request",
    "load": "runtime.model",
}


def __dir__() -> list[str]:
    """The public names, also those that were not used yet."""
    return __all__


def __getattr__(name: str) -> Any:
    """Public names are imported when first used: `import memfirst` costs a millisecond."""
    if name not in _HOMES:
        raise AttributeError(f"module 'memfirst' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"memfirst.{_HOMES[name]}"), name)
