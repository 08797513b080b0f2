"""`mpiexec -n 2 memfirst …`: the bits of one process, and an end of all when one ends."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from collections.abc import Sequence as Many
from contextlib import closing
from pathlib import Path

import httpx
import psutil
import pytest

from memfirst.distributed.words import PURPOSES
from memfirst.formats.open import open_checkpoint
from memfirst.graph import Sequence, Step
from memfirst.ledger import price
from memfirst.lower.cpu import lower
from memfirst.models import build
from memfirst.transform.split import split
from tests.support.serving import READY
from tests.support.tiny_served import tiny_model

pytest.importorskip("mpi4py")
MPIEXEC = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
pytestmark = pytest.mark.skipif(MPIEXEC is None, reason="no mpiexec")

KINDS = ("tensor", "pipeline")
PROMPT = {"prompt": "On and on", "max_tokens": 60, "ignore_eos": True, "temperature": 0}


def command(*arguments: str, ranks: int = 2) -> list[str]:
    return [str(MPIEXEC), "-n", str(ranks), sys.executable, "-m", "memfirst", *arguments]


def answer(command: Many[str]) -> str:
    """What `run` writes."""
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that answers at once."""
    return tiny_model(tmp_path_factory.mktemp("tiny"))


class SplitServer:
    """`mpiexec -n 2 memfirst serve`."""

    def __init__(self, model: Path, kind: str, *more: str) -> None:
        options = ["--port", "0", "--name", "tested", "--ctx", "512", "--threads", "1", "--max-sequences", "4"]
        self.process = subprocess.Popen(
            command("serve", str(model), "--split", kind, *options, *more), stderr=subprocess.PIPE, text=True
        )
        self.url, lines = "", []
        for line in self.process.stderr or ():
            lines.append(line)
            if found := READY.search(line):
                self.url = found[1]
                break
        assert self.url, "".join(lines)
        self.all = psutil.Process(self.process.pid).children(recursive=True)

    def rank(self, number: int) -> psutil.Process:
        """The process that mpiexec started as that rank."""
        ranks = [p for p in self.all if p.environ().get("PMI_RANK") == str(number)]
        return next(p for p in ranks if p.cmdline()[1:3] == ["-m", "memfirst"])

    def gone(self, seconds: float) -> bool:
        """Whether mpiexec and all that it started end in time."""
        self.process.wait(seconds)
        return not psutil.wait_procs(self.all, seconds)[1]


@pytest.fixture(params=KINDS)
def served(model: Path, request: pytest.FixtureRequest) -> Iterator[SplitServer]:
    """A server in two processes."""
    made = SplitServer(model, request.param)
    yield made
    if made.process.poll() is None:
        made.process.terminate()
        assert made.gone(30)


@pytest.mark.parametrize("kind", KINDS)
def test_smollm2_in_two_processes_writes_the_same(smollm2: Path, kind: str) -> None:
    asked = [
        "run", str(smollm2), "Count to twelve, then explain tides.", "-n", "48", "--temp", "0.8", "--seed", "5",
        "--json", "--threads", "1",
    ]  # fmt: skip
    alone = json.loads(answer([sys.executable, "-m", "memfirst", *asked]))
    split = json.loads(answer(command(*asked, "--split", kind)))
    assert split["text"] == alone["text"] and len(alone["text"]) > 50


def test_a_split_server_answers_as_one_process_and_batches(served: SplitServer, model: Path) -> None:
    from memfirst import load

    with load(model, ctx=512, threads=1, progress=False) as one:
        expected = str(one.generate(PROMPT["prompt"], max_tokens=60, temperature=0, stop=()))
    found = httpx.post(f"{served.url}/v1/completions", json=PROMPT | {"n": 4}, timeout=60).json()
    texts = {choice["text"] for choice in found["choices"]}
    assert len(texts) == 1 and texts.pop().startswith(expected[:20])
    stats = httpx.get(f"{served.url}/memfirst/stats").json()
    assert stats["state"] == "ready" and stats["steps"] < 4 * 60


@pytest.mark.parametrize("kind", KINDS)
def test_usage_is_the_sum_of_what_all_processes_read(model: Path, kind: str) -> None:
    """One request alone: each step's price of both parts; with four more: the requests' sums are the counters."""
    served = SplitServer(model, kind, "--speculate", "off")
    try:
        url = f"{served.url}/v1/completions"
        usage = httpx.post(url, json=PROMPT, timeout=60).json()["usage"]
        read = Counter(usage["memfirst"]["bytes_read"])
        prompt, answer = usage["prompt_tokens"], usage["completion_tokens"]
        assert answer == PROMPT["max_tokens"]
        steps = [Step((Sequence(0, prompt),)), *(Step((Sequence(prompt + i),)) for i in range(answer - 1))]
        assert read == priced(model, kind, steps)
        more = [httpx.post(url, json=PROMPT | {"n": n}, timeout=60).json()["usage"] for n in (1, 4)]
        for found in more:
            read.update(found["memfirst"]["bytes_read"])
        metrics = httpx.get(f"{served.url}/metrics").text
        counted = re.findall(r'^memfirst_bytes_total\{purpose="(\w+)"\} (\S+)', metrics, re.MULTILINE)
        assert {purpose: n for purpose, n in read.items() if n} == {p: int(float(n)) for p, n in counted if float(n)}
    finally:
        served.process.terminate()
        assert served.gone(30)


def priced(path: Path, kind: str, steps: Many[Step]) -> dict[str, int]:
    """Bytes read of steps by purpose, as `usage` has it, of the parts of both processes."""
    with closing(open_checkpoint(path)) as checkpoint:
        graph = build(checkpoint)
        programs = [lower(split(graph, kind, i, 2), 8, 512, 1) for i in range(2)]
    sums = Counter[str]()
    for program in programs:
        for step in steps:
            found = price(program, step).by_purpose()
            sums.update({purpose: int(found[purpose]) for purpose in PURPOSES if purpose in found})
    return sums


@pytest.mark.parametrize("victim", [0, 1])
def test_killing_a_rank_ends_all_of_them(model: Path, victim: int) -> None:
    served = SplitServer(model, "tensor")
    with httpx.stream(
        "POST", f"{served.url}/v1/completions", json=PROMPT | {"max_tokens": 400, "stream": True}
    ) as response:
        lines = response.iter_lines()
        next(lines)
        began = time.monotonic()
        served.rank(victim).kill()
        with pytest.raises(httpx.TransportError):
            for _ in lines:
                pass
    assert served.gone(20) and served.process.returncode != 0 and time.monotonic() - began < 20


def test_a_signal_ends_all_in_order(served: SplitServer) -> None:
    assert httpx.post(f"{served.url}/v1/completions", json=PROMPT, timeout=60).status_code == 200
    served.rank(0).send_signal(signal.SIGTERM)
    assert served.gone(20) and served.process.returncode == 0


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--split", "rows"], "tensor or pipeline"),
        (["--split", "tensor", "--memory", "1G"], "a split model with"),
        (["--split", "pipeline", "--ctx", "100000"], "a context of 100000"),
    ],
)
def test_what_cannot_be_split_ends_all_with_a_reason(model: Path, arguments: list[str], said: str) -> None:
    ran = subprocess.run(
        command("run", str(model), "a", *arguments), capture_output=True, text=True, check=False, timeout=60
    )
    assert ran.returncode != 0 and said in re.sub(r"\s+", " ", ran.stderr)


def test_without_mpiexec_it_says_how_to_start(model: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "memfirst", "run", str(model), "a", "--split", "tensor"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert ran.returncode != 0 and "mpiexec -n 2 memfirst" in ran.stderr
