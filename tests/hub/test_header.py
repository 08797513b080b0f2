"""`plan` of a hub's name: config.json or a GGUF header by range request, once, with the user's token."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

import memfirst
from memfirst import hub
from memfirst.catalog.configs import find_config
from memfirst.cli import run_command
from memfirst.convert.synthetic import synthetic, write
from memfirst.errors import DownloadError, ModelNotFoundError
from memfirst.hub import header
from memfirst.hub.names import Ref
from tests.support import fake_hub
from tests.support.fake_hub import FakeHub, FakeRepo

GGUF, CONFIG = Ref("o/small-GGUF", ""), Ref("o/plain", "")


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("made") / "tiny-Q4_K_M.gguf"
    write(synthetic("tiny-llama", "q4_k_m"), path)
    return path.read_bytes()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gguf: bytes) -> Iterator[FakeHub]:
    for key in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "hf" / "token"))
    monkeypatch.setenv("MEMFIRST_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("MEMFIRST_CONFIG_DIR", str(tmp_path))
    config = json.dumps({**find_config("llama-3.2:1b").config}).encode()
    with fake_hub.serve() as found:
        found.repos["o/small-GGUF"] = FakeRepo({"tiny-Q4_K_M.gguf": gguf, "tiny-UD-Q4_K_XL.gguf": gguf})
        weights = {"model.safetensors": b"\0" * 1000, "tokenizer.json": b"{}"}
        found.repos["o/plain"] = FakeRepo({"config.json": config} | weights, small=frozenset({"config.json"}))
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        yield found


def said(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, object]:
    assert run_command(["plan", *args, "--on", "rtx-4090", "--json"]) == 0, capsys.readouterr().err
    found: dict[str, object] = json.loads(capsys.readouterr().out)["plans"][0]
    return found


@pytest.mark.parametrize("name", ["hf:o/small-GGUF", "o/small-GGUF", "https://huggingface.co/o/small-GGUF",
                                  "hf.co/o/small-GGUF:UD-Q4_K_XL", "o/small-GGUF:Q4_K_M",
                                  "https://hf.co/o/small-GGUF/blob/main/tiny-Q4_K_M.gguf"])  # fmt: skip
def test_a_file_is_planned_by_its_header_as_if_it_were_here(
    server: FakeHub, capsys: pytest.CaptureFixture[str], tmp_path: Path, gguf: bytes, name: str
) -> None:
    (tmp_path / "here.gguf").write_bytes(gguf)
    here, there = said(capsys, str(tmp_path / "here.gguf")), said(capsys, name)
    assert {k: v for k, v in there.items() if k not in ("model", "asked", "path", "advice")} == {
        k: v for k, v in here.items() if k not in ("model", "asked", "path", "advice")
    }
    assert there["path"] == "", "there are no weights to run"
    before = len(server.requests)
    assert said(capsys, name) == there and len(server.requests) == before, "the second time nobody is asked"


def test_only_the_header_crosses_the_network(
    server: FakeHub, gguf: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(header, "FIRST", 1024)
    large = gguf + b"\0" * 5_000_000
    server.repos["o/small-GGUF"].files = {"tiny-Q4_K_M.gguf": large}
    path = header.described(GGUF)
    ranges = [r for _, r in server.downloads()]
    ends = [int(r.partition("-")[2]) + 1 for r in ranges]
    assert ranges[0] == "bytes=0-1023" and all(b == 2 * a for a, b in pairwise(ends))
    assert ends[-1] < len(large) / 20 and path.stat().st_size == len(large)
    assert path.read_bytes()[: ends[-1]] == large[: ends[-1]] and not any(path.read_bytes()[ends[-1] :])
    assert hub.pulled() == [] and hub.local(GGUF) is None, "a header is no model"


def test_a_server_without_ranges_is_not_listened_to_the_end(server: FakeHub, gguf: bytes) -> None:
    server.repos["o/small-GGUF"].ranges = False
    assert header.described(GGUF).stat().st_size == len(gguf)


def test_of_a_folder_config_json_alone(server: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    found = said(capsys, "o/plain", "--codec", "q4_k_m")
    assert found["parameters"] == find_config("llama-3.2:1b").parameters
    assert [name for name, _ in server.downloads()] == ["config.json"]


def test_what_the_catalogue_has_is_not_asked_for(server: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "meta-llama/Llama-3.1-8B-Instruct")
    said(capsys, "https://huggingface.co/google/gemma-3-27b-it")
    assert server.requests == []


@pytest.mark.parametrize("name", ["o/small-GGUF:Q4_K_M", "hf:o/small-GGUF", "https://huggingface.co/o/small-GGUF"])
def test_from_python_a_name_of_the_hub_is_planned_as_on_the_command_line(
    server: FakeHub, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    found = memfirst.plan(name, on="rtx-4090")
    assert found.fits and found.subject.path == "" and not found.subject.assumed
    asked = len(server.requests)
    assert found.json() == {k: v for k, v in said(capsys, name).items() if k != "advice"}
    assert memfirst.plan(name, on="RTX 4090", offline=True).json() == found.json()
    assert len(server.requests) == asked, "it was read once"


def test_from_python_the_catalogue_goes_before_the_hub(server: FakeHub) -> None:
    found = memfirst.plan("Qwen/Qwen3-8B-GGUF:Q4_K_M", on="rtx-4090")
    assert (found.subject.name, found.subject.codec, server.requests) == ("qwen3:8b", "q4_k_m", [])


def test_from_python_errors_of_the_hub_speak_python(server: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelNotFoundError, match="no repository o/nothing"):
        memfirst.plan("o/nothing", on="rtx-4090")
    with pytest.raises(DownloadError, match=r"the network is switched off .*plan it once with the network on"):
        memfirst.plan("o/small-GGUF", on="rtx-4090", offline=True)
    server.repos["o/small-GGUF"].gated = True
    with pytest.raises(DownloadError, match="gated or private, and no token is set"):
        memfirst.plan("o/small-GGUF", on="rtx-4090")
    with pytest.raises(ModelNotFoundError, match="no file or folder"):
        memfirst.plan("./not-here.gguf", on="rtx-4090")


def test_tokens_are_honoured(server: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    server.repos["o/small-GGUF"].gated = True
    with pytest.raises(DownloadError, match="gated or private, and no token is set"):
        header.described(GGUF)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    header.described(GGUF)
    assert server.requests[-1][2] == "Bearer hf_secret"


@pytest.mark.parametrize("how", ["option", "environment"])
def test_offline_is_clear_and_asks_nobody(
    server: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    if how == "environment":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    option = ["--offline"] if how == "option" else []
    assert run_command(["plan", "o/small-GGUF", "--on", "4090", *option]) == 1
    assert "the network is switched off" in capsys.readouterr().err and server.requests == []
    assert said(capsys, "meta-llama/Llama-3.1-8B", *option)["model"] == "llama-3.1:8b"


@pytest.mark.parametrize("data", [b"GGUF" + b"\xff" * 4000, b"PK" + b"\0" * 4000, b"GGUF"])
def test_what_is_no_header_is_refused_early(server: FakeHub, data: bytes) -> None:
    server.repos["o/small-GGUF"].files = {"tiny-Q4_K_M.gguf": data + b"\1" * 10_000_000}
    with pytest.raises(DownloadError, match=r"tiny-Q4_K_M\.gguf of hf:o/small-GGUF"):
        header.described(GGUF)
    assert len(server.downloads()) == 1, "nobody asks for more of it"
    assert not list(Path(header.cache.cache_root()).rglob("*.gguf"))


def test_what_is_not_there(server: FakeHub) -> None:
    with pytest.raises(ModelNotFoundError, match="no repository o/nothing"):
        header.described(Ref("o/nothing", ""))
    with pytest.raises(ModelNotFoundError, match="has no Q2_K"):
        header.described(Ref("o/small-GGUF", "Q2_K"))
    server.repos["o/small-GGUF"].failures = [503]
    with pytest.raises(DownloadError, match="503"):
        header.described(GGUF)
