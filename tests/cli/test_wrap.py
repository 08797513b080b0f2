"""Words that come in pieces, on an emulated screen: whole, in order, and no line too long."""

from __future__ import annotations

import random
import re

import pytest

from memfirst.cli import wrap
from memfirst.cli.chat_commands import definitions
from memfirst.cli.wrap import Wrapper, width, wrapped

pyte = pytest.importorskip("pyte")

ALPHABETS = ("abcdefgh", "äöüßéñ", "日本語漢字", ["e\u0301", "a\u0300", "b"], "🎉👍", "abc日d")


def on_screen(pieces: list[str], columns: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines that stand there; a wide character counts once."""
    monkeypatch.setattr(wrap, "columns", lambda: columns - 1)
    screen = pyte.Screen(columns, 400)
    stream = pyte.Stream(screen)
    wrapper = Wrapper()
    for piece in pieces:
        stream.feed(wrapper.feed(piece).replace("\n", "\r\n"))
    return [line.rstrip() for line in screen.display]


def cells(text: str) -> int:
    return sum(width(character) for character in text)


@pytest.mark.parametrize("columns", [20, 37, 60, 80])
@pytest.mark.parametrize("seed", range(6))
def test_any_text_in_any_pieces(columns: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    r = random.Random(seed)
    words = ["".join(r.choices(r.choice(ALPHABETS), k=r.randint(1, 18))) for _ in range(200)]
    text = "".join(word + r.choice([" ", " ", " ", "  ", "\n"]) for word in words)
    cuts = sorted(r.sample(range(len(text)), 150))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    lines = on_screen(pieces, columns, monkeypatch)
    assert all(cells(line) < columns for line in lines)
    squeezed = re.sub(r"\s", "", "".join(lines))
    assert squeezed == re.sub(r"\s", "", pyte_form(text)), "nothing is lost, doubled or out of order"
    for word in words:
        if all(width(c) == 1 for c in word) and len(word) < columns:
            assert any(word in line for line in lines), f"{word!r} is broken"


def pyte_form(text: str) -> str:
    """The emulator composes a letter and its accent."""
    import unicodedata

    return "".join(unicodedata.normalize("NFC", text))


def test_lines_are_as_full_as_they_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "aaaa bbbb cccc dddd eeee"
    assert on_screen(list(text), 11, monkeypatch)[:3] == ["aaaa bbbb", "cccc dddd", "eeee"]
    assert on_screen([text], 10, monkeypatch)[:3] == ["aaaa bbbb", "cccc dddd", "eeee"], "a line may be quite full"
    assert on_screen([text], 9, monkeypatch)[:5] == ["aaaa", "bbbb", "cccc", "dddd", "eeee"]


def test_code_is_left_as_it_is_and_text_after_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wrap, "columns", lambda: 10)
    code = "```py\nprint('a long line of code')\n    indented and long too\n```\n"
    wrapper = Wrapper()
    assert "".join(wrapper.feed(c) for c in code) == code
    assert wrapper.feed("one two three") == "one two th\x1b[2D\x1b[K\nthree", "words wrap again"


def test_control_characters_cannot_steer_the_terminal() -> None:
    assert Wrapper().feed("a\x1b[2J\x07b\r\nc\x9b1m") == "a\ufffd[2J\ufffdb\nc\ufffd1m"
    assert Wrapper().feed("a\tb") == "a   b"


def test_pages_keep_numbers_and_their_units_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wrap, "columns", lambda: 12)
    assert wrapped("weights 96.6 MB, 24 GB/s") == "weights\n96.6 MB,\n24 GB/s"
    assert wrapped("a b c d e f g h", "  ") == "a b c d e f\n  g h"


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_a_chat_cuts_a_path_between_its_parts(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wrap, "columns", lambda: columns - 1)
    path = "~/.cache/memfirst/models/QuantFactory--SmolLM2-135M-Instruct-GGUF/SmolLM2-135M-Instruct.Q4_1.gguf"
    lines = definitions([("file", path), ("architecture", "llama")]).split("\n")
    assert all(len(line) < columns for line in lines)
    assert "".join(line.strip() for line in lines[:-1]) == f"file          {path}"
    assert all(line.endswith("/") for line in lines[:-2])


def test_text_that_goes_on_below_a_note_begins_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    wrapper = Wrapper()
    assert wrapper.feed("It has been") == "It has been"
    wrapper.go_on()
    assert wrapper.feed(" my home") == "my home"
    wrapper.go_on()
    assert wrapper.feed("s.\n  x") == "s.\n  x", "an indented line stays so"
