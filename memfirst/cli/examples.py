"""Commands to start from, at the end of a command's help where it has none of its own; tests parse every one."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "memfirst": (
        "memfirst run",
        'memfirst run smollm2:135m "Why is the sky blue?"',
        "memfirst plan llama3.1:8b --on rtx-4090",
        "memfirst serve smollm2:135m",
    ),
    "inspect": ("memfirst inspect smollm2:135m", "memfirst inspect model.gguf --json"),
    "plan": (
        "memfirst plan llama-3.1:8b --on rtx-4090",
        "memfirst plan --on 'macbook pro m3 max 36gb'",
        "memfirst plan llama-3.3:70b --on h100-80gb --engine vllm --batch 16 --ctx 8k",
        "memfirst plan qwen3:32b --on m4-max --sweep ctx=4k,16k,64k",
    ),
    "bench": (
        "memfirst bench smollm2:135m",
        "memfirst bench --synthetic llama-3.2:1b --codec q4_0 --profile",
        "memfirst bench --serve smollm2:135m --clients 1,4,8,16",
    ),
    "machine": ("memfirst machine", "memfirst machine list"),
    "doctor": ("memfirst doctor", "memfirst doctor --json"),
    "probe": (
        "memfirst probe http://localhost:8000",
        "memfirst probe http://localhost:8080 --model llama-3.1:8b --on rtx-4090",
    ),
    "pull": ("memfirst pull smollm2:135m", "memfirst pull hf:Qwen/Qwen3-0.6B-GGUF:Q8_0"),
    "list": ("memfirst list", "memfirst list --catalogue"),
    "rm": ("memfirst rm smollm2:135m",),
}


def epilog(name: str) -> str | None:
    """The end of a command's help: its examples, a line each, however wide the terminal is."""
    if name not in EXAMPLES:
        return None
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in EXAMPLES[name])])
