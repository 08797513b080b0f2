"""A plan is made: prices of a step, memory, and the speeds that follow, if it fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from memfirst.errors import ConfigError, UnsupportedError
from memfirst.graph import Graph, Step
from memfirst.graph import Sequence as Tokens
from memfirst.graph import decode as decode_step
from memfirst.graph import prefill as prefill_step
from memfirst.graph.traffic import KV_READ
from memfirst.lower.cpu import lower
from memfirst.lower.program import Program
from memfirst.plan.fit import Allocator, Memfirst, MemoryPlan, plan_memory
from memfirst.plan.options import MOST_TOKENS, Options, Speculation
from memfirst.plan.place import Place
from memfirst.plan.priced import Priced
from memfirst.plan.result import Distinct, Plan
from memfirst.plan.subject import Subject, subject
from memfirst.predict.prediction import Prediction, speculative

MUCH = 0.6
"""Share of a memory that the system uses too, from which on that is said."""

APPLE = "macOS lends its GPU 67 to 84 % of the memory, by size and version, unless iogpu.wired_limit_mb is raised"
"""recommendedMaxWorkingSetSize: 10.67 of 16 GB (exo#1672), 48 of 64 (llama.cpp#1870), 107.5 of 128 GiB (ds4#893)."""


def plan(models: Sequence[Subject], places: Sequence[Place], options: Options) -> tuple[Plan, ...]:
    """Every model on every machine, model by model."""
    return tuple(make(model, place, options) for model in models for place in places)


def make(model: Subject, place: Place, options: Options) -> Plan:
    """One model on one machine. A model that does not fit has no speed.

    Raises UnsupportedError for what the engine or the parallelism cannot do, ConfigError for several of this machine.
    """
    if place.rates and options.devices > 1:
        raise ConfigError(f"{options.devices} of this machine", "one, or a machine of the catalogue")
    context = options.reached(model.graph.context)
    prompt, priced = options.prompted(context), model.priced(options.kv)
    drafter = _drafter(options)
    memory = _memory(model, drafter, place, options, context)
    last = decode_step(context - 1, options.batch)
    fits = not memory.memories or memory.fits
    weights, kv = _split(priced, last)
    notes = _notes(model, place, options, memory, context)
    return Plan(
        model, place, options, context, prompt, priced.amounts(last), memory,
        memory.memories[0] if memory.memories else None,
        _decode(priced, drafter, place, options, context) if fits else None,
        _decode(priced, drafter, place, options, 1) if fits else None,
        _prefill(priced, place, options, prompt) if fits else None,
        priced.kv(decode_step(context)) - priced.kv(decode_step(context - 1)),
        _overtakes(priced, options.batch, weights) if kv else None,
        _distinct(priced, options), notes,
    )  # fmt: skip


def _drafter(options: Options) -> Priced | None:
    """The model that drafts, in what its engine usually runs."""
    speculation = options.speculation
    if speculation is None or not speculation.draft:
        return None
    return subject(speculation.draft, engine=options.engine).priced(options.kv)


def _memory(model: Subject, drafter: Priced | None, place: Place, options: Options, context: int) -> MemoryPlan:
    """What is held; weights and cache of a drafting model beside it, on the first device."""
    allocator, contexts = place.allocator(options), [context] * options.batch
    memories = [place.machine.memory] * options.devices if place.machine.memory else []
    kv, workers = (options.kv, options.kv), place.threads(options)
    run = _program(model.priced(options.kv).graph, allocator, options, context, workers)
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


def _program(graph: Graph, allocator: Allocator, options: Options, context: int, workers: int) -> Graph | Program:
    """What memfirst would run, so that its memory is the program's; the graph for others, and where it has none."""
    if not isinstance(allocator, Memfirst) or options.devices > 1:
        return graph
    try:
        return lower(graph, 1, context, workers)
    except UnsupportedError:  # it is said where a speed is asked for
        return graph


def _decode(priced: Priced, drafter: Priced | None, place: Place, options: Options, context: int) -> Prediction:
    """A step that brings each sequence to `context` tokens, and with speculation beyond."""
    speculation = options.speculation
    if speculation is not None:
        return _speculated(priced, drafter, place, options, context, speculation)
    return _timed(priced, place, options, decode_step(context - 1, options.batch), float(options.batch))


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


def _prefill(priced: Priced, place: Place, options: Options, prompt: int) -> Prediction:
    return _timed(priced, place, options, prefill_step(prompt), float(prompt))


def _timed(priced: Priced, place: Place, options: Options, step: Step, tokens: float) -> Prediction:
    nbytes = sum(amount.mean for amount in priced.amounts(step).values())
    return place.time(priced, step, options).of(tokens, nbytes, place.bandwidth(options))


def _split(priced: Priced, step: Step) -> tuple[float, float]:
    """Bytes of a step: all but keys and values, and these."""
    amounts = priced.amounts(step)
    kv = amounts[KV_READ].mean if KV_READ in amounts else 0.0
    return sum(a.mean for a in amounts.values()) - kv, kv


def _overtakes(priced: Priced, batch: int, weights: float) -> int | None:
    """The shortest context at which the batch reads as many bytes of KV as of everything else."""
    return _first(lambda tokens: batch * priced.kv(decode_step(tokens - 1)) >= weights)


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
    notes = []
    if context > model.graph.context:
        notes.append(f"{context:,} tokens are more than the {model.graph.context:,} that it was trained for")
    if options.speculation and place.engine(options) == "memfirst":
        notes.append("memfirst does not speculate yet: this is what it would reach")
    if not memory.memories:
        notes.append(f"the memory of {place.machine.name} is not known, so neither is whether it fits")
    shared = place.machine.kind in ("unified", "cpu", "board") and not place.rates
    if shared and place.machine.memory and memory.needs.total > MUCH * place.machine.memory:
        apple = place.machine.family.startswith("apple")
        notes.append(APPLE if apple else "what the system itself takes of the memory is not counted")
    return tuple(notes)
