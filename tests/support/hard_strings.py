"""Strings that tell tokenizers apart, the same from the same seed on every machine."""

from __future__ import annotations

import random
import unicodedata

# fmt: off
WORDS = [
    "the", "The", "THE", "hello", "World", "naïve", "coöperate", "straße", "Ångström",
    "İstanbul", "ΑΒΓ", "αβγ", "Привет", "мир", "ПРИВЕТ", "camelCase", "snake_case",
    "HTTPServer", "iPhone12", "x86_64", "don't", "DON'T", "I'm", "I'LL", "we've", "WE'VE",
    "he'd", "'tis", "it’s", "l'été", "supercalifragilistic", "e.g.", "i.e.", "U.S.A.",
    "foo@example.org", "https://a.b/c?d=e&f=%20", "v1.2.3-rc4",
]
# fmt: on
CJK = "汉字漢字日本語にほんごカタカナ한국어조선말〇々〆ヶー、。「」！？：；（）ｱｲｳ１２３ＡＢＣ㍿㈱𠀀𠮷龥龦㐀"
EMOJI = ["🦙", "👩‍💻", "👨‍👩‍👧‍👦", "🇩🇪", "👍🏽", "❤️", "☺", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "🤷🏿‍♀️", "1️⃣", "©", "™"]
NUMBERS = [
    "0",
    "7",
    "42",
    "007",
    "1234",
    "1,000,000",
    "3.14159",
    "1e-9",
    "0xFF",
    "²³",
    "½",
    "Ⅳ",
    "٣٤٥",
    "१२३",
    "①②",
    "𝟘𝟙",
]
SPACES = [
    " ",
    "  ",
    "   ",
    "     ",
    "\t",
    "\t\t",
    "\n",
    "\n\n",
    "\n\n\n",
    "\r\n",
    "\r",
    " \n",
    "\n ",
    " \t \n  ",
    "\u00a0",
]
SPACES += ["\u3000", "\u2003", "\u2028", "\u205f", "        ", " " * 31, "\n    ", "\x0b", "\x0c"]
CONTROLS = [
    "\x00",
    "\x01",
    "\x1b[31m",
    "\x7f",
    "\u0080",
    "\u200b",
    "\u200d",
    "\ufeff",
    "\u202e",
    "\ufffd",
    "\uffff",
    "\ue000",
]
MARKS = [
    "e\u0301",
    "नमस्ते",
    "ไทยภาษา",
    "שָׁלוֹם",
    "العَرَبِيَّة",
    "Z͑ͫ̓a̴l̸g̶o̷",
    "ක්‍ෂ",
    "გამარჯობა",
    "ᏣᎳᎩ",
    "ǅ",
    "ǈ",
    "ʰ",
    "ﬁ",
]
PUNCTUATION = [
    *"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~",
    "...",
    "->",
    "=>",
    "!=",
    "//",
    "/*",
    "*/",
    "```",
    "§",
    "€",
    "—",
    "«»",
]
CODE = [
    "def f(x: int) -> str:\n    return f'{x!r}'\n",
    "for(int i=0;i<n;++i){a[i]+=1;}\r\n",
    "#include <stdio.h>\n\n\n",
    "SELECT * FROM t WHERE a='b''c';--x\n",
    "\t\tif (a && b || !c) {\n\t\t\treturn;\n\t\t}\n",
    '<div class="x">&nbsp;</div>\n/',
    "\\frac{1}{2}\\n $x_1^{2}$",
    "x = [1,22,333,4444,55555]\n\n    # done\n",
    "{'a': [null, true], \"b\": 1.0e+5}",
]
SPECIALS = ["<|im_start|>", "<|im_end|>", "<s>", "</s>", "<|endoftext|>", "<unk>", "<0x0A>", "[INST]"]
FAMILIES = [WORDS, list(CJK), EMOJI, NUMBERS, SPACES, CONTROLS, MARKS, PUNCTUATION, CODE, SPECIALS]


def hard_strings(count: int, seed: int = 0) -> list[str]:
    """`count` strings of 1 to 12 parts each, from all families, glued with or without spaces."""
    rng = random.Random(seed)
    strings = [part for family in FAMILIES for part in family][: count // 2]
    while len(strings) < count:
        glue = rng.choice(["", "", " "])
        strings.append(glue.join(_part(rng) for _ in range(rng.randint(1, 12))))
    return strings


def _part(rng: random.Random) -> str:
    """One part of a random family; runs, case changes and any assigned-looking character now and then."""
    dice = rng.random()
    if dice < 0.06:
        return _assigned(rng)
    part = rng.choice(rng.choice(FAMILIES))
    if dice < 0.16:
        return part * rng.randint(2, 5)
    return part.upper() if dice < 0.2 else part


def _assigned(rng: random.Random) -> str:
    """Any character that Unicode 3.2 has: of later ones, engines of different age don't know the category."""
    while True:
        character = chr(rng.randrange(0x20, 0x2FA20))
        if unicodedata.ucd_3_2_0.category(character) not in ("Cn", "Cs"):
            return character
