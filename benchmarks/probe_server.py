"""`memfirst probe` of a server beside `llama-bench` of the same file: do both say the same of one engine?

    python -m benchmarks.probe_server MODEL.gguf --llama-bench PATH \\
        --server-command 'llama-server -m {model} --port {port} -t 2'

A round starts the server, probes it, stops it, and runs llama-bench after each of the same contexts. The bars: decode
tokens/s within 10 % of llama-bench's from an empty context, seconds per token of context within 25 % of the line
through llama-bench's own times. Both children live within the round only, so that others' processor time can be told
from theirs.
"""

from __future__ import annotations

import argparse
import shlex
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks import process, rounds
from benchmarks.process import BenchmarkError
from benchmarks.rounds import Kept, Note, Numbers
from memfirst.errors import ProbeError
from memfirst.measure.probe import run as probes
from memfirst.measure.probe.address import parse
from memfirst.measure.probe.ask import Dialect
from memfirst.measure.probe.client import Client
from memfirst.measure.probe.fit import Line, robust_line
from memfirst.measure.probe.limits import Limits
from memfirst.measure.probe.prompt import Prompts
from memfirst.measure.probe.server import discover
from memfirst.predict.llama_bench import Row, parse_rows

DECODE_BAR, CONTEXT_BAR = 0.10, 0.25
CONTEXTS = (16, 512, 1024, 2048)
TOKENS = 64
START_S = 120.0


def server_words(template: str, model: str, port: int) -> list[str]:
    """The command line of `template`, which must name {model} and {port}."""
    if "{model}" not in template or "{port}" not in template:
        raise BenchmarkError(f"the server's command is {template!r}", "a command with {model} and {port}")
    return [w.replace("{model}", model).replace("{port}", str(port)) for w in shlex.split(template)]


def free_port() -> int:
    """A port of loopback that nobody listens at just now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def running(words: Sequence[str], port: int) -> Iterator[str]:
    """The server's address once it answers a prompt; the server ends with the block."""
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile() as log:
        try:
            server = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        except OSError as error:
            raise BenchmarkError(f"cannot run {words[0]}: {error.strerror}", do="check the path") from error
        try:
            _wait(url, server, log)
            yield url
        finally:
            _end(server)


def _end(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(10)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _wait(url: str, server: subprocess.Popen[bytes], log: Any) -> None:
    """Until it has answered one prompt; BenchmarkError with its last words where it ends or takes START_S."""
    last, deadline = "", time.monotonic() + START_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            client = Client(parse(url), Limits(30, 20))
            Dialect(client, discover(client), Prompts()).settle(4, 1)
            return
        except ProbeError as error:
            last = str(error)
            time.sleep(0.1)
    log.seek(0)
    words = log.read()[-600:].decode(errors="replace")
    raise BenchmarkError(f"the server does not answer ({last}); it said: {words}")


def llama_bench(program: str, model: str, threads: int) -> list[Row]:
    """Decoding TOKENS after 0 and each longer context, three times each."""
    depths = ",".join(str(c) for c in (0, *CONTEXTS[1:]))
    words = [program, "-m", model, "-t", str(threads), "-p", "0", "-n", str(TOKENS), "-d", depths, "-r", "3"]
    rows = parse_rows(process.run([*words, "-o", "json"]).encode(), "llama-bench's output")
    if [r.n_depth for r in rows] != [0, *CONTEXTS[1:]] or not all(r.decodes for r in rows):
        raise BenchmarkError(f"llama-bench ran {[(r.n_prompt, r.n_gen, r.n_depth) for r in rows]}", depths)
    return rows


def speed(row: Row) -> float:
    """Tokens per second: the median repetition, as the probe's blocks are trimmed too."""
    return statistics.median(row.samples_ts) if row.samples_ts else row.avg_ts


def llama_line(rows: Sequence[Row]) -> Line:
    """Seconds per token against context, at the middle of what was generated."""
    line = robust_line([r.n_depth + r.n_gen / 2 for r in rows], [1 / speed(r) for r in rows])
    if line is None:
        raise BenchmarkError("llama-bench ran one context", "several")
    return line


def compare(probed: Line, rows: Sequence[Row]) -> Numbers:
    """One round: both decode speeds from an empty context, both slopes, and their ratios."""
    theirs = llama_line(rows)
    ours = 1 / probed.at(rows[0].n_gen / 2)
    return {
        "probe_tok_s": ours, "llama_bench_tok_s": speed(rows[0]), "decode_ratio": ours / speed(rows[0]),
        "probe_us_per_context": 1e6 * probed.slope, "llama_bench_us_per_context": 1e6 * theirs.slope,
        "context_ratio": probed.slope / theirs.slope,
    }  # fmt: skip


def one_round(chosen: argparse.Namespace) -> Numbers:
    """Probe, then llama-bench."""
    port = free_port()
    with running(server_words(chosen.server_command, chosen.model, port), port) as url:
        found = probes.probe(url, probes.Options(CONTEXTS, (1,), TOKENS, seconds=chosen.seconds))
    if found.decode is None:
        raise BenchmarkError(f"the probe found no line: {'; '.join(found.notes)}", "several contexts")
    return compare(found.decode, llama_bench(chosen.llama_bench, chosen.model, chosen.threads))


def verdict(kept: Kept) -> Mapping[str, Any]:
    """Medians of the rounds against the bars."""
    decode, context = kept.median("decode_ratio"), kept.median("context_ratio")
    ok = abs(decode - 1) <= DECODE_BAR and abs(context - 1) <= CONTEXT_BAR
    said = f"probe ÷ llama-bench: decode {decode:.3f} (bar 1 ± {DECODE_BAR}), context {context:.3f} (1 ± {CONTEXT_BAR})"
    return {**kept.record(), "ok": ok, "verdict": said}


def measure(chosen: argparse.Namespace, note: Note, work: Callable[[], Numbers]) -> Iterable[Mapping[str, Any]]:
    """The medians of the rounds that count, and whether they meet the bars."""
    return [verdict(rounds.clean_rounds(work, rounds.goal_of(chosen), note))]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.probe_server", description=__doc__)
    made.add_argument("model", help="a GGUF file")
    made.add_argument("--server-command", required=True, help="with {model} and {port}, on as many threads")
    made.add_argument("--llama-bench", required=True, help="llama.cpp's llama-bench, of the same build")
    made.add_argument("--seconds", type=float, default=120.0, help="of one probe, at most")
    return rounds.add_options(made)


def main(arguments: list[str] | None = None) -> int:
    """Measure and compare; 0 where both bars are met."""
    chosen = parser().parse_args(arguments)
    return rounds.report(lambda: measure(chosen, rounds.to_stderr, lambda: one_round(chosen)))


if __name__ == "__main__":
    raise SystemExit(main())
