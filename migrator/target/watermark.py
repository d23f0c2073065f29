"""What has been written to the table so far, from counters that cost nothing to read, and until which transaction.

Floor 1. Promise: no scan and no lock on the table. The counters are PostgreSQL's own, up to a second late, and our own
count of what catch-up embedded.
"""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.state import canary, flows
from migrator.state.migrations import Migration
from migrator.state.verdicts import Watermark
from migrator.target import lanes


async def read(connection: AsyncConnection, migration: Migration) -> Watermark | None:
    """Return what has been written until now, or None where the table is gone."""
    counters = await lanes.write_counters(connection, migration.target_schema, migration.target_table)
    if not counters:
        return None
    xid = canary.row_xid(await canary.horizon(connection))
    return Watermark(counters["inserts"], await flows.embedded(connection, migration.id), xid)
