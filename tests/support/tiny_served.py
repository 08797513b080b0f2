"""A model of 512 tokens and two layers that can be served: what it says means nothing, but it says it at once."""

from __future__ import annotations

from pathlib import Path

from memfirst.convert.gguf_write import write_checkpoint
from memfirst.convert.synthetic import synthetic

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_model(folder: Path, name: str = "tiny-llama") -> Path:
    """Such a model as a GGUF file there, with a chat template."""
    path = folder / f"{name}.gguf"
    write_checkpoint(synthetic(name, "q4_0"), path, {"tokenizer.chat_template": TEMPLATE})
    return path
