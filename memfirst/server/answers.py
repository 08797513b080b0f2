"""What an answer cost, and its log-probabilities, in the forms that clients read."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from memfirst.runtime.request import CONTEXT, LENGTH
from memfirst.server.link import Answer
from memfirst.server.messages import End
from memfirst.text import Tokenizer

TOTALS = ("queued_s", "prompt_s", "answer_s")


def new_id(kind: str, joint: str = "-") -> str:
    """A name of its own: "chatcmpl-…", or "msg_…" where clients look for that."""
    return f"{kind}{joint}{uuid.uuid4().hex[:24]}"


def finish_reason(end: End) -> str:
    """OpenAI's word for why an answer ended."""
    return "length" if end.reason in (LENGTH, CONTEXT) else "stop"


def usage(ends: Sequence[End]) -> dict[str, Any]:
    """OpenAI's `usage` of one prompt's answers, and beside it `memfirst`: bytes that were read for them, integers that
    summed over requests give the server's own counters."""
    prompt = max(end.usage["prompt_tokens"] for end in ends)
    cached = max(end.usage["cached_tokens"] for end in ends)
    written = sum(end.usage["tokens"] for end in ends)
    predicted = [end.usage for end in ends if end.usage["predicted"]]
    return {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
        "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0, "audio_tokens": 0,
            "accepted_prediction_tokens": sum(u["kept"] for u in predicted),
            "rejected_prediction_tokens": sum(u["drafted"] - u["kept"] for u in predicted),
        },
        "memfirst": bytes_read(ends),
    }  # fmt: skip


def bytes_read(ends: Sequence[End]) -> dict[str, Any]:
    """Bytes by purpose, seconds, and what is held."""
    read: dict[str, int] = {}
    for end in ends:
        for purpose, n in end.usage["bytes"].items():
            read[purpose] = read.get(purpose, 0) + n
    tokens = sum(end.usage["tokens"] for end in ends)
    return {
        "bytes_read": read,
        "bytes_per_token": sum(read.values()) // max(1, tokens),
        "kv_held": sum(end.usage["kv_held"] for end in ends),
        "drafted_tokens": sum(end.usage["drafted"] for end in ends),
        "kept_drafts": sum(end.usage["kept"] for end in ends),
        **{name: round(max(end.usage[name] for end in ends), 6) for name in TOTALS},
    }


def joined(usages: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The usage of several prompts together."""
    if len(usages) == 1:
        return usages[0]
    total: dict[str, Any] = {}
    for one in usages:
        for name, value in one.items():
            if isinstance(value, dict):
                total[name] = joined([total[name], value]) if name in total else value
            else:
                total[name] = total.get(name, 0) + value
    return total


def timings(end: End) -> dict[str, Any]:
    """As llama.cpp says it: the first token belongs to the prompt, so the rate leaves it out."""
    u = end.usage
    computed = u["prompt_tokens"] - u["cached_tokens"]
    prompt_ms, answer_ms, steps = 1e3 * u["prompt_s"], 1e3 * u["answer_s"], u["answer_steps"]
    return {
        "cache_n": u["cached_tokens"], "prompt_n": computed, "prompt_ms": prompt_ms,
        "prompt_per_token_ms": prompt_ms / max(1, computed),
        "prompt_per_second": 1e3 * computed / prompt_ms if prompt_ms else 0.0,
        "predicted_n": u["tokens"], "predicted_ms": answer_ms,
        "predicted_per_token_ms": answer_ms / max(1, steps),
        "predicted_per_second": 1e3 * steps / answer_ms if answer_ms else 0.0,
    }  # fmt: skip


def prompt_progress(answer: Answer) -> list[dict[str, Any]]:
    """What came of an answer's prompt since the last time, as llama.cpp says it."""
    found = [
        {"total": p.total, "cache": p.cached, "processed": p.done, "time_ms": round(1e3 * p.seconds)}
        for p in answer.progress
    ]
    answer.progress.clear()
    return found


def chat_logprobs(tokenizer: Tokenizer, listed: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """One token's entry of `logprobs.content`, with the likeliest in its place."""
    chosen, *likeliest = [_entry(tokenizer, int(id), value) for id, value in listed]
    return {**chosen, "top_logprobs": likeliest}


def _entry(tokenizer: Tokenizer, id: int, value: float) -> dict[str, Any]:
    piece = tokenizer.piece(id, special=True)
    return {"token": piece.decode("utf-8", "replace"), "logprob": value, "bytes": list(piece)}


class CompletionLogprobs:
    """The older form: parallel lists, with the place of each token in the text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer, self._at = tokenizer, 0
        self.lists: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}

    def add(self, listed: Sequence[Sequence[Any]]) -> None:
        """One token's."""
        chosen, *likeliest = [_entry(self._tokenizer, int(id), value) for id, value in listed]
        self.lists["tokens"].append(chosen["token"])
        self.lists["token_logprobs"].append(chosen["logprob"])
        self.lists["top_logprobs"].append({one["token"]: one["logprob"] for one in likeliest} or None)
        self.lists["text_offset"].append(self._at)
        self._at += len(chosen["token"])

    def take(self) -> dict[str, list[Any]]:
        """All since the last time."""
        taken, self.lists = self.lists, {name: [] for name in self.lists}
        return taken
