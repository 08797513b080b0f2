"""Mutated chat templates and tokenizer.json files: each renders or loads, or raises a MemfirstError.

    python -m tests.fuzz.fuzz_text --cases 5000 [--seed 0]

Half of the cases are of each kind. A case may take 2 s; on Linux the process has 4 GiB of address space.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections import Counter
from pathlib import Path

from memfirst.errors import MemfirstError
from memfirst.text import Tokenizer
from memfirst.text.chat import ChatTemplate
from memfirst.text.pretokenizers import splitting
from tests.support.chat_templates import HOSTILE, STYLES

LIMIT_S = 2.0
ADDRESS_SPACE = 4 << 30
TALK = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": "Hi 🦙"},
    {"role": "assistant", "content": "x" * 50},
]
TOKENS = [
    "{{",
    "}}",
    "{%",
    "%}",
    "for",
    "in",
    "if",
    "else",
    "endif",
    "endfor",
    "set",
    "macro",
    "endmacro",
    "range(99999)",
]
TOKENS += [
    "* 99999999",
    "~",
    "|join",
    "|tojson",
    "|length",
    "messages",
    "loop",
    "namespace()",
    "[",
    "]",
    "(",
    ")",
    "-%}",
    "'x'",
]
TOKENS += [
    ".__class__",
    "|indent(99999999)",
    "**",
    "%",
    "'%99999999d'",
    "recursive",
    "block",
    "self",
    "[::-1]",
    "\x00",
    "\ud800",
    "🦙",
]
NUMBERS = [
    "-1",
    "0",
    "4294967296",
    "1e999",
    "null",
    "true",
    '""',
    "[]",
    "{}",
    '"\\ud800"',
    "99999999999999999999",
    '"\\u0000"',
]


def main() -> None:
    """Run the cases and print how they ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    limit_address_space()
    for kind, found in fuzz(asked.cases, asked.seed).items():
        print(f"{kind}: {found}")


def limit_address_space() -> None:
    """Where the system can: more memory than ADDRESS_SPACE is a MemoryError, which fails the case."""
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, resource.RLIM_INFINITY))


def fuzz(cases: int, seed: int) -> Counter[str]:
    """How the cases ended, by kind; what is neither success nor MemfirstError, or takes LIMIT_S, raises."""
    rng, ended = random.Random(seed), Counter[str]()
    for case in range(cases):
        kind, run = KINDS[case % len(KINDS)]
        data = run.mutated(rng)
        start = time.thread_time()
        try:
            run.use(data)
            ended[f"{kind}, used"] += 1
        except MemfirstError as error:
            ended[f"{kind}, {type(error).__name__}"] += 1
        except BaseException as error:
            raise AssertionError(f"case {case} of seed {seed} ({kind}): {error!r} for {data!r:.2000}") from error
        took = time.thread_time() - start
        assert took < LIMIT_S, f"case {case} of seed {seed} ({kind}) took {took:.1f} s: {data!r:.2000}"
    return ended


def splice(rng: random.Random, text: str, parts: list[str]) -> str:
    """One to six edits: insert a part, delete, repeat or move a span, change a character."""
    for _ in range(rng.randint(1, 6)):
        at, end = sorted(rng.randrange(len(text) + 1) for _ in range(2))
        end = min(end, at + rng.choice([1, 4, 30, 300]))
        piece = text[at:end]
        new = [
            rng.choice(parts),
            "",
            piece * rng.choice([2, 3, 50]),
            chr(rng.randrange(0x3000)),
            text[end : end + 9] + piece,
        ]
        text = text[:at] + rng.choice(new) + text[end:]
        text = text[:200_000] or "x"
    return text


class Templates:
    """Templates of every style and of the hostile ones, rendered for a short chat."""

    @staticmethod
    def mutated(rng: random.Random) -> str:
        source = (
            rng.choice([*STYLES.values(), *HOSTILE.values()]) if rng.random() < 0.5 else rng.choice([*STYLES.values()])
        )
        return splice(rng, source, TOKENS) if rng.random() < 0.95 else " ".join(rng.choices(TOKENS, k=30))

    @staticmethod
    def use(source: str) -> None:
        assert isinstance(ChatTemplate(source, "<s>", "</s>").render(TALK), str)


class Tokenizers:
    """A small tokenizer.json, mutated as text or value by value, then used on a text."""

    @staticmethod
    def mutated(rng: random.Random) -> str:
        text = json.dumps(small_spec())
        if rng.random() < 0.5:
            return splice(rng, text, [*NUMBERS, '"', ",", ":", "[" * 2000])
        ends = [at for at, character in enumerate(text) if character in ":,["]
        at = rng.choice(ends) + 1
        end = min((found for found in (text.find(stop, at) for stop in ",}]") if found > 0), default=len(text))
        return text[:at] + rng.choice(NUMBERS) + text[end:]

    @staticmethod
    def use(text: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "tokenizer.json")
            path.write_text(text, "utf-8", "surrogatepass")
            tokenizer = Tokenizer.from_file(path)
        ids = tokenizer.encode("Hello <s> world 🦙", special=True)
        tokenizer.decode(ids, special=True)


def small_spec() -> dict[str, object]:
    """A complete tokenizer.json of some 20 tokens."""
    merges = ["H e", "l l", "He ll", "o r"]
    tokens = ["<s>", "</s>", *"Helo wrd", "Ġ", "ð", "Ł", *(merge.replace(" ", "") for merge in merges)]
    added = [{"id": id, "content": tokens[id], "special": True, "lstrip": False, "normalized": False} for id in (0, 1)]
    model = {"type": "BPE", "vocab": {token: id for id, token in enumerate(tokens)}, "merges": merges}
    return {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": splitting((r"\p{N}",)),
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}],
        },
        "decoder": {"type": "ByteLevel"},
        "model": {
            **model,
            "ignore_merges": True,
            "byte_fallback": False,
            "unk_token": None,
            "fuse_unk": False,
        },
    }


KINDS: list[tuple[str, type[Templates] | type[Tokenizers]]] = [
    ("template", Templates),
    ("tokenizer.json", Tokenizers),
]


if __name__ == "__main__":
    main()
