"""The revisions make what the metadata says, go down and come back, and survive two at once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

from migrator.state import schema
from migrator.state.connection import make_engine, transaction
from migrator.state.schema import SchemaMissing, SchemaOutdated
from migrator.state.tables import SCHEMA, metadata


def differences(sync: Connection) -> list[object]:
    context = MigrationContext.configure(
        sync,
        opts={
            "include_schemas": True,
            "include_name": lambda name, kind, _: kind != "schema" or name == SCHEMA,
            "version_table_schema": SCHEMA,
            "compare_type": True,
            "compare_server_default": True,
        },
    )
    return list(compare_metadata(context, metadata))


def facts(connection: psycopg.Connection) -> list[tuple[object, ...]]:
    """What alembic's comparison does not look at: checks, partial indexes, storage options."""
    return connection.execute("""
        SELECT conname::text, pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'migrator'::regnamespace
        UNION ALL SELECT indexname::text, indexdef FROM pg_indexes WHERE schemaname = 'migrator'
        UNION ALL SELECT relname::text, reloptions::text FROM pg_class WHERE relnamespace = 'migrator'::regnamespace
        ORDER BY 1, 2
    """).fetchall()


async def test_upgrade_from_empty_equals_the_metadata(bare_database: str) -> None:
    engine = make_engine(bare_database, "test")
    async with transaction(engine) as connection:
        await schema.upgrade(connection)
    async with transaction(engine) as connection:
        assert await connection.run_sync(differences) == []
        await schema.require(connection)
    with psycopg.connect(bare_database, autocommit=True) as plain:
        by_revisions = facts(plain)
        plain.execute("DROP SCHEMA migrator CASCADE; CREATE SCHEMA migrator")
    async with transaction(engine) as connection:
        await connection.run_sync(metadata.create_all)
    with psycopg.connect(bare_database, autocommit=True) as plain:
        by_metadata = facts(plain)
    ours = [fact for fact in by_revisions if not str(fact[0]).startswith("alembic_version")]
    assert ours == by_metadata
    await engine.dispose()


async def test_down_and_up_again(bare_database: str) -> None:
    engine = make_engine(bare_database, "test")
    for _ in range(2):
        async with transaction(engine) as connection:
            await schema.upgrade(connection)
        async with transaction(engine) as connection:
            await schema.downgrade(connection, "base")
        async with transaction(engine) as connection:
            left = await connection.run_sync(lambda sync: inspect(sync).get_table_names(schema=SCHEMA))
            assert left == ["alembic_version"]
    await engine.dispose()


async def test_init_twice_and_by_two_at_once(bare_database: str) -> None:
    engine = make_engine(bare_database, "test")

    async def upgrade() -> None:
        async with transaction(engine) as connection:
            await schema.upgrade(connection)

    await asyncio.gather(upgrade(), upgrade(), upgrade())
    await upgrade()
    await engine.dispose()


async def test_a_missing_and_an_outdated_schema_are_named(bare_database: str) -> None:
    engine = make_engine(bare_database, "test")
    with pytest.raises(SchemaMissing, match="migrator init"):
        async with transaction(engine) as connection:
            await schema.require(connection)
    async with transaction(engine) as connection:
        await schema.upgrade(connection)
    with psycopg.connect(bare_database, autocommit=True) as plain:
        plain.execute("UPDATE migrator.alembic_version SET version_num = '0000'")
    with pytest.raises(SchemaOutdated, match="revision 0000"):
        async with transaction(engine) as connection:
            await schema.require(connection)
    await engine.dispose()


def test_the_newest_revision_is_the_one_that_alembic_would_upgrade_to() -> None:
    """Every verb reads it off the files' names, without alembic."""
    scripts = ScriptDirectory.from_config(schema.config())
    assert [schema.head()] == scripts.get_heads()
    for each in scripts.walk_revisions():
        assert Path(each.path).name.startswith(f"{each.revision}_")
