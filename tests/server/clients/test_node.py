"""Vercel's AI SDK and OpenAI's library for Node, where `make clients` put them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.server.clients.test_python import MESSAGES
from tests.support.serving import Served

HERE = Path(__file__).parent


def test_node(served: Served, http: httpx.Client, tmp_path: Path) -> None:
    modules = Path(os.environ.get("MEMFIRST_TEST_NODE_MODULES", HERE / "node_modules"))
    node = shutil.which("node")
    if node is None or not modules.is_dir():
        pytest.skip("needs node, and the packages of tests/server/clients/package.json: make clients")
    body = {"messages": MESSAGES, "temperature": 0, "max_tokens": 24}
    expected = http.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
    (tmp_path / "node_modules").symlink_to(modules)
    script = shutil.copy(HERE / "node.mjs", tmp_path)
    ran = subprocess.run([node, script, served.url, expected], capture_output=True, text=True, check=False, timeout=300)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert len(ran.stdout.splitlines()) == 6
