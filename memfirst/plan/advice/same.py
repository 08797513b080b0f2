"""Changes of the same model on the same machine: what is stored in fewer bits, shared by more, or read less often."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from memfirst.catalog.configs import ModelConfig, configs
from memfirst.catalog.models import find_model
from memfirst.graph import KVCache, StateCache
from memfirst.plan import Plan, Speculation
from memfirst.plan.advice.change import EXACT, LOSSY, WINDOW, Advice, attempt, changed, family
from memfirst.plan.framework import BATCH, CODEC, CONTEXT, HEAD, KV, SPECULATION, THREADS
from memfirst.transform.sketched import HEAD_AUTO, HEAD_FULL

ACCEPTED, LOOKED_UP = 0.7, 0.3
"""Acceptance that is assumed of a small relative's drafts, and of the prompt's own n-grams: measure yours."""

DRAFTED = 4
SAME_VOCABULARY = 128
"""Rows by which vocabularies of one tokenizer are padded apart; llama.cpp drafts within as many."""

MUCH_KV, WASTED = 0.15, 1.2

SKETCH_SPARES = 0.2
"""Share of a token's bytes that a sketch of the output head must spare to be advised: 0.33 of Gemma 3 270M's gave 1.26
times the tokens/s, 0.10 of SmolLM2 135M's 1.01, as a sketch takes arithmetic where memory is not what binds."""


def same(plan: Plan) -> Iterator[Advice]:
    """Every change that the engine can make, whatever it gains."""
    for find in (_codecs, _kv, _context, _window, _batch, _speculation, _head, _threads):
        yield from find(plan)


def _with(plan: Plan, **options: object) -> Plan | None:
    before = plan.options if "speculation" in options else plan.requested  # more sequences may run then
    return attempt(plan.subject, plan.place, replace(before, **options))  # type: ignore[arg-type]


def _say(kind: str, change: str, effect: str, before: Plan, after: Plan | None) -> Iterator[Advice]:
    if after is not None:
        yield changed(kind, change, effect, before, after)


def bits(plan: Plan) -> float:
    """Bits per weight, scales included."""
    return 8 * sum(w.nbytes for w in plan.subject.graph.weights().values()) / plan.subject.parameters


def _codecs(plan: Plan) -> Iterator[Advice]:
    """Fewer bits: 8, where there are 16, and what is usual (below it quality falls fast)."""
    if not plan.framework.gguf:
        return
    now = bits(plan)
    lowest = "iq4_xs" if 4.5 < now <= 5.2 else ""
    for mix in ["q8_0"] * (now > 9) + ["q4_k_m"] * (now > 5.2) + [lowest] * bool(lowest):
        after = attempt(plan.subject.recoded(mix), plan.place, plan.requested)
        if after and after.step_bytes < plan.step_bytes:
            yield from _say(
                CODEC, f"weights in {mix.upper()}, {bits(after):.1f} bits for {now:.1f}", LOSSY, plan, after
            )


def _kv(plan: Plan) -> Iterator[Advice]:
    smaller = {"f16": ("q8_0", "f8_e4m3"), "bf16": ("q8_0", "f8_e4m3"), "q8_0": ("q4_0",)}.get(plan.options.kv, ())
    codec = next((c for c in smaller if c in plan.memory.allocator.kv_codecs), None)
    if codec and plan.growth:
        after = _with(plan, kv=codec)
        yield from _say(KV, f"keys and values in {codec}", LOSSY, plan, after)


def _context(plan: Plan) -> Iterator[Advice]:
    half = plan.context // 2
    if plan.kv_share >= MUCH_KV and half >= 256:
        after = _with(plan, context=half, prompt=min(plan.prompt, half))
        yield from _say(CONTEXT, f"a context of {half:,} tokens", f"exact while {half:,} are enough", plan, after)


def _window(plan: Plan) -> Iterator[Advice]:
    """Layers with a window need no more than the window: some engines set aside whole contexts for them."""
    windowed = any(isinstance(c, KVCache) and c.window for c in plan.subject.graph.caches)
    needs, other = plan.memory.needs, {"vllm": "vllm-hybrid"}.get(plan.engine)
    if windowed and other and needs.kv_allocated > WASTED * needs.kv_held:
        after = _with(plan, engine=other)
        saved = needs.kv_allocated - after.memory.needs.kv_allocated if after else 0
        if saved > 0:
            yield from _say(
                WINDOW, f"{other}, which sets aside windows only: {saved / 1e9:.2f} GB less", EXACT, plan, after
            )


def _batch(plan: Plan) -> Iterator[Advice]:
    """Sequences that share a step share its weights."""
    larger = 8 if plan.options.batch < 8 else 2 * plan.options.batch
    while larger > plan.options.batch:
        after = _with(plan, batch=larger)
        if after and after.fits is not False:
            known = after.each and plan.each
            each = f"exact; each sequence {_speed(after.each)} tok/s, not {_speed(plan.each)}" if known else EXACT
            yield from _say(BATCH, f"{after.options.batch} sequences at a time", each, plan, after)
            return
        larger //= 2


def _speed(rate: float | None) -> str:
    """Three digits, and never an exponent: "4,532", "85.7", "0.42"."""
    return "?" if rate is None else f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def _speculation(plan: Plan) -> Iterator[Advice]:
    stateful = any(isinstance(c, StateCache) for c in plan.subject.graph.caches)  # state is not taken back there
    if plan.options.speculation or stateful or not plan.framework.speculates:
        return
    draft = drafter(plan)
    if draft is None and plan.framework.looks_up:
        return
    accepted = ACCEPTED if draft else LOOKED_UP
    by = Speculation(DRAFTED, accepted, draft.name if draft else "")
    after = _with(plan, speculation=by)
    who = f"{by.draft} drafts {by.tokens}" if draft else f"{by.tokens} tokens looked up in the prompt"
    yield from _say(SPECULATION, f"{who} a step", f"exact, if {100 * accepted:.0f} % of drafts are right", plan, after)


def _head(plan: Plan) -> Iterator[Advice]:
    """A sketch of the output head, for greedy answers of one sequence."""
    options = plan.options
    if (
        plan.engine != "memfirst"
        or options.head != HEAD_FULL
        or options.speculation
        or options.batch * options.devices > 1
    ):
        return
    after = _with(plan, head=HEAD_AUTO)
    if after and after.sketch and after.step_bytes <= (1 - SKETCH_SPARES) * plan.step_bytes:
        share = f"{100 * after.sketch.share:.1f} % of the head's rows"
        change = f"greedy answers by a sketch of the output head and {share}"
        yield from _say(HEAD, change, "exact, at temperature 0", plan, after)


def drafter(plan: Plan) -> ModelConfig | None:
    """The smallest model of the catalogue with the same architecture and vocabulary, at most a fifth of the size; one
    that can be fetched first, and of the same family. Of another family only one that can be fetched."""
    graph, most, kin = plan.subject.graph, plan.subject.parameters / 5, family(plan.subject.name)

    def alike(row: ModelConfig) -> bool:
        vocabulary, kind = row.config.get("vocab_size"), row.config.get("model_type")
        same_words = isinstance(vocabulary, int) and abs(vocabulary - graph.vocab_size) <= SAME_VOCABULARY
        return same_words and kind == graph.architecture and 0 < (row.parameters or 0) <= most

    def rank(row: ModelConfig) -> tuple[bool, bool, int]:
        return find_model(row.name) is None, family(row.name) != kin, row.parameters or 0

    found = min(filter(alike, configs()), key=rank, default=None)
    return None if found is None or rank(found)[:2] == (True, True) else found


def _threads(plan: Plan) -> Iterator[Advice]:
    """The number of threads at which a processor is fastest, where it is not this one."""
    machine, now = plan.place.machine, plan.options.threads or plan.place.machine.cores
    if machine.kind not in ("cpu", "board") or now < 1:
        return
    measured = plan.place.rates.threads if plan.place.rates else (machine.cores, machine.cores // 2, machine.cores // 4)
    others = [_with(plan, threads=n) for n in measured if n and n != now]
    best = max((p for p in others if p), key=lambda p: p.rate or 0.0, default=None)
    if best and best.rate:
        yield from _say(THREADS, f"{best.options.threads} threads for {now}", EXACT, plan, best)
