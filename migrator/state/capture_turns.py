"""Capture that was taken off and put on again: what a migration's row says of it.

Floor 1. Promise (H30): it is said to be on only by whoever put it on last.
"""

from __future__ import annotations

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.lifecycle import MigrationStatus
from migrator.state.migrations import Migration
from migrator.state.tables import migrations


async def capture_is_on(connection: AsyncConnection, migration: Migration) -> bool:
    """Say that the capture is on again; False, and nothing done, where it was taken off since `migration` was read."""
    statement = (
        update(migrations)
        .where(migrations.c.id == migration.id, migrations.c.capture_turn == migration.capture_turn)
        .values(capture_off_at=None, capture_off_xid=None)
    )
    return (await connection.execute(statement)).rowcount == 1


async def begin_again(connection: AsyncConnection, migration: Migration) -> None:
    """Have a paused migration go on with the backfill, from wherever it was paused: rows are to be found again."""
    await connection.execute(
        update(migrations)
        .where(migrations.c.id == migration.id, migrations.c.status == MigrationStatus.PAUSED)
        .values(paused_from=MigrationStatus.BACKFILLING)
    )
