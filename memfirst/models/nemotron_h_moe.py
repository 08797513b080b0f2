"""Nemotron-H with layers of experts (Nemotron 3 Nano, Super): read and built with it."""

from __future__ import annotations

from memfirst.models import nemotron_h

ARCHITECTURE = nemotron_h.architecture("nemotron_h_moe")
