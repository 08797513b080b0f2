"""Which replica gets a request: the least predicted wait, then where its prompt's beginning is in the cache."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from hashlib import blake2b
from typing import Any

from memfirst.server.front.replica import Replica

PAGE, MOST_PAGES = 256, 64
"""Characters of a page, about the 64 tokens of a replica's; and pages of a prompt that are looked up."""
KNOWN = 1 << 16
"""Pages that are remembered: 8 MB."""
ALIKE_SECONDS = 0.05
"""Waits that differ by less are the same: predictions are not better than that."""


def pages_of(body: Mapping[str, Any]) -> list[bytes]:
    """Names of the first pages of a request's prompt: each says what stands in it and before it."""
    parts: list[Any] = [body.get("system"), body.get("tools")]
    for field in ("messages", "input", "prompt"):
        value = body.get(field)
        parts += value if isinstance(value, list) else [value]
    text = "".join(json.dumps(part, ensure_ascii=False) for part in parts if part is not None)[: PAGE * MOST_PAGES]
    state, found = blake2b(str(body.get("model")).encode(), digest_size=8), []
    for at in range(0, len(text) - PAGE + 1, PAGE):
        state.update(text[at : at + PAGE].encode("utf-8", "surrogatepass"))
        found.append(state.digest())
    return found


class Choice:
    """Remembers which replicas have seen which beginnings."""

    def __init__(self, replicas: Iterable[Replica]) -> None:
        self._replicas = list(replicas)
        self._seen: OrderedDict[bytes, int] = OrderedDict()  # bits: which replicas

    def best(self, model: object, pages: list[bytes], without: Collection[Replica] = ()) -> Replica | None:
        """The replica for a request; None where none is up. A model that none lists is sent to any: it will say so, or
        know it by another name."""
        up = [r for r in self._replicas if r.up and r not in without]
        named = [r for r in up if model in r.models]
        listed = any(model in r.models for r in self._replicas)
        among = named if listed else up
        if not among:
            return None
        least = min(r.wait for r in among)
        soon = [r for r in among if r.wait <= least + ALIKE_SECONDS]
        # A prompt that is there whole outweighs all other places taken; one of which a tenth is there, a tenth of them.
        return min(soon, key=lambda r: (r.load - self._share(r, pages), r.load, r.index))

    def _share(self, replica: Replica, pages: list[bytes]) -> float:
        """Of the prompt's pages, those from the first on that the replica has seen."""
        bit = 1 << replica.index
        known = next((i for i, page in enumerate(pages) if not self._seen.get(page, 0) & bit), len(pages))
        return known / len(pages) if pages else 0.0

    def sent(self, replica: Replica, pages: list[bytes]) -> None:
        """The replica has a prompt now."""
        for page in pages:
            self._seen[page] = self._seen.get(page, 0) | 1 << replica.index
            self._seen.move_to_end(page)
        while len(self._seen) > KNOWN:
            self._seen.popitem(last=False)

    def forget(self, replica: Replica) -> None:
        """It came or went: what it had in memory is gone."""
        keep = ~(1 << replica.index)
        self._seen = OrderedDict((page, bits & keep) for page, bits in self._seen.items() if bits & keep)
