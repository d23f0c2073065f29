"""The agenda: what waits for a tick at each migration, read in one statement for all of them.

Floor 1. Promise: a lease that ran out, a request whose outcome is not known, a batch that wore out and what is not yet
added up are never overlooked: what comes a moment later is on the next tick's agenda. A deployment at rest asks for
little else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.state import written
from migrator.state.splits import MAX_ATTEMPTS, MAX_DEATHS
from migrator.state.tables import SCHEMA


@dataclass(frozen=True, slots=True)
class Agenda:
    """What there is to be done at one migration."""

    #: A lease of a batch or a duty ran out.
    silent: bool = False
    #: Requests are booked whose outcome is not known: under way, or never to be known.
    booked: bool = False
    #: A batch used up its attempts, or its workers died.
    worn: bool = False
    #: Batches are done that are not in its tallies.
    finished: bool = False
    #: Dispositions came or went that are not in its sums.
    disposed: bool = False
    #: Diverted writes are not added up.
    diverted: bool = False
    #: Vectors that a client wrote are to be looked at, or suspects once more.
    written: bool = False

    @property
    def untidy(self) -> bool:
        """Whether it has to be looked after even while it rests."""
        return self.silent or self.booked or self.diverted


#: Where no agenda could be read: everything may wait.
WHATEVER = Agenda(**dict.fromkeys((each.name for each in fields(Agenda)), True))
#: Conditions on batches are those of their partial indexes, so that a million planned ones cost nothing. Lines of the
#: application's triggers (`strays`, `written`) have no index on purpose: it would pay for that, and ticks fold them.
_QUERY = text(
    f"""
SELECT m.id,
       EXISTS (SELECT FROM {SCHEMA}.batches AS b WHERE b.migration_id = m.id AND b.status = 'leased'
                  AND b.lease_until < clock_timestamp())
       OR EXISTS (SELECT FROM {SCHEMA}.duties AS d WHERE d.migration_id = m.id AND d.status = 'leased'
                  AND d.lease_until < clock_timestamp()) AS silent,
       EXISTS (SELECT FROM {SCHEMA}.reservations AS r WHERE r.migration_id = m.id AND NOT r.possibly_billed) AS booked,
       EXISTS (SELECT FROM {SCHEMA}.batches AS b WHERE b.migration_id = m.id AND NOT b.folded
                  AND b.status = 'pending' AND b.fence > 0
                  AND (b.attempts >= :attempts OR b.deaths >= :deaths)) AS worn,
       EXISTS (SELECT FROM {SCHEMA}.batches AS b WHERE b.migration_id = m.id AND NOT b.folded
                  AND (b.status <> 'pending' OR b.fence > 0) AND b.status = 'done') AS finished,
       EXISTS (SELECT FROM {SCHEMA}.disposition_changes AS c WHERE c.migration_id = m.id) AS disposed,
       EXISTS (SELECT FROM {SCHEMA}.strays AS s WHERE s.migration_id = m.id) AS diverted,
       EXISTS (SELECT FROM {SCHEMA}.written AS w WHERE w.migration_id = m.id)
       OR EXISTS (SELECT FROM {SCHEMA}.suspects AS s WHERE s.migration_id = m.id
                  AND s.looked_at < clock_timestamp() - make_interval(secs => :again)) AS written
  FROM unnest(CAST(:ids AS bigint[])) AS m (id)
"""  # noqa: S608 # nosec B608 - our own schema's name
)
_THRESHOLDS = {"attempts": MAX_ATTEMPTS, "deaths": MAX_DEATHS, "again": written.AGAIN_SECONDS}
_FLAGS = tuple(each.name for each in fields(Agenda))


async def read(connection: AsyncConnection, migration_ids: Sequence[int]) -> dict[int, Agenda]:
    """Return each migration's agenda."""
    if not migration_ids:
        return {}
    rows = await connection.execute(_QUERY, {"ids": list(migration_ids), **_THRESHOLDS})
    return {row.id: Agenda(**{name: getattr(row, name) for name in _FLAGS}) for row in rows}
