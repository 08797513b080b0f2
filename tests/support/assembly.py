"""Loops of compiled code, from assembly text as gcc, clang and LLVM print it for x86-64 and ARM."""

from __future__ import annotations

import re

_JUMP = re.compile(r"\s+(?:j[a-z]+|b|b\.\w+|cbn?z\s+\w+,|tbn?z\s+.*,)\s+(\.L\w+)")
_STACK = re.compile(r"%[re]sp\b|\(%[re]bp\b|\bsp\b|\bx29\b")


def loops(function: list[str]) -> list[list[str]]:
    """Instructions of each innermost loop: from a label to a jump back to it."""
    labels = {line.split(":")[0]: i for i, line in enumerate(function) if re.match(r"\.L\w+:", line)}
    spans = [
        (start, i) for i, line in enumerate(function)
        if (jump := _JUMP.match(line)) and (start := labels.get(jump[1], i)) < i
    ]  # fmt: skip
    inner = [a for a in spans if not any(a != b and a[0] <= b[0] and b[1] <= a[1] for b in spans)]
    return [[line for line in function[start:end] if re.match(r"\s+[a-z]", line)] for start, end in inner]


def functions(text: str, name: str) -> dict[str, list[str]]:
    """Lines of each function whose symbol matches the pattern `name`."""
    found: dict[str, list[str]] = {}
    for part in re.finditer(rf"^({name}):.*?\n(.*?)^\s*\.size\s+\1", text, re.DOTALL | re.MULTILINE):
        found[part[1]] = part[2].splitlines()
    return found


def touches_stack(loop: list[str]) -> list[str]:
    """Instructions of a loop that name the stack or frame pointer."""
    return [line for line in loop if _STACK.search(line)]
