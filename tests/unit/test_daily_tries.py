"""When what rests is tried again: once a day, after its time of the day, and not for a time that was over before."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from migrator.state.schedules import Schedule

DAILY = "08:00 UTC"


def at(day: int, hour: int, minute: int = 0) -> datetime:
    return datetime(2026, 11, day, hour, minute, tzinfo=UTC)


@pytest.mark.parametrize(
    ("now", "since", "tried", "due"),
    [
        (at(3, 8), at(2, 20), None, True),
        (at(3, 7, 59), at(2, 20), None, False),
        (at(3, 12), at(2, 20), None, True),  # nobody ticked at eight
        (at(3, 12), at(3, 9), None, False),  # it came to rest after today's time
        (at(4, 8), at(3, 9), None, True),
        (at(3, 12), at(2, 20), at(3, 8), False),  # had
        (at(3, 12), at(2, 20), at(3, 8, 1), False),
        (at(3, 12), at(2, 20), at(2, 8, 1), True),  # yesterday's
        (at(4, 7, 59), at(2, 20), at(3, 8, 1), False),
        (at(4, 8), at(2, 20), at(3, 8, 1), True),
        (at(3, 12), at(3, 9), at(2, 8, 1), False),  # resumed by somebody, and at rest again
        (at(9, 12), at(2, 20), at(3, 8, 1), True),  # a week without workers is one try
    ],
)
def test_it_is_tried_once_after_its_time_of_the_day(
    now: datetime, since: datetime, tried: datetime | None, *, due: bool
) -> None:
    assert Schedule(resume_daily=DAILY, resumed_at=tried).is_due(now, since=since) is due
    assert not Schedule(resumed_at=tried).is_due(now, since=since), "nobody asked for it"
