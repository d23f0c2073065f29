"""A stored migration without a table behind it, for tests of `state` alone."""

from __future__ import annotations

from typing import Any

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator import spec as specs
from migrator.lifecycle import MigrationStatus
from migrator.state import budget, migrations, tables
from migrator.state.migrations import Migration

SPEC: dict[str, Any] = {
    "name": "docs",
    "target": {"table": "public.docs", "column": "embedding", "text": "{title}"},
    "from": {"model": "v3", "dimensions": 2},
    "to": {"model": "v4", "dimensions": 2, "base_url": "http://127.0.0.1:1/v1", "price_usd_per_mtok": 1.0},
    "limits": {"max_cost_usd": 1.0},
}


async def plan(connection: AsyncConnection, name: str = "docs", **values: Any) -> Migration:
    """Store a plan and its budget."""
    spec = specs.parse({**SPEC, "name": name}, "test")
    stored = {
        "target_schema": "public",
        "target_table": "docs",
        "target_column": "embedding",
        "shadow_column": "embedding__migrator",
        "key_columns": ["id"],
        "key_types": ["bigint"],
        "spec": spec.dump(),
        "plan": {"vector_schema": "public"},
        "fingerprint": {},
        "from_generation": "v3@2",
        "to_generation": "v4@2",
        **values,
    }
    await migrations.store_plan(connection, name, stored, "test")
    made = await migrations.get(connection, name)
    await budget.open_budget(connection, made.id, spec.limits.max_cost_usd)
    return made


async def force(connection: AsyncConnection, migration: Migration, status: MigrationStatus) -> Migration:
    """Put a migration into a status by hand, past the guard, as a starting point."""
    live = "to" if status in {MigrationStatus.COMPLETED, MigrationStatus.CLEANING, MigrationStatus.CLEANED} else "from"
    values: dict[str, Any] = {"status": status, "live_side": live, "paused_from": None, "finished_at": None}
    if status is MigrationStatus.PAUSED:
        values["paused_from"] = MigrationStatus.READY
    if status is MigrationStatus.CLEANED:
        values["finished_at"] = "2026-01-01"
        values["finished_at"] = await migrations.database_now(connection)
    await connection.execute(update(tables.migrations).where(tables.migrations.c.id == migration.id).values(**values))
    return await migrations.get_by_id(connection, migration.id)
