"""What callers give: prompts, limits and sampling parameters, checked before anything is made of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from memfirst.errors import ConfigError
from memfirst.hardware import host
from memfirst.runtime.sampling import SamplingParams

DEFAULT_CONTEXT = 8192
"""Positions that are provided for unless asked otherwise (or what the model was trained for, if less)."""

THREADS_PER_CORE, LEAST_THREADS = 4, 64
"""More threads than this are refused as a mistake."""


def sampling_params(params: SamplingParams | None, given: Mapping[str, Any]) -> SamplingParams:
    """Parameters with what was given by name in their place; ConfigError for anything else."""
    chosen = SamplingParams() if params is None else params
    if not isinstance(chosen, SamplingParams):
        raise ConfigError(f"params of type {type(chosen).__name__}", "a SamplingParams")
    return replace(chosen, **given)


def is_list(prompt: object) -> bool:
    """Whether these are several prompts: a list that begins with a text or a list, where messages are mappings."""
    if not isinstance(prompt, Sequence) or isinstance(prompt, str | bytes | bytearray | memoryview):
        return False
    return not len(prompt) or isinstance(prompt[0], Sequence)


def check_max_tokens(asked: int | None) -> int | None:
    """Tokens to generate at most; ConfigError for what is no count."""
    if asked is None:
        return None
    if isinstance(asked, bool) or not isinstance(asked, int | np.integer) or asked < 0:
        raise ConfigError(f"max_tokens is {asked!r}", "a whole number from 0, or None: as many as fit")
    return int(asked)


def check_stops(asked: Sequence[str]) -> tuple[str, ...]:
    """Stop strings; a single one may stand by itself."""
    given = [asked] if isinstance(asked, str) else asked
    if not isinstance(given, Sequence) or not all(isinstance(stop, str) for stop in given):
        raise ConfigError(f"stop is {asked!r}", "a list of strings")
    if not all(given):
        raise ConfigError("an empty stop string", "at least one character", "leave it out: an answer ends by itself")
    return tuple(given)


def check_messages(prompt: object) -> list[Mapping[str, Any]]:
    """A conversation, whose contents are texts or parts of text."""
    if not isinstance(prompt, Sequence) or isinstance(prompt, bytes | bytearray | memoryview):
        raise ConfigError(f"a prompt of type {type(prompt).__name__}", "a text, or a list of messages")
    return [_message(message) for message in prompt]


def _message(message: object) -> Mapping[str, Any]:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise ConfigError(f"a message {message!r:.80}", 'one like {"role": "user", "content": "…"}')
    content = message.get("content")
    if not isinstance(content, Sequence) or isinstance(content, str):
        return message
    for part in content:  # the chat template joins them, or reads them itself
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ConfigError(f"a part of content {part!r:.80}", 'one of text, like {"type": "text", "text": "…"}')
    return message


def check_context(asked: int | None, trained: int) -> int:
    """Positions to provide for; ConfigError for more than the model was trained for: what it says there is noise."""
    if asked is not None and (isinstance(asked, bool) or not isinstance(asked, int)):
        raise ConfigError(f"a context of {asked!r} tokens", f"a whole number from 1 to {trained}")
    if asked is not None and not 0 < asked <= trained:
        raise ConfigError(f"a context of {asked} tokens", f"1 to {trained}, which the model was trained for")
    return asked or min(trained, DEFAULT_CONTEXT)


def check_threads(asked: int | None) -> int:
    """Worker threads; ConfigError for numbers that could only wait for each other."""
    most = max(LEAST_THREADS, THREADS_PER_CORE * (os.cpu_count() or 1))
    if asked is not None and (isinstance(asked, bool) or not isinstance(asked, int)):
        raise ConfigError(f"{asked!r} threads", f"a whole number from 1 to {most}")
    if asked is not None and not 0 < asked <= most:
        expected, do = f"1 to {most} on this machine", "leave {} out: one a core is best"
        raise ConfigError(f"{asked} threads", expected, do.format("threads"), do.format("--threads"))
    return asked or host.default_threads()
