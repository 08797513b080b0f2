"""Pre-tokenizers: how a model's text is split into words before BPE merges the bytes of each word.

A GGUF file names its pre-tokenizer (`tokenizer.ggml.pre`); a `tokenizer.json` spells it out. Each entry
here is a sequence of regular expressions: the first splits the text, the next splits what the first left
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
# Letters without Chinese characters, which are words of their own.
_UPPER_NO_HAN, _LOWER_NO_HAN = (letters[:-1] + r"&&[^\p{Han}]]" for letters in (_UPPER, _LOWER))
KIMI = (
    rf"\p{{Han}}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER_NO_HAN}*{_LOWER_NO_HAN}+{_CONTRACTIONS}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER_NO_HAN}+{_LOWER_NO_HAN}*{_CONTRACTIONS}?|\p{{N}}{{1,3}}" + _TAIL
)
JAIS2 = LLAMA3.removesuffix(r"|\s+(?!\S)|\s+") + "".join(
    rf"|\s{{{count}}}(?!\S)" for count in (512, 256, 128, 64, 32, 16, 8, 4, "1,2")
)
BAILING = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
SEED_CODER = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"
EXAONE_MOE = (
    _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
)
MINICPM5 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+" + _TAIL
UFAKZEKA = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _TAIL
DIGIT = r"\p{N}"
DIGITS_3_FROM_THE_RIGHT = r"\d{1,3}(?=(?:\d{3})*\b)"
NUMBERS_3_FROM_THE_RIGHT = r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))"
LINES = r"[^\n]+|[\n]+"
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
SPARK = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+"
)
YOUTU_CJK = "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+"
AFMOE_CJK = "[一-鿿㐀-䶿豈-﫿぀-ゟ゠-ヿ･-ﾟ⼀-⿟เ-๿຀-໿ក-៿က-႟ꩠ-ꩿꧠ-꧿가-힯ᄀ-ᇿ]+"
_CHAMELEON = (
    "<sentinel:[0-9]+>",
    "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
    "([\t\n]|    |  )",
    DIGIT,
    r"[\p{P}!-/:-@\[-`{-~]",
    GPT2,
)
_FALCON = (r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]")
_DEFAULT = (r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]")


@dataclass(frozen=True)
class PreTokenizer:
    """How text is split, and defaults that the name implies where the file is silent."""

    patterns: tuple[str, ...]
    """Regular expressions, applied in sequence."""
    whole_words: bool = False
    """A word that is in the vocabulary is one token, whatever the merges say."""
    add_bos: bool = False
    """The model expects a BOS token before the text."""
    characters: bool = False
    """Tokens are spelled in characters, spaces as U+2581, as SentencePiece does; else in GPT-2's byte alphabet."""


_LLAMA3 = PreTokenizer((LLAMA3,), whole_words=True, add_bos=True)
_CODE = PreTokenizer((DIGIT, GPT2))
_GPT2 = PreTokenizer((GPT2,))
_QWEN2 = PreTokenizer((QWEN2,))
_GPT4O = PreTokenizer((GPT4O,))
_DEEPSEEK3 = PreTokenizer((DIGITS_3, _HAN_KANA, DEEPSEEK_V3))

TABLE: dict[str, PreTokenizer] = {
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "lfm2"), _LLAMA3),
    **dict.fromkeys(("midm-2.0", "jina-v5-nano"), _LLAMA3),
    **dict.fromkeys(("dbrx", "smaug-bpe", "chatglm-bpe"), PreTokenizer((LLAMA3,))),
    **dict.fromkeys(("glm4", "glm5"), PreTokenizer((LLAMA3,), whole_words=True)),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"), _CODE),
    **dict.fromkeys(("minerva-7b", "mellum2"), _CODE),
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling"), _GPT2),
    **dict.fromkeys(("exaone4", "gigachat", "mellum", "a.x-4.0"), _GPT2),
    **dict.fromkeys(("jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "jina-v1-en", "jina-v2-code"), _GPT2),
    **dict.fromkeys(("modern-bert", "roberta-bpe"), _GPT2),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2", "megrez", "hunyuan"), _QWEN2),
    **dict.fromkeys(("solar-open", "grok-2", "kormo", "f2llmv2"), _QWEN2),
    "qwen35": PreTokenizer((QWEN35,)),
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2", "minimax-m2", "talkie"), _GPT4O),
    **dict.fromkeys(("tiny_aya", "cohere2moe"), PreTokenizer((DIGITS_3_FROM_THE_RIGHT, GPT4O))),
    "granite-embed-multi-97m": PreTokenizer((GPT4O,), whole_words=True),
    "youtu": PreTokenizer((YOUTU_CJK, GPT4O.replace(r"\p{N}{1,3}", DIGIT)), whole_words=True),
    "kimi-k2": PreTokenizer((KIMI,)),
    "jais-2": PreTokenizer((JAIS2,)),
    "minicpm5": PreTokenizer((DIGITS_3, MINICPM5), whole_words=True),
    "seed-coder": PreTokenizer((SEED_CODER,)),
    **dict.fromkeys(("bailingmoe", "bailingmoe2", "llada-moe"), PreTokenizer((BAILING,))),
    "exaone-moe": PreTokenizer((EXAONE_MOE,)),
    "ufakzeka": PreTokenizer((UFAKZEKA,)),
    "superbpe": PreTokenizer((r"\p{N}+", r"(?=(\d{3})+(?!\d))")),
    "laguna": PreTokenizer((LINES, QWEN2)),
    "spark2_5": PreTokenizer((DIGITS_3, _HAN_KANA, SPARK, DIGIT)),
    "afmoe": PreTokenizer((NUMBERS_3_FROM_THE_RIGHT, AFMOE_CJK, DEEPSEEK_V3)),
    "chameleon": PreTokenizer(_CHAMELEON, add_bos=True),
    **dict.fromkeys(("gemma4", "granite-embed-multi-311m"), PreTokenizer((LINES,), add_bos=True, characters=True)),
    "sarvam-moe": PreTokenizer((LINES,), characters=True),
    "tekken": PreTokenizer((TEKKEN,), whole_words=True, add_bos=True),
    "deepseek-llm": PreTokenizer(
        ("[\r\n]", rf"\s?[{_DEEPSEEK_LETTERS}]+", _DEEPSEEK_PUNCTUATION, r"\s+$", _CJK_WORDS, r"\p{N}+")
    ),
    "deepseek-coder": PreTokenizer(("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK_WORDS, DIGIT)),
    **dict.fromkeys(("deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"), _DEEPSEEK3),
    "falcon": PreTokenizer(_FALCON),
    "default": PreTokenizer(_DEFAULT),
    **dict.fromkeys(("poro-chat", "bloom", "gpt3-finnish"), PreTokenizer((" ?[^(\\s|.,!?…。，、।۔،)]+",))),
    "viking": PreTokenizer((" ?[^(\\s|.,!?…。，、।۔،)]+", DIGIT)),
}

KNOWN_PATTERNS = frozenset(pattern for entry in TABLE.values() for pattern in entry.patterns)
"""The patterns that a `tokenizer.json` may use: an unknown regular expression can run for hours."""


def pre_tokenizer(name: str) -> PreTokenizer:
    """Look up a pre-tokenizer by name; UnsupportedError with the list of those that are known."""
    if name in TABLE:
        return TABLE[name]
    found = f"the file's pre-tokenizer is {name[:64]!r}"
    raise UnsupportedError(found, "one of " + ", ".join(sorted(TABLE)), "use a model with one of these")


def splitting(patterns: tuple[str, ...], characters: bool = False) -> dict[str, Any]:
    """Write patterns as the `pre_tokenizer` of a tokenizer.json: split, then spell each byte or leave characters."""
    steps: list[dict[str, Any]] = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in patterns
    ]
    return {"type": "Sequence", "pretokenizers": steps if characters else [*steps, BYTE_LEVEL]}


BYTE_LEVEL: dict[str, Any] = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": False,
    "use_regex": False,
}
