"""Samples: the history of a migration, thinned so that a month of it is no larger than a day of another.

Floor 1. Promise: one cheap statement a sample, and a few thousand rows however long it lasts. Sample number n is kept
until KEEP x 2^z more were taken, where z is how often 2 divides n: every one of the last KEEP, every second one of the
last 2 KEEP, every fourth one of the last 4 KEEP, and so on. So age costs resolution, each doubling of the time costs
KEEP / 2 rows more, and which one has to go when another comes is known by its number: nothing is searched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import Any

from sqlalchemy import BigInteger, DateTime, Select, bindparam, delete, func, literal, or_, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.state.sample_tables import samples

#: Samples of which all are kept: an hour and a half at the steady pace, in full.
KEEP = 512
#: Doublings that are looked at: 2^24 x KEEP samples are thousands of years.
_DOUBLINGS = 24
#: Seconds between two samples: a sixtieth of the age, so that a run of a minute has a history too, and ten from ten
#: minutes on.
FEWEST_SECONDS, MOST_SECONDS, _OF_AGE = 1.0, 10.0, 60


@dataclass(frozen=True, slots=True)
class Sample:
    """What was so at one moment. Counts are sums since the beginning."""

    status: str
    rows_settled: int
    rows_caught_up: int
    tokens: int
    spent_usd: Decimal
    committed_usd: Decimal
    dirty_to: int
    dirty_from: int
    updates: int | None
    hot_updates: int | None
    dead_rows: int | None
    binding: str | None


@dataclass(frozen=True, slots=True)
class Taken:
    """A sample and its moment."""

    at: datetime
    sample: Sample


def thinned_by(number: int) -> list[int]:
    """Return which samples go when sample `number` is taken, so that the rule of this module holds."""
    gone, power = [], 1
    while (end := number - KEEP * power) > 0:
        if end & -end == power:
            gone.append(end)
        power *= 2
    return gone


@cache
def _noting(keep: int, fewest_seconds: float, most_seconds: float) -> Select[Any]:
    """Return the statement that keeps a sample, made once: every tick asks it."""
    mine = samples.c.migration_id == bindparam("migration_id")
    now = func.clock_timestamp()
    began = bindparam("began", type_=DateTime(timezone=True))
    shortest, longest = timedelta(seconds=fewest_seconds), timedelta(seconds=most_seconds)
    pause = func.greatest(shortest, func.least(longest, (now - began) / _OF_AGE))
    newest = select(samples.c.number, samples.c.at).where(mine).order_by(samples.c.number.desc()).limit(1)
    last = newest.subquery("last")
    number = func.coalesce(select(last.c.number).scalar_subquery(), 0) + 1
    due = select(last.c.at).scalar_subquery()
    names = ("migration_id", *Sample.__slots__)
    parts = [bindparam(name, type_=samples.c[name].type).label(name) for name in names]
    taken = select(number.label("number"), now.label("at"), *parts).where(or_(due.is_(None), due < now - pause))
    # Two ticks at once find the same newest number: the later one keeps nothing.
    added = (
        upsert(samples)
        .from_select(["number", "at", *names], taken)
        .on_conflict_do_nothing()
        .returning(samples.c.number)
        .cte("added")
    )
    # The rule of `thinned_by`, where the number is first known: n & -n is the largest power of 2 that divides n.
    spans = func.unnest(bindparam("spans", [keep << each for each in range(_DOUBLINGS)], ARRAY(BigInteger)))
    ends = select((added.c.number - spans.column_valued("span", joins_implicitly=True)).label("number")).select_from(
        added
    )
    power = samples.c.number.bitwise_and(-samples.c.number)
    gone = delete(samples).where(
        mine,
        samples.c.number.in_(ends),
        power * keep == select(added.c.number).scalar_subquery() - samples.c.number,
    )
    statement = gone.returning(literal(1)).cte("gone")
    return select(select(func.count()).select_from(added).scalar_subquery()).add_cte(statement)


async def note(connection: AsyncConnection, migration_id: int, found: Sample, *, began: datetime) -> bool:
    """Keep a sample and thin the old ones, unless the last one is fresh; returns whether it was kept.

    Cost: one statement: the newest number by the primary key, one insert, at most one delete for each doubling.
    """
    statement = _noting(KEEP, FEWEST_SECONDS, MOST_SECONDS)
    values = {"migration_id": migration_id, "began": began, **asdict(found)}
    return bool((await connection.execute(statement, values)).scalar_one())


async def read(connection: AsyncConnection, migration_id: int) -> Sequence[Taken]:
    """Return what is kept of a migration's history, oldest first."""
    query = select(samples).where(samples.c.migration_id == migration_id).order_by(samples.c.number)
    names = Sample.__slots__
    return [
        Taken(row.at, Sample(**{name: getattr(row, name) for name in names})) for row in await connection.execute(query)
    ]
