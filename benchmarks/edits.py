"""What exact speculation gives: greedy answers with `speculate="off"` beside "auto", in turns within one process.

    python -m benchmarks.edits smollm2:135m --threads 2 --rounds 3
    python -m benchmarks.edits smollm2:135m --llama-server PATH

Twenty-four prompts (data/edits_prompts.json); an answer's time begins with its first token. The bars: equal tokens in
all answers, a geometric mean of 1.25, four edits together 1.5 times as fast, no answer below 0.95 by the clock or below
0.98 by the account, which are the counted bytes a token. With `--llama-server` the same prompts, tokens, threads and
file go to llama-server, too: it is started with each of its n-gram drafts, and the fastest of them is compared.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import memfirst
from benchmarks import llama_server, rounds
from benchmarks.process import BenchmarkError
from benchmarks.rounds import Goal, Kept, Note, Numbers
from memfirst.backends.cpu.backend import CpuBackend
from memfirst.graph.traffic import STREAMED

PROMPTS = Path(__file__).with_name("data") / "edits_prompts.json"
EDITS = ("edit_code", "edit_json", "edit_prose", "add_types")
TOKENS, CONTEXT = 128, 2048
MODES = ("off", "auto")

MEAN_BAR, EDITS_BAR, CLOCK_BAR, ACCOUNT_BAR = 1.25, 1.5, 0.95, 0.98
LLAMA_EDITS_BAR = 2.2

PART_S = 0.5
"""Answers are repeated until a round has taken so long: what others do is counted in ticks of 10 ms."""


SETS = ("edits", "all")
"""Which prompts llama-server is compared on."""

Switches = tuple[str, ...]
Times = Mapping[str, llama_server.Timed]
"""By the prompt's name."""


@dataclass(frozen=True)
class Prompt:
    """What is asked, of what kind, and where the prompt comes from."""

    name: str
    kind: str
    source: str
    messages: tuple[Mapping[str, str], ...]


def read_prompts(path: Path = PROMPTS) -> list[Prompt]:
    """All prompts of the file, in its order."""
    found = json.loads(path.read_text(encoding="utf-8"))
    return [Prompt(p["name"], p["kind"], p["source"], tuple(p["messages"])) for p in found]


@dataclass(frozen=True)
class Answer:
    """One answer: its tokens, and of those after the first the count, seconds, streamed bytes, steps and drafts."""

    ids: tuple[int, ...]
    tokens: int
    seconds: float
    nbytes: int
    steps: int
    drafted: int
    kept: int


def answer(model: memfirst.Model, prompt: Sequence[int], mode: str, most: int) -> Answer:
    """Greedy, up to `most` tokens; the clock runs from the first token to the end."""
    made = model.generate(prompt, max_tokens=most, temperature=0, speculate=mode)
    tokens = iter(made)
    next(tokens, None)
    start = time.perf_counter()
    for _ in tokens:
        pass
    seconds = time.perf_counter() - start
    timing, request = made.timing, made.request
    counted, last = request.counted, request.last_step
    if counted is None or last is None or counted.shared or counted.steps != timing.decode_steps:
        raise BenchmarkError(f"an answer of {timing.tokens} tokens whose bytes were not counted alone", "two or more")
    read = model.backend.by_purpose(replace(last.result, counts=(counted.before, counted.after)))
    nbytes = sum(n for purpose, n in read.items() if purpose in STREAMED)
    return Answer(
        tuple(made.ids), timing.decoded, seconds, nbytes, timing.decode_steps, timing.drafted, timing.kept
    )  # fmt: skip


@dataclass
class Asked:
    """A prompt that is answered in both modes, in turns; `different` once two answers were not the same tokens."""

    prompt: Prompt
    ids: Sequence[int]
    ask: Callable[[Sequence[int], str], Answer]
    different: bool = False
    _turn: int = 0

    def pair(self) -> dict[str, Answer]:
        """Both modes once; which comes first changes each time."""
        self._turn += 1
        answers = {mode: self.ask(self.ids, mode) for mode in (MODES if self._turn % 2 else MODES[::-1])}
        self.different |= answers["off"].ids != answers["auto"].ids
        return answers

    def round(self) -> Numbers:
        """Pairs for PART_S, one at least: figures of all of them together."""
        start, pairs = time.perf_counter(), [self.pair()]
        while time.perf_counter() - start < PART_S:
            pairs.append(self.pair())
        return figures(*([pair[mode] for pair in pairs] for mode in MODES))


def figures(off: Sequence[Answer], auto: Sequence[Answer]) -> Numbers:
    """What a round says: tokens/s, seconds and streamed bytes a token in both modes, their ratios, steps and drafts."""
    parts = {"off": off, "auto": auto}
    tokens = {mode: sum(a.tokens for a in part) for mode, part in parts.items()}
    s = {mode: sum(a.seconds for a in part) / tokens[mode] for mode, part in parts.items()}
    nbytes = {mode: sum(a.nbytes for a in part) / tokens[mode] for mode, part in parts.items()}
    counts = {name: statistics.mean(getattr(a, name) for a in auto) for name in ("tokens", "steps", "drafted", "kept")}
    each = {f"{mode}_s": s[mode] for mode in MODES} | {f"{mode}_bytes": nbytes[mode] for mode in MODES}
    ratios = {"clock": s["off"] / s["auto"], "account": nbytes["off"] / nbytes["auto"]}
    return {"off_tok_s": 1 / s["off"], "auto_tok_s": 1 / s["auto"], **ratios, **counts, **each}


@dataclass(frozen=True)
class Row:
    """A prompt's medians."""

    prompt: Prompt
    kept: Kept
    different: bool

    def __getitem__(self, name: str) -> float:
        return self.kept.median(name)

    def line(self) -> str:
        """One line of the table."""
        text = "" if not self.different else "  DIFFERENT TEXT"
        return (
            f"{self.prompt.name:16} {self.prompt.kind:10} {self['off_tok_s']:7.1f} {self['auto_tok_s']:7.1f} tok/s"
            f"  clock {self['clock']:5.2f}  account {self['account']:5.2f}"
            f"  {self['steps']:4.0f} steps for {self['tokens']:3.0f} tokens,"
            f" {self['kept']:3.0f} of {self['drafted']:3.0f} drafts kept{text}"
        )

    def record(self) -> dict[str, Any]:
        """For JSON."""
        named = {"name": self.prompt.name, "kind": self.prompt.kind, "source": self.prompt.source}
        return {**named, "same_text": not self.different, **self.kept.record()}


def together(rows: Sequence[Row], cost: str) -> float:
    """How many times less the four edits cost together: Σ tokens × cost a token, without and with drafts."""
    chosen = [row for row in rows if row.prompt.name in EDITS]
    if len(chosen) != len(EDITS):
        raise BenchmarkError(f"{len(chosen)} of the edits were asked", ", ".join(EDITS))
    off, auto = (sum(row["tokens"] * row[f"{mode}_{cost}"] for row in chosen) for mode in MODES)
    return off / auto


def verdicts(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Each bar, and what was found; the first carries all rows."""
    different = [row.prompt.name for row in rows if row.different]
    said = "the same tokens" if not different else f"different tokens in {', '.join(different)}"
    table = [row.record() for row in rows]
    yield {"what": "text", "prompts": table, "ok": not different, "verdict": f"{said} ({len(rows)} answers)"}
    found = {
        "geometric mean by the clock": (statistics.geometric_mean(row["clock"] for row in rows), MEAN_BAR),
        "the four edits together by the clock": (together(rows, "s"), EDITS_BAR),
        "least by the clock": least(rows, "clock", CLOCK_BAR),
        "least by the account": least(rows, "account", ACCOUNT_BAR),
    }
    for what, (ratio, bar, *where) in found.items():
        at = f" ({where[0]})" if where else ""
        yield {"what": what, "ratio": ratio, "ok": ratio >= bar, "verdict": f"{what}: {ratio:.3f}{at}, at least {bar}"}
    account = statistics.geometric_mean(row["account"] for row in rows)
    fewer = together(rows, "bytes")
    said = f"by the account: geometric mean {account:.3f}, the four edits together {fewer:.3f}; no bar"
    yield {"what": "account", "geometric_mean": account, "edits": fewer, "ok": True, "verdict": said}


def least(rows: Sequence[Row], name: str, bar: float) -> tuple[float, float, str]:
    """The smallest of a ratio, its bar, and the prompt that has it."""
    row = min(rows, key=lambda row: row[name])
    return row[name], bar, row.prompt.name


def measure(prompts: Sequence[Prompt], model: memfirst.Model, most: int, goal: Goal, note: Note) -> list[Row]:
    """Every prompt in rounds of its own until enough count."""
    rows = []
    for prompt in prompts:
        asked = Asked(prompt, model.encode(prompt.messages), lambda ids, mode: answer(model, ids, mode, most))
        asked.pair()  # computes the prompt, and wakes what sleeps
        kept = rounds.clean_rounds(asked.round, goal, lambda text: None)
        row = Row(prompt, kept, asked.different)
        note(row.line())
        rows.append(row)
    return rows


class Beside:
    """memfirst with drafts, and llama-server with some of its switches: a pass of each over the prompts."""

    def __init__(self, model: memfirst.Model, prompts: Sequence[Prompt], program: str, most: int) -> None:
        self._model, self._program, self._most = model, program, most
        self._asked = {p.name: model.encode(p.messages) for p in prompts}
        self._threads = threads_of(model)
        self._turn = 0

    def ours(self) -> Times:
        """A pass of memfirst."""
        answers = {name: answer(self._model, ids, "auto", self._most) for name, ids in self._asked.items()}
        return {name: llama_server.Timed(a.tokens, a.seconds) for name, a in answers.items()}

    def theirs(self, switches: Switches, names: Iterable[str]) -> Times:
        """A pass of llama-server, which is started for it: what it keeps of a text is of this pass alone."""
        words = llama_server.command(self._program, self._model.checkpoint.path, self._threads, CONTEXT, switches)
        return llama_server.answers(words, {name: self._asked[name] for name in names}, self._most)

    def round(self, settings: Mapping[str, Switches]) -> Numbers:
        """Both, by turns who is first; `settings` has the switches for each of SETS."""
        self._turn += 1
        mine = self.ours() if self._turn % 2 else None
        passes = {settings["all"]: self.theirs(settings["all"], self._asked)}
        if settings["edits"] not in passes:
            passes[settings["edits"]] = self.theirs(settings["edits"], EDITS)
        mine = mine or self.ours()
        out = {}
        for name, switches in settings.items():
            ours, theirs = speeds(mine)[name], speeds(passes[switches])[name]
            out |= {f"{name}_tok_s": ours, f"llama_{name}_tok_s": theirs, f"{name}_ratio": ours / theirs}
        return out

    def screen(self, note: Note) -> dict[str, Switches]:
        """The fastest switches for each of SETS, on the edits and every third of the other prompts."""
        names = [*EDITS, *[name for name in self._asked if name not in EDITS][::3]]
        found: dict[str, Numbers] = {}
        for name, switches in llama_server.SWITCHES.items():
            found[name] = speeds(self.theirs(switches, names))
            note(f"llama-server, {name}: " + ", ".join(f"{part} {v:.1f} tok/s" for part, v in found[name].items()))
        best = {part: max(found, key=lambda name: found[name][part]) for part in SETS}
        return {part: llama_server.SWITCHES[name] for part, name in best.items()}


def speeds(times: Times) -> Numbers:
    """Tokens a second of the edits together, and of all answers that there are."""
    parts = zip(SETS, (EDITS, times), strict=True)
    return {part: sum(times[n].tokens for n in names) / sum(times[n].seconds for n in names) for part, names in parts}


def beside(model: memfirst.Model, prompts: Sequence[Prompt], chosen: argparse.Namespace, note: Note) -> dict[str, Any]:
    """The settings that are fastest, then rounds of both engines."""
    pair = Beside(model, prompts, chosen.llama_server, chosen.tokens)
    settings = pair.screen(note)
    kept = rounds.clean_rounds(lambda: pair.round(settings), rounds.goal_of(chosen), note)
    edits, everything = kept.median("edits_ratio"), kept.median("all_ratio")
    verdict = (
        f"memfirst / llama-server: edits {edits:.2f} (at least {LLAMA_EDITS_BAR}), all {everything:.2f}; "
        + "; ".join(f"{part} with {' '.join(s) or 'no drafts'}" for part, s in settings.items())
    )
    bound = {"what": "llama-server", **kept.record(), "switches": {k: list(v) for k, v in settings.items()}}
    return {**bound, "ok": edits >= LLAMA_EDITS_BAR, "verdict": verdict}


def threads_of(model: memfirst.Model) -> int:
    """BenchmarkError where it is not the CPU that computes."""
    if not isinstance(model.backend, CpuBackend):
        raise BenchmarkError("another backend", "cpu")
    return model.backend.options.threads


def run(chosen: argparse.Namespace, prompts: Sequence[Prompt], note: Note) -> list[dict[str, Any]]:
    """All that was asked for."""
    with memfirst.load(chosen.model, threads=chosen.threads, ctx=CONTEXT) as model:
        threads_of(model)
        model.backend.finish_compiling()
        rows = measure(prompts, model, chosen.tokens, rounds.goal_of(chosen), note)
        found = list(verdicts(rows))
        disturbed = sum(row.kept.disturbed for row in rows)
        note(f"{sum(len(row.kept.rounds) for row in rows)} rounds count, {disturbed} of them disturbed")
        return found + ([beside(model, prompts, chosen, note)] if chosen.llama_server else [])


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.edits", description=__doc__)
    made.add_argument("model", nargs="?", default="smollm2:135m", help="a file or a name")
    made.add_argument("--llama-server", default="", help="llama.cpp's llama-server, to compare with")
    made.add_argument("--tokens", type=int, default=TOKENS, help="of an answer, at most")
    rounds.add_options(made).set_defaults(rounds=3)
    return made


def main(arguments: list[str] | None = None) -> int:
    """Print the figures as JSON; exit code 1 where a bar is missed."""
    chosen = parser().parse_args(arguments)
    return rounds.report(lambda: run(chosen, read_prompts(), rounds.to_stderr))


if __name__ == "__main__":
    raise SystemExit(main())
