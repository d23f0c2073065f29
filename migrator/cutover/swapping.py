"""The swap itself: tries on a ladder, each whole or nothing, and the truth when the connection broke around COMMIT.

Floor 2. Promise (P8, P9): no try makes anybody wait longer than its deadline; a failed one leaves everything as it was
and is written down as a note with who was in the way; nobody is cancelled, unless the caller brings what cancels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine

from migrator.cutover import readiness
from migrator.generation import Side
from migrator.lifecycle import MigrationStatus
from migrator.state import migrations
from migrator.state.connection import transaction
from migrator.state.migrations import Migration
from migrator.target import message, outcome
from migrator.target.message import Blocker, Cancel, OnWait, Timing
from migrator.target.swap import Bounds, Swap


@dataclass(frozen=True, slots=True)
class Direction:
    """Which way a swap goes."""

    verb: str
    side: Side
    status: MigrationStatus


CUTOVER = Direction("cutover", Side.TO, MigrationStatus.COMPLETED)
ROLLBACK = Direction("rollback", Side.FROM, MigrationStatus.ROLLED_BACK)


async def swap(
    engine: AsyncEngine,
    migration: Migration,
    direction: Direction,
    *,
    bounds: Bounds,
    actor: str,
    on_wait: OnWait,
    cancel: Cancel | None = None,
    ladder: Sequence[float] = message.LADDER_SECONDS,
) -> Timing:
    """Swap, in as many tries as the ladder has.

    Locks: ACCESS EXCLUSIVE on the views over the column and on the table, a few milliseconds, one deadline per try.
    Raises: LockNotObtained, TooDirty, CatalogChanged, MovedMeanwhile, NotSwappable, Undone, OutcomeUnknown.
    """
    looked = await readiness.look(engine, migration, verb=direction.verb)
    whole = message.whole(looked.statements(direction.side, direction.status, bounds=bounds, actor=actor))

    async def attempt() -> Timing:
        return await outcome.send(
            engine, whole, migration, verb=direction.verb, done=lambda found: found.epoch != migration.epoch
        )

    async def blockers() -> list[Blocker]:
        return await holders(engine, looked)

    try:
        return await message.climb(
            attempt,
            blockers=blockers,
            name=migration.name,
            verb=direction.verb,
            on_wait=on_wait,
            cancel=cancel,
            ladder=ladder,
        )
    except message.LockNotObtained as error:
        async with transaction(engine) as connection:
            text = f"{direction.verb} not done: {error.sentences()[0]}"
            await migrations.note(connection, migration.id, migration.status, text, actor)
        raise


async def holders(engine: AsyncEngine, looked: Swap) -> list[Blocker]:
    """Return who holds what a swap would lock."""
    async with transaction(engine) as connection:
        return await message.find_blockers(connection, [looked.oid, *looked.views])


async def rehearse(
    engine: AsyncEngine, migration: Migration, direction: Direction, *, bounds: Bounds, actor: str
) -> tuple[Timing, str]:
    """Do all of it and roll it back; returns how long each step held the lock, and the SQL.

    Raises: LockBusy, TooDirty, CatalogChanged, NotSwappable.
    """
    looked = await readiness.look(engine, migration, verb=direction.verb)
    statements = looked.statements(direction.side, direction.status, bounds=bounds, actor=actor, commit=False)
    whole = message.whole(statements)
    async with message.raw_connection(engine) as raw:
        return await message.send(raw, whole), whole.as_string(raw)
