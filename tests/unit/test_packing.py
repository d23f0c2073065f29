"""Packing: requests as full as they may be, in the order of the rows, with nothing lost."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from migrator.provider.packing import pack

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
