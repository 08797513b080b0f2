"""Libraries that people use, each by its own front door: what they read is what the server's plain answer says.

`make clients` installs and runs them; in the suite those that are not here are skipped.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.serving import Served

QUESTION = "What is the capital of France?"
MESSAGES = [{"role": "system", "content": "You answer briefly."}, {"role": "user", "content": QUESTION}]


@pytest.fixture
def expected(http: httpx.Client) -> str:
    """The greedy answer of 24 tokens."""
    body = {"messages": MESSAGES, "temperature": 0, "max_tokens": 24}
    text: str = http.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
    return text


def test_ollama(served: Served, expected: str) -> None:
    ollama = pytest.importorskip("ollama")
    client = ollama.Client(host=served.url)
    asked: dict[str, Any] = {"model": "tested", "messages": MESSAGES, "options": {"temperature": 0, "num_predict": 24}}
    whole = client.chat(**asked)
    assert whole.message.content == expected and whole.done and whole.done_reason == "length"
    assert whole.eval_count == 24
    parts = list(client.chat(**asked, stream=True))
    assert "".join(part.message.content for part in parts) == expected and parts[-1].done
    options = {"temperature": 0, "num_predict": 24}
    generated = client.generate("tested", QUESTION, system=MESSAGES[0]["content"], options=options)
    assert generated.response == expected
    assert [one.model for one in client.list().models] == [one.model for one in client.ps().models] == ["tested"]
    assert client.show("tested").details.quantization_level == "q4_1"
    with pytest.raises(ollama.ResponseError, match="other") as caught:
        client.chat(model="other", messages=MESSAGES)
    assert caught.value.status_code == 404

    async def alike() -> str:
        asynchronous, said = ollama.AsyncClient(host=served.url), ""
        async for part in await asynchronous.chat(**asked, stream=True):
            said += part.message.content
        return said

    assert asyncio.run(alike()) == expected


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    """One event loop: LangChain keeps connections of the first."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.mark.parametrize("newer", [False, True])
def test_langchain(served: Served, expected: str, loop: asyncio.Runner, newer: bool) -> None:
    openai = pytest.importorskip("langchain_openai")
    model = openai.ChatOpenAI(
        base_url=f"{served.url}/v1", api_key="none", model="tested", temperature=0, max_tokens=24, stream_usage=True,
        max_retries=0, use_responses_api=newer,
    )  # fmt: skip
    given = [(one["role"], one["content"]) for one in MESSAGES]
    whole = model.invoke(given)
    assert whole.text == expected and whole.usage_metadata["output_tokens"] == 24
    total = None
    for chunk in model.stream(given):
        total = chunk if total is None else total + chunk
    assert total.text == expected and total.usage_metadata["output_tokens"] == 24
    assert loop.run(model.ainvoke(given)).text == expected
    assert [one.text for one in model.batch([given, given])] == [expected, expected]


@pytest.mark.parametrize("newer", [False, True])
def test_pydantic_ai(served: Served, expected: str, newer: bool) -> None:
    pydantic_ai = pytest.importorskip("pydantic_ai")
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
    from pydantic_ai.providers.openai import OpenAIProvider

    kind = OpenAIResponsesModel if newer else OpenAIChatModel
    model = kind("tested", provider=OpenAIProvider(base_url=f"{served.url}/v1", api_key="none"))
    agent = pydantic_ai.Agent(
        model, system_prompt=MESSAGES[0]["content"], model_settings={"temperature": 0.0, "max_tokens": 24}
    )
    assert agent.run_sync(QUESTION).output == expected

    async def streamed() -> str:
        async with agent.run_stream(QUESTION) as result:
            text: str = await result.get_output()
        return text

    assert asyncio.run(streamed()) == expected


def test_llm(served: Served, expected: str, tmp_path: Path) -> None:
    """The command, with the server as one of its models."""
    pytest.importorskip("llm")
    listed = f"- model_id: ours\n  model_name: tested\n  api_base: {served.url}/v1\n  api_key_name: none\n"
    (tmp_path / "extra-openai-models.yaml").write_text(listed)
    options = ["-s", MESSAGES[0]["content"], "-o", "temperature", "0", "-o", "max_tokens", "24", "--key", "none"]
    for more in ([], ["--no-stream"]):
        command = [sys.executable, "-m", "llm", "-m", "ours", QUESTION, *options, *more]
        env = os.environ | {"LLM_USER_PATH": str(tmp_path)}
        ran = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.strip() == expected.strip()
    logs = subprocess.run([sys.executable, "-m", "llm", "logs", "--json"], capture_output=True, env=env, check=True)
    assert json.loads(logs.stdout)[0]["model"] == "ours"
