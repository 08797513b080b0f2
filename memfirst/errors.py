"""What can go wrong for a user: each error says what was found, what was expected, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class MemfirstError(Exception):
    """Base of every error that is the input's or the machine's fault, not a bug.

    The command line prints it in one line and exits with code 1.

    found     what there was
    expected  what there should have been
    do        what helps, in terms of Python
    command   the same in terms of the command line, where these differ
    """

    def __init__(self, found: str, expected: str = "", do: str = "", command: str = "") -> None:
        self.found, self.expected, self.do, self.command = found, expected, do, command
        super().__init__(self._said(do))

    def at_a_prompt(self) -> str:
        """The message for who typed a command."""
        return self._said(self.command or self.do)

    def _said(self, do: str) -> str:
        return "; ".join(part for part in (self.found, self.expected and f"expected {self.expected}", do) if part)


class FormatError(MemfirstError):
    """A file is not what it claims to be: cut short, malformed, or out of bounds."""


class UnsupportedError(MemfirstError):
    """The input is well formed, but memfirst cannot run it (architecture, codec, option)."""


class ConfigError(MemfirstError):
    """A model's hyperparameters are missing, unknown or contradict its tensors."""


class CapacityError(MemfirstError):
    """The machine cannot hold what was asked for: memory, disk or context."""


class ModelNotFoundError(MemfirstError):
    """No model, file or catalogue entry has that name."""


class DownloadError(MemfirstError):
    """A download failed, or what arrived is not what was promised."""


class TemplateError(MemfirstError):
    """A chat template is malformed, forbidden in the sandbox, or exceeds its limits."""


class TokenizerError(MemfirstError):
    """A vocabulary or its rules cannot be turned into a tokenizer."""


class BackendError(MemfirstError):
    """A backend could not do the step: a kernel reported an error, or a worker died."""


class ProbeError(MemfirstError):
    """A server cannot be measured: not there, not what was expected, refusing, or silent."""


_KEYWORDS: Mapping[str, str] = {
    **dict.fromkeys(("max_new_tokens", "max_length", "n_predict", "num_predict"), "max_tokens"),
    **dict.fromkeys(("n_ctx", "num_ctx", "context", "context_length", "max_model_len", "max_seq_len"), "ctx"),
    **dict.fromkeys(("repeat_penalty", "frequency_penalty"), "repetition_penalty"),
    **dict.fromkeys(("response_format", "guided_json", "json_schema", "format"), "schema"),
    **dict.fromkeys(("machine", "device", "gpu"), "on"),
    **dict.fromkeys(("n_threads", "num_threads"), "threads"),
    **dict.fromkeys(("quantization", "quant"), "codec"),
    "sampling_params": "params", "stop_sequences": "stop", "cache_type": "kv", "type_k": "kv", "verbose": "progress",
}  # fmt: skip
"""What other libraries call a keyword of ours."""


def suggesting(function: Callable[P, R]) -> Callable[P, R]:
    """A function whose TypeError for a keyword that it does not have names the one that is meant."""
    code = function.__code__
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]

    @wraps(function)
    def called(*args: P.args, **options: P.kwargs) -> R:
        for name in options:
            if name not in names:
                raise TypeError(f"no argument is called {name!r}{_meant(name, names)}")
        return function(*args, **options)

    return called


def _meant(name: str, names: tuple[str, ...]) -> str:
    from difflib import get_close_matches

    known = {word: ours for word, ours in _KEYWORDS.items() if ours in names} | {ours: ours for ours in names}
    near = get_close_matches(name, known, n=1)
    return f"; did you mean {known[near[0]]}?" if near else ""
