"""Clients that leave, engines that die, servers that are told to stop, ports that are taken."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.hang_ups import hang_up
from tests.support.serving import Served
from tests.support.tiny_served import tiny_model

LONG = {"prompt": "On and on", "max_tokens": 400, "ignore_eos": True, "stream": True}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that answers at once."""
    return tiny_model(tmp_path_factory.mktemp("tiny"))


def test_who_hangs_up_leaves_nothing(model: Path) -> None:
    with Served(model, ["--ctx", "512", "--threads", "1"]) as served:
        hang_up(served, 100)


def test_an_engine_that_is_killed_ends_its_streams_soon(model: Path) -> None:
    with Served(model, ["--ctx", "512"]) as served, httpx.Client(base_url=served.url, timeout=60) as http:
        engine = next(p for p in psutil.Process(served.process.pid).children() if "spawn_main" in " ".join(p.cmdline()))
        with http.stream("POST", "/v1/completions", json=LONG) as response:
            lines = response.iter_lines()
            next(lines)
            engine.suspend()  # so that it is in the middle of it
            time.sleep(0.1)
            killed = time.monotonic()
            engine.kill()
            last = [line for line in lines if line][-1]
            assert "error" in last and "engine" in last
        assert time.monotonic() - killed < 10
        response = http.post("/v1/completions", json=LONG | {"stream": False})
        assert response.status_code in (200, 503) and (response.status_code == 200 or response.headers["retry-after"])
        while http.get("/health").status_code == 503:
            assert time.monotonic() - killed < 60
            time.sleep(0.05)
        assert http.post("/v1/completions", json=LONG | {"stream": False}).status_code == 200
        assert http.get("/memfirst/stats").json()["engine_restarts"] == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_streams_end_before_the_server_does(model: Path, number: int) -> None:
    with Served(model, ["--ctx", "512", "--threads", "1"]) as served:

        def one(_: int) -> list[str]:
            with httpx.stream("POST", f"{served.url}/v1/completions", json=LONG, timeout=60) as response:
                return [line for line in response.iter_lines() if line]

        with ThreadPoolExecutor(8) as pool:
            streams = [pool.submit(one, i) for i in range(8)]
            while httpx.get(f"{served.url}/memfirst/stats").json()["live"] < 8:
                assert not any(stream.done() for stream in streams)
            os.kill(served.process.pid, number)
            ended = [stream.result() for stream in streams]
        assert served.process.wait(30) == 0
        for lines in ended:  # each ended in its own time, or was told
            assert lines[-1] == "data: [DONE]" or '"error"' in lines[-1], lines[-1]
        assert any("stopped" in line for line in served.lines)


def test_a_port_that_is_taken_is_said_before_the_model_is_loaded(model: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "memfirst", "serve", str(model), "--port", str(port)]
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ran.returncode not in (0, -signal.SIGKILL)
    assert f"127.0.0.1:{port} cannot be listened on" in ran.stderr and "--port" in ran.stderr
    assert "Traceback" not in ran.stderr
