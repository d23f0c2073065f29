"""Landing: a few answers' vectors, their checkpoint, their money and their hints, in one short transaction.

Floor 2. Promise (P2-P5, H4): the transaction first keeps every swap out, then proves that the lease still stands, then
asks which column holds its generation now; so a worker that slept, a ticket delivered twice or a swap in between
changes nothing. It is never open while the provider is called. The vectors and the fact that they were paid for commit
together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.backfill.classify import Work
from migrator.generation import Side
from migrator.provider.embedder import Answer, TextRefused
from migrator.state import batches, budget, canary, dirty, dispositions, leases, migrations
from migrator.state.budget import price
from migrator.state.canary import SAME_COSINE, OldModelAnswered
from migrator.state.dirty import Hints
from migrator.state.dispositions import Disposition
from migrator.state.leases import Kind, Lease
from migrator.state.migrations import Migration
from migrator.target.declaration import declaring
from migrator.target.facts import Heap
from migrator.target.lanes import Lanes

#: A writing transaction waits for its ROW EXCLUSIVE lock behind a swap, which holds its own for milliseconds.
LOCK_TIMEOUT_SECONDS = 5.0
#: Written rows of an answer that are compared with their old vector, of 4 kB each: with one row in ten whose text was
#: another when that was made, all four of them are such in one answer of ten thousand.
COMPARED_ROWS = 4


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
    #: The heap that all the rows lie in; None where they may lie in any partition.
    heap: Heap | None = None

    async def land(
        self, connection: AsyncConnection, work: Sequence[Work], answers: Sequence[Answer], *, last: bool
    ) -> Landed:
        """Write answers and settle their money; the last ones commit the batch's checkpoint with them.

        Raises: LeaseLost, OldModelAnswered.
        """
        mine = [work[position] for answer in answers for position in answer.positions]
        came_with = [number for number, answer in enumerate(answers) for _ in answer.positions]
        lanes = await self._enter(connection)
        vectors = np.concatenate([answer.vectors for answer in answers])
        landed = await self._write(connection, lanes, mine, vectors, came_with)
        bills = {
            answer.request_id: price(answer.used_tokens, self.usd_per_mtok) for answer in answers if answer.has_bill
        }
        await budget.settle_all(connection, bills)
        await self._count(connection, written=landed.written, tokens=sum(answer.used_tokens for answer in answers))
        await self._checkpoint(connection, last=last and not landed.held)
        return landed

    async def land_held(
        self, connection: AsyncConnection, held: Sequence[Held], *, finish: bool, give_up: bool
    ) -> Landed:
        """Write, once more, vectors whose rows somebody else held; they are settled already.

        `finish` says that nothing else is left of the batch, `give_up` that this was the last try for these rows.
        Raises: LeaseLost, OldModelAnswered.
        """
        lanes = await self._enter(connection)
        vectors = np.stack([each.vector for each in held])
        landed = await self._write(connection, lanes, [each.work for each in held], vectors, range(len(held)))
        if give_up and self.lease.kind is Kind.BATCH and landed.held:
            # Catch-up asks who holds a row before it pays for it; the next pass, whose windows leave hints out, would
            # pay again and again.
            keys = [each.work.row.key for each in landed.held]
            await dirty.mark(connection, self.migration.id, self.side, keys)
        await self._count(connection, written=landed.written)
        await self._checkpoint(connection, last=finish and (give_up or not landed.held))
        return landed

    async def _refuse_old_model(self, connection: AsyncConnection, likeness: float | None) -> None:
        """Refuse vectors of which one is what its row holds already: the old model gave it, whatever name came along.

        One row is enough: vectors of unrelated models do not meet by chance. The transaction goes, and what it wrote.
        Raises: OldModelAnswered.
        """
        if likeness is None or likeness < SAME_COSINE:
            return
        if await canary.compares_replies(connection, self.migration.id):
            asked, old = self.migration.to_generation, self.migration.from_generation
            raise OldModelAnswered(self.migration.name, str(asked), str(old))

    async def _write(
        self,
        connection: AsyncConnection,
        lanes: Lanes,
        work: Sequence[Work],
        vectors: NDArray[np.float32],
        answers: Sequence[int],
    ) -> Landed:
        asked, old = self.migration.to_generation, self.migration.from_generation
        compared = 0 if self.side is not Side.TO or asked.is_same_model(old) else COMPARED_ROWS
        wrote = await lanes.write(
            connection,
            self.migration.id,
            [each.row for each in work],
            vectors,
            answers=list(answers),
            compared=compared,
        )
        await self._refuse_old_model(connection, wrote.likeness)
        written = set(wrote.keys)
        await dirty.settle(connection, self.hints.ids(sorted(written)))
        if self.hints:
            await dispositions.withdraw(connection, self.migration.id, sorted(written))
        shortened = [
            Disposition(each.row.key, "truncated", "too_long")
            for each in work
            if each.truncated and each.row.key in written
        ]
        await dispositions.record(connection, self.migration.id, shortened)
        left = {
            each.row.key: Held(each, vector)
            for each, vector in zip(work, vectors, strict=True)
            if each.row.key not in written
        }
        if not left:
            return Landed(len(written), [])
        # Not written: edited meanwhile (the next look at it embeds the new text), filled by somebody, or just held.
        known = await lanes.read_keys(connection, self.migration.id, list(left))
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
            await leases.finish(connection, self.lease, finished_at=func.clock_timestamp(), in_hand=None)

    async def _count(self, connection: AsyncConnection, **counts: int) -> None:
        if self.lease.kind is Kind.BATCH:
            await batches.count_written(connection, self.lease.row_id, **counts)

    async def _enter(self, connection: AsyncConnection) -> Lanes:
        """Keep swaps out, prove the lease, and only then ask which column is ours (H4): a swap raises the epoch."""
        before = [lanes_of(self.migration, self.side).locking, declaring(self.migration, self.side)]
        epoch = await leases.hold_after(connection, self.lease, before)
        if epoch != self.migration.epoch:
            self.migration = await migrations.get_by_id(connection, self.migration.id)
        return lanes_of(self.migration, self.side, self.heap)


def lanes_of(migration: Migration, side: Side, heap: Heap | None = None) -> Lanes:
    """Return the column that holds a side's vectors under this migration's row, in one heap or in all of them."""
    return Lanes.of(migration, side, heap)


def refused(work: Sequence[Work], refusal: TextRefused) -> Disposition:
    """Return the disposition of a text that the provider will not embed."""
    return Disposition(work[refusal.position].row.key, "quarantined", refusal.reason)
