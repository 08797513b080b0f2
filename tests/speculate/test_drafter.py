"""Drafts of one answer: from its prompt, from what it may be like, and a long text bit by bit."""

from __future__ import annotations

from memfirst.speculate.drafter import OPENING, STRIDE, Drafter


def test_a_prompt_and_the_answer_so_far_suggest_what_comes() -> None:
    prompt = [1, 2, 3, 4, 5, 9, 1, 2]
    drafter = Drafter(prompt)
    offer, tokens = drafter.offer(prompt, 3)
    assert (tokens, offer.match, offer.tokens) == ([3, 4, 5], 2, 3)
    offer, tokens = drafter.offer([*prompt, 3, 7], 3)
    assert (tokens, offer.match) == ([], 0)
    assert drafter.offer([*prompt, 3, 7, 4], 1)[1] == [5]


def test_a_predicted_answer_is_drafted_from_its_beginning() -> None:
    prompt, prediction = list(range(100, 130)), [7, 8, 9, 10]
    drafter = Drafter(prompt, prediction)
    offer, tokens = drafter.offer(prompt, 4)
    assert tokens == prediction and offer.match == OPENING
    assert drafter.offer([*prompt, 7, 8], 2)[1] == [9, 10]


def test_a_long_text_is_taken_in_bit_by_bit() -> None:
    """Nothing is drafted before all of it is there; then as if it had been at once."""
    prompt = [i % 1000 for i in range(2 * STRIDE + 10)]
    drafter = Drafter(prompt, [5000] * STRIDE)
    none = 0
    while not (found := drafter.offer(prompt, 3))[1]:
        none += 1
    assert none == 3 and found[1] == [(len(prompt) + i) % 1000 for i in range(3)]
