"""Landing: one answer's vectors, their checkpoint, their money and their hints, in one short transaction.

Floor 2. Promise (P2-P5, H4): the transaction first keeps every swap out, then proves that the lease still stands, then
asks which column holds its generation now; so a worker that slept, a ticket delivered twice or a swap in between
changes nothing. It is never open while the provider is called. The vectors and the fact that they were paid for commit
together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import func, text
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.backfill.classify import Work
from migrator.generation import Side
from migrator.provider.embedder import Answer, TextRefused
from migrator.state import batches, budget, dirty, dispositions, leases, migrations
from migrator.state.budget import price
from migrator.state.dirty import Hints
from migrator.state.dispositions import Disposition
from migrator.state.leases import Kind, Lease
from migrator.state.migrations import Migration
from migrator.target.lanes import Lanes
from migrator.target.relation import Target

#: A writing transaction waits for its ROW EXCLUSIVE lock behind a swap, which holds its own for milliseconds.
LOCK_TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Held:
    """A vector whose row somebody else held when it was to be written. It is paid for, so it is tried again."""

    work: Work
    vector: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Landed:
    """What one landing did."""

    written: int
    held: list[Held]


@dataclass(slots=True)
class Landing:
    """Where the answers of one lease go. `hints` are the dirty ids that this work was made from."""

    migration: Migration
    side: Side
    lease: Lease
    usd_per_mtok: float
    hints: Hints = field(default_factory=lambda: Hints({}))

    async def land(
        self, connection: AsyncConnection, work: Sequence[Work], answer: Answer, *, last: bool, more: bool = False
    ) -> Landed:
        """Write one answer and settle its money; the last one commits the batch's checkpoint with it.

        `more` says that this is only a piece of an answer: its money is settled with the last piece.

        Raises: LeaseLost.
        """
        mine = [work[position] for position in answer.positions]
        landed = await self._write(connection, mine, answer.vectors)
        if more:
            await self._count(connection, written=landed.written)
            return landed
        await budget.settle(connection, answer.request_id, price(answer.used_tokens, self.usd_per_mtok))
        await self._count(connection, written=landed.written, tokens=answer.used_tokens)
        await self._checkpoint(connection, last=last and not landed.held)
        return landed

    async def land_held(
        self, connection: AsyncConnection, held: Sequence[Held], *, finish: bool, give_up: bool
    ) -> Landed:
        """Write, once more, vectors whose rows somebody else held; they are settled already.

        `finish` says that nothing else is left of the batch, `give_up` that this was the last try for these rows.
        Raises: LeaseLost.
        """
        landed = await self._write(connection, [each.work for each in held], np.stack([each.vector for each in held]))
        await self._count(connection, written=landed.written)
        await self._checkpoint(connection, last=finish and (give_up or not landed.held))
        return landed

    async def _write(self, connection: AsyncConnection, work: Sequence[Work], vectors: NDArray[np.float32]) -> Landed:
        lanes = await self._enter(connection)
        written = set(await lanes.write(connection, [each.row for each in work], vectors))
        await dirty.settle(connection, self.hints.ids(sorted(written)))
        if self.hints:
            await dispositions.withdraw(connection, self.migration.id, sorted(written))
        shortened = [
            Disposition(each.row.key, "truncated", "too_long")
            for each in work
            if each.truncated and each.row.key in written
        ]
        await dispositions.record(connection, self.migration.id, shortened)
        left = {each.row.key: Held(each, vector) for each, vector in zip(work, vectors, strict=True)}
        for key in written:
            del left[key]
        if not left:
            return Landed(len(written), [])
        # Not written: edited meanwhile (the next look at it embeds the new text), filled by somebody, or just held.
        known = await lanes.read_keys(connection, list(left))
        same = {
            each.row.key
            for each in known
            if each.missing and each.in_scope and each.row.text_hash == left[each.row.key].work.row.text_hash
        }
        return Landed(len(written), [each for key, each in left.items() if key in same])

    async def dispose(self, connection: AsyncConnection, found: Sequence[Disposition], *, last: bool) -> None:
        """Write down rows that get no vector, and settle their hints.

        Raises: LeaseLost.
        """
        await leases.hold(connection, self.lease)
        if self.side is Side.TO:
            await dispositions.record(connection, self.migration.id, found)
        await dirty.settle(connection, self.hints.ids([each.key for each in found]))
        skipped = sum(each.kind == "skipped" for each in found)
        await self._count(connection, skipped=skipped, quarantined=len(found) - skipped)
        await self._checkpoint(connection, last=last)

    async def _checkpoint(self, connection: AsyncConnection, *, last: bool) -> None:
        if last and self.lease.kind is Kind.BATCH:
            await leases.finish(connection, self.lease, finished_at=func.clock_timestamp())

    async def _count(self, connection: AsyncConnection, **counts: int) -> None:
        if self.lease.kind is Kind.BATCH:
            await batches.count_written(connection, self.lease.row_id, **counts)

    async def _enter(self, connection: AsyncConnection) -> Lanes:
        """Keep swaps out, prove the lease, and only then ask which column is ours (H4)."""
        await lanes_of(self.migration, self.side).lock_table(connection)
        await leases.hold(connection, self.lease)
        now = await migrations.get_by_id(connection, self.migration.id)
        await declare(connection, now, self.side)
        return lanes_of(now, self.side)


def lanes_of(migration: Migration, side: Side) -> Lanes:
    """Return the column that holds a side's vectors under this migration's row."""
    plan: dict[str, Any] = migration.plan
    return Lanes(
        target=Target.of(migration),
        column=migration.column_of(side),
        from_column=migration.column_of(Side.FROM),
        vector_schema=plan["vector_schema"],
        type_name=plan["vector_type"],
    )


async def declare(connection: AsyncConnection, migration: Migration, side: Side) -> None:
    """Declare what we write (H4), and keep the users' own triggers from firing on it where the plan found we may."""
    await connection.execute(
        text("SELECT set_config('migrator.generation', :generation, true)"),
        {"generation": str(migration.generation(side))},
    )
    if migration.plan.get("silence_triggers"):
        await connection.execute(text("SELECT set_config('session_replication_role', 'replica', true)"))


def refused(work: Sequence[Work], refusal: TextRefused) -> Disposition:
    """Return the disposition of a text that the provider will not embed."""
    return Disposition(work[refusal.position].row.key, "quarantined", refusal.reason)
