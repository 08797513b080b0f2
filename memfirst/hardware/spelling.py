"""A machine's name as people and drivers write it: "NVIDIA GeForce RTX 4090", "8xh100", "macbook air m2 16gb"."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_MARKS = re.compile(r"\((?:tm|r|c)\)|[™®\"'(),]")
_MAC = re.compile(
    r"\bi?mac(?:book)?\b(?:[ -]*(?:air|pro|mini|studio|neo)\b)?"  # the "pro" of the computer is not that of its chip
    r"(?:[ -]*1[1-6](?:\.\d)?(?![\dg])(?:[ -]*in(?:ch)?\b)?)?(?:[ -]*20[12]\d\b)?"
)
_GRAPHICS = re.compile(r"\s(?:w/|with)\s.*")
"""What a processor's name says of the graphics in it."""
_SIZE = re.compile(r"(?<![\d.])(\d{1,4})[ -]?(?:gib|gb|g)(?![a-z0-9/])|(?<=:)(\d{1,4})$")
_CORES = re.compile(r"(\d{1,3})[ -]?cores?\b")
_COUNT = re.compile(r"(\d{1,3}) ?[x×*] ?(\D.*|\d{3,}.*)|(single|dual|two|triple|quad|four|eight)[ -]+(.+)")
_COUNT_BEHIND = re.compile(r"(.*[^x×])(?:[ -]+\(?|\()[x×] ?(\d{1,4})\)?")
_WORDS = {"single": 1, "dual": 2, "two": 2, "triple": 3, "quad": 4, "four": 4, "eight": 8}

_MAKERS = {"nvidia", "geforce", "quadro", "tesla", "amd", "radeon", "instinct", "apple", "intel", "arc"}
_BRANDS = {"rtx", "gtx", "rx", "graphics", "gpu", "gpus", "card", "cards", "cpu", "processor", "chip", "silicon"}
_NOISE = _MAKERS | _BRANDS | {"generation", "workstation", "edition", "server", "desktop", "ram", "memory", "vram"}
"""Makers, brands and words that tell no two machines of the catalogue apart."""
_FORM = re.compile(r"sxm\d?|pcie|pci|nvl|oam|hbm\d?e?|gddr\d\w?|lpddr\d\w?|blackwell")
"""Form factors and kinds of memory: they tell some machines apart, and stand in the names of others."""
_BRAND = re.compile(r"^(?:rtx|gtx|rx)(?=\d)")
_SAME = {"mobile": "laptop", "notebook": "laptop", "rpi": "raspberrypi"}
_FAMILIES = {"ryzen", "threadripper", "epyc", "xeon", "core"}
_GRADES = _FAMILIES | {"pro", "ai", "ultra", "platinum", "gold", "silver", "i3", "i5", "i7", "i9", "3", "5", "7", "9"}
"""Of processors, whose number tells them apart: "threadripper pro 7995wx", "core ultra 7 155h"."""

_PLURAL = re.compile(r"(?<=\d{4})s$")  # two 3090s; an l40s is no two l40


def _instances() -> Iterator[tuple[str, tuple[int, str]]]:
    """Instances of clouds by name, and the cards in them."""
    for family, card in (("g5", "a10g"), ("g6", "l4"), ("g6e", "l40s")):
        for size, count in ((1, 1), (2, 1), (4, 1), (8, 1), (16, 1), (12, 4), (24, 4), (48, 8)):
            yield f"{family}.{'' if size == 1 else size}xlarge", (count, card)
    for size, count in ((1, 1), (2, 1), (4, 1), (8, 1), (16, 1), (12, 4)):
        yield f"g4dn.{'' if size == 1 else size}xlarge", (count, "t4")
    for size, count in ((2, 1), (8, 4), (16, 8)):
        yield f"p3.{size}xlarge", (count, "v100 16gb")
    for card, names in (
        ("a100-40gb", "p4d.24xlarge"), ("a100-80gb", "p4de.24xlarge"),
        ("h100-80gb", "p5.48xlarge a3-highgpu-8g standard_nd96isr_h100_v5"),
        ("h200", "p5e.48xlarge p5en.48xlarge a3-ultragpu-8g"), ("b200", "p6-b200.48xlarge a4-highgpu-8g"),
    ):  # fmt: skip
        yield from ((name, (8, card)) for name in names.split())
    for count in (1, 2, 4, 8):
        yield f"a2-highgpu-{count}g", (count, "a100-40gb")
        yield f"a2-ultragpu-{count}g", (count, "a100-80gb")


INSTANCES = dict(_instances())
"""How many cards, and which, of AWS's, Google's and Azure's instances."""


@dataclass(frozen=True)
class Spelling:
    """A name in parts that compare: its telling words, and the sizes and counts of cores that it states."""

    words: tuple[str, ...]
    size: str = ""
    cores: tuple[str, ...] = ()

    def forms(self) -> Iterator[tuple[str, bool]]:
        """What a catalogue may call it, the most telling first, and whether the memory is part of that."""
        whole = self.words
        short = tuple(word for word in whole if not _FORM.fullmatch(word))
        plain = tuple(word for word in whole if word not in _GRADES) if _FAMILIES & set(whole) else short
        for words in dict.fromkeys((whole, tuple(re.sub(r"^sxm\d$", "sxm", w) for w in whole), short, plain)):
            name = "".join(words)
            if self.size:
                yield f"{name}{self.size}gb", True
            yield from ((name + cores, False) for cores in self.cores)
            yield name, False


def spelled(name: str) -> Spelling:
    """The parts of a name."""
    text = _MARKS.sub(" ", name.lower()).strip()
    text = _GRAPHICS.sub("", text)
    text = _MAC.sub(" ", text) if re.search(r"\bm\d", text) else text
    cores = tuple(_CORES.findall(text))
    sizes = [first or second for first, second in _SIZE.findall(text)]
    text = _SIZE.sub(" ", _CORES.sub(" ", text))
    words = [_SAME.get(word, word) for word in re.split(r"[\s_/:-]+", text) if word]
    telling = [_PLURAL.sub("", _BRAND.sub("", word)) for word in words if word not in _NOISE]
    return Spelling(tuple(word for word in telling if word), sizes[-1] if sizes else "", cores)


def counted(name: str) -> tuple[int, str]:
    """("8xh100", "h100 x8", "dual 3090") as how many, and the rest of the name."""
    text = name.strip()
    if rented := INSTANCES.get(text.lower()):
        return rented
    if found := _COUNT.fullmatch(text.lower()):
        return (int(found[1]), found[2]) if found[1] else (_WORDS[found[3]], found[4])
    if found := _COUNT_BEHIND.fullmatch(text.lower()):
        return int(found[2]), found[1].strip()
    return 1, text
