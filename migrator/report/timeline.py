"""A migration over time: spans of statuses, of throttling, and rates between two samples.

Floor 4, below the doors. Pure. Promise: nothing is invented between two samples: a rate is what was done from one to
the next over the time between them, so work and rest within one gap are one slower rate; and pauses come from the
transition log, where they are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

from migrator.lifecycle import MigrationStatus
from migrator.state.samples import Taken

S = MigrationStatus
#: Points that a plot of a page's width can show.
POINTS = 240
#: Updates below which a share of them says nothing.
_FEWEST_UPDATES = 20
#: Of the time from start to the last swap, what is drawn after it: what comes later is quiet, and may be weeks.
_AFTERMATH = 0.25
SWAPS = {S.COMPLETED: "cutover", S.ROLLED_BACK: "rollback"}


@dataclass(frozen=True, slots=True)
class Span:
    """A time in which something was so; `why` where somebody said it."""

    what: str
    began: datetime
    ended: datetime
    why: str = ""

    @property
    def seconds(self) -> float:
        """How long it lasted."""
        return (self.ended - self.began).total_seconds()


@dataclass(frozen=True, slots=True)
class Point:
    """What was so at a moment, and what was done a second since the point before; None where that can't be told."""

    at: datetime
    rows_left: int
    rows_per_second: float
    spent_usd: float
    committed_usd: float
    dirty_rows: int
    hot_share: float | None


def statuses(moves: Sequence[Any], now: datetime) -> list[Span]:
    """Return the spans of a migration's statuses from its log, notes left out."""
    moves = [each for each in moves if each.from_status != each.to_status]
    return [Span(each.to_status, each.at, end, each.reason) for each, end in _until_next(moves, now)]


def _until_next(taken: Sequence[Any], until: datetime) -> list[tuple[Any, datetime]]:
    """Return each with the moment of the one after it."""
    ends = [each.at for each in taken[1:]] + [until]
    return list(zip(taken, ends, strict=False))


def swaps(moves: Sequence[Any]) -> list[Span]:
    """Return the moments at which the columns changed places; going on after a pause is none."""
    found, live = [], False
    for each in moves:
        to_new = each.to_status == S.COMPLETED and each.from_status == S.READY
        to_old = each.to_status == S.ROLLED_BACK and each.from_status != each.to_status
        if (to_new and not live) or (to_old and live):
            live = to_new
            found.append(Span(SWAPS[S(each.to_status)], each.at, each.at))
    return found


def throttles(taken: Sequence[Taken], until: datetime) -> list[Span]:
    """Return when something kept the work from going faster, and what; neighbours that say the same are one."""
    found: list[Span] = []
    for each, end in _until_next(taken, until):
        what = each.sample.binding
        # A binding is no longer told once the work rests: the log has that.
        if what is None or each.sample.status == S.PAUSED or end <= each.at:
            continue
        if found and found[-1].what == what and found[-1].ended == each.at:
            found[-1] = Span(what, found[-1].began, end)
        else:
            found.append(Span(what, each.at, end))
    return found


def drawn_until(began: datetime, now: datetime, marks: Sequence[Span]) -> datetime:
    """Return where a plot over time ends: now, or a while after the last swap."""
    if not marks:
        return now
    last = marks[-1].began
    return min(now, last + _AFTERMATH * (last - began))


def fewer(taken: Sequence[Taken], points: int = POINTS) -> list[Taken]:
    """Return at most that many samples, evenly over the time, the first and the last among them."""
    if len(taken) <= points:
        return list(taken)
    first, last = taken[0].at, taken[-1].at
    step = (last - first) / (points - 1)
    kept = [taken[0]]
    for each in taken[1:-1]:
        if each.at - kept[-1].at >= step:
            kept.append(each)
    return [*kept[: points - 1], taken[-1]]


def points(taken: Sequence[Taken], rows: int, began: datetime) -> list[Point]:
    """Return a plot's points, of a migration that began then with so many rows in scope."""
    made: list[Point] = []
    for before, each in zip([None, *taken], taken, strict=False):
        sample = each.sample
        made.append(
            Point(
                at=each.at,
                rows_left=max(0, rows - sample.rows_settled),
                rows_per_second=_rate(before, each, began),
                spent_usd=float(sample.spent_usd),
                committed_usd=float(sample.committed_usd),
                dirty_rows=sample.dirty_to + sample.dirty_from,
                hot_share=_hot(before, each),
            )
        )
    return made


def _rate(before: Taken | None, now: Taken, began: datetime) -> float:
    since = before.at if before is not None else began
    if now.at <= since:
        return 0.0
    done = before.sample.rows_settled + before.sample.rows_caught_up if before is not None else 0
    rows = now.sample.rows_settled + now.sample.rows_caught_up - done
    return max(0.0, rows / (now.at - since).total_seconds())


def hot_share(taken: Sequence[Taken]) -> float | None:
    """Return the share of HOT updates while rows were being moved; None where nothing was kept of that time."""
    updates = hot = 0
    for before, each in pairwise(taken):
        if each.sample.status == S.BACKFILLING and _hot(before, each) is not None:
            updates += (each.sample.updates or 0) - (before.sample.updates or 0)
            hot += (each.sample.hot_updates or 0) - (before.sample.hot_updates or 0)
    return hot / updates if updates else None


def _hot(before: Taken | None, now: Taken) -> float | None:
    """Return the share of HOT updates between two samples; the server may have lost its counters meanwhile."""
    if before is None:
        return None
    first, second = before.sample, now.sample
    if None in (first.updates, second.updates, first.hot_updates, second.hot_updates):
        return None
    assert first.updates is not None  # noqa: S101 - just looked
    assert second.updates is not None  # noqa: S101 - just looked
    updates = second.updates - first.updates
    hot = (second.hot_updates or 0) - (first.hot_updates or 0)
    return hot / updates if updates >= _FEWEST_UPDATES and 0 <= hot <= updates else None
