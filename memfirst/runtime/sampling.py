"""Which token comes next: biases, penalties, temperature, top-k, top-p, min-p, in that order, then one draw.

The order is Hugging Face's, and ties at the edge of top-k are kept, as there. The full array is passed over once or
twice; the rest works on a few dozen candidates, in Python where a backend finds them (`Top`): after a step a NumPy
call takes 10 to 20 us, as its code must come from memory. The defaults are llama.cpp's; temperature 0 is greedy.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from memfirst.backends.base import Top
from memfirst.errors import BackendError, ConfigError
from memfirst.runtime.allowed import Allowed

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

Reduce = Callable[[F32, float], tuple[float, float]]
"""(logits f32 [vocab], 1/temperature) -> (max, sum of exp((logit - max)/temperature)); may be compiled."""


ARRAYS = 64
"""Arrays that a sampler remembers to have checked."""

LANES = 64
"""Values per group of `top_ids`: 49,152 logits have 768 group maxima."""


def _within(name: str, found: float, low: float, high: float, whole: bool = False) -> None:
    number = isinstance(found, int | np.integer) if whole else isinstance(found, int | float | np.floating)
    if not number or isinstance(found, bool) or not low <= found <= high:
        kind = "a whole number" if whole else "a number"
        raise ConfigError(f"{name} is {found!r}", f"{kind} from {low} to {high}")


@dataclass(frozen=True)
class SamplingParams:
    """How to choose among the model's logits; ConfigError for values out of range.

    temperature         0 always takes the likeliest token; else 0.001 to 100
    top_k               keep the k likeliest; 0 keeps all
    top_p               keep the fewest whose probabilities reach p, at least one; 1 keeps all
    min_p               keep those with at least min_p of the likeliest one's probability; 0 keeps all
    repetition_penalty  divides a seen token's positive logit, multiplies a negative one; 1 is none
    repetition_window   how many of the last tokens count as seen
    frequency_penalty   taken off the logit of a generated token for each time it came
    presence_penalty    taken off the logit of a token that was generated
    logit_bias          added to the logits of these tokens; -inf excludes one
    seed                None: from the system's entropy
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repetition_penalty: float = 1.0
    repetition_window: int = 64
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.temperature != 0:
            _within("temperature", self.temperature, 0.001, 100)
        _within("top_k", self.top_k, 0, 1 << 24, whole=True)
        _within("top_p", self.top_p, 0, 1)
        _within("min_p", self.min_p, 0, 1)
        _within("repetition_penalty", self.repetition_penalty, 0.01, 100)
        _within("repetition_window", self.repetition_window, 0, 1 << 20, whole=True)
        _within("frequency_penalty", self.frequency_penalty, -100, 100)
        _within("presence_penalty", self.presence_penalty, -100, 100)
        for token, bias in self.logit_bias.items():
            _within("a token of logit_bias", token, 0, 1 << 24, whole=True)
            _within(f"the logit_bias of {token}", bias, -math.inf, 1e4)
        if self.seed is not None:
            _within("seed", self.seed, 0, (1 << 64) - 1, whole=True)


GREEDY = SamplingParams(temperature=0, repetition_penalty=1)
"""The likeliest token, always."""


class Uniforms:
    """Numbers of [0, 1) of NumPy's PCG64, made in blocks, so that a token needs no call of NumPy's."""

    BLOCK = 64

    def __init__(self, seed: int | None) -> None:
        self._seed = seed
        self._generator: np.random.Generator | None = None  # numpy.random takes 4 ms to import
        self._made: list[float] = []

    def random(self) -> float:
        """The next one."""
        if not self._made:
            if self._generator is None:
                self._generator = np.random.Generator(np.random.PCG64(self._seed))
            self._made = self._generator.random(self.BLOCK)[::-1].tolist()
        return self._made.pop()


class Sampler:
    """Draws one sequence's tokens; it takes one uniform number a token, so a seed reproduces in any batch.

    reduce   where top-k is off, the normaliser over all tokens is needed: a compiled one can be given
    top      what finds the candidates of top-k; without one, NumPy does
    """

    def __init__(
        self, params: SamplingParams, vocab_size: int, reduce: Reduce | None = None, top: Top | None = None
    ) -> None:
        if vocab_size < 1:
            raise ConfigError(f"a vocabulary of {vocab_size} tokens", "1 or more")
        self.params, self.vocab_size = params, vocab_size
        self._reduce = reduce or numpy_reduce
        self._random = Uniforms(params.seed)
        # The last tokens as a ring; repeated ids are harmless, because all read before any is written.
        self._window: I32 = np.zeros(params.repetition_window, np.int32)
        self._seen = 0
        self._penalised = params.repetition_penalty != 1 and params.repetition_window > 0
        self._greedy = params.temperature == 0 or params.top_k == 1 or params.top_p == 0
        self._compiled, self._scratch = top, np.empty(0, np.float32)
        k = 1 if self._greedy else params.top_k
        self._top = top if top is not None and (k == 1 or 0 < k <= min(top.most, vocab_size - 1)) else None
        self._all = top if top is not None and self._top is None and not 0 < k < vocab_size else None
        self._k = k
        self._known: dict[int, tuple[F32, bool]] = {}
        self._bias = dict(params.logit_bias)
        over = next((id for id in self._bias if id >= vocab_size), None)
        if over is not None:
            raise ConfigError(f"the token id {over} in logit_bias", f"0 to {vocab_size - 1}")
        self._counted: Counter[int] | None = Counter() if params.frequency_penalty or params.presence_penalty else None

    @property
    def likeliest(self) -> bool:
        """Whether it takes the token with the largest of the model's own logits, and looks at no others."""
        return self._greedy and not (self._penalised or self._bias or self._counted is not None)

    def accept(self, id: int) -> None:
        """This token was generated."""
        self._see(id)
        if self._counted is not None:
            self._counted[id] += 1

    def accept_prompt(self, ids: Iterable[int]) -> None:
        """The sequence begins with these tokens, which no frequency counts."""
        for id in ids:
            self._see(id)

    def _see(self, id: int) -> None:
        if not 0 <= id < self.vocab_size:
            raise ConfigError(f"the token id {id}", f"0 to {self.vocab_size - 1}")
        if self._penalised:
            self._window[self._seen % len(self._window)] = id
            self._seen += 1

    def sample(self, logits: F32, banned: Iterable[int] = (), allowed: Allowed | None = None) -> int:
        """The next token for logits f32 [vocab]: one of `allowed`, none of `banned`. -inf excludes a token.

        Biases and penalties are written into the array and taken back before returning; a read-only array is copied.
        BackendError for NaN or +inf, ConfigError where no token is left.
        """
        added = self._added(banned)
        if not added:
            return self._sample_of(logits, allowed)
        logits = logits if logits.flags.writeable else logits.copy()
        ids = np.fromiter(added, np.int64, len(added))
        kept = logits[ids]
        logits[ids] = kept + np.fromiter(added.values(), np.float32, len(added))
        try:
            return self._sample_of(logits, allowed)
        finally:
            logits[ids] = kept

    def skip(self) -> None:
        """A token came without a choice: later ones are drawn as if it had been drawn from one."""
        if not self._greedy:
            self._random.random()

    def _added(self, banned: Iterable[int]) -> dict[int, float]:
        """What is added to the logits of some tokens."""
        params = self.params
        if not (self._bias or self._counted or banned):
            return {}
        added = dict(self._bias)
        for id, times in (self._counted or {}).items():
            added[id] = added.get(id, 0.0) - params.presence_penalty - params.frequency_penalty * times
        return added | dict.fromkeys(banned, -math.inf)

    def _sample_of(self, logits: F32, allowed: Allowed | None) -> int:
        if allowed is None:
            return self._sample(logits)
        if not allowed.are_few:
            return self._sample(self._masked(logits, allowed))
        ids = allowed.ids
        if not len(ids) or (logits[ids] == -np.inf).all():
            raise ConfigError("an answer with no token left: logit_bias excludes what its grammar asks for", "others")
        return int(ids[self._penalised_choice(logits, lambda penalised: self._choose(penalised[ids], False))])

    def _masked(self, logits: F32, allowed: Allowed) -> F32:
        """A copy of the logits in which the other tokens are excluded; the same array each time."""
        if len(self._scratch) != self.vocab_size:
            self._scratch = np.empty(self.vocab_size, np.float32)
        if self._compiled is not None and (self._known.get(id(logits)) or self._check(logits))[1]:
            self._compiled.masked(logits, allowed.bits, self._scratch)
        else:
            bits = np.unpackbits(allowed.bits.view(np.uint8), bitorder="little")[: self.vocab_size]
            np.copyto(self._scratch, np.where(bits, logits, -np.inf))
        return self._scratch

    def _sample(self, logits: F32) -> int:
        known = self._known.get(id(logits)) or self._check(logits)
        if self._top is not None and known[1]:
            ids, values, ties = self._top(
                logits, self._window, min(self._seen, len(self._window)), self._k, self.params.repetition_penalty
            )
            # Left to NumPy: ties at the edge of top-k, all of which are kept, and logits that are an error.
            if ids and (ties == 0 or (self._greedy and ties > 0)):
                return self._choose_among(ids, values)
        return self._penalised_choice(logits, lambda penalised: self._choose(penalised, known[1]))

    def _penalised_choice(self, logits: F32, choose: Callable[[F32], int]) -> int:
        """What `choose` says of the logits once those of seen tokens are penalised; they are then as they were."""
        if not self._seen:
            return choose(logits)
        logits = logits if logits.flags.writeable else logits.copy()
        seen = self._window[: self._seen]
        kept = logits[seen]
        penalty = np.float32(self.params.repetition_penalty)
        logits[seen] = np.where(kept > 0, kept / penalty, kept * penalty)
        try:
            return choose(logits)
        finally:
            logits[seen] = kept

    def _check(self, logits: F32) -> tuple[F32, bool]:
        """Once an array, and whether a `Top` may read and write it: a backend gives the same few again and again."""
        if logits.shape != (self.vocab_size,) or logits.dtype != np.float32:
            raise BackendError(f"logits {logits.dtype} {list(logits.shape)}", f"float32 [{self.vocab_size}]")
        if len(self._known) >= ARRAYS:
            self._known.clear()
        self._known[id(logits)] = found = logits, bool(logits.flags.carray)
        return found

    def _choose(self, logits: F32, plain: bool) -> int:
        """By NumPy, but for sums over all tokens where a `Top` may read the array. A place in it: some tokens may be
        left out."""
        params = self.params
        if self._greedy:
            return greedy(logits)
        if 0 < params.top_k < self.vocab_size:
            ids, total = ranked(logits, top_ids(logits, min(params.top_k, len(logits)))), None
            best = float(logits[ids[0]])
        else:
            if self._all is not None and plain:
                best, masses = self._all.masses(logits, 1 / params.temperature)
                total = sum(masses)
                check_finite(total if math.isfinite(best) else best)  # a NaN is in the sum
                if params.top_p == 1 and params.min_p == 0:
                    return self._draw_all(logits, best, masses, self._all.part)
            else:
                best, total = self._reduce(logits, 1 / params.temperature)
                check_finite(best)
            ids = self._likely(logits, best, total)
            ids = ranked(logits, ids) if params.top_p < 1 else ids
        return self._draw(ids, relative_weights(logits[ids], best, params.temperature), total)

    def _choose_among(self, ids: list[int], values: list[float]) -> int:
        """What `_choose` and `_draw` do, of candidates that a `Top` found, likeliest first."""
        if self._greedy:
            return ids[0]
        params, best = self.params, values[0]
        weights = [math.exp((value - best) / params.temperature) for value in values]
        enough = params.top_p * sum(weights) if params.top_p < 1 else math.inf
        reached = 0.0
        cumulative: list[float] = []
        for weight in weights:
            if weight < params.min_p or (reached >= enough and cumulative):
                break
            reached += weight
            cumulative.append(reached)
        point = self._random.random() * reached
        return ids[min(bisect_right(cumulative, point), len(cumulative) - 1)]

    def _draw_all(self, logits: F32, best: float, masses: list[float], part: int) -> int:
        """Among all tokens: a part of them by its mass, then one of the part. 30 µs where all weights take 500."""
        point = self._random.random() * sum(masses)
        at, last = 0, len(masses) - 1
        while at < last and point >= masses[at]:
            point -= masses[at]
            at += 1
        start = at * part
        cumulative = np.cumsum(relative_weights(logits[start : start + part], best, self.params.temperature))
        point *= cumulative[-1] / masses[at]
        return start + min(int(cumulative.searchsorted(point, "right")), len(cumulative) - 1)

    def _likely(self, logits: F32, best: float, total: float) -> I64:
        """Without top-k: the ids above a threshold, among them all that min-p and top-p keep.

        Min-p is such a threshold; for top-p one is lowered until the tokens above it have the mass asked for.
        """
        params = self.params
        depth = -math.log(params.min_p) if params.min_p > 0 else math.inf
        reaches = (4.0, 10.0, depth) if params.top_p < 1 else (depth,)
        for reach in sorted(min(reach, depth) for reach in reaches):
            # 1e-6 lower: the threshold is rounded to float32; what it lets in is looked at again.
            below = reach * params.temperature
            bound = best - below - 1e-6 * (abs(best) + below)
            ids = np.flatnonzero(logits >= bound)
            above = relative_weights(logits[ids], best, params.temperature).sum()
            if reach == depth or above > params.top_p * total:
                break
        return ids

    def _draw(self, ids: I64, weights: F64, total: float | None) -> int:
        """weights: relative to the likeliest, falling if top-p is on; total: their sum over all tokens."""
        params = self.params
        total = float(weights.sum()) if total is None else total
        if params.min_p > 0:
            keep = weights >= params.min_p
            ids, weights = ids[keep], weights[keep]
        cumulative, kept = np.cumsum(weights), len(ids)
        if params.top_p < 1:
            kept = min(kept, int(cumulative.searchsorted(params.top_p * total)) + 1)
        point = self._random.random() * cumulative[kept - 1]
        return int(ids[min(int(cumulative.searchsorted(point, "right")), kept - 1)])


def greedy(logits: F32) -> int:
    """The likeliest token, the first of equals."""
    id = int(logits.argmax())  # NaN counts as the largest here, so it can't hide
    check_finite(float(logits[id]))
    return id


def top_ids(logits: F32, k: int) -> I64:
    """Ids of the k largest and of what equals the least of them, ascending; BackendError for NaN, +inf.

    Group maxima first (one vector pass): the k-th largest of them can't exceed the k-th largest value, so
    only groups that reach it can hold one of the k: of 49,152 values some 40 groups of 64 are left.
    """
    groups = len(logits) // LANES
    if k >= groups:  # also short arrays: sort what there is
        check_finite(float(logits.max()))
        return np.flatnonzero(logits >= np.partition(logits, len(logits) - k)[len(logits) - k])
    body = logits[: groups * LANES].reshape(LANES, groups)  # group g holds every `groups`-th value
    maxima = body.max(axis=0)
    rest = logits[groups * LANES :]
    check_finite(float(np.maximum(maxima.max(), rest.max() if len(rest) else -np.inf)))
    bound = np.partition(maxima, groups - k)[groups - k]
    held = np.flatnonzero(maxima >= bound)
    ids = (np.arange(LANES)[:, None] * groups + held).ravel()
    ids = np.concatenate([ids, np.arange(groups * LANES, len(logits))]) if len(rest) else ids
    values = logits[ids]
    return np.sort(ids[values >= np.partition(values, len(values) - k)[len(values) - k]])


def ranked(logits: F32, ids: I64) -> I64:
    """The ids, likeliest first, of equals the lower id (ids come ascending)."""
    return ids[np.argsort(-logits[ids], kind="stable")]


def relative_weights(values: F32, best: float, temperature: float) -> F64:
    """exp((value - best)/temperature), float64: probabilities up to their sum."""
    return np.exp((values.astype(np.float64) - best) / temperature)


def numpy_reduce(logits: F32, inverse_temperature: float) -> tuple[float, float]:
    """The `Reduce` of every token, in float32 with a pairwise sum (relative error below 1e-6)."""
    best = logits.max()
    check_finite(float(best))
    shifted = logits - best
    shifted *= np.float32(inverse_temperature)
    return float(best), float(np.exp(shifted, out=shifted).sum())


def check_finite(best: float) -> None:
    """BackendError unless the largest logit is a finite number (NaN anywhere makes it NaN)."""
    if not math.isfinite(best):
        raise BackendError(f"the largest logit is {best}", "finite numbers", "the weights or a kernel are broken")
