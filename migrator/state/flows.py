"""Flows: how fast rows become dirty and how fast catch-up embeds them, from samples that the tick takes.

Floor 1. Promise: what is told is a difference of counts, never a guess: embeddings are counted by who makes them, and
arrivals follow from them and the backlog, so ten edits of one row are one arrival, as they are one embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.state.leases import Duty
from migrator.state.tables import duties, flows

#: Seconds over which rates are told, and the fewest that they are told from: a minute at the most until it is said.
WINDOW_SECONDS, SHORTEST_SECONDS = 60.0, 8.0
#: Seconds between two samples, and for how long they are kept.
SAMPLE_SECONDS, KEEP_SECONDS = 2.0, 120.0
#: Backlogs below this are nothing to worry about, however they grow: a moment's work of one request.
SMALL_ROWS = 20


@dataclass(frozen=True, slots=True)
class Flow:
    """Rates of one migration's catch-up, in rows per second."""

    arrivals_per_second: float
    embeddings_per_second: float
    backlog: int
    converging: bool

    def __str__(self) -> str:
        arriving, embedded = self.arrivals_per_second, self.embeddings_per_second
        return f"not converging: {arriving:.1f} rows/s arrive, {embedded:.1f} rows/s are embedded"


async def count_embedded(connection: AsyncConnection, migration_id: int, rows: int) -> None:
    """Add to what catch-up embedded."""
    mine = (duties.c.migration_id == migration_id) & (duties.c.duty == Duty.CATCH_UP)
    await connection.execute(update(duties).where(mine).values(rows_embedded=duties.c.rows_embedded + rows))


async def note(connection: AsyncConnection, migration_id: int, backlog: int) -> None:
    """Take a sample, unless the last one is fresh."""
    now = func.clock_timestamp()
    mine = flows.c.migration_id == migration_id
    newest = select(func.max(flows.c.at) > now - timedelta(seconds=SAMPLE_SECONDS)).where(mine)
    if (await connection.execute(newest)).scalar_one():
        return
    embedded = select(func.coalesce(func.sum(duties.c.rows_embedded), 0)).where(
        duties.c.migration_id == migration_id, duties.c.duty == Duty.CATCH_UP
    )
    values = {"migration_id": migration_id, "backlog": backlog, "embedded": embedded.scalar_subquery()}
    await connection.execute(insert(flows).values(**values))
    await connection.execute(delete(flows).where(mine, flows.c.at < now - timedelta(seconds=KEEP_SECONDS)))


async def read(connection: AsyncConnection, migration_id: int) -> Flow | None:
    """Return the rates of the last minute, or None where there are too few samples to tell."""
    since = func.clock_timestamp() - timedelta(seconds=WINDOW_SECONDS)
    query = select(flows).where(flows.c.migration_id == migration_id, flows.c.at > since).order_by(flows.c.at)
    samples = (await connection.execute(query)).all()
    if not samples:
        return None
    first, last = samples[0], samples[-1]
    span = (last.at - first.at).total_seconds()
    if span < SHORTEST_SECONDS:
        return None
    embedded = (last.embedded - first.embedded) / span
    arriving = max(0.0, embedded + (last.backlog - first.backlog) / span)
    # A burst grows the backlog once; what can't be kept up with grows it in both halves of the time.
    middle = samples[len(samples) // 2]
    growing = first.backlog < middle.backlog < last.backlog
    return Flow(arriving, embedded, last.backlog, converging=not (growing and last.backlog >= SMALL_ROWS))


async def embedded(connection: AsyncConnection, migration_id: int) -> int:
    """Return how many rows catch-up embedded since the beginning."""
    query = select(func.coalesce(func.sum(duties.c.rows_embedded), 0)).where(
        duties.c.migration_id == migration_id, duties.c.duty == Duty.CATCH_UP
    )
    return int((await connection.execute(query)).scalar_one())
