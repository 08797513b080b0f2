"""What nearly every decoder states, of an architecture that is not known: hyperparameters, and tensors they imply."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from memfirst.errors import ConfigError
from memfirst.formats.architectures import text_of
from memfirst.formats.checkpoint import Checkpoint
from memfirst.models.reader import MAX_CONTEXT, MAX_HEAD_DIM, MAX_HEADS, MAX_LAYERS, MAX_VOCAB, MAX_WIDTH

LAYERS = ("num_hidden_layers", "block_count", "n_layer", "n_layers", "num_layers")
PREDICTING = ("nextn_predict_layers",)
HIDDEN = ("hidden_size", "embedding_length", "n_embd", "d_model", "dim")
VOCAB = ("vocab_size",)
CONTEXT = ("max_position_embeddings", "context_length", "n_positions", "max_sequence_length", "seq_length")
HEADS = ("num_attention_heads", "attention.head_count", "n_head", "n_heads")
KV_HEADS = ("num_key_value_heads", "attention.head_count_kv", "num_kv_heads", "n_kv_heads")
K_DIM = ("attention.key_length", "head_dim", "attention_head_dim")
V_DIM = ("attention.value_length", "v_head_dim", "head_dim")
LATENT, Q_LATENT = ("kv_lora_rank",), ("q_lora_rank",)
ROPE_DIM, PLAIN_DIM = ("qk_rope_head_dim",), ("qk_nope_head_dim",)
WINDOW = ("attention.sliding_window", "sliding_window", "sliding_window_size")
WINDOWED = ("attention.sliding_window_pattern", "layer_types", "sliding_window_pattern")
WIDTH = ("intermediate_size", "n_inner", "ffn_hidden_size", "ffn_dim")
EXPERTS = ("n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts")
PICKED = ("num_experts_per_tok", "expert_used_count", "num_experts_per_token", "moe_topk", "moe_top_k", "moe_k",
          "top_k_experts")  # fmt: skip
EXPERT_WIDTH = ("moe_intermediate_size", "expert_ffn_hidden_size", "moe_ffn_hidden_size", *WIDTH)
SHARED = ("n_shared_experts", "num_shared_experts", "num_shared_expert", "moe_num_shared_experts")
SHARED_WIDTH = ("shared_expert_intermediate_size", "moe_shared_expert_intermediate_size", "share_expert_dim",
                "shared_intermediate_size")  # fmt: skip
DENSE_FIRST = ("first_k_dense_replace", "moe_layer_start_index", "num_dense_layers")


PERIODS: Mapping[str, tuple[int, bool]] = {
    "afmoe": (4, False), "exaone-moe": (4, False), "muse-glimmer": (4, False), "mellum": (4, False),
    "gemma3n": (5, False), "plamo3": (8, False), "cohere2moe": (4, True), "laguna": (4, True),
    "smallthinker": (4, True),
}  # fmt: skip
"""By GGUF's architecture, where the file has a window and does not say which layers: every how many one attends all,
and whether that is the first of them; as in llama.cpp's src/models."""


class Stated:
    """Look-ups of a number under any of its usual names: GGUF's without the architecture, and those of config.json."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        metadata, prefix = checkpoint.metadata, f"{checkpoint.architecture}."
        self.gguf = checkpoint.kind == "gguf"
        self._period, self._first = PERIODS.get(checkpoint.architecture, (0, False)) if self.gguf else (0, False)
        own = {str(k).removeprefix(prefix): v for k, v in metadata.items()} if self.gguf else text_of(metadata)
        self._values: Mapping[str, Any] = {key: value for key, value in own.items() if value is not None}

    def raw(self, names: tuple[str, ...]) -> Any:
        """The first that is there, as it stands; None where none is."""
        found = self._values.get(self._name(names))
        return found.tolist() if isinstance(found, np.ndarray) else found

    def integer(self, names: tuple[str, ...], high: int, default: int = 0) -> int:
        """A number in 0..high, of a list its largest; ConfigError for another."""
        value = self.raw(names)
        if isinstance(value, list | tuple) and value and all(isinstance(each, int) for each in value):
            value = max(value)
        if value is None:
            return default
        if not isinstance(value, int) or not 0 <= value <= high:
            raise ConfigError(f"{self._name(names)} is {str(value)[:60]!r}", f"an integer in 0..{high}")
        return value

    def _name(self, names: tuple[str, ...]) -> str:
        return next((name for name in names if name in self._values), names[0])

    def needed(self, names: tuple[str, ...], high: int) -> int:
        """The same, and at least 1; ConfigError where it is missing."""
        found = self.integer(names, high)
        if not found:
            raise ConfigError(f"{names[0]} is missing", "what every model has")
        return found

    def by_layer(self, names: tuple[str, ...], layer: int) -> Any:
        """Its entry for a layer where it is a list that has one, else the value itself."""
        value = self.raw(names)
        if not isinstance(value, list | tuple):
            return value
        return value[layer] if layer < len(value) else None

    def window(self, layer: int) -> int | None:
        """Positions that a layer attends at most; None where nothing says which layers have a window."""
        size, kind = self.integer(WINDOW, MAX_CONTEXT), self.by_layer(WINDOWED, layer)
        if not size or self.raw(("use_sliding_window",)) is False:
            return None
        kind = self._period if kind is None else kind
        if isinstance(kind, str):
            windowed = "sliding" in kind
        elif isinstance(kind, bool):
            windowed = kind
        else:  # every so many layers one is full
            windowed = isinstance(kind, int) and kind > 1 and (layer + (not self._first)) % kind != 0
        return size if windowed else None

    def attends(self, layer: int) -> bool:
        """Whether a layer may have attention: no where it is said to be recurrent, or to have no key heads."""
        kind = self.by_layer(("layer_types",), layer)
        every = self.integer(("full_attention_interval",), MAX_LAYERS)
        recurrent = isinstance(kind, str) and "attention" not in kind.replace("linear_attention", "")
        if kind is None and every:
            recurrent = (layer + 1) % every != 0
        return not recurrent and self.by_layer(KV_HEADS, layer) != 0

    @property
    def state(self) -> int:
        """Values that a recurrent layer keeps for a sequence; 0 where nothing says it."""
        number = self._number
        if head := number("kda.head_dim"):  # three convolutions' tails, and a matrix a head
            heads = self.integer(HEADS, MAX_HEADS)
            return 3 * max(0, number("ssm.conv_kernel") - 1) * heads * head + heads * head * head
        if inner := number("ssm.inner_size"):
            width = inner + 2 * number("ssm.group_count") * number("ssm.state_size")
            return max(0, number("ssm.conv_kernel") - 1) * width + inner * number("ssm.state_size")
        key, value = number("linear_key_head_dim"), number("linear_value_head_dim")
        keys, values = number("linear_num_key_heads"), number("linear_num_value_heads")
        tail = max(0, number("linear_conv_kernel_dim") - 1)
        return tail * (2 * keys * key + values * value) + values * key * value

    def _number(self, name: str) -> int:
        return self.integer((name,), MAX_WIDTH)


def implied(stated: Stated, tied: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names, as GGUF has them, and shapes of the tensors that a config.json implies, if its model is as most are.

    Grouped attention, or MLA where it has a latent; gated feed-forward; experts from the first layer that has them on.
    Raises ConfigError where a size is missing.
    """
    hidden, vocab = stated.needed(HIDDEN, MAX_WIDTH), stated.needed(VOCAB, MAX_VOCAB)
    yield "token_embd.weight", (vocab, hidden)
    if not tied:
        yield "output.weight", (vocab, hidden)
    yield "output_norm.weight", (hidden,)
    for layer in range(stated.needed(LAYERS, MAX_LAYERS)):
        for part, shape in (*_attention(stated, hidden), *_feed_forward(stated, hidden, layer)):
            yield f"blk.{layer}.{part}.weight", shape


def _attention(stated: Stated, hidden: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    heads = stated.needed(HEADS, MAX_HEADS)
    latent, q_latent = stated.integer(LATENT, MAX_WIDTH), stated.integer(Q_LATENT, MAX_WIDTH)
    if latent:
        rope, plain = stated.integer(ROPE_DIM, MAX_HEAD_DIM), stated.needed(PLAIN_DIM, MAX_HEAD_DIM)
        k = rope + plain
        v = stated.integer(V_DIM, MAX_HEAD_DIM, plain)
        yield "attn_kv_a_mqa", (latent + rope, hidden)
        yield "attn_kv_b", (heads * (plain + v), latent)
    else:
        k = stated.integer(K_DIM, MAX_HEAD_DIM, hidden // heads)
        v = stated.integer(V_DIM, MAX_HEAD_DIM, k)
        kv = stated.integer(KV_HEADS, MAX_HEADS, heads)
        yield "attn_k", (kv * k, hidden)
        yield "attn_v", (kv * v, hidden)
    if q_latent:
        yield "attn_q_a", (q_latent, hidden)
    yield "attn_q_b" if q_latent else "attn_q", (heads * k, q_latent or hidden)
    yield "attn_output", (hidden, heads * v)
    yield "attn_norm", (hidden,)


def _feed_forward(stated: Stated, hidden: int, layer: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    experts, dense = stated.integer(EXPERTS, MAX_WIDTH), stated.integer(DENSE_FIRST, MAX_LAYERS)
    yield "ffn_norm", (hidden,)
    if experts < 2 or layer < dense:
        yield from _gated("", stated.needed(WIDTH, MAX_WIDTH), hidden)
        return
    width = stated.needed(EXPERT_WIDTH, MAX_WIDTH)
    shared = stated.integer(SHARED_WIDTH, MAX_WIDTH) or stated.integer(SHARED, MAX_WIDTH) * width
    yield "ffn_gate_inp", (experts, hidden)
    for part, shape in _gated("_exps", width, hidden):
        yield part, (experts, *shape)
    if shared:
        yield from _gated("_shexp", shared, hidden)


def _gated(suffix: str, width: int, hidden: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"ffn_gate{suffix}", (width, hidden)
    yield f"ffn_up{suffix}", (width, hidden)
    yield f"ffn_down{suffix}", (hidden, width)
