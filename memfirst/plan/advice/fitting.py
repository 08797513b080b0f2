"""What would make a model fit: fewer bits, a shorter context, several devices, slower memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from memfirst.convert.mixes import MIXES
from memfirst.errors import MemfirstError
from memfirst.graph import decode as decode_step
from memfirst.plan import Plan
from memfirst.plan.advice.change import EXACT, LOSSY, SLOW, Advice, attempt, changed, command
from memfirst.plan.advice.same import bits
from memfirst.plan.commands import NO_ROOM
from memfirst.plan.fit import largest_context, place
from memfirst.plan.framework import CODEC, CONTEXT, DEVICES, KV, ON_GPU
from memfirst.plan.offload import Offload, offloaded
from memfirst.plan.subject import mix_bytes
from memfirst.predict.fitted import TENSOR

LADDER = ("q8_0", "q6_k", "q5_k_m", "q4_k_m", "q3_k_m", "q2_k")
"""From many bits to few."""

MOST_DEVICES, MOST_MOVED = 16, 2 << 40
"""Of one machine: GPUs, and bytes of slower memory."""


def fitting(plan: Plan) -> Iterator[Advice]:
    """Changes after which the model fits; none where it does."""
    if plan.fits is not False:
        return
    for find in (_codec, _kv, _context, _devices, _slower):
        yield from find(plan)


def _codec(plan: Plan) -> Iterator[Advice]:
    """The most bits that fit."""
    if not plan.framework.gguf:
        return
    now, missing = sum(w.nbytes for w in plan.subject.graph.weights().values()), -plan.memory.spare
    mixes = [mix for mix in LADDER if plan.engine != "memfirst" or mix in MIXES]
    if now - mix_bytes(plan.subject.origin, mixes[-1]) < missing / plan.options.devices:
        return  # the fewest bits are too many
    for mix in mixes:
        if now - mix_bytes(plan.subject.origin, mix) < missing / plan.options.devices:
            continue
        after = attempt(plan.subject.recoded(mix), plan.place, plan.options)
        if after and after.fits:
            change = f"weights in {mix.upper()}, {bits(after):.1f} bits for {bits(plan):.1f}"
            yield changed(CODEC, change, LOSSY, plan, after)
            return


def _kv(plan: Plan) -> Iterator[Advice]:
    able = "q8_0" in plan.memory.allocator.kv_codecs and plan.options.kv == "f16"
    if able and plan.memory.needs.kv_allocated > -plan.memory.spare:
        after = attempt(plan.subject, plan.place, replace(plan.options, kv="q8_0"))
        if after and after.fits:
            yield changed(KV, "keys and values in q8_0", LOSSY, plan, after)


def _context(plan: Plan) -> Iterator[Advice]:
    options = plan.options
    kv = options.codecs
    most = largest_context(
        plan.subject.graph,
        plan.memory.memories,
        batch=options.batch,
        allocator=plan.memory.allocator,
        kv=kv,
        parallel=options.parallel,
    )
    tokens = min(most, plan.context) // 256 * 256
    if tokens >= 256 and not options.speculation:
        after = attempt(plan.subject, plan.place, replace(options, context=tokens, prompt=min(plan.prompt, tokens)))
        if after and after.fits:
            effect = f"exact while {tokens:,} are enough"
            yield changed(CONTEXT, f"a context of {tokens:,} tokens", effect, plan, after)


def _devices(plan: Plan) -> Iterator[Advice]:
    """The fewest of them, in powers of two."""
    count, machine = 2 * plan.options.devices, plan.place.machine
    if machine.kind not in ON_GPU and machine.link is None:
        return  # nothing that devices could share a model over
    while count <= MOST_DEVICES:
        after = attempt(plan.subject, plan.place, replace(plan.options, devices=count))
        if after and after.fits:
            how = "each layer cut" if plan.options.parallel == TENSOR else "layers one after another"
            yield changed(DEVICES, f"{count} × {machine.name}, {how}", EXACT, plan, after)
            return
        count *= 2


def _slower(plan: Plan) -> Iterator[Advice]:
    """As many layers (of a mixture, as many layers' experts) as must be, in the memory behind the device's own."""
    if plan.options.devices > 1 or plan.available is None or plan.place.bandwidth(plan.options) is None:
        return
    step = decode_step(plan.context - 1, plan.options.batch)
    found = offloaded(plan.subject, plan.place, plan.options, plan.context, step)
    if plan.engine == "memfirst":
        yield from _on_disk(plan)
    else:
        yield from [_on_host(plan, found)] if found else _streamed(plan)


def _on_disk(plan: Plan) -> Iterator[Advice]:
    """The rest read from disk in each step, which memfirst does."""
    after = attempt(plan.subject, plan.place, replace(plan.options, memory=plan.available or 0))
    if after and after.disk:
        read = after.disk.reads(decode_step(plan.context - 1, plan.options.batch))
        kept = after.disk.experts
        what = "of the weights" if kept is None else f"of experts, {100 * kept:.0f} % of them in memory,"
        change = (
            f"{after.disk.on_disk / 1e9:.1f} GB {what} on disk, {read.mean / 1e9:.1f} GB read in each step at"
            f" {after.disk.bandwidth / 1e9:.1f} GB/s ({after.disk.source})"
        )
        yield changed(SLOW, change, EXACT, plan, after)


def _on_host(plan: Plan, found: Offload) -> Advice:
    """Computed by the CPU where it lies: a speed is predicted."""
    split, batch = found.placement, plan.options.batch
    source = ", assumed: --host" if found.assumed else ""
    moved = f"{split.layers} layers" if split.what == "layers" else f"the experts of {split.layers} layers"
    change = (
        f"{moved} on the CPU, {found.host_bytes / 1e9:.1f} GB of them read in each step (host's memory"
        f" {found.host_bandwidth / 1e9:.0f} GB/s{source})"
    )
    how = f"-ngl {found.gpu_layers}" if split.what == "layers" else f"-ngl {NO_ROOM} --n-cpu-moe {split.layers}"
    flag = plan.framework.line(SLOW, plan) + (f" {how}" if plan.framework.splits else "")
    return Advice(
        SLOW, change, EXACT, plan.nbytes, batch / found.seconds, split.fast.total, command(plan), None, None, flag,
        interval=(batch / found.high, batch / found.low),
    )  # fmt: skip


def _streamed(plan: Plan) -> Iterator[Advice]:
    """Read over the bus, or from disk, in each step: a bound."""
    machine = plan.place.machine
    tier, what = "slow" if machine.slow_bandwidth else "disk", "experts" if plan.distinct else "layers"
    contexts, kv = [plan.context] * plan.options.batch, plan.options.codecs
    try:
        found = place(
            plan.subject.graph,
            plan.available or 0,
            contexts,
            allocator=plan.memory.allocator,
            kv=kv,
            what=what,
            tier=tier,
        )
    except MemfirstError:
        return
    flag = plan.framework.line(SLOW, plan)
    if not found.fits or found.moved > (plan.options.host_memory or MOST_MOVED) or not flag:
        return  # nothing streams so there
    from memfirst.plan.from_disk import ASSUMED  # what most plans do without

    rate = machine.slow_bandwidth or machine.disk_bandwidth or ASSUMED
    reads = found.reads(decode_step(plan.context - 1, plan.options.batch))
    seconds = reads["fast"].mean / (plan.place.bandwidth(plan.options) or rate) + reads[tier].mean / rate
    where = f"behind the bus ({rate / 1e9:.1f} GB/s)" if tier == "slow" else f"on disk (read at {rate / 1e9:.1f} GB/s)"
    moved = f"{found.layers} layers" if what == "layers" else f"the experts of {found.layers} layers"
    there = f"{found.moved / 1e9:.1f} GB there, {reads[tier].mean / 1e9:.1f} of them read in each step"
    most = plan.options.batch / seconds
    yield Advice(
        SLOW, f"{moved} {where}: {there}", EXACT, plan.nbytes, None, found.fast.total, command(plan), None, most,
        f"{flag} --cpu-offload-gb {-(-found.moved >> 30)}" if plan.engine.startswith("vllm") else flag,
    )  # fmt: skip
