"""Pre-tokenizers: how a model's text is cut into words before BPE merges the bytes of each word.

A GGUF file names its pre-tokenizer (`tokenizer.ggml.pre`); a `tokenizer.json` spells it out. Each entry
here is a sequence of regular expressions: the first cuts the text, the next cuts what the first left
over and what it matched, and so on; what a pattern matches is a piece, and so is each gap between.

Sources: the patterns are those of the models' own `tokenizer.json` (Hugging Face `Split`, `Digits`,
`ByteLevel`), the names and which models share one are those that llama.cpp writes into GGUF files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from memfirst.errors import UnsupportedError

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SLASH_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# Letters by case, with the scripts that have none (Lm, Lo) and marks on both sides.
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _TAIL
QWEN2 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _TAIL
QWEN35 = (
    _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}" + _SLASH_TAIL
)
GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTIONS}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTIONS}?|\p{{N}}{{1,3}}" + _SLASH_TAIL
)
DIGIT = r"\p{N}"
DIGITS_3 = r"\p{N}{1,3}"
DEEPSEEK_V3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Cased letters, as the first DeepSeek vocabulary spells them out (those that NFC would change, by number).
_DEEPSEEK_LETTERS = (
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\u1f7dᾀ-ᾴᾶ-ᾼ\u1fbe"
    "ῂ-ῄῆ-ῌῐ-\u1fd3ῖ-\u1fdbῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212a-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ"
    "𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
)
_DEEPSEEK_PUNCTUATION = r"\s?[!-/:-~！-／：-～‘-‟　-。]+"
_CJK_WORDS = "[一-龥ࠀ-一가-퟿]+"
_HAN_KANA = "[一-龥぀-ゟ゠-ヿ]+"
_FALCON = (r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]")
_DEFAULT = (r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]")


@dataclass(frozen=True)
class PreTokenizer:
    """How text is cut, and two defaults that the name implies where the file is silent.

    patterns       regular expressions, applied in sequence
    whole_words    a word that is in the vocabulary is one token, whatever the merges say
    add_bos        the model expects a BOS token before the text
    """

    patterns: tuple[str, ...]
    whole_words: bool = False
    add_bos: bool = False


_LLAMA3 = PreTokenizer((LLAMA3,), whole_words=True, add_bos=True)
_CODE = PreTokenizer((DIGIT, GPT2))
_GPT2 = PreTokenizer((GPT2,))
_QWEN2 = PreTokenizer((QWEN2,))
_GPT4O = PreTokenizer((GPT4O,))
_DEEPSEEK3 = PreTokenizer((DIGITS_3, _HAN_KANA, DEEPSEEK_V3))

TABLE: dict[str, PreTokenizer] = {
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "lfm2"), _LLAMA3),
    **dict.fromkeys(("dbrx", "smaug-bpe", "chatglm-bpe"), PreTokenizer((LLAMA3,))),
    "glm4": PreTokenizer((LLAMA3,), whole_words=True),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"), _CODE),
    "minerva-7b": _CODE,
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling"), _GPT2),
    **dict.fromkeys(("exaone4", "gigachat", "mellum", "a.x-4.0"), _GPT2),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2", "megrez", "hunyuan"), _QWEN2),
    **dict.fromkeys(("solar-open", "grok-2"), _QWEN2),
    "qwen35": PreTokenizer((QWEN35,)),
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2", "minimax-m2"), _GPT4O),
    "tekken": PreTokenizer((TEKKEN,), whole_words=True, add_bos=True),
    "deepseek-llm": PreTokenizer(
        ("[\r\n]", rf"\s?[{_DEEPSEEK_LETTERS}]+", _DEEPSEEK_PUNCTUATION, r"\s+$", _CJK_WORDS, r"\p{N}+")
    ),
    "deepseek-coder": PreTokenizer(("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK_WORDS, DIGIT)),
    **dict.fromkeys(("deepseek-v3", "hunyuan-dense", "joyai-llm"), _DEEPSEEK3),
    "falcon": PreTokenizer(_FALCON),
    "default": PreTokenizer(_DEFAULT),
    **dict.fromkeys(("poro-chat", "bloom", "gpt3-finnish"), PreTokenizer((" ?[^(\\s|.,!?…。，、।۔،)]+",))),
    "viking": PreTokenizer((" ?[^(\\s|.,!?…。，、।۔،)]+", DIGIT)),
}

KNOWN_PATTERNS = frozenset(pattern for entry in TABLE.values() for pattern in entry.patterns)
"""The patterns that a `tokenizer.json` may ask for: a stranger's regular expression can run for hours."""


def pre_tokenizer(name: str) -> PreTokenizer:
    """The pre-tokenizer of that name; UnsupportedError with the list of those that are known."""
    if name in TABLE:
        return TABLE[name]
    found = f"the file's pre-tokenizer is {name[:64]!r}"
    raise UnsupportedError(found, "one of " + ", ".join(sorted(TABLE)), "use a model with one of these")


def splitting(patterns: tuple[str, ...]) -> dict[str, Any]:
    """The patterns as the `pre_tokenizer` of a tokenizer.json: cut, then spell each byte as a character."""
    steps: list[dict[str, Any]] = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in patterns
    ]
    return {"type": "Sequence", "pretokenizers": [*steps, BYTE_LEVEL]}


BYTE_LEVEL: dict[str, Any] = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": False,
    "use_regex": False,
}
