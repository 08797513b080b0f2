"""What fits a machine: models that people run, in the most bits that fit and in the usual ones, largest first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from memfirst.convert.mixes import MIXES
from memfirst.errors import MemfirstError
from memfirst.plan.make import make
from memfirst.plan.options import Options
from memfirst.plan.place import Place
from memfirst.plan.result import Plan
from memfirst.plan.subject import USUAL, Subject, mix_bytes, subject
from memfirst.progress import Progress

PEOPLE_RUN = (
    "kimi-k2:1t", "deepseek-v3.1:671b", "deepseek-r1:671b", "qwen3-coder:480b-a35b", "llama-3.1:405b",
    "qwen3:235b-a22b-2507", "mistral-large:123b", "gpt-oss:120b", "qwen2.5:72b", "llama-3.3:70b", "mixtral:8x7b",
    "seed-oss:36b", "qwen3:32b", "exaone-4.0:32b", "qwen3:30b-a3b-2507", "qwen3-coder:30b-a3b", "gemma-3:27b",
    "mistral-small-3.2:24b", "gpt-oss:20b", "deepseek-v2:lite", "qwen3:14b", "phi-4:14b", "gemma-3:12b",
    "mistral-nemo:12b", "glm-4:9b", "qwen3:8b", "llama-3.1:8b", "ministral-3:8b", "granite-3.3:8b", "olmo-3:7b",
    "granite-4.0-h:tiny", "qwen3:4b-2507", "gemma-3:4b", "phi-4:mini", "granite-4.0:micro", "llama-3.2:3b",
    "smollm3:3b", "qwen3:1.7b", "smollm2:1.7b", "gemma-3:1b", "llama-3.2:1b", "qwen3:0.6b", "smollm2:360m",
    "smollm2:135m",
)  # fmt: skip
"""Of the families that a public cache of 1,111 measured runs counts (August 2026), those that memfirst prices."""

LADDER = ("q8_0", "q6_k", USUAL, "q3_k_m", "q2_k")
"""From many bits to few."""

QUALITY = {
    "q8_0": "≈ published", "q6_k": "tiny loss", "q5_k_m": "tiny loss", "q4_k_m": "small loss", "q4_1": "small loss",
    "iq4_xs": "small loss", "q4_0": "some loss", "q3_k_m": "clear loss", "q2_k": "large loss",
}  # fmt: skip
"""What codecs cost in answers, in words: perplexities of llama.cpp's README for its quantizer."""

SLOW = 4.0
"""Tokens/s below which nobody waits: a person reads 4 to 6."""


def rank(
    place: Place, options: Options, names: tuple[str, ...] = PEOPLE_RUN, progress: Progress | None = None
) -> list[Plan]:
    """Plans that fit, the most parameters first, then the most bits; last what is slow, or loses much."""
    found: list[Plan] = []
    for i, name in enumerate(names):
        if progress:
            progress.update("models", i, len(names), unit="")
        found += _plans(name, place, options)
    return sorted(found, key=_order)


def _order(plan: Plan) -> tuple[bool, int, int]:
    last = (plan.each or 0.0) < SLOW or quality(plan) == QUALITY["q2_k"]
    return last, -plan.subject.parameters, -weight_bytes(plan.subject)


def quality(plan: Plan) -> str:
    """A word on what its codec costs in answers."""
    published = plan.subject.graph is plan.subject.origin
    return "published" if published else QUALITY.get(plan.subject.codec, "")


def weight_bytes(model: Subject) -> int:
    """Of all weights."""
    return sum(w.nbytes for w in model.graph.weights().values())


def _plans(name: str, place: Place, options: Options) -> Iterator[Plan]:
    """In the codec that was asked for, else in the most bits that fit, and in the usual ones where these are fewer."""
    room = (place.memory(options) or 0) * place.allocator(options).share * max(place.count, options.devices)
    plain = subject(name, engine=place.engine(options))
    if options.codec or not place.framework(options).gguf or not plain.assumed:
        yield from _fitting(subject(name, options.codec, place.engine(options)), place, options, room)
        return
    shown = False
    for mix in LADDER:
        if (mix not in MIXES and place.engine(options) == "memfirst") or (shown and mix != USUAL):
            continue
        if mix_bytes(plain.origin, mix) > room:
            continue
        for plan in _fitting(plain.recoded(mix), place, options, room):
            shown = True
            yield plan


def _fitting(model: Subject, place: Place, options: Options, room: float) -> Iterator[Plan]:
    if weight_bytes(model) > room:
        return
    trained = model.graph.context
    try:
        plan = make(model, place, replace(options, context=min(options.context, trained)))
    except MemfirstError:
        return  # the engine has no cache for it, or the devices cannot share it
    if plan.fits and plan.rate:
        yield plan
