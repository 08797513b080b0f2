"""Measuring a running OpenAI-compatible server from outside: seconds per token, and per token of context."""

from __future__ import annotations
