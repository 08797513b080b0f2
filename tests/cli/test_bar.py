"""The bar of a token's bytes."""

from __future__ import annotations

import io

from memfirst.cli.bar import CELLS, bar

PURPOSES = ("weights", "experts", "head", "kv_read", "state_read", "draft")


def text(read: dict[str, float], encoding: str = "utf-8") -> str:
    return "\n".join(bar(read, stream=io.TextIOWrapper(io.BytesIO(), encoding=encoding)))


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


def test_a_key_that_finds_no_room_stands_below_and_breaks_between_purposes() -> None:
    read = {"weights": 66.5e6, "head": 30.1e6, "kv_read": 1.9e6}
    beside = bar(read, 80)
    assert len(beside) == 1 and bar(read) == beside
    drawn, key = bar(read, 60)
    assert len(drawn) == CELLS and key == "█ weights 68 % · ▒ head 31 % · ░ KV 2 %"
    assert bar(read, 32)[1:] == ["█ weights 68 % · ▒ head 31 %", "░ KV 2 %"], "no dot is left at an end"


def test_a_key_says_bytes_where_they_are_wanted() -> None:
    read = {"weights": 66.5e6, "head": 30.1e6}
    assert bar(read, 36, sizes=True, more=["embedding 1.0 MB"])[1:] == [
        "█ weights 66.5 MB, 69 %", "▒ head 30.1 MB, 31 %", "embedding 1.0 MB"
    ]  # fmt: skip
