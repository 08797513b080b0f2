"""The comparison of probe and llama-bench, with stand-ins of known times; and a real llama-server where one is."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from benchmarks import probe_server
from benchmarks.probe_server import compare, free_port, llama_bench, running, server_words
from benchmarks.process import BenchmarkError
from memfirst.formats.open import open_checkpoint
from memfirst.measure.probe.fit import Line
from memfirst.measure.probe.price import price
from memfirst.measure.probe.run import Options, probe
from memfirst.measure.probe.stream import BY_CHUNK
from memfirst.models import build
from memfirst.predict.llama_bench import measured_row

ROOT = Path(__file__).parent.parent.parent
SERVER = """
import sys, time
sys.path.insert(0, {root!r})
from tests.support.fake_openai import Fake, serve
with serve(Fake(token_s={token_s}, context_s={context_s}), int(sys.argv[2])):
    time.sleep(60)
"""
BENCH = """
import json, sys
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
rows = []
for depth in map(int, given["-d"].split(",")):
    count = int(given["-n"])
    seconds = {token_s} + {context_s} * (depth + count / 2)
    rows.append(dict(model_type="m", model_size=1, model_n_params=1, n_prompt=0, n_gen=count, n_depth=depth,
                     n_threads=int(given["-t"]), avg_ts=1 / seconds))
print(json.dumps(rows))
"""


def script(folder: Path, name: str, text: str) -> str:
    """An executable Python program."""
    path = folder / name
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(0o755)
    return str(path)


def arguments(folder: Path, slower: float) -> list[str]:
    """A server of known times, and a llama-bench whose times are so many times longer."""
    times = {"token_s": 1e-3, "context_s": 1e-6}
    server = script(folder, "server", SERVER.format(root=str(ROOT), **times))
    bench = script(folder, "bench", BENCH.format(**{k: slower * v for k, v in times.items()}))
    command = f"{shlex.quote(server)} {{model}} {{port}}"
    return ["m.gguf", "--server-command", command, "--llama-bench", bench, "--unquiet", "--rounds", "1"]


@pytest.mark.parametrize(("slower", "code"), [(1.0, 0), (1.5, 1)])
def test_both_are_run_and_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], slower: float, code: int
) -> None:
    assert probe_server.main(arguments(tmp_path, slower)) == code
    found = json.loads(capsys.readouterr().out)
    assert found["decode_ratio"] == pytest.approx(slower, rel=0.05)
    assert found["context_ratio"] == pytest.approx(1 / slower, rel=0.08)
    assert found["ok"] is (code == 0) and found["clean_rounds"] + found["disturbed"] == 1


def test_ratios_are_of_speed_and_of_slope() -> None:
    about = {"n_prompt": 0, "n_gen": 64, "model_type": "m", "model_size": 1, "model_n_params": 1}
    rows = [measured_row([64 * (4e-3 + 1e-6 * (d + 32))], n_depth=d, **about) for d in (0, 512, 1024)]
    found = compare(Line(4e-3, 2e-6, None, None, 12), rows)
    assert found["context_ratio"] == pytest.approx(2.0, rel=1e-3)
    assert found["decode_ratio"] == pytest.approx((4e-3 + 32e-6) / (4e-3 + 64e-6), rel=1e-3)


def test_servers_that_do_not_start_are_said(tmp_path: Path) -> None:
    port = free_port()
    ends = script(tmp_path, "ends", "print('no such model', flush=True); raise SystemExit(3)")
    with pytest.raises(BenchmarkError, match="no such model"), running([ends], port):
        pass
    with pytest.raises(BenchmarkError, match="cannot run"), running([str(tmp_path / "missing")], port):
        pass
    with pytest.raises(BenchmarkError, match=r"\{model\} and \{port\}"):
        server_words("server --port {port}", "m", 1)
    assert server_words("s -m {model} --port={port} 'a b'", "m n", 7) == ["s", "-m", "m n", "--port=7", "a b"]


def test_a_llama_bench_that_runs_something_else_is_refused(tmp_path: Path) -> None:
    other = script(tmp_path, "other", "print('[]')")
    with pytest.raises(Exception, match="0 rows"):
        llama_bench(other, "m", 1)


# a real server


@pytest.fixture(scope="module")
def llama_server() -> str:
    """llama.cpp's server: MEMFIRST_LLAMA_SERVER, or what is on the PATH."""
    found = os.environ.get("MEMFIRST_LLAMA_SERVER") or shutil.which("llama-server")
    if not found:
        pytest.skip("no llama-server: put it on the PATH, or name it in MEMFIRST_LLAMA_SERVER")
    return found


def test_a_real_llama_server(llama_server: str, smollm2: Path) -> None:
    """What it says of itself, its own clock beside ours, and bytes that no memory moves faster than."""
    port = free_port()
    words = server_words(f"{shlex.quote(llama_server)} -m {{model}} --port {{port}} -c 8192 -np 2", str(smollm2), port)
    with running(words, port) as url:
        found = probe(url, Options((16, 256, 768), (1, 2), tokens=32, seconds=40))
    server = found.server
    assert (server.kind, server.context, server.slots, found.counted) == ("llama.cpp", 4096, 2, BY_CHUNK)
    assert Path(server.file).name == smollm2.name
    assert {s.prompt_tokens for s in found.samples} <= {14, 15, 16, 17, 254, 255, 256, 257, 766, 767, 768, 769}
    assert all(s.cached == 0 for s in found.samples)
    ours = sorted(s.seconds / s.server_s for s in found.samples if s.server_s)
    assert ours[len(ours) // 2] == pytest.approx(1, abs=0.1)
    graph = build(open_checkpoint(smollm2))
    assert price(graph, [16, 768]).per_context == 23_040
