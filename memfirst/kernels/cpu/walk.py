"""One step, walked by every worker: phases, prologues, chunks claimed by fewer and fewer, a barrier on work done.

A claim and a done counter of each phase carry the step's epoch in their high 32 bits, so nothing is reset between
steps, and a worker that the system put aside finds its old phase finished instead of taking part in a newer one.
The barrier waits for chunks, not for workers: a worker that is away holds nobody up unless it claimed chunks
that it has not reported.
"""

from memfirst.kernels.cpu.lang import inline, kernel
from memfirst.kernels.cpu.threads import ask_for, atomic_load, atomic_store, atomic_swap_if, call_kernel, cycles, pause

# Words of `control`, shared by all workers; from RING on, for each of the last epochs its arguments, its phases and the
# address of the walk that does it.
EPOCH, STOP, CURRENT, RING = 0, 8, 16, 24
EPOCHS, SLOT = 64, 3
# Words of a row of each table.
PHASE, TASK, CALL = 8, 6, 2
HEAD_TILES, HEAD_LIST, TILE = 4, 576, 16
"""Words of `step`: how many tiles of the output head are computed (-1: all), and from where on their numbers are; and
rows of one."""
SHARE = 3
"""A claim takes 2 / (SHARE · workers) of the chunks that are left: few claims, and small ones at the end."""
COUNTERS = 16
"""Words of a phase's counters: claims at 0, done at 8, on cache lines of their own."""
LINE = 64
BURST = 64
"""Lines asked for before each call of a prologue: about what comes meanwhile."""
WAIT_BYTES = 1 << 16
"""Asked for while waiting at a barrier, at most: part of the second level of cache."""
# Words of a worker's log: first how many are used, then a row for each phase, then one for each call of a kernel.
STARTED, ARRIVED, RELEASED, CLAIMS, CHUNKS, PHASE_LOG = 0, 1, 2, 3, 4, 5
CALLED, BEGIN, END, NUMBER, BYTES, CALL_LOG = 0, 1, 2, 3, 4, 5
PROLOGUE = -1
"""The chunk's number of a call that belongs to no chunk."""


@inline
def _claim(counters, at, epoch, limit, share):
    """Takes the next numbers below `limit` of this epoch's counter: 2/`share` of what is left, at least one.

    Returns the first and how many; -1 and 0 if none is left or a newer epoch runs.
    """
    while True:
        word = atomic_load(counters, at)
        stamp, n = word >> 32, word & 0xFFFFFFFF
        if stamp > epoch:
            return -1, 0
        if stamp < epoch:
            n = 0
        if n >= limit:
            return -1, 0
        count = max(1, (limit - n) * 2 // share)
        if atomic_swap_if(counters, at, word, (epoch << 32) + n + count):
            return n, count


@inline
def _report(counters, at, epoch, count):
    """Adds to this epoch's counter, unless a newer epoch runs."""
    while True:
        word = atomic_load(counters, at)
        stamp, n = word >> 32, word & 0xFFFFFFFF
        if stamp > epoch:
            return
        if stamp < epoch:
            n = 0
        if atomic_swap_if(counters, at, word, (epoch << 32) + n + count):
            return


@inline
def _finished(counters, at, epoch, total):
    word = atomic_load(counters, at)
    stamp = word >> 32
    return stamp > epoch or (stamp == epoch and (word & 0xFFFFFFFF) >= total) or total == 0


@inline
def _first_byte(phases, phase, worker, workers):
    """Where the claim of a worker that comes `worker`th will begin, about, among the bytes that a phase reads next."""
    return phases[phase * PHASE + 5] + phases[phase * PHASE + 6] * 2 * worker // (SHARE * workers) // LINE * LINE


@inline
def _units(tasks, task, step):
    per = tasks[task * TASK + 3]
    return tasks[task * TASK + 2] * (step[per] if per >= 0 else 1)


@inline
def _is_listed(tasks, task, step):
    """Whether a task is the output head's, and only some tiles of it are wanted."""
    return tasks[task * TASK + 5] == 1 and step[HEAD_TILES] >= 0


@inline
def _chunks(tasks, task, step):
    if _is_listed(tasks, task, step):
        return step[HEAD_TILES]
    chunk = tasks[task * TASK + 4]
    return (_units(tasks, task, step) + chunk - 1) // chunk


@inline
def _logged(log, base, size, call, begin, number, n):
    """One call of a kernel that ends now; where there is no room, only that it was."""
    at = log[base]
    log[base] = at + CALL_LOG
    if at + CALL_LOG <= size:
        row = base + at
        log[row + CALLED], log[row + BEGIN], log[row + END] = call, begin, cycles()
        log[row + NUMBER], log[row + BYTES] = number, n


@inline
def _stamp(log, at):
    """The time, unless it is there already: a walk that looked after signals comes to a phase twice."""
    if log[at] == 0:
        log[at] = cycles()


@kernel
def walk(
    control: "i64", phases: "i64", tasks: "i64", calls: "i64", counters: "i64", step: "i64",
    read: "i64", log: "i64", patience: "int", workers: "int", first_phase: "int", worker, lo, hi, *,
    PROFILE,
):  # fmt: skip
    """Works on the phases from `lo` on, for epoch `hi`; returns how many phases are behind it.

    phases  rows (first task, last + 1, first call of the prologue, last + 1, count of its range in `step`, address and
            bytes of the matrices of this phase, or of the first after it that has some, units of that range a count)
    tasks   rows (first call, last + 1, units, their factor in `step` or -1, chunk, 1 for the output head)
    calls   rows (address of the kernel, address of its arguments)
    read    bytes read [workers, calls], added up
    log     where PROFILE is set [workers, words]: every phase and every call; else the clock is read for patience only
    first_phase  number of the first of `phases` in the log
    Returns early after `patience` cycles at a barrier, when STOP is set, and worker 0 after five times that: Python
    must get to see signals.
    """
    started = cycles()
    total_phases = len(phases) // PHASE
    mine = worker * (len(calls) // CALL)
    if PROFILE:
        size = len(log) // workers
        base = worker * size
    if worker == 0 and atomic_load(control, EPOCH) < hi:
        atomic_store(control, EPOCH, hi)
    for phase in range(lo, total_phases):
        first, last = phases[phase * PHASE], phases[phase * PHASE + 1]
        chunks = 0
        for task in range(first, last):
            chunks += _chunks(tasks, task, step)
        # Counts belong to this epoch only as long as it is current: a worker that was away reads newer ones, which
        # would let it claim chunks that never were. `CURRENT` moves on before they are written.
        if atomic_load(control, CURRENT) != hi:
            return total_phases
        if atomic_load(control, STOP) or (worker == 0 and cycles() - started > 5 * patience):
            return phase
        if PROFILE:
            row = base + 1 + (first_phase + phase) * PHASE_LOG
            _stamp(log, row + STARTED)
            log[row + CHUNKS] = chunks
        claimed, count = _claim(counters, phase * COUNTERS, hi, chunks, SHARE * workers)
        if count:
            asked = phases[phase * PHASE + 5] + phases[phase * PHASE + 6] * claimed // chunks // LINE * LINE
            limit = phases[phase * PHASE + 5] + phases[phase * PHASE + 6]
            for call in range(phases[phase * PHASE + 2], phases[phase * PHASE + 3]):
                if PROFILE:
                    begin = cycles()
                for _ in range(BURST):
                    if asked < limit:
                        ask_for(asked)
                        asked += LINE
                rows = step[phases[phase * PHASE + 4]] * phases[phase * PHASE + 7]
                n = call_kernel(calls[call * CALL], calls[call * CALL + 1], worker, 0, rows)
                if PROFILE:
                    _logged(log, base, size, call, begin, PROLOGUE, 0 if claimed else n)
                if claimed == 0:  # all workers read the same bytes: one of them counts
                    read[mine + call] += n
        done = 0
        while count:
            done += count
            if PROFILE:
                log[row + CLAIMS] += 1
            for number in range(claimed, claimed + count):
                task, c = first, number
                while c >= _chunks(tasks, task, step):
                    c -= _chunks(tasks, task, step)
                    task += 1
                chunk = tasks[task * TASK + 4]
                start = c * chunk
                if _is_listed(tasks, task, step):
                    start, chunk = step[HEAD_LIST + c] * TILE, TILE
                end = min(start + chunk, _units(tasks, task, step))
                for call in range(tasks[task * TASK], tasks[task * TASK + 1]):
                    if PROFILE:
                        begin = cycles()
                    n = call_kernel(calls[call * CALL], calls[call * CALL + 1], worker, start, end)
                    if PROFILE:
                        _logged(log, base, size, call, begin, number, n)
                    read[mine + call] += n
            claimed, count = _claim(counters, phase * COUNTERS, hi, chunks, SHARE * workers)
        if done:  # once, not by chunk: workers that write one line wait 50 ns and more for each other
            _report(counters, phase * COUNTERS + 8, hi, done)
        if PROFILE:
            _stamp(log, row + ARRIVED)
        since = cycles()
        asked, limit = 0, 0
        if phase + 1 < total_phases:
            asked = _first_byte(phases, phase + 1, worker, workers)
            limit = min(asked + WAIT_BYTES, phases[phase * PHASE + PHASE + 5] + phases[phase * PHASE + PHASE + 6])
        while not _finished(counters, phase * COUNTERS + 8, hi, chunks):
            if asked < limit:
                ask_for(asked)
                asked += LINE
            else:
                pause()
            if cycles() - since > patience or atomic_load(control, STOP):
                return phase
        if PROFILE:
            _stamp(log, row + RELEASED)
    return total_phases


@kernel
def serve(control: "i64", spin: "int", worker, lo, hi):
    """Waits for epochs after `lo` and walks them; returns the last one walked, after `spin` idle cycles or a stall."""
    seen = lo
    since = cycles()
    while cycles() - since < spin and not atomic_load(control, STOP):
        epoch = atomic_load(control, EPOCH)
        if epoch > seen:
            slot = RING + epoch % EPOCHS * SLOT
            args, phases, address = control[slot], control[slot + 1], control[slot + 2]
            if atomic_load(control, EPOCH) - epoch > EPOCHS // 2:
                continue  # away for so long that the slot may be another epoch's
            if args == 0 or call_kernel(address, args, worker, 0, epoch) >= phases:  # 0: over, its memory may be gone
                seen = epoch
            since = cycles()
        pause()
    return seen


@kernel
def read_cycles(worker, lo, hi):
    """The cycle counter, to find its rate."""
    return cycles()
