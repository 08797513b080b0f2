"""memfirst beside llama.cpp and ik_llama.cpp: same file, same threads, same minute.

    python -m benchmarks.peers MODEL.gguf --threads 1,2 --llama-bench PATH --ik-bench PATH \\
        --json results.json --markdown README.md

A round is the read probe, then every engine once, in an order that rotates, so that drift of the
machine falls on all of them. Rounds repeat until `--pairs` clean pairs exist for every peer, or, with `--unquiet`,
until there are so many of any kind.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks import noise, pairs, table
from benchmarks.engines import Binding, Case, Engine, LlamaBench, Memfirst, Sample, Settings
from benchmarks.pairs import OURS, Round
from benchmarks.probe import probe, thread_list
from benchmarks.process import BenchmarkError, run
from benchmarks.rounds import DO, Goal, Note, add_unquiet
from memfirst.errors import MemfirstError

PROBE_SECONDS = 0.3
TRIES = 2  # runs per switch setting; the better one counts
DEEP = 1024  # tokens; after a longer prompt, which costs a peer a minute, each setting runs once


def sample(engine: Engine, model: str, case: Case, settings: Settings) -> Sample:
    """One run of one engine."""
    return engine.parse(run(engine.command(model, case, settings)), case)


def tune(engine: Engine, model: str, case: Case, note: Note) -> dict[str, int]:
    """The engine's fastest settings for this case: each switch in turn, kept where it is faster."""
    settings = {key: values[0] for key, values in engine.switches.items()}
    if not settings:
        return settings
    best = _best_of(engine, model, case, settings)
    for key, values in engine.switches.items():
        for value in values[1:]:
            tried = {**settings, key: value}
            if (found := _best_of(engine, model, case, tried)) > best:
                best, settings = found, tried
    note(f"{engine.name} is fastest with {settings}: {best:.1f} tokens/s")
    return settings


def _best_of(engine: Engine, model: str, case: Case, settings: Settings) -> float:
    tries = 1 if case.prompt > DEEP else TRIES
    return max(sample(engine, model, case, settings).tok_s for _ in range(tries))


def one_round(engines: Sequence[Engine], model: str, case: Case, settings: Mapping[str, Settings]) -> Round:
    """The probe, then each engine in the given order."""
    gbps = probe(case.threads, PROBE_SECONDS)
    samples, windows = {}, {}
    for engine in engines:
        chosen = settings[engine.name]
        samples[engine.name], windows[engine.name] = noise.watch(
            lambda engine=engine, chosen=chosen: sample(engine, model, case, chosen)  # type: ignore[misc]
        )
    return Round(gbps, samples, windows)


def compare(engines: Sequence[Engine], model: str, case: Case, goal: Goal, note: Note) -> dict[str, Any]:
    """Rounds until every peer has its clean pairs; the case's record. BenchmarkError on a busy machine."""
    settings = {engine.name: tune(engine, model, case, note) for engine in engines}
    peers = [engine.name for engine in engines if engine.name != OURS]
    rounds: list[Round] = []
    while pairs.clean_pairs(rounds, peers) < goal.pairs and len(rounds) < goal.max_rounds:
        turn = len(rounds) % len(engines)
        rounds.append(
            replace(one_round([*engines[turn:], *engines[:turn]], model, case, settings), unquiet=goal.unquiet)
        )
        note(f"{case.label}, {case.threads} threads: {_line(rounds[-1])}")
    if (clean := pairs.clean_pairs(rounds, peers)) < goal.pairs:
        raise BenchmarkError(
            f"{clean} clean pairs of {len(rounds)}",
            f"{goal.pairs}",
            DO,
        )
    return record(engines, model, case, settings, rounds)


def _line(r: Round) -> str:
    speeds = ", ".join(
        f"{name} {found.tok_s:.1f}{' (spoiled)' if r.windows[name].spoiled else ''}"
        for name, found in r.samples.items()
    )
    return f"probe {r.probe_gbps:.1f} GB/s; tokens/s: {speeds}"


def record(
    engines: Sequence[Engine],
    model: str,
    case: Case,
    settings: Mapping[str, Settings],
    rounds: Sequence[Round],
) -> dict[str, Any]:
    """Everything measured for a case, as plain data."""
    peers = [engine.name for engine in engines if engine.name != OURS]
    return {
        "model": Path(model).name,
        "file_bytes": Path(model).stat().st_size,
        "case": case.label,
        **asdict(case),
        "probe_gbps": pairs.quartiles([r.probe_gbps for r in rounds])[1],
        "tok_s": {engine.name: pairs.speed(rounds, engine.name) for engine in engines},
        "probe_share": pairs.probe_share(rounds),
        "ratios": {peer: asdict(pairs.ratio(rounds, peer)) for peer in peers},
        "settings": {engine.name: dict(settings[engine.name]) for engine in engines},
        "commands": {engine.name: shown(engine.command(model, case, settings[engine.name])) for engine in engines},
        "rounds": [asdict(r) for r in rounds],
    }


def shown(command: Sequence[str]) -> str:
    """A command as a reader would type it: programs and files by name, without this machine's folders."""
    words = [Path(word).name if "/" in word else word for word in command]
    if words[1:3] == ["-m", "memfirst"]:  # memfirst, run by this Python
        words = ["memfirst", *words[3:]]
    return shlex.join(words)


def cases(chosen: argparse.Namespace) -> list[Case]:
    """What to time, thread count by thread count."""
    found = []
    for threads in chosen.threads:
        if chosen.decode:
            found.append(Case(threads, 0, chosen.decode))
        found += [Case(threads, depth, chosen.decode or 128) for depth in chosen.depth]
        found += [Case(threads, prompt, 0) for prompt in chosen.prefill]
    return found


def engines(chosen: argparse.Namespace) -> list[Engine]:
    """memfirst, and the peers whose program or Python was given."""
    found: list[Engine] = [Memfirst(tuple(shlex.split(chosen.memfirst)))] if chosen.memfirst else [Memfirst()]
    if chosen.llama_bench:
        found.append(LlamaBench(chosen.llama_bench, reps=chosen.reps))
    elif chosen.llama_python:
        found.append(Binding(chosen.llama_python, reps=chosen.reps))
    if chosen.ik_bench:
        found.append(LlamaBench(chosen.ik_bench, ik=True, reps=chosen.reps))
    elif chosen.ik_python:
        found.append(Binding(chosen.ik_python, ik=True, path=chosen.ik_path, reps=chosen.reps))
    return found


def add_peer_options(parser: argparse.ArgumentParser) -> None:
    """Where the peers are."""
    parser.add_argument("--memfirst", help="command that runs memfirst (default: with this Python)")
    parser.add_argument("--llama-bench", help="llama.cpp's llama-bench")
    parser.add_argument("--llama-python", help="Python that has llama-cpp-python, where there is no llama-bench")
    parser.add_argument("--ik-bench", help="ik_llama.cpp's llama-bench")
    parser.add_argument("--ik-python", help="Python that has ik-llama-cpp-python")
    parser.add_argument("--ik-path", default="", help="folder of the ik_llama_cpp package, if not installed there")
    parser.add_argument("--reps", type=int, default=3, help="repetitions inside one run of a peer; its median counts")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    made.add_argument("models", nargs="+", help="GGUF files, read by all engines")
    made.add_argument("--threads", type=thread_list, default=[1, 2], help="such as 1,2")
    made.add_argument("--decode", type=int, default=128, help="tokens to generate; 0: none")
    made.add_argument("--depth", type=thread_list, default=[], help="decode after so many tokens, too")
    made.add_argument("--prefill", type=thread_list, default=[256], help="prompt lengths to time")
    made.add_argument("--pairs", type=int, default=5, help="clean pairs per case")
    made.add_argument("--max-rounds", type=int, default=30)
    made.add_argument("--json", help="write all that was measured to this file")
    made.add_argument("--markdown", help="write the table into this file, between its peers markers")
    add_peer_options(made)
    return add_unquiet(made)


def measure(chosen: argparse.Namespace, note: Note) -> list[dict[str, Any]]:
    """All cases of all models; what is done is kept in the JSON file even if a later case fails."""
    done: list[dict[str, Any]] = []
    goal = Goal(chosen.pairs, chosen.max_rounds, chosen.unquiet)
    for model in chosen.models:
        if not Path(model).is_file():
            raise BenchmarkError(f"no file {model}", "a GGUF file")
        for case in cases(chosen):
            done.append(compare(engines(chosen), model, case, goal, note))
            if chosen.json:
                Path(chosen.json).write_text(json.dumps({"cases": done}, indent=1) + "\n")
    return done


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the table, write the files that were asked for."""
    chosen = parser().parse_args(arguments)
    try:
        done = measure(chosen, lambda text: print(text, file=sys.stderr, flush=True))
        print(table.markdown(done))
        if chosen.markdown:
            table.write_between_markers(Path(chosen.markdown), table.markdown(done))
    except MemfirstError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
