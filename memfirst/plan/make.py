"""A plan is made: prices of a step, memory, and the speeds that follow, if it fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from memfirst.codecs import bf12
from memfirst.errors import ConfigError, UnsupportedError
from memfirst.graph import Graph, KVCache, Step
from memfirst.graph import Sequence as Tokens
from memfirst.graph import decode as decode_step
from memfirst.graph import prefill as prefill_step
from memfirst.graph.ops.sketched import sketched
from memfirst.graph.traffic import KV_READ
from memfirst.plan.fit import Allocator, Memfirst, MemoryPlan, plan_memory
from memfirst.plan.limits import most_sequences
from memfirst.plan.options import MOST_TOKENS, Options, Speculation
from memfirst.plan.place import Place
from memfirst.plan.priced import Priced
from memfirst.plan.result import MARGIN, Distinct, Plan
from memfirst.plan.subject import Subject, subject
from memfirst.predict.fitted import PIPELINE
from memfirst.predict.prediction import Prediction, speculative
from memfirst.transform.recode import without_windows
from memfirst.transform.sketched import HEAD_FULL
from memfirst.transform.weight_formats import SCHEMES

if TYPE_CHECKING:
    from memfirst.lower.program import Program
    from memfirst.plan.from_disk import FromDisk

NO_ROOM = "the output head has no sketch: there is no memory for it"
APPLE = "what macOS lends its GPU can be raised: sudo sysctl iogpu.wired_limit_mb"


def plan(models: Sequence[Subject], places: Sequence[Place], options: Options) -> tuple[Plan, ...]:
    """Every model on every machine, model by model."""
    return tuple(make(model, place, options) for model in models for place in places)


def make(model: Subject, place: Place, options: Options) -> Plan:
    """One model on one machine. A model that does not fit has no speed.

    Raises UnsupportedError for what the engine or the parallelism cannot do, ConfigError for several of this machine.
    """
    if not options.engine and not place.here and model.codec in SCHEMES:
        options = replace(options, engine=place.engine(replace(options, codec=model.codec)))  # a config may state it
    model = _as_run(model, place, options)
    if place.count > 1 and options.devices == 1:
        options = replace(options, devices=place.count)
    asked_for = (
        model.graph is not model.origin
    )  # a config that states its own scheme is priced in it, whatever the engine
    if asked_for and place.framework(options).gguf and model.codec in SCHEMES:
        found = f"{place.engine(options)} with weights in {model.codec.upper()}"
        raise UnsupportedError(found, "a mix of GGUF files such as q4_k_m, or --engine vllm, sglang or mlx")
    if options.head != HEAD_FULL and place.engine(options) != "memfirst":
        raise UnsupportedError(f"{place.engine(options)} with a sketch of the output head", "memfirst, or --head full")
    if not options.parallel:
        return _as_usual(model, place, options)
    if place.here and options.devices > 1:
        raise ConfigError(f"{options.devices} of this machine", "one, or a machine of the catalogue")
    context = options.reached(model.graph.context)
    asked = options.batch
    options, waiting = _at_once(model, place, options, context)
    prompt, priced = options.prompted(context), place.priced(model, options)
    drafter = _drafter(options)
    memory = _memory(model, drafter, place, options, context)
    last = options.step(context)
    fits = not memory.memories or memory.fits
    if not fits and sketched(priced.graph):  # as the engine does without what is only faster
        whole = make(model, place, replace(options, head=HEAD_FULL))
        return replace(whole, notes=(*whole.notes, NO_ROOM))
    disk = _streamed(model, place, options, context) if options.memory and not fits else None
    if disk:
        memory, fits = _on_disk(disk, memory, place, options, context), True
        priced = model.priced(options.kv)  # what comes from disk is not packed
    weights, kv = _split(priced, last)
    notes = _notes(model, place, options, memory, context) + waiting
    made = Plan(
        model, place, options, context, prompt, priced.amounts(last), memory,
        memory.memories[0] if memory.memories else None,
        _decode(priced, drafter, place, options, context, disk).widened(model.widening) if fits else None,
        _decode(priced, drafter, place, options, 1, disk).widened(model.widening) if fits else None,
        _prefill(priced, place, options, prompt, disk).widened(model.widening) if fits else None,
        _growth(priced, context),
        _overtakes(priced, options.batch, weights) if kv else None,
        _distinct(priced, options), notes, _exact(model, place, options), asked, disk,
    )  # fmt: skip
    if options.split:
        made = replace(made, split=place.split_time(priced, decode_step(context - 1, options.batch), options, context))
    if options.replicas > 1:
        from memfirst.plan.replicas import replicas  # few plans need it

        return replace(made, replicas=replicas(made, kv))
    return made


PHI = "llama.cpp does not apply Phi-3's window (pull 13676): the whole context is cached and read"


def _as_run(model: Subject, place: Place, options: Options) -> Subject:
    """The model as the engine runs it: Phi-3 without its window, by llama.cpp and what builds on it."""
    graph, engine = model.graph, place.framework(options)
    if graph.architecture != "phi3" or not engine.gguf or engine.name == "memfirst":
        return model
    if not any(isinstance(cache, KVCache) and cache.window and cache.window < graph.context for cache in graph.caches):
        return model
    whole = without_windows(graph)
    origin = whole if graph is model.origin else without_windows(model.origin)
    return replace(model, graph=whole, origin=origin, notes=(*model.notes, PHI), _priced={})


def _as_usual(model: Subject, place: Place, options: Options) -> Plan:
    """Shared as the engine's users share it; whole layers where these cannot be cut."""
    usual = place.framework(options).parallel
    try:
        return make(model, place, replace(options, parallel=usual))
    except UnsupportedError:
        if usual == PIPELINE or options.devices == 1:
            raise
        return make(model, place, replace(options, parallel=PIPELINE))


def _at_once(model: Subject, place: Place, options: Options, context: int) -> tuple[Options, tuple[str, ...]]:
    """With as many sequences as run at a time, where an engine lets the others wait; and that it does."""
    if options.batch == 1 or not place.framework(options).preempts or options.speculation:
        return options, ()
    memory = _memory(model, None, place, options, context)
    if not memory.memories or memory.fits:
        return options, ()
    each = most_sequences(place.priced(model, options).graph, memory, context, options)
    if not each:
        return options, ()
    fit = f"{each} of {context:,} tokens fit, {each * context:,} tokens in all"
    said = f"of {options.batch} sequences {fit}; the others wait, and take turns"
    return replace(options, batch=each), (said,)


def _drafter(options: Options) -> Priced | None:
    """The model that drafts, in what its engine usually runs."""
    speculation = options.speculation
    if speculation is None or not speculation.draft:
        return None
    return subject(speculation.draft, engine=options.engine).priced(options.kv)


def _memory(model: Subject, drafter: Priced | None, place: Place, options: Options, context: int) -> MemoryPlan:
    """What is held; weights and cache of a drafting model beside it, on the first device."""
    allocator, contexts = place.allocator(options), [context] * options.batch
    each = place.memory(options)
    memories = [each] * options.devices if each else []
    kv, workers = options.codecs, place.threads(options)
    run = _program(place.priced(model, options).graph, allocator, options, context, workers)
    found = plan_memory(
        run, contexts, allocator=allocator, kv=kv, memories=memories, parallel=options.parallel, workers=workers
    )
    if drafter is None:
        return found
    more = plan_memory(drafter.graph, contexts, allocator=allocator, kv=kv).needs
    first = found.devices[0]
    both = replace(
        first, weights=first.weights + more.weights, kv_read=first.kv_read + more.kv_read,
        kv_held=first.kv_held + more.kv_held, kv_allocated=first.kv_allocated + more.kv_allocated,
        state_read=first.state_read + more.state_read, state_allocated=first.state_allocated + more.state_allocated,
    )  # fmt: skip
    return replace(found, devices=(both, *found.devices[1:]))


def _streamed(model: Subject, place: Place, options: Options, context: int) -> FromDisk | None:
    from memfirst.plan.from_disk import streamed  # what most plans do without

    return streamed(model, place, options, context)


def _on_disk(disk: FromDisk, memory: MemoryPlan, place: Place, options: Options, context: int) -> MemoryPlan:
    """What is held, where some of the weights are not."""
    contexts, workers = [context] * options.batch, place.threads(options)
    return plan_memory(
        disk.program, contexts, allocator=memory.allocator, kv=options.codecs, memories=memory.memories,
        workers=workers,
    )  # fmt: skip


def _exact(model: Subject, place: Place, options: Options) -> Callable[[int, int], int] | None:
    """What memfirst needs, to the byte; None of others."""
    if not isinstance(place.allocator(options), Memfirst) or options.devices > 1:
        return None

    allocator, workers = place.allocator(options), place.threads(options)
    graph = place.priced(model, options).graph
    run = lru_cache(2)(lambda tokens: _program(graph, allocator, options, tokens, workers))

    def total(tokens: int, sequences: int) -> int:
        found = run(tokens)
        contexts = [tokens] * sequences
        return plan_memory(found, contexts, allocator=allocator, kv=options.codecs, workers=workers).needs.total

    return total


def _program(graph: Graph, allocator: Allocator, options: Options, context: int, workers: int) -> Graph | Program:
    """What memfirst would run, so that its memory is the program's; the graph for others, and where it has none."""
    if not isinstance(allocator, Memfirst) or options.devices > 1:
        return graph
    from memfirst.lower.cpu import lower  # a tenth of the start of a plan for another engine

    try:
        return lower(graph, 1, context, workers)
    except UnsupportedError:  # it is said where a speed is asked for
        return graph


def _decode(
    priced: Priced, drafter: Priced | None, place: Place, options: Options, context: int, disk: FromDisk | None
) -> Prediction:
    """A step that brings each sequence to `context` tokens, and with speculation beyond."""
    speculation = options.speculation
    if speculation is not None:
        return _speculated(priced, drafter, place, options, context, speculation)
    return _timed(priced, place, options, options.step(context), float(options.batch), disk)


def _speculated(
    priced: Priced, drafter: Priced | None, place: Place, options: Options, context: int, by: Speculation
) -> Prediction:
    """`by.tokens` steps of the drafting model, then one of the model over all that was drafted."""
    new, gained = by.tokens + 1, options.batch * by.gained
    past = max(0, context - new)
    check = Step(tuple(Tokens(past, new, logits=tuple(range(new))) for _ in range(options.batch)))
    checked = _timed(priced, place, options, check, gained)
    step = decode_step(past, options.batch)
    drafts = [_timed(drafter, place, options, step, 0.0)] * by.tokens if drafter else []
    return speculative(checked, drafts, place.bandwidth(options))


def speculated(plan: Plan, by: Speculation) -> Prediction:
    """A step of a plan with drafts, as if it fitted."""
    options = replace(plan.options, speculation=by)
    priced = plan.subject.priced(options.kv)
    return _speculated(priced, _drafter(options), plan.place, options, plan.context, by)


def _prefill(priced: Priced, place: Place, options: Options, prompt: int, disk: FromDisk | None) -> Prediction:
    return _timed(priced, place, options, prefill_step(prompt), float(prompt), disk)


def _timed(
    priced: Priced, place: Place, options: Options, step: Step, tokens: float, disk: FromDisk | None = None
) -> Prediction:
    nbytes = sum(amount.mean for amount in priced.amounts(step).values())
    found = place.time(priced, step, options)
    found = disk.time(found, step) if disk else found
    return found.of(tokens, nbytes, place.bandwidth(options))


def _split(priced: Priced, step: Step) -> tuple[float, float]:
    """Bytes of a step: all but keys and values, and these."""
    amounts = priced.amounts(step)
    kv = amounts[KV_READ].mean if KV_READ in amounts else 0.0
    return sum(a.mean for a in amounts.values()) - kv, kv


def _growth(priced: Priced, context: int) -> int:
    """Bytes of KV that the next token adds; where several share an entry, of so many that fill one; where it begins a
    chunk, the one behind it."""
    caches, at = [c for c in priced.graph.caches if isinstance(c, KVCache)], context - 1
    every = max((c.every for c in caches), default=1)
    if any(c.chunked and c.first(at + every) > c.first(at) for c in caches):
        at += every
    return (priced.kv(decode_step(at + every)) - priced.kv(decode_step(at))) // every


def _overtakes(priced: Priced, batch: int, weights: float) -> int | None:
    """The shortest context from which on the batch reads as many bytes of KV as of everything else. Chunks give back
    what they had: so many as their first token reads, which no later one is below."""
    chunks = {c.window for c in priced.graph.caches if isinstance(c, KVCache) and c.chunked and c.window}

    def holds(tokens: int) -> bool:
        least = min(((tokens - 1) // chunk * chunk for chunk in chunks), default=tokens - 1)
        return batch * priced.kv(decode_step(least)) >= weights

    return _first(holds)


def _first(holds: Callable[[int], bool]) -> int | None:
    """The least n in 1..MOST_TOKENS for which it holds, where it holds from there on."""
    if not holds(MOST_TOKENS):
        return None
    low, high = 0, MOST_TOKENS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _distinct(priced: Priced, options: Options) -> Distinct | None:
    """E · (1 − (1 − k/E)^n) experts for n tokens that each pick k of E."""
    routed = priced.routed()
    if routed is None:
        return None
    experts, picked = routed
    tokens = options.batch * (options.speculation.tokens + 1 if options.speculation else 1)
    mean = experts * (1 - (1 - picked / experts) ** tokens)
    return Distinct(experts, picked, mean, picked, min(experts, picked * tokens))


def _notes(model: Subject, place: Place, options: Options, memory: MemoryPlan, context: int) -> tuple[str, ...]:
    notes = [*model.notes, *place.throttle.said(place.sold or place.machine)]
    if context > model.graph.context:
        notes.append(f"{context:,} tokens are more than the {model.graph.context:,} that it was trained for")
    if not memory.memories:
        notes.append(f"the memory of {place.machine.name} is not known, so neither is whether it fits")
    ours = place.priced(model, options) if isinstance(place.allocator(options), Memfirst) else None
    packed = [w for w in ours.graph.weights().values() if w.twelve_bits] if ours else []
    if packed:
        less = sum((w.nbytes - w.aside * bf12.ASIDE_BYTES) for w in packed)
        more = sum(w.nbytes + (w.aside_bounds[1] - w.aside) * bf12.ASIDE_BYTES for w in packed)
        notes.append(f"BF16 matrices are kept in 12 bits: {less / 1e6:,.0f} to {more / 1e6:,.0f} MB, known when loaded")
    if options.head != HEAD_FULL and ours and not sketched(ours.graph):
        notes.append("the output head has no sketch: it is not worth one, or of a codec that has none")
    if place.lends(options) and memory.memories and memory.spare < MARGIN:
        notes.append(APPLE)
    if place.here and not place.rates:
        notes.append(f"this machine is {place.machine.title}, its rates {place.machine.source}: run memfirst machine")
    return tuple(notes)
