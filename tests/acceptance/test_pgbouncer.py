"""A real PgBouncer in transaction mode: which ways to say what a writer writes hold behind it, and which leak (H7)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from migrator.generation import Side
from migrator.state.connection import run, transaction
from migrator.target.capture import Capture
from tests import pgbouncer
from tests.integration import fence
from tests.integration.fence import NEW, NEW2, OLD, OLD2, row

#: Two roles of the application, by the names of what they were deployed with.
_ROLES = ("app_v1", "app_v2")

pytestmark = pytest.mark.system


@pytest.fixture
def pooled(database: str, sql: psycopg.Connection, scratch: Path) -> Iterator[str]:
    """The URL of a pooler of our own, one server connection a role: whoever comes next gets what the last one left."""
    for role in _ROLES:
        sql.execute(f"CREATE ROLE {role} LOGIN".encode())
    with pgbouncer.pooler(database, scratch, _ROLES, size=1) as url:
        yield url
    for role in _ROLES:
        sql.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


@contextmanager
def client(pooled: str, role: str, **options: str) -> Iterator[psycopg.Connection]:
    """A client as poolers in transaction mode want them: no prepared statements."""
    with psycopg.connect(pooled, user=role, autocommit=True, prepare_threshold=None, **options) as made:
        yield made


async def swapped(engine: AsyncEngine, sql: psycopg.Connection, **declared: str) -> None:
    """A row with both vectors, the new generation live, roles declared as `migrator fence` does."""
    sql.execute(fence.PLAIN)
    made = replace(Capture(fence.target(), 1, fence.V3, fence.V4, "public"), writers=declared)
    await fence.expand(engine, made)
    sql.execute("INSERT INTO docs (id, title, embedding) VALUES (1, 't', %s)", [OLD])
    fence.fill(sql)
    await fence.swap(engine, made, Side.TO)
    sql.execute(f"GRANT ALL ON docs TO {', '.join(_ROLES)}".encode())


def upsert(connection: psycopg.Connection, key: int, vector: str) -> None:
    """As an ORM saves: every column, whether it changed or not."""
    connection.execute(
        "INSERT INTO docs (id, title, body, n, embedding) VALUES (%s, 't', 'b', 1, %s) ON CONFLICT (id) DO UPDATE"
        " SET title = excluded.title, body = excluded.body, n = excluded.n, embedding = excluded.embedding",
        [key, vector],
    )


async def test_h7_set_local_declares_one_transaction_and_nobody_elses(
    engine: AsyncEngine, sql: psycopg.Connection, pooled: str
) -> None:
    await swapped(engine, sql)
    with client(pooled, "app_v1") as new, client(pooled, "app_v1") as old:
        with new.transaction():
            new.execute("SET LOCAL migrator.generation = 'v4@2'")
            upsert(new, 1, NEW2)
            with new.cursor().copy("COPY docs (id, title, embedding) FROM STDIN") as copy:
                copy.write_row((2, "t", NEW))
        upsert(old, 3, OLD2)
    assert (row(sql, 1), row(sql, 2), row(sql, 3)) == ((NEW2, None), (NEW, None), (None, OLD2))


async def test_h7_a_plain_set_speaks_for_whoever_comes_next(
    engine: AsyncEngine, sql: psycopg.Connection, pooled: str
) -> None:
    """The hazard itself: the second client said nothing, and its old vector lands in the live column."""
    await swapped(engine, sql)
    with client(pooled, "app_v1") as new, client(pooled, "app_v1") as old:
        new.execute("SET migrator.generation = 'v4@2'")
        upsert(old, 2, OLD2)
    assert row(sql, 2) == (OLD2, None), "PgBouncer keeps a plain SET on its server connection"
    # What is left of the fence: it is noted, so that the sentinel looks at it before a swap.
    assert sql.execute("SELECT key[1], role FROM migrator.written").fetchall() == [("2", "app_v1")]


async def test_h7_the_connection_strings_options_do_not_pass(
    engine: AsyncEngine, sql: psycopg.Connection, pooled: str
) -> None:
    await swapped(engine, sql)
    with (
        pytest.raises(psycopg.OperationalError, match="options"),
        client(pooled, "app_v1", options="-c migrator.generation=v4@2"),
    ):
        pass


async def test_h7_a_setting_of_the_role_passes(engine: AsyncEngine, sql: psycopg.Connection, pooled: str) -> None:
    """ALTER ROLE ... SET, by a superuser: others are denied it."""
    await swapped(engine, sql)
    sql.execute("ALTER ROLE app_v2 SET migrator.generation = 'v4@2'")
    with client(pooled, "app_v2") as new, client(pooled, "app_v1") as old:
        upsert(new, 2, NEW2)
        upsert(old, 3, OLD2)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            old.execute("ALTER ROLE app_v1 SET migrator.generation = 'v4@2'")
    assert (row(sql, 2), row(sql, 3)) == ((NEW2, None), (None, OLD2))


async def test_h7_a_declared_role_passes_and_a_transactions_own_word_wins(
    engine: AsyncEngine, sql: psycopg.Connection, pooled: str
) -> None:
    await swapped(engine, sql, app_v2="v4@2")
    with client(pooled, "app_v2") as new, client(pooled, "app_v1") as old:
        upsert(new, 2, NEW2)
        upsert(old, 3, OLD2)
        with new.transaction():
            new.execute("SET LOCAL migrator.generation = 'v3@2'")
            upsert(new, 4, OLD2)
        upsert(new, 5, NEW2)
    assert [row(sql, key) for key in (2, 3, 4, 5)] == [(NEW2, None), (None, OLD2), (None, OLD2), (NEW2, None)]


async def test_h7_a_declaration_reaches_a_pool_that_is_open(
    engine: AsyncEngine, sql: psycopg.Connection, pooled: str
) -> None:
    """The server connection has run the old functions: it meets the new ones at its next statement."""
    await swapped(engine, sql)
    with client(pooled, "app_v2") as made:
        upsert(made, 2, OLD2)
        declared = replace(Capture(fence.target(), 1, fence.V3, fence.V4, "public"), writers={"app_v2": "v4@2"})
        async with transaction(engine) as connection:
            for statement in declared.functions(Side.TO):
                await run(connection, statement)
        upsert(made, 3, NEW2)
    assert (row(sql, 2), row(sql, 3)) == ((None, OLD2), (NEW2, None))
