"""What may be forgotten of a migration that is cleaned up: everything that was there for the work.

Floor 1. Promise: what was decided, measured and paid stays (the migration with its spec and plan, transitions,
verdicts, ledger, budget, what hooks are told), and so does what readers are told by `live`. A name is used once.
"""

from __future__ import annotations

from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.state.columns import metadata

#: The record: what an audit asks for.
KEPT = frozenset({"migrations", "transitions", "verdicts", "ledger", "budgets", "live", "hook_events"})


async def forget_work(connection: AsyncConnection, migration_id: int) -> int:
    """Delete a migration's working rows; returns how many.

    Locks: those rows.
    """
    gone = 0
    for table in reversed(metadata.sorted_tables):
        if table.name not in KEPT and "migration_id" in table.columns:
            gone += (await connection.execute(delete(table).where(table.c.migration_id == migration_id))).rowcount
    return gone
