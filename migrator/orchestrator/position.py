"""Where a migration is: the rows, the money and the rates that every tick looks at, and the line that Flower shows.

Floor 3. Promise: cheap (no scan of the table), honest (no ETA from less than 1 %, a rate only from batches that were
finished lately) and monotonic (the share never goes backwards). It takes no lock on the table, so it answers behind a
waiting ALTER TABLE.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.generation import Side
from migrator.lifecycle import MigrationStatus
from migrator.state import batches, budget, dirty, dispositions, flows, migrations, tallies
from migrator.state.budget import Account
from migrator.state.flows import Flow
from migrator.state.migrations import Migration
from migrator.state.tallies import Counts
from migrator.target import index, lanes
from migrator.target.signals import table_oid
from migrator.words import span

S = MigrationStatus
#: Seconds over which a rate is told, and the share of rows below which no ETA is.
RATE_SECONDS, ETA_FROM = 120.0, 0.01


@dataclass(frozen=True, slots=True)
class Position:
    """How far a migration is. Rates are per second and per minute."""

    migration: Migration
    counts: Counts
    account: Account
    dispositions: dict[tuple[str, str], int]
    dirty_to: int
    dirty_from: int
    rows_total: int
    rows_done: int
    rows_per_second: float
    tokens_per_minute: float
    #: What keeps it from going faster; None where nothing was found lately.
    binding: str | None
    #: pg_stat counters of the table and its partitions; empty where it is gone.
    counters: dict[str, int]
    #: The index that is being built, and how far that is.
    building: str | None
    #: Catch-up's rates; None where too little is known to tell.
    flow: Flow | None

    @property
    def not_converging(self) -> bool:
        """Whether rows become dirty faster than they are embedded."""
        return self.flow is not None and not self.flow.converging

    @property
    def skipped(self) -> int:
        """Rows without text, and rows outside `where`: as many as the proof found, or the plan before it."""
        return sum(count for (kind, _), count in self.dispositions.items() if kind == "skipped") + self.filtered

    @property
    def filtered(self) -> int:
        """Rows outside the scope, when they were last counted."""
        proved = self.migration.proved_filtered
        return int(self.migration.plan["skipped"]["filtered"] if proved is None else proved)

    @property
    def quarantined(self) -> int:
        """Rows that the provider will not embed."""
        return sum(count for (kind, _), count in self.dispositions.items() if kind == "quarantined")

    @property
    def remaining(self) -> int:
        """Rows that the backfill still has to embed; 0 once it was proved."""
        if self.migration.proved_at is not None and self.migration.status is not S.BACKFILLING:
            return 0
        return max(0, self.rows_total - self.rows_done - self.skipped - self.quarantined)

    @property
    def rows_covered(self) -> int:
        """Rows that were there at the start and got a vector or a disposition from a batch; only ever grows."""
        counts = self.counts
        return min(counts.rows_done + counts.rows_skipped + counts.rows_quarantined, self.rows_in_scope)

    @property
    def rows_in_scope(self) -> int:
        """Rows that were there at the start and that the spec's `where` holds."""
        planned = self.migration.plan
        return max(0, int(planned["rows"]) - int(planned["skipped"]["filtered"]))

    @property
    def share(self) -> float:
        """The share of the backfill that is done; it never goes backwards, also not by rows that arrive or are left."""
        if self.migration.proved_at is not None:
            return 1.0
        return self.rows_covered / max(self.rows_in_scope, 1)

    @property
    def eta_seconds(self) -> float | None:
        """Seconds until the backfill is through, or None where that is not known."""
        if self.migration.status is not S.BACKFILLING or self.rows_per_second <= 0:
            return None
        if self.share < ETA_FROM:
            return None
        return self.remaining / self.rows_per_second


async def read(
    connection: AsyncConnection,
    migration: Migration,
    *,
    counts: Counts | None = None,
    dirty_keys: Mapping[Side, int] | None = None,
) -> Position:
    """Read where a migration is; what was counted just now is not counted again.

    Cost: some eight small statements.
    """
    counts = counts or await tallies.counts(connection, migration.id)
    dirty_keys = dirty_keys or await dirty.count_sides(connection, migration.id, tuple(Side))
    found = await dispositions.counts(connection, migration.id)
    rows, tokens, seconds = await batches.recent(connection, migration.id, seconds=RATE_SECONDS)
    is_backfilling = migration.status is S.BACKFILLING
    total, done = _rows(migration, counts, found, dirty_keys[Side.TO])
    names = (migration.target_schema, migration.target_table)
    return Position(
        migration=migration,
        counts=counts,
        account=await budget.account(connection, migration.id),
        dispositions=found,
        dirty_to=dirty_keys[Side.TO],
        dirty_from=dirty_keys[Side.FROM],
        rows_total=total,
        rows_done=done,
        rows_per_second=rows / max(seconds, 1.0) if is_backfilling else 0.0,
        tokens_per_minute=60 * tokens / max(seconds, 1.0) if is_backfilling else 0.0,
        binding=await _binding(connection, migration),
        counters=await lanes.write_counters(connection, *names),
        building=await _building(connection, *names) if migration.status is S.INDEXING else None,
        flow=await flows.read(connection, migration.id),
    )


def _rows(migration: Migration, counts: Counts, found: Mapping[tuple[str, str], int], dirty_to: int) -> tuple[int, int]:
    """Return how many rows there are, and how many of them are done."""
    total = int(migration.plan["rows"])
    if not migration.proved_at or migration.proved_rows is None or migration.status is S.BACKFILLING:
        return total, min(counts.rows_done, total)
    total = migration.proved_rows
    # Rows that were dirty at the proof have their vector by now, unless they are dirty still.
    absent = sum(count for (kind, _), count in found.items() if kind != "truncated")
    without = absent + (migration.proved_filtered or 0) + dirty_to
    return total, max(migration.proved_embedded or 0, total - without)


async def _building(connection: AsyncConnection, schema: str, table: str) -> str | None:
    oid = await table_oid(connection, schema, table)
    return await index.progress(connection, oid) if oid is not None else None


async def _binding(connection: AsyncConnection, migration: Migration) -> str | None:
    if migration.binding is None or migration.binding_at is None:
        return None
    age = (await migrations.database_now(connection) - migration.binding_at).total_seconds()
    return migration.binding if age <= migrations.BINDING_SECONDS else None


def line(found: Position) -> str:
    """Return the progress bar: one line for Flower and for plain terminals."""
    migration = found.migration
    if migration.status is not S.BACKFILLING:
        words = [f"{migration.name} {migration.status}"]
        if found.building is not None:
            words.append(found.building)
        if found.dirty_to or found.dirty_from:
            words.append(f"dirty {found.dirty_to + found.dirty_from:,}")
    else:
        told = f"{_short(found.rows_covered)}/{_short(found.rows_in_scope)}"
        words = [f"{migration.name} {100 * found.share:.1f} % {told}"]
        words.append(f"{_short(found.rows_per_second)} rows/s")
        words.append(f"ETA {eta(found)}")
    words.append(f"${found.account.committed_usd:.2f} of ${found.account.max_usd:.2f}")
    if found.binding is not None:
        words.append(f"binds: {found.binding}")
    if found.not_converging:
        words.append(str(found.flow))
    return " | ".join(words)


def _short(number: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if number >= size:
            return f"{number / (1000 if letter == 'k' else size):.1f}{letter}"
    return f"{number:.0f}"


def eta(found: Position) -> str:
    """Return how long it will take yet, for people, or that nobody can tell."""
    return "unknown" if found.eta_seconds is None else span(found.eta_seconds)
