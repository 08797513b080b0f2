"""`memfirst.plan(...)`: one model on one machine, by their names."""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import overload

from memfirst.errors import suggesting
from memfirst.hardware.throttled import Throttle
from memfirst.plan.find import find
from memfirst.plan.make import make
from memfirst.plan.options import Options
from memfirst.plan.place import place, this_machine
from memfirst.plan.result import Plan
from memfirst.progress import usual


@overload
def ask(
    model: None = None,
    on: str = ...,
    *,
    codec: str = ...,
    kv: str = ...,
    ctx: int = ...,
    batch: int = ...,
    engine: str = ...,
    devices: int = ...,
    bandwidth: float = ...,
    power_cap: float = ...,
    head: str = ...,
    offline: bool = ...,
) -> list[Plan]:
    """What fits the machine."""


@overload
def ask(
    model: str | os.PathLike[str],
    on: str = ...,
    *,
    codec: str = ...,
    kv: str = ...,
    ctx: int = ...,
    batch: int = ...,
    engine: str = ...,
    devices: int = ...,
    bandwidth: float = ...,
    power_cap: float = ...,
    head: str = ...,
    offline: bool = ...,
) -> Plan:
    """One model."""


@suggesting
def ask(
    model: str | os.PathLike[str] | None = None,
    on: str = "",
    *,
    codec: str = "",
    kv: str = "f16",
    ctx: int = 0,
    batch: int = 1,
    engine: str = "",
    devices: int = 1,
    bandwidth: float = 0.0,
    power_cap: float = 0.0,
    head: str = "full",
    offline: bool = False,
) -> Plan | list[Plan]:
    """Say what a model needs, reads and reaches on a machine, before anything is downloaded; without one, what fits it.

    Args:
        model: A name of the catalogue, a repository of the hub (`owner/repo[:QUANT]`, of which the config.json or
            the header of the GGUF file is read, once), or a path of a GGUF file, a folder or a config.json.
            None: models that people run, as `memfirst plan --on` ranks them.
        on: A machine of the catalogue (`memfirst machine list`); this one by default.
        codec: Codec mix of the weights, such as "q4_k_m"; by default the file's own, or what the engine usually runs.
        kv: Codec of the KV cache.
        ctx: Tokens that each sequence reaches; 8192 by default, or less where the model was trained for less.
        batch: Sequences at a time.
        engine: "memfirst", "llama.cpp", "vllm", …; by default memfirst on this machine and llama.cpp elsewhere.
        devices: Machines of this kind that share it.
        bandwidth: GB/s of the machine's memory, as measured there; the data sheet's by default.
        power_cap: Watts that its board may draw; as many as it is sold with by default.
        head: "auto": answers are greedy, and memfirst finds their tokens by a sketch of the output head, where it makes
            one; "full": it reads the head.
        offline: Ask no hub; what was read once is still known.

    Returns:
        Its figures: `fits`, `rate` (tokens/s, None where it does not fit), `decode`, `memory`, `json()`. Without a
        model a list of these: each that fits, the largest first, last what is slow or loses much.

    Raises:
        MemfirstError: No such model or machine, no way to the hub, or options that cannot be.
    """
    options = Options(
        codec=codec.lower(), kv=kv.lower(), context=ctx, batch=batch, engine=engine.lower(), devices=devices, head=head
    )
    throttle = Throttle(1e9 * bandwidth, power_cap)
    where = (place(on) if on else this_machine()).throttled(throttle)
    if model is None:
        from memfirst.plan.rank import rank

        return rank(where, options)
    asking = nullcontext(usual())
    found = find(os.fspath(model), options.codec, options.engine, offline=offline, progress=asking)
    return make(found, where, options)
