"""The codecs that a config.json states for its weights: a dtype, and perhaps a quantization of some method.

Each method says how many bits a weight and its scales take, and which modules stay as they are. Modules are named as
in the checkpoint ("model.layers.0.mlp.gate_proj"), so GGUF's tensor names are translated back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from memfirst.codecs.grouped import grouped
from memfirst.convert.mixes import FLOATS
from memfirst.errors import ConfigError, UnsupportedError

DTYPES = {
    "float32": "f32", "float": "f32", "float16": "f16", "half": "f16", "bfloat16": "bf16",
    "float8_e4m3fn": "f8_e4m3", "float8_e4m3fnuz": "f8_e4m3", "float8_e5m2": "f8_e4m3", "float8_e5m2fnuz": "f8_e4m3",
}  # fmt: skip
"""By PyTorch's names; all kinds of FP8 have one size."""

KEYS = ("quantization_config", "quantization", "compression_config")
"""Where config.json states a quantization: transformers' key, MLX's, and that of old compressed-tensors."""

EXPERTS = "expert_dtype"
"""What DeepSeek-V4 states beside its quantization."""

AS_STORED = ("fp8", "mxfp4")
"""Methods whose safetensors folders are read tensor by tensor."""

FP8, MXFP4, NVFP4 = "f8_e4m3", "mxfp4", "nvfp4"
F16, F32 = 16, 32
"""Bits of a scale."""

_BITS, _LARGEST_GROUP = (2, 3, 4, 5, 6, 8), 1 << 16
_MOST_NAMES, _MOST_PATTERNS, _LONGEST_PATTERN, _REPEATS = 1 << 16, 256, 512, 2

CodecOf = Callable[[str, tuple[int, ...]], str]
"""(tensor, shape) -> codec."""

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Rule:
    """Modules that a pattern names, and their codec: "" for the model's own dtype."""

    pattern: str
    codec: str


@dataclass(frozen=True)
class Scheme:
    """How a checkpoint is quantized."""

    method: str
    codec: str
    """Of the matrices that no rule names."""
    rules: tuple[Rule, ...] = ()
    """The first that names a module decides."""
    experts_only: bool = False
    tables: bool = False
    """The embedding and the head are quantized too."""
    routers: bool = False
    head: bool = False
    """The head is quantized where no rule names it."""

    def codec_of(self, name: str) -> str:
        """The codec of a matrix; "" for the model's own dtype."""
        stem = name.removesuffix(".weight")
        role = stem.rpartition(".")[2]
        router = role.startswith("ffn_gate_inp")
        if stem == name or (role in FLOATS and not (router and self.routers)):
            return ""
        rule = self._rule(modules(stem))
        if rule is not None:
            return rule.codec
        if role == "token_embd" or (role == "output" and not self.head):
            return self.codec if self.tables else ""
        return self.codec if role.endswith("_exps") or not self.experts_only else ""

    def _rule(self, names: Iterable[str]) -> Rule | None:
        """The first rule that names a module by one of its names."""
        plain, patterns = self._by_name, self._patterns
        found = [plain[part] for name in names for part in _parts(name) if part in plain]
        found += [i for i in patterns if any(matches(self.rules[i].pattern, name) for name in names)]
        return self.rules[min(found)] if found else None

    @cached_property
    def _by_name(self) -> dict[str, int]:
        """Rules that are plain names: checkpoints list thousands of modules one by one."""
        plain = ((i, rule.pattern) for i, rule in enumerate(self.rules) if not _pieces(rule.pattern))
        return {pattern.replace("language_model.", ""): i for i, pattern in reversed([*plain])}

    @cached_property
    def _patterns(self) -> tuple[int, ...]:
        return tuple(i for i, rule in enumerate(self.rules) if _pieces(rule.pattern))


def stated(config: Values) -> CodecOf:
    """The codec of each tensor of a model whose weights are not at hand; vectors are f32, as GGUF has them."""
    base, scheme = _dtype(config), scheme_of(config)

    def codec(name: str, shape: tuple[int, ...]) -> str:
        if len(shape) == 1:
            return "f32"
        found = (scheme.codec_of(name) if scheme else "") or base
        return "f4-g16-8" if found == NVFP4 and shape[-1] % 64 else found  # a row of no whole blocks

    return codec


def without(config: Values) -> dict[str, Any]:
    """The hyperparameters: all keys but those of a quantization."""
    plain = {key: value for key, value in config.items() if key not in KEYS}
    text = plain.get("text_config")
    return plain | {"text_config": without(text)} if isinstance(text, Mapping) else plain


def scheme_of(config: Values) -> Scheme | None:
    """The stated quantization, if any; for a wrapped text model, its own or the wrapper's.

    Raises UnsupportedError for a method of no known size, ConfigError for values that make no sense.
    """
    text = config.get("text_config")
    places = [config, text] if isinstance(text, Mapping) else [config]
    found = next(((key, c[key]) for c in places for key in KEYS if c.get(key) is not None), None)
    if found is None:
        return None
    key, values = found
    if not isinstance(values, Mapping):
        raise ConfigError(f"{key} is {str(values)[:40]!r}", "an object")
    method = _method(values)
    read = METHODS.get(method)
    if read is None:
        stated = f"{key} says {method[:40]!r}" if method else f"{key} names no method"
        raise UnsupportedError(stated, f"one of {', '.join(METHODS)}", "with --codec it is priced in that codec")
    experts = next((c[EXPERTS] for c in places if c.get(EXPERTS) is not None), None)
    return read(values if experts is None else {EXPERTS: experts, **values})


def _method(values: Values) -> str:
    method = values.get("quant_method")
    if method is None and ("desc_act" in values or "zero_point" in values):  # AutoGPTQ's and AutoAWQ's own files
        return "gptq" if "desc_act" in values else "awq"
    if method is None and "bits" in values and "group_size" in values:
        return "mlx"
    if method is None and isinstance(values.get("config_groups"), Mapping):
        return "compressed-tensors"
    if method is None and ("quant_algo" in values or isinstance(values.get("quantization"), Mapping)):
        return "modelopt"
    return str(method or "").lower().replace("_", "-")


def _dtype(config: Values) -> str:
    text = config.get("text_config")
    places = [config, text] if isinstance(text, Mapping) else [config]
    dtype = next((v for c in places for key in ("dtype", "torch_dtype") if (v := c.get(key))), "bfloat16")
    if isinstance(dtype, Mapping):  # by part of the model
        dtype = dtype.get("text_config") or dtype.get("")
    name = dtype.removeprefix("torch.") if isinstance(dtype, str) else ""
    if name not in DTYPES:
        raise ConfigError(f"the config's dtype is {str(dtype)[:40]!r}", f"one of {', '.join(DTYPES)}")
    return DTYPES[name]


# Methods: what is written in `quantization_config`


def _awq(values: Values) -> Scheme:
    bits = _bits(values, "bits", "w_bit")
    zero = values.get("zero_point", True) is not False
    return Scheme("awq", _int(bits, _group(values, "group_size", "q_group_size"), zero), _kept(values))


def _gptq(values: Values) -> Scheme:
    """Also AutoRound's. `dynamic` of GPTQModel: "-:pattern" leaves modules, "+:pattern" changes bits or group."""
    bits, group = _bits(values, "bits"), _group(values, "group_size")
    zero = values.get("sym", True) is False
    rules = list(_kept(values))
    for pattern, change in _items(values, "dynamic"):
        sign, _, rest = pattern.partition(":") if pattern[:2] in ("-:", "+:") else ("+", "", pattern)
        merged = {**values, **(change if isinstance(change, Mapping) else {})}
        codec = "" if sign == "-" else _int(_bits(merged, "bits"), _group(merged, "group_size"), zero)
        rules.append(Rule(f"re:{rest}", codec))
    head = values.get("lm_head") is True
    return Scheme("gptq", _int(bits, group, zero), tuple(rules), head=head, tables=False)


def _fp8(values: Values) -> Scheme:
    """DeepSeek's and Qwen's blocks of 128 × 128, else one scale for a matrix; DeepSeek-V4's experts are in 4 bits."""
    four = values.get("expert_dtype") == "fp4"
    rules = (Rule(r"re:.*\.mlp\.experts\.0\..*", MXFP4),) if four else ()
    return Scheme("fp8", _fp8_codec(values.get("weight_block_size")), _checked((*_kept(values), *rules)))


def _fbgemm(values: Values) -> Scheme:
    return Scheme("fbgemm-fp8", f"{FP8}-row-{F32}", _kept(values))


def _fp8_codec(block: Any) -> str:
    if block is None:
        return FP8
    if not isinstance(block, list | tuple) or len(block) != 2:
        raise ConfigError(f"weight_block_size is {str(block)[:40]!r}", "two numbers")
    rows, columns = (_positive(n, "weight_block_size", _LARGEST_GROUP) for n in block)
    return _known(f"{FP8}-g{columns}x{rows}-{F32}")


def _mxfp4(values: Values) -> Scheme:
    """gpt-oss: experts only."""
    return Scheme("mxfp4", MXFP4, _kept(values), experts_only=True)


def _bitsandbytes(values: Values) -> Scheme:
    """8 bits: a scale for each row. 4 bits: one for each 64 weights, itself quantized where that is asked for."""
    four = values.get("load_in_4bit", values.get("_load_in_4bit")) is True
    scale = 8 if values.get("bnb_4bit_use_double_quant") is True else F32
    return Scheme("bitsandbytes", f"nf4-g64-{scale}" if four else f"int8-row-{F32}", _kept(values))


def _hqq(values: Values) -> Scheme:
    inner = values.get("quant_config", values)
    inner = inner.get("weight_quant_params", inner) if isinstance(inner, Mapping) else {}
    return Scheme("hqq", _int(_bits(inner, "nbits"), _group(inner, "group_size"), zero_bits=F16), _kept(values))


def _mlx(values: Values) -> Scheme:
    """Every matrix, tables and routers too; a module's own entry is another size, or false."""
    rules = []
    for module, own in values.items():
        if own is False:
            rules.append(Rule(module, ""))
        elif isinstance(own, Mapping):
            rules.append(Rule(module, _mlx_codec({**values, **own})))
    return Scheme("mlx", _mlx_codec(values), _checked(rules), tables=True, routers=True, head=True)


def _mlx_codec(values: Values) -> str:
    bits, group, mode = _bits(values, "bits"), _group(values, "group_size"), str(values.get("mode") or "affine")
    if mode == "affine":
        return _int(bits, group, zero_bits=F16)
    fixed = {"mxfp4": MXFP4, "nvfp4": NVFP4, "mxfp8": f"{FP8}-g32-8"}
    if mode not in fixed:
        raise UnsupportedError(f"quantization mode {mode[:40]!r}", f"one of affine, {', '.join(fixed)}")
    return fixed[mode]


def _compressed_tensors(values: Values) -> Scheme:
    """Groups of targets, each with its own weights; `ignore` comes first."""
    sparse = values.get("sparsity_config")
    if isinstance(sparse, Mapping) and sparse.get("format", "dense") != "dense":
        raise UnsupportedError(f"sparse weights ({str(sparse.get('format'))[:40]})", "dense ones")
    rules, default = list(_kept(values)), ""
    for _, group in _items(values, "config_groups"):
        weights = group.get("weights") if isinstance(group, Mapping) else None
        if not isinstance(weights, Mapping):
            continue  # activations only
        codec = _compressed(weights)
        for target in _names(group, "targets"):
            if target == "Linear":
                default = codec
            else:
                rules.append(Rule(target, codec))
    return Scheme("compressed-tensors", default, _checked(rules), head=True)


def _compressed(weights: Values) -> str:
    bits, kind, strategy = _bits(weights, "num_bits"), weights.get("type", "int"), weights.get("strategy")
    group = _group(weights, "group_size") if weights.get("group_size") is not None else 0
    if strategy == "block":
        block = weights.get("block_structure")
        return _fp8_codec(block if not isinstance(block, str) else [int(n) for n in re.findall(r"\d+", block)])
    if kind == "float":
        if bits == 4:
            return MXFP4 if group == 32 else NVFP4
        return FP8 if strategy in (None, "tensor") else _known(f"{FP8}-{f'g{group}' if group else 'row'}-{F32}")
    if strategy in ("channel", "tensor"):
        group = 0
    return _int(bits, group, weights.get("symmetric", True) is False)


def _modelopt(values: Values) -> Scheme:
    """NVIDIA's: an algorithm for all, or for single layers, and patterns of what is left."""
    inner = values.get("quantization", values)
    inner = inner if isinstance(inner, Mapping) else values
    kept = _checked(Rule(name, "") for key in ("ignore", "exclude_modules") for name in _names(inner, key))
    algorithm = str(inner.get("quant_algo") or "").upper()
    if algorithm == "MIXED_PRECISION":
        own = [(name, v) for name, v in _items(inner, "quantized_layers") if isinstance(v, Mapping)]
        rules = [Rule(name, _algorithm(str(v.get("quant_algo")).upper(), v)) for name, v in own]
        return Scheme("modelopt", "", _checked([*kept, *rules]), head=True)
    if not algorithm and isinstance(inner.get("config_groups"), Mapping):
        return _compressed_tensors(inner)
    if not algorithm and str(values.get("quant_method")).lower().endswith("fp4"):
        algorithm = "NVFP4"
    return Scheme("modelopt", _algorithm(algorithm, inner), kept)


def _algorithm(name: str, values: Values) -> str:
    group = values.get("group_size") or 128
    found = {"FP8": FP8, "NVFP4": NVFP4, "W4A16_NVFP4": NVFP4, "W4A8_NVFP4": NVFP4, "MXFP4": MXFP4,
             "MXFP8": f"{FP8}-g32-8", "FP8_PER_CHANNEL_PER_TOKEN": f"{FP8}-row-{F32}",
             "FP8_PB_WO": f"{FP8}-g128x128-{F32}", "FP8_PB_REAL": f"{FP8}-g128x128-{F32}",
             "INT8_SQ": f"int8-row-{F32}", "W8A16": f"int8-row-{F32}"}  # fmt: skip
    if name in ("W4A16_AWQ", "W4A8_AWQ", "INT4_AWQ", "W4A16"):
        return _int(4, _positive(group, "group_size", _LARGEST_GROUP), False)
    if name not in found:
        raise UnsupportedError(f"the algorithm {name[:40]!r}", f"one of {', '.join(found)}, W4A16_AWQ")
    return found[name]


METHODS: Mapping[str, Callable[[Values], Scheme]] = {
    "awq": _awq, "gptq": _gptq, "gptq-marlin": _gptq, "auto-round": _gptq, "intel/auto-round": _gptq, "fp8": _fp8,
    "fbgemm-fp8": _fbgemm, "compressed-tensors": _compressed_tensors, "bitsandbytes": _bitsandbytes, "hqq": _hqq,
    "modelopt": _modelopt, "modelopt-fp4": _modelopt, "modelopt-mixed": _modelopt, "mxfp4": _mxfp4, "mlx": _mlx,
}  # fmt: skip
"""By `quant_method`, "-" for "_"."""


# Values


def _int(bits: int, group: int, zero: bool = False, zero_bits: int = 0) -> str:
    """Integers with an f16 scale for each group (0: each row), and a zero point of the same bits or a bias."""
    scale = F16 + (bits if zero else zero_bits)
    return _known(f"int{bits}-{f'g{group}' if group else 'row'}-{scale}")


def _known(codec: str) -> str:
    if grouped(codec) is None:
        raise UnsupportedError(f"weights in {codec[:60]}", "groups of 1 to 999999 weights")
    return codec


def _bits(values: Values, *keys: str) -> int:
    value = next((values[key] for key in keys if values.get(key) is not None), 4)
    if isinstance(value, bool) or value not in _BITS:
        raise ConfigError(f"{keys[0]} is {str(value)[:40]!r}", f"one of {', '.join(map(str, _BITS))}")
    return int(value)


def _group(values: Values, *keys: str) -> int:
    """Weights of a group; 0 for a whole row, which is written as -1."""
    value = next((values[key] for key in keys if values.get(key) is not None), 128)
    return 0 if value in (-1, 0) and not isinstance(value, bool) else _positive(value, keys[0], _LARGEST_GROUP)


def _positive(value: Any, key: str, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise ConfigError(f"{key} is {str(value)[:40]!r}", f"1 to {most}")
    return value


def _kept(values: Values) -> tuple[Rule, ...]:
    """Modules that stay in the model's own dtype, by the keys of all methods."""
    keys = ("modules_to_not_convert", "ignored_layers", "ignore", "llm_int8_skip_modules", "skip_modules")
    return _checked(Rule(name, "") for key in keys for name in _names(values, key))


def _names(values: Values, key: str) -> list[str]:
    found = values.get(key) or []
    if not isinstance(found, list | tuple) or not all(isinstance(name, str) for name in found):
        raise ConfigError(f"{key} is {str(found)[:60]!r}", "a list of module names")
    return list(found)


def _items(values: Values, key: str) -> list[tuple[str, Any]]:
    found = values.get(key) or {}
    if not isinstance(found, Mapping):
        raise ConfigError(f"{key} is {str(found)[:60]!r}", "an object")
    return [(str(name), value) for name, value in found.items()]


def _checked(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """Rules whose patterns can be matched in bounded time."""
    found = tuple(rules)
    patterns = sum(bool(_pieces(rule.pattern)) for rule in found)
    if len(found) > _MOST_NAMES or patterns > _MOST_PATTERNS:
        raise ConfigError(
            f"{len(found)} names of modules, {patterns} of them patterns", f"at most {_MOST_NAMES}, {_MOST_PATTERNS}"
        )
    return found


# Names of modules

_ATTENTION = {"attn_q": "q_proj", "attn_k": "k_proj", "attn_v": "v_proj", "attn_output": "o_proj",
              "attn_qkv": "qkv_proj", "attn_q_a": "q_a_proj", "attn_q_b": "q_b_proj",
              "attn_kv_a_mqa": "kv_a_proj_with_mqa", "attn_k_b": "kv_b_proj", "attn_v_b": "kv_b_proj",
              "attn_kv_b": "kv_b_proj"}  # fmt: skip
_MIXER = {"ssm_in": "in_proj", "ssm_out": "out_proj", "ssm_x": "x_proj", "ssm_dt": "dt_proj"}
_W = {"gate": "w1", "up": "w3", "down": "w2"}  # Mixtral's names


@lru_cache(1 << 15)
def modules(stem: str) -> tuple[str, ...]:
    """What checkpoints call the module of a GGUF tensor ("blk.0.ffn_up"): one name for each family's habit."""
    parts = stem.split(".")
    if parts[0] != "blk" or len(parts) < 3:
        return {"token_embd": ("model.embed_tokens",), "output": ("lm_head",)}.get(stem, (stem,))
    at, role = f"model.layers.{parts[1]}", parts[2]
    if role in _ATTENTION:
        return f"{at}.self_attn.{_ATTENTION[role]}", f"{at}.mixer.{_ATTENTION[role]}"
    if role in _MIXER:
        return tuple(f"{at}.{block}.{_MIXER[role]}" for block in ("mixer", "mamba", "linear_attn"))
    if role.startswith("ffn_gate_inp"):
        return f"{at}.mlp.gate", f"{at}.mlp.router", f"{at}.block_sparse_moe.gate"
    kind, _, where = role.removeprefix("ffn_").partition("_")
    return _mlp_modules(at, kind, where) if role.startswith("ffn_") and kind in _W else (f"{at}.{role}",)


def _mlp_modules(at: str, kind: str, where: str) -> tuple[str, ...]:
    """`kind`: gate, up or down; `where`: of routed or shared experts, or neither. Experts are alike: the first."""
    if where == "exps":
        return f"{at}.mlp.experts.0.{kind}_proj", f"{at}.block_sparse_moe.experts.0.{_W[kind]}"
    if where == "shexp":
        return f"{at}.mlp.shared_experts.{kind}_proj", f"{at}.mlp.shared_expert.{kind}_proj"
    return f"{at}.mlp.{kind}_proj", f"{at}.feed_forward.{kind}_proj"


def _parts(module: str) -> Iterator[str]:
    """All runs of whole parts of a name: "mlp.gate" and "model.layers.0" of "model.layers.0.mlp.gate"."""
    parts = module.split(".")
    for start in range(len(parts)):
        yield from (".".join(parts[start:end]) for end in range(start + 1, len(parts) + 1))


def matches(pattern: str, module: str) -> bool:
    """Whether a pattern ("re:" and a regular expression, or a name with *) fits a module's name from its start."""
    pieces = _pieces(pattern)
    found = pieces[0].match(module)
    for piece in pieces[1:]:  # each at the first place where it fits: no backtracking into the text between
        found = piece.search(module, found.end()) if found else None
    return found is not None


@lru_cache(1 << 15)
def _pieces(pattern: str) -> tuple[re.Pattern[str], ...]:
    """The parts of a pattern between ".*" (or "*"); none for a plain name.

    A stranger's regular expression can take for ever, so repetition is allowed of single characters only.
    """
    if len(pattern) > _LONGEST_PATTERN:
        raise ConfigError(f"a pattern of {len(pattern)} characters", f"at most {_LONGEST_PATTERN}")
    if pattern.startswith("re:"):
        texts = pattern[3:].replace("language_model\\.", "").replace("language_model.", "").split(".*")
    elif "*" in pattern:
        texts = [re.escape(part) for part in pattern.replace("language_model.", "").split("*")]
    else:
        return ()
    try:
        for text in texts:
            bare = re.sub(r"\\.", "", text)
            if re.search(r"\)[*+?{]", bare) or len(re.findall(r"[*+}]", bare)) > _REPEATS:
                raise re.error("too much repetition")
        return tuple(re.compile(text) for text in texts)
    except re.error as error:
        raise ConfigError(
            f"the pattern {pattern[:60]!r} of modules ({error})", "names, with * or .* for any text"
        ) from error
