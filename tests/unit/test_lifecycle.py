"""The state machine is proved, not sampled: every pair is tried."""

from itertools import product

import pytest

from migrator import lifecycle
from migrator.lifecycle import FINAL, NEXT_STEP, OPEN, PAUSABLE, TRANSITIONS, MigrationStatus

S = MigrationStatus

EDGES = {
    (S.PLANNED, S.BACKFILLING),
    (S.PLANNED, S.CLEANED),
    (S.BACKFILLING, S.INDEXING),
    (S.BACKFILLING, S.PAUSED),
    (S.BACKFILLING, S.CANCELLED),
    (S.INDEXING, S.VALIDATING),
    (S.INDEXING, S.PAUSED),
    (S.INDEXING, S.CANCELLED),
    (S.VALIDATING, S.READY),
    (S.VALIDATING, S.BACKFILLING),
    (S.VALIDATING, S.PAUSED),
    (S.VALIDATING, S.CANCELLED),
    (S.READY, S.COMPLETED),
    (S.READY, S.VALIDATING),
    (S.READY, S.PAUSED),
    (S.READY, S.CANCELLED),
    (S.COMPLETED, S.ROLLED_BACK),
    (S.COMPLETED, S.CLEANING),
    (S.COMPLETED, S.PAUSED),
    (S.ROLLED_BACK, S.BACKFILLING),
    (S.ROLLED_BACK, S.CLEANING),
    (S.CLEANING, S.CLEANED),
    (S.PAUSED, S.BACKFILLING),
    (S.PAUSED, S.INDEXING),
    (S.PAUSED, S.VALIDATING),
    (S.PAUSED, S.READY),
    (S.PAUSED, S.COMPLETED),
    (S.PAUSED, S.ROLLED_BACK),
    (S.PAUSED, S.CANCELLED),
    (S.CANCELLED, S.CLEANING),
}


@pytest.mark.parametrize(("old", "new"), list(product(S, S)))
def test_all_pairs_of_statuses(old: S, new: S) -> None:
    assert lifecycle.is_allowed(old, new) == ((old, new) in EDGES)


def test_every_edge_has_its_reason_and_every_status_its_next_step() -> None:
    assert all(reason for edges in TRANSITIONS.values() for reason in edges.values())
    assert set(NEXT_STEP) == set(S) == set(TRANSITIONS)


def test_every_status_can_be_reached_and_can_end() -> None:
    reached, frontier = {S.PLANNED}, [S.PLANNED]
    while frontier:
        for new in TRANSITIONS[frontier.pop()]:
            if new not in reached:
                reached.add(new)
                frontier.append(new)
    assert reached == set(S)
    for status in S:
        assert status in FINAL or TRANSITIONS[status]


def test_pause_leads_back_only_where_it_came_from() -> None:
    assert set(TRANSITIONS[S.PAUSED]) >= PAUSABLE
    assert {S.PLANNED, S.CLEANED}.isdisjoint(OPEN)
