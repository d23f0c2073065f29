"""Dispositions are counted exactly, whoever writes them at once, and without being read."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Literal

import psycopg
from sqlalchemy.ext.asyncio import AsyncEngine

from migrator.state import dispositions
from migrator.state.connection import transaction
from migrator.state.dispositions import Disposition
from tests.integration.stored import plan

_KINDS: tuple[tuple[Literal["skipped", "quarantined", "truncated"], str], ...] = (
    ("skipped", "null"),
    ("skipped", "empty"),
    ("quarantined", "content"),
    ("truncated", "too_long"),
)


async def test_p6_counts_are_exact_whoever_writes_and_adds_up_at_once(
    engine: AsyncEngine, sql: psycopg.Connection
) -> None:
    async with transaction(engine) as connection:
        migration = await plan(connection)
        other = await plan(connection, "other")
        await dispositions.record(connection, other.id, [Disposition(("1",), "skipped", "null")])
    dice = random.Random(7)  # noqa: S311 - dice

    def some() -> list[tuple[str, ...]]:
        return [(str(number),) for number in dice.sample(range(60), 12)]

    async def write() -> None:
        # Both the same rows, in no order: two statements that lock them in two orders would wait for each other.
        for _ in range(40):
            found = [Disposition(key, *dice.choice(_KINDS)) for key in some()]
            async with transaction(engine) as connection:
                await dispositions.record(connection, migration.id, found)
            async with transaction(engine) as connection:
                await dispositions.withdraw(connection, migration.id, some())
            if dice.random() < 0.2:
                async with transaction(engine) as connection:
                    await dispositions.take_quarantined(connection, migration.id)

    async def add_up() -> None:
        for _ in range(20):
            async with transaction(engine) as connection:
                await dispositions.fold(connection, migration.id)
            await asyncio.sleep(0)

    await asyncio.gather(write(), write(), write(), add_up(), add_up())
    for _ in range(2):
        rows = sql.execute(
            "SELECT kind, reason FROM migrator.dispositions WHERE migration_id = %s", [migration.id]
        ).fetchall()
        assert len(rows) > 0
        async with transaction(engine) as connection:
            assert await dispositions.counts(connection, migration.id) == Counter(rows)
            assert await dispositions.counts(connection, other.id) == {("skipped", "null"): 1}
            await dispositions.fold(connection, migration.id)
    left = sql.execute("SELECT count(*) FROM migrator.disposition_changes WHERE migration_id = %s", [migration.id])
    assert left.fetchone() == (0,)


async def test_a_row_told_twice_in_one_answer_is_one_disposition(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        migration = await plan(connection)
        found = [Disposition(("a", 'b"\n'), "skipped", "null"), Disposition(("a", 'b"\n'), "quarantined", "content")]
        await dispositions.record(connection, migration.id, found)
        assert await dispositions.counts(connection, migration.id) == {("quarantined", "content"): 1}
        await dispositions.record(connection, migration.id, found[1:])
        assert await dispositions.attempts(connection, migration.id, ("a", 'b"\n'), "content") == 2
        await dispositions.withdraw(connection, migration.id, [("a", 'b"\n')])
        assert await dispositions.counts(connection, migration.id) == {}
