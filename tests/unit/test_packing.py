"""Packing: requests as full as they may be, in the order of the rows, with nothing lost."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from migrator.provider.packing import binding, group, halve, pack

counts = st.lists(st.integers(1, 120), max_size=60)
limits = st.integers(1, 12)


def runs_of(tokens: list[int], max_texts: int, max_tokens: int) -> list[list[int]]:
    return [list(run) for run in pack(tokens, max_texts=max_texts, max_tokens=max_tokens)]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(tokens=counts, max_texts=limits, max_tokens=st.integers(1, 300))
def test_r7_packing_keeps_the_order_and_the_limits_and_loses_nothing(
    tokens: list[int], max_texts: int, max_tokens: int
) -> None:
    runs = runs_of(tokens, max_texts, max_tokens)
    assert [position for run in runs for position in run] == list(range(len(tokens)))
    for run in runs:
        assert 1 <= len(run) <= max_texts
        # Only a text that is over the limit by itself may be: it is asked for alone, and the provider judges.
        assert sum(tokens[position] for position in run) <= max_tokens or len(run) == 1


@settings(max_examples=100, deadline=None, derandomize=True)
@given(tokens=counts, max_texts=limits, max_tokens=st.integers(1, 300))
def test_no_request_is_cut_while_the_next_text_still_fits(tokens: list[int], max_texts: int, max_tokens: int) -> None:
    runs = runs_of(tokens, max_texts, max_tokens)
    for run, following in pairwise(runs):
        total = sum(tokens[position] for position in run)
        assert len(run) == max_texts or total + tokens[following[0]] > max_tokens


def test_hand_packed() -> None:
    assert runs_of([], 10, 100) == []
    assert runs_of([5] * 7, 3, 100) == [[0, 1, 2], [3, 4, 5], [6]]
    assert runs_of([40, 60, 1, 100, 1], 10, 100) == [[0, 1], [2], [3], [4]]
    assert runs_of([300, 1, 300], 10, 100) == [[0], [1], [2]]


def test_a_full_request_may_be_exactly_at_both_limits() -> None:
    assert runs_of([10] * 10, 10, 100) == [list(range(10))]
    assert runs_of([10] * 11, 10, 100) == [list(range(10)), [10]]
    assert runs_of([10] * 9 + [11], 10, 100) == [list(range(9)), [9]]


@settings(max_examples=50, deadline=None, derandomize=True)
@given(words=st.lists(st.sampled_from(["a", "b", "c\0", "\0c", "c"]), max_size=20))
def test_r11_identical_texts_are_one_and_every_position_is_kept(words: list[str]) -> None:
    found = group(words, range(len(words)))
    assert sorted(position for positions in found.values() for position in positions) == list(range(len(words)))
    assert all("\0" not in text for text in found)
    assert [positions[0] for positions in found.values()] == sorted(positions[0] for positions in found.values())
    assert all(words[position].replace("\0", "") == text for text, each in found.items() for position in each)


@given(run=st.lists(st.text(max_size=2), min_size=2, max_size=20))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_halves_are_two_and_lose_nothing(run: list[str]) -> None:
    first, second = halve(run)
    assert first + second == run
    assert 0 <= len(first) - len(second) <= 1


def test_what_a_refusal_for_too_many_tokens_is_about() -> None:
    assert binding([100, 20], 60, slack=1.0) == "text"
    assert binding([40, 40], 60, slack=1.0) == "request"
    assert binding([10, 10], 60, slack=1.0) is None
    # With a count that may be off by a fifth, only what is clear is learnt.
    assert binding([70, 20], 60, slack=1.2) is None
    assert binding([55, 55], 60, slack=1.2) is None
    assert binding([40, 40], 60, slack=1.2) == "request"
