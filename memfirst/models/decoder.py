"""What dense decoders share: their hyperparameters, how both forms of them are read, and the frame of the graph.

A model file states what its architecture has (`read`), and how a layer goes (`layer`), top to bottom.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping, Sized
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any, Self, TypeVar

from memfirst.errors import ConfigError
from memfirst.formats.architectures import multimodal, text_of
from memfirst.graph import Graph
from memfirst.graph.ops.rope import INTERLEAVED
from memfirst.models import experts, rope
from memfirst.models import reader as limits
from memfirst.models.base import Architecture, WeightProvider
from memfirst.models.builder import Builder, Heads
from memfirst.models.experts import MoE
from memfirst.models.reader import ConfigReader, Keys
from memfirst.models.rope import Defaults
from memfirst.models.windows import Windows

KEYS: Keys = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "intermediate_size": "feed_forward_length",
    "vocab_size": "vocab_size",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "sliding_window": "attention.sliding_window",
}
"""What every dense decoder has, by its name in config.json: its name in GGUF."""

LAYER_NORM_KEYS: Keys = {key: gguf for key, gguf in KEYS.items() if key != "rms_norm_eps"} | {
    "layer_norm_eps": "attention.layer_norm_epsilon",
    "norm_epsilon": "attention.layer_norm_epsilon",
}
"""The same with layer norms, whose epsilon has two names in config.json."""

HARMLESS_GGUF = frozenset({"rope.scaling.finetuned", "tensor_data_layout", "pooling_type", "attention.causal"})
HARMLESS_HF = frozenset(
    (
        *("architectures", "model_type", "_name_or_path", "transformers_version", "transformers.js_config"),
        *("dtype", "torch_dtype", "attn_implementation", "_attn_implementation_autoset", "use_cache"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "eod_token_id", "max_length", "auto_map"),
        *("initializer_range", "attention_dropout", "pretraining_tp", "is_llama_config", "hidden_dropout"),
        *("cache_implementation", "embd_pdrop", "resid_pdrop", "residual_dropout", "embedding_dropout"),
        *("unsloth_fixed", "unsloth_version", "_num_labels", "id2label", "label2id", "problem_type", "finetuning_task"),
        *("output_attentions", "output_hidden_states", "output_scores", "return_dict", "return_dict_in_generate"),
        *("chunk_size_feed_forward", "use_bfloat16", "torchscript", "tie_encoder_decoder", "is_decoder", "prefix"),
        *("decoder_start_token_id", "sep_token_id", "forced_bos_token_id", "forced_eos_token_id", "tokenizer_class"),
        *("task_specific_params", "cross_attention_hidden_size", "tf_legacy_loss", "suppress_tokens"),
        *("begin_suppress_tokens", "bad_words_ids", "do_sample", "early_stopping", "exponential_decay_length_penalty"),
        *("min_length", "num_beams", "num_beam_groups", "diversity_penalty", "temperature", "top_k", "top_p"),
        *("typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size", "num_return_sequences"),
        *("encoder_no_repeat_ngram_size", "remove_invalid_values"),
    )
)
"""Keys that training, sampling or another engine reads, and what PretrainedConfig has for every kind of model."""
DECODER_ONLY = {
    "is_encoder_decoder": (False,), "add_cross_attention": (False,), "pruned_heads": ({},),
    "rope_interleaved": (False,), "use_mrope": (False,),
}  # fmt: skip
"""Keys of PretrainedConfig, and of other engines, that would change a decoder unless they have these values."""

WRAPPER = re.compile(
    r"(text|vision|audio|speech|projector)_config$|tie_word_embeddings$|quantization_config$|\w*_token(_id|_index)?$"
    r"|(image|vision|video|audio|mm|multimodal|projector|patch|speech)_\w+$|spatial_merge_size$"
    r"|use_image_newline_parameter$|adapter_layer_norm_eps$|downsample_(factor|ratio)$|scale_factor$|ignore_index$"
)
"""Keys beside `text_config`: of towers for images and sound, which decoding text does not read, and of other engines.
"""

SQUARED_RELU = "relu2"
ACTIVATIONS = {"silu": ("silu",), "gelu": ("gelu_pytorch_tanh", "gelu_new"), SQUARED_RELU: ("relu2",)}
"""By activation, what config.json calls it."""


HALVES, PAIRS = Defaults(), Defaults(INTERLEAVED)
"""What rotates together in a head, in GGUF's row order: its halves, or adjacent values (Llama's and those like it)."""


@dataclass(frozen=True)
class Config:
    """Hyperparameters, named as in config.json where they stand there as such."""

    architecture: str
    """GGUF's name."""
    hidden_size: int
    heads: tuple[Heads, ...]
    """Each layer's attention."""
    intermediate_size: tuple[int, ...]
    """Each layer's width of the feed-forward."""
    vocab_size: int
    max_position_embeddings: int
    eps: float
    """Of the norms."""
    tie_word_embeddings: bool = False
    mlp_bias: bool = False
    embedding_multiplier: float = 1.0
    """Of the looked-up rows."""
    logits_multiplier: float = 1.0
    softcap: float = 0.0
    """> 0: a logit x becomes softcap · tanh(x / softcap)."""
    moe: MoE | None = None
    """Routed experts in place of the gated feed-forward."""
    predicting: int = 0
    """Layers behind the last that predict further tokens: no part of decoding, and neither built nor priced."""

    @property
    def gguf_keys(self) -> dict[str, Any]:
        """What GGUF has by keys of the architecture's own that no key of config.json names."""
        return {}

    @property
    def layers(self) -> int:
        """How many."""
        return len(self.heads)

    def attention(self, **changes: Any) -> Self:
        """The same with these fields of every layer's attention."""
        return replace(self, heads=tuple(replace(h, **changes) for h in self.heads))

    def windowed(self, windows: Windows) -> Self:
        """The same with a window by layer."""
        windows = windows or (None,) * self.layers
        if len(windows) != self.layers:
            raise ConfigError(f"windows of {len(windows)} layers", f"{self.layers}")
        return replace(self, heads=tuple(replace(h, window=w) for h, w in zip(self.heads, windows, strict=True)))

    @property
    def windows(self) -> Windows:
        """By layer the positions attended at most. A window that is not shorter than the context never applies: None
        (Phi-3.5 states 262,144 over a context of 131,072)."""
        context = self.max_position_embeddings
        return tuple(None if h.window is None or h.window >= context else h.window for h in self.heads)


WindowRule = Callable[[ConfigReader, int], Windows]
"""(reader, layers) -> each layer's window."""


@dataclass(frozen=True)
class Family:
    """What the two forms do not say, or say by the architecture's name."""

    architecture: str
    windows: WindowRule
    rope: Defaults = HALVES
    activation: str = "silu"
    tied: bool = False
    """The head is the embedding where config.json does not say."""
    grouped: bool = True
    """config.json states num_key_value_heads; in Llama's, absent means as many as heads."""
    biases: tuple[str | bool, str | bool, str | bool] = ("attention_bias", "attention_bias", "mlp_bias")
    """config.json's flags of biases on q, k and v, on attention's output, and in the feed-forward; or what always
    holds."""
    eps: tuple[str, float] = ("rms_norm_eps", 1e-6)
    """What config.json calls the norms' epsilon, and what its absence means there."""
    predicting: bool = False
    """Layers that predict further tokens (`num_nextn_predict_layers`) may follow; GGUF counts them as layers."""
    head_dim: str = "head_dim"
    """What config.json calls the values of a head, of layers without a window where these have their own."""


def read(r: ConfigReader, family: Family) -> Config:
    """The hyperparameters of a dense decoder, of either form; biases and a tied head show in GGUF's tensors."""
    _refuse_variants(r, family)
    (layers, predicting), hidden = layer_count(r, family), r.integer("hidden_size", limits.MAX_WIDTH)
    heads = r.by_layer("num_attention_heads", layers, limits.MAX_HEADS)
    kv = r.by_layer("num_key_value_heads", layers, limits.MAX_HEADS, _kv_default(r, family, heads))
    head_dim = r.integer(family.head_dim, limits.MAX_HEAD_DIM, default=_head_dim(hidden, heads))
    if r.gguf:
        r.plain.only("attention.value_length", (head_dim,))
    context = r.context("max_position_embeddings")
    rotation = rope.read(r, context, head_dim, family.rope)
    bias, output_bias, mlp_bias = _biases(r, family)
    each, widths = zip(heads, kv, strict=True), r.by_layer("intermediate_size", layers, limits.MAX_WIDTH)
    found = Config(
        architecture=family.architecture,
        hidden_size=hidden,
        heads=tuple(Heads(n, m, head_dim, rotation, bias=bias, output_bias=output_bias) for n, m in each),
        intermediate_size=widths,
        vocab_size=vocab_size(r),
        max_position_embeddings=context,
        eps=r.single(family.eps[0], high=1.0, default=None if r.gguf else family.eps[1]),
        tie_word_embeddings=tied(r, family.tied),
        mlp_bias=mlp_bias,
        predicting=predicting,
        moe=experts.read_gguf(r.plain, widths[0]) if r.gguf else None,
    )
    return found.windowed(family.windows(r, layers))


def layer_count(r: ConfigReader, family: Family) -> tuple[int, int]:
    """Layers of the model itself, and those behind them that predict further tokens."""
    key = "num_nextn_predict_layers"
    more = r.integer(key, limits.MAX_LAYERS, default=0, low=0) if family.predicting else 0
    layers = r.integer("num_hidden_layers", limits.MAX_LAYERS, low=more + 1 if r.gguf else 1)
    return layers - more if r.gguf else layers, more


def rotated_in_windows(r: ConfigReader, c: Config, theta: float | None = None) -> Config:
    """`c` whose layers with a window rotate by a theta of their own and no scaling: see `rope.in_windows`."""
    whole = c.heads[0].rotation
    local = rope.in_windows(r, whole, theta) if whole else None
    return replace(c, heads=tuple(replace(h, rotation=local) if h.window else h for h in c.heads))


def rotated_only_in_windows(c: Config) -> Config:
    """`c` whose layers without a window do not rotate (NoPE), where it has windows at all (Cohere 2, EXAONE 4)."""
    if not any(h.window for h in c.heads):
        return c
    return replace(c, heads=tuple(h if h.window else replace(h, rotation=None) for h in c.heads))


def _kv_default(r: ConfigReader, family: Family, heads: tuple[int, ...]) -> int | None:
    return heads[0] if r.gguf or not family.grouped else None


def _head_dim(hidden: int, heads: tuple[int, ...]) -> int | None:
    return hidden // heads[0] if hidden % heads[0] == 0 and len(set(heads)) == 1 else None


def _biases(r: ConfigReader, family: Family) -> tuple[bool, bool, bool]:
    """Whether q, k and v, the attention's output, and the feed-forward have biases."""
    names = (("attn_q", "attn_qkv"), ("attn_output",), ("ffn_up",))
    qkv, output, mlp = (
        flag is True or any(f"blk.0.{name}.bias" in r.tensors for name in parts) if r.gguf
        else flag if isinstance(flag, bool) else r.flag(flag)
        for flag, parts in zip(family.biases, names, strict=True)
    )  # fmt: skip
    return qkv, output, mlp


def tied(r: ConfigReader, default: bool) -> bool:
    """Whether the head is the embedding."""
    return "output.weight" not in r.tensors if r.gguf else r.flag("tie_word_embeddings", default)


def vocab_size(r: ConfigReader) -> int:
    """Rows of the embedding: the vocabulary's length, where the file holds one."""
    tokens = r.shared("tokenizer.ggml.tokens") if r.gguf else None
    count = len(tokens) if isinstance(tokens, Sized) and len(tokens) else None
    stated = r.integer("vocab_size", limits.MAX_VOCAB, default=count)
    if count is not None and count != stated:
        raise ConfigError(f"vocab_size is {stated}", f"{count}, the number of tokens in the file")
    return stated


def _refuse_variants(r: ConfigReader, family: Family) -> None:
    """Values that would mean another arithmetic."""
    for key in ("hidden_act", "hidden_activation"):
        r.only(key, ACTIVATIONS[family.activation])
    if r.gguf:
        r.plain.only("attention.causal", (True,))


Layer = Callable[[Builder, int, str, Any], str]
"""(builder, index, residual, config) -> the residual after the layer."""


Norm = Callable[[Builder, str], str]


def last_norm(b: Builder, x: str) -> str:
    """RMS norm before the head."""
    return b.rms_norm("output_norm", x, head=True)


def build(c: Config, w: WeightProvider, layer: Layer, norm: Norm = last_norm, head_bias: bool = False) -> Graph:
    """Embedding, layers, norm, head."""
    for i in range(c.predicting):
        w.leave(f"blk.{c.layers + i}.")
    c = c.windowed(c.windows)
    b = Builder(w, c.hidden_size, c.eps)
    x = b.embed(c.vocab_size, c.embedding_multiplier)
    for i in range(c.layers):
        x = layer(b, i, x, c)
    normed = norm(b, b.select(x))
    b.head(normed, c.vocab_size, c.tie_word_embeddings, c.logits_multiplier, c.softcap, head_bias)
    return b.graph(c.architecture, c.vocab_size, c.max_position_embeddings)


C = TypeVar("C")


def architecture(
    name: str,
    read: Callable[[ConfigReader], C],
    build: Callable[[C, WeightProvider], Graph],
    keys: Keys = KEYS,
    shared: Mapping[str, Any] = MappingProxyType({}),
) -> Architecture[C]:
    """An entry of the registry: `read` takes the hyperparameters of either form, `keys` names them in GGUF.

    shared  what a `text_config` inside a multimodal config leaves out
    """
    return Architecture(name, partial(_from_gguf, name, read, keys), partial(_from_hf, read, keys, shared), build, keys)


def _from_gguf(
    name: str,
    read: Callable[[ConfigReader], C],
    keys: Keys,
    metadata: Mapping[str, Any],
    tensors: Container[str],
    allow_unknown: bool = False,
) -> C:
    r = ConfigReader(metadata, f"{name}.", keys, tensors)
    found = read(r)
    r.check_unknown(HARMLESS_GGUF, allow_unknown)
    return found


def refuse_other_models(r: ConfigReader) -> None:
    """Values of config.json that would make it another kind of model."""
    for key, allowed in DECODER_ONLY.items():
        r.only(key, allowed)


def _from_hf(
    read: Callable[[ConfigReader], C],
    keys: Keys,
    shared: Mapping[str, Any],
    config: Mapping[str, Any],
    allow_unknown: bool = False,
) -> C:
    if config.get("text_config") is not None:
        outer = ConfigReader(config)
        refuse_other_models(outer)
        outer.check_unknown(HARMLESS_HF | {key for key in config if WRAPPER.match(key)}, allow_unknown)
        config = dict(shared) | text_of(config)
    r = ConfigReader(config, keys=keys)
    refuse_other_models(r)
    found = read(r)
    beside = {key for key in config if WRAPPER.match(key)} if multimodal(config) else set[str]()
    r.check_unknown(HARMLESS_HF | beside, allow_unknown)
    return found
