"""Texts as vectors over HTTP: OpenAI's form, llama.cpp's and Ollama's."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from openai import OpenAI

import memfirst
from tests.support.serving import Served

TEXTS = ["The cat sits on the mat.", "A", "Interest rates rose by half a point, the bank said."]


@pytest.fixture(scope="module")
def served(smollm2: Path) -> Iterator[Served]:
    """SmolLM2 with a pooling, and room for two sequences and two that wait."""
    options = ["--ctx", "256", "--threads", "2", "--max-sequences", "2", "--max-queue", "4", "--pooling", "mean"]
    with Served(smollm2, options) as made:
        yield made


def test_openai_reads_them(served: Served, smollm2: Path) -> None:
    """Its client asks for base64, and gives floats."""
    client = OpenAI(base_url=f"{served.url}/v1", api_key="none")
    answer = client.embeddings.create(model="tested", input=TEXTS)
    made = np.array([one.embedding for one in answer.data], np.float32)
    with memfirst.load(smollm2, threads=2, ctx=256, progress=False) as model:
        assert (made == model.embed(TEXTS, pooling="mean")).all()
    assert [one.index for one in answer.data] == [0, 1, 2] and answer.usage.prompt_tokens == answer.usage.total_tokens
    cut = client.embeddings.create(model="tested", input=TEXTS[0], dimensions=16, encoding_format="float")
    assert np.isclose(np.linalg.norm(cut.data[0].embedding), 1) and len(cut.data[0].embedding) == 16


def test_forms_of_an_input(http: httpx.Client) -> None:
    ids = http.post("/tokenize", json={"content": TEXTS[0], "add_special": True}).json()["tokens"]
    parts = {"content": [{"type": "text", "text": TEXTS[0][:7]}, {"type": "text", "text": TEXTS[0][7:]}]}
    several = [TEXTS[0], ids, {"prompt_string": TEXTS[0]}, parts]
    data = http.post("/v1/embeddings", json={"input": several}).json()["data"]
    assert len(data) == 4 and all(one["embedding"] == data[0]["embedding"] for one in data)
    for one in several:
        alone = http.post("/v1/embeddings", json={"input": one, "encoding_format": "base64"}).json()["data"][0]
        assert np.frombuffer(base64.b64decode(alone["embedding"]), "<f4").tolist() == data[0]["embedding"]


def test_other_servers_forms(http: httpx.Client) -> None:
    wanted = [one["embedding"] for one in http.post("/v1/embeddings", json={"input": TEXTS}).json()["data"]]
    llama = http.post("/embedding", json={"content": TEXTS}).json()
    assert [one["embedding"][0] for one in llama] == wanted
    ollama = http.post("/api/embed", json={"model": "tested", "input": TEXTS, "options": {"num_ctx": 99}}).json()
    assert ollama["embeddings"] == wanted and ollama["prompt_eval_count"] > 3
    raw = http.post("/api/embeddings", json={"model": "tested", "prompt": TEXTS[0]}).json()["embedding"]
    plain = http.post("/embedding", json={"content": TEXTS[0], "embd_normalize": -1}).json()[0]["embedding"][0]
    assert raw == plain and np.allclose(np.array(raw) / np.linalg.norm(raw), wanted[0], atol=1e-7)
    assert "embedding" in http.post("/api/show", json={"model": "tested"}).json()["capabilities"]


def test_many_texts_share_steps_and_every_byte_is_counted(http: httpx.Client) -> None:
    """More than the queue takes, by two clients at once, beside an answer; what is said sums to the counters."""
    texts = [f"{i} gulls {'and boats ' * (i % 7)}" for i in range(24)]

    def counters() -> dict[str, int]:
        found: dict[str, int] = http.get("/memfirst/stats").json()["bytes"]
        return found

    def ask(path: str, body: dict[str, Any]) -> Any:
        response = http.post(path, json=body)
        assert response.status_code == 200, response.text
        return response.json()["usage"]

    before = counters()
    chat = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 24}
    with ThreadPoolExecutor(2) as pool:
        answers = [*pool.map(ask, ["/v1/embeddings", "/v1/chat/completions"], [{"input": texts}, chat])]
    total: dict[str, int] = {}
    for usage in answers:
        for purpose, n in usage["memfirst"]["bytes_read"].items():
            total[purpose] = total.get(purpose, 0) + n
    after = counters()
    assert total == {purpose: n - before.get(purpose, 0) for purpose, n in after.items()}
    assert answers[0]["memfirst"]["bytes_per_token"] < 66_500_000  # the weights, which a step reads once for many
    assert http.get("/memfirst/stats").json()["memory"]["kv_requests"] == 0


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("/v1/embeddings", {}, "input"),
        ("/v1/embeddings", {"input": []}, "at least 1"),
        ("/v1/embeddings", {"input": ""}, "without a token"),
        ("/v1/embeddings", {"input": "gull " * 300}, "too large"),
        ("/v1/embeddings", {"input": [1, 50000]}, "50000"),
        ("/v1/embeddings", {"input": "x", "dimensions": 577}, "577"),
        ("/v1/embeddings", {"input": "x", "encoding_format": "int8"}, "encoding_format"),
        ("/v1/embeddings", {"input": {"content": "x"}}, "content"),
        ("/v1/embeddings", {"input": {"content": [{"type": "image_url"}]}}, "image_url"),
        ("/v1/embeddings", {"input": ["x"] * 2049}, "2048"),
        ("/embedding", {}, "no content"),
        ("/api/embed", {"model": "tested", "input": "x", "truncate": True}, "truncate"),
    ],
)
def test_what_is_wrong_is_said(http: httpx.Client, path: str, body: dict[str, Any], says: str) -> None:
    response = http.post(path, json=body)
    assert response.status_code == 400 and says in response.text, response.text
