"""memfirst: run language models, and see where every byte of a token goes.

>>> import memfirst
>>> model = memfirst.load("smollm2:135m")       # a catalogue name, a path, or hf:owner/repo[:QUANT]
>>> print(model.generate("The capital of France is", max_tokens=8, temperature=0))

Tokens as they come, each with its bytes, predicted and as the kernels counted them:

>>> for token in model.generate([{"role": "user", "content": "Why is the sky blue?"}], max_tokens=64):
...     print(token.text, end="", flush=True)
>>> token.recorded

A conversation, several prompts in shared steps, log-probabilities, and the same without blocking an event loop:

>>> chat = model.chat(system="Be brief.")
>>> print(chat.ask("Who wrote Hamlet?"))
>>> answers = model.generate(["One, two,", "A, B,"], max_tokens=8)
>>> model.generate("Hi", max_tokens=1, logprobs=5)
>>> async for token in model.generate("Hi"): ...

What a model needs and reaches on a machine, before anything is downloaded:

>>> memfirst.plan("llama-3:8b", on="rtx-4090")

Errors are `memfirst.MemfirstError`s, one class for each cause in `memfirst.errors`. More: docs/python.md
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memfirst import errors
    from memfirst.errors import MemfirstError
    from memfirst.ledger import Ledger
    from memfirst.plan.ask import ask as plan
    from memfirst.runtime.conversation import Conversation
    from memfirst.runtime.generation import Generation
    from memfirst.runtime.logprobs import Logprob
    from memfirst.runtime.model import Model, load
    from memfirst.runtime.request import Token
    from memfirst.runtime.sampling import SamplingParams

__version__ = "0.1.0"
__all__ = [
    "Conversation",
    "Generation",
    "Ledger",
    "Logprob",
    "MemfirstError",
    "Model",
    "SamplingParams",
    "Token",
    "__version__",
    "errors",
    "load",
    "plan",
]

_HOMES = {
    "Conversation": "runtime.conversation",
    "Generation": "runtime.generation",
    "Ledger": "ledger",
    "Logprob": "runtime.logprobs",
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
    from importlib import import_module

    if name in ("errors", "plan"):
        return import_module(f"memfirst.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'memfirst' has no attribute {name!r}")
    return getattr(import_module(f"memfirst.{_HOMES[name]}"), name)
