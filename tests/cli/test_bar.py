"""The bar of a token's bytes."""

from __future__ import annotations

import io

from memfirst.cli.bar import CELLS, bar
from memfirst.cli.wrap import NBSP, fold

PURPOSES = ("weights", "experts", "head", "kv_read", "state_read", "draft")


def text(read: dict[str, float], encoding: str = "utf-8") -> str:
    return bar(read, io.TextIOWrapper(io.BytesIO(), encoding=encoding)).replace(NBSP, " ")


def test_cells_are_shares_and_each_purpose_is_named() -> None:
    read = {"weights": 66.5, "head": 30.1, "kv_read": 1.9, "embedding": 0.01}
    assert text(read) == "█" * 21 + "▒" * 10 + "░" + "  █ weights 68 % · ▒ head 31 % · ░ KV 2 %"


def test_all_purposes_fill_the_bar_whatever_their_shares() -> None:
    for parts in ([1, 1, 1, 1, 1, 1], [1000, 10, 10, 10, 10, 10], [0, 5, 0, 0, 3, 0], [10**9, 1, 0, 0, 0, 0]):
        line, _, said = text(dict(zip(PURPOSES, parts, strict=True))).partition("  ")
        assert len(line) == CELLS and len(set(line)) == len(said.split(" · "))


def test_an_encoding_without_blocks_has_letters() -> None:
    assert text({"weights": 3, "kv_read": 1}, "ascii") == "W" * 24 + "K" * 8 + "  W weights 75 % · K KV 25 %"


def test_nothing_read_is_no_bar() -> None:
    assert text({}) == text({"weights": 0}) == ""


def test_a_narrow_screen_breaks_between_purposes() -> None:
    lines = fold(bar({"weights": 66.5, "head": 30.1, "kv_read": 1.9}), 60)
    assert len(lines) == 2 and all(len(line) <= 60 for line in lines) and lines[1] == "  ▒ head 31 % · ░ KV 2 %"
