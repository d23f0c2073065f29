"""Revision 0029: counts that silenced sessions had left wrong are right again, and stay so."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from migrator.state import dispositions, schema
from migrator.state.connection import transaction
from migrator.state.dispositions import Disposition
from tests.integration import stored


async def test_p6_an_upgrade_counts_what_silenced_sessions_left_out(engine: AsyncEngine) -> None:
    silence = text("SET LOCAL session_replication_role = replica")
    async with transaction(engine) as connection:
        made = await stored.plan(connection)
        await dispositions.record(connection, made.id, [Disposition(("1",), "quarantined", "content")])
        await dispositions.fold(connection, made.id)
        await dispositions.record(connection, made.id, [Disposition(("3",), "skipped", "null")])
    async with transaction(engine) as connection:
        await schema.downgrade(connection, "0028")
    async with transaction(engine) as connection:
        await connection.execute(silence)
        await dispositions.withdraw(connection, made.id, [("1",), ("3",)])
        await dispositions.record(connection, made.id, [Disposition(("2",), "truncated", "too_long")])
    async with transaction(engine) as connection:
        wrong = {("quarantined", "content"): 1, ("skipped", "null"): 1}
        assert await dispositions.counts(connection, made.id) == wrong, "one in the sums, one still to be added to them"
    async with transaction(engine) as connection:
        await schema.upgrade(connection)
    async with transaction(engine) as connection:
        assert await dispositions.counts(connection, made.id) == {("truncated", "too_long"): 1}
        await connection.execute(silence)
        await dispositions.record(connection, made.id, [Disposition(("2",), "quarantined", "content")])
    async with transaction(engine) as connection:
        found = await dispositions.counts(connection, made.id)
    assert {each: rows for each, rows in found.items() if rows} == {("quarantined", "content"): 1}
