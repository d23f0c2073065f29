"""Who of one provider account gets how many batches: by priority, evenly among equals, and nobody waits for nothing."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrator.orchestrator.allotment import Claim, share


def shared(limit: int, *claims: tuple[int, int]) -> list[int]:
    """Shares of (priority, wanted), in their order."""
    found = share(limit, [Claim(number, *each) for number, each in enumerate(claims)])
    return [found[number] for number in range(len(claims))]


@pytest.mark.parametrize(
    ("limit", "claims", "shares"),
    [
        (8, [(0, 8)], [8]),
        (8, [(0, 8), (5, 8)], [0, 8]),
        (8, [(0, 8), (5, 3)], [5, 3]),  # what is left over
        (8, [(0, 8), (5, 0)], [8, 0]),  # it rests
        (8, [(0, 8), (0, 8)], [4, 4]),
        (8, [(0, 8), (0, 2)], [6, 2]),
        (8, [(0, 2), (0, 8), (0, 8)], [2, 3, 3]),
        (4, [(0, 8), (0, 8), (0, 8)], [2, 2, 2]),  # evenly, be it a few more
        (8, [(-9, 8), (0, 8), (9, 8)], [0, 0, 8]),
        (8, [(-9, 8), (0, 3), (9, 4)], [1, 3, 4]),
        (8, [(0, 0), (5, 0)], [0, 0]),
    ],
)
def test_who_gets_what(limit: int, claims: list[tuple[int, int]], shares: list[int]) -> None:
    assert shared(limit, *claims) == shares


@settings(deadline=None, max_examples=300)
@given(st.integers(1, 64), st.lists(st.tuples(st.integers(-9, 9), st.integers(0, 64)), min_size=1, max_size=6))
def test_no_room_is_left_that_somebody_wants_and_nobody_is_overtaken(limit: int, claims: list[tuple[int, int]]) -> None:
    found = shared(limit, *claims)
    wanted = sum(each for _, each in claims)
    assert all(0 <= got <= want for got, (_, want) in zip(found, claims, strict=True))
    assert min(limit, wanted) <= sum(found) < limit + len(claims)
    for got, (priority, _) in zip(found, claims, strict=True):
        for other, (higher, want) in zip(found, claims, strict=True):
            if higher > priority and got:
                assert other == want, "whoever goes first lacks nothing"
            if higher == priority and other < want:
                assert got <= other, "equal ones get the same"
