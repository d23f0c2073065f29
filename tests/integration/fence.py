"""A table with shadow column and capture triggers, as expand leaves it, without the rest of the tool."""

from __future__ import annotations

import psycopg
from psycopg import sql
from sqlalchemy.ext.asyncio import AsyncEngine

from migrator.generation import Generation, Side
from migrator.state.connection import run, transaction
from migrator.target import capture
from migrator.target.capture import Capture
from migrator.target.relation import Target
from migrator.template import Template

V3, V4 = Generation("v3", 2), Generation("v4", 2)
#: Vectors of the two spaces, told apart by their first component.
OLD, OLD2, NEW, NEW2 = "[3,1]", "[3,2]", "[4,1]", "[4,2]"

COLUMNS = frozenset({"id", "kind", "title", "body", "n", "deleted_at", "embedding"})
PLAIN = """
CREATE TABLE docs (id bigint PRIMARY KEY, title text, body text, n int DEFAULT 0, deleted_at date, embedding vector(2))
"""
PARTITIONED = """
CREATE TABLE docs (id bigint, kind text, title text, body text, n int DEFAULT 0, deleted_at date, embedding vector(2),
                   PRIMARY KEY (id, kind)) PARTITION BY LIST (kind);
CREATE TABLE docs_a PARTITION OF docs FOR VALUES IN ('a');
CREATE TABLE docs_b PARTITION OF docs FOR VALUES IN ('b');
"""


def target(**changes: object) -> Target:
    values: dict[str, object] = {
        "schema": "public",
        "table": "docs",
        "column": "embedding",
        "shadow": "embedding__migrator",
        "key_columns": ("id",),
        "key_types": ("bigint",),
        "template": Template.parse("{title}\n{body}"),
        "where": None,
        "only_embedded": False,
    }
    return Target(**{**values, **changes})  # type: ignore[arg-type]


async def expand(engine: AsyncEngine, made: Capture) -> None:
    async with transaction(engine) as connection:
        await run(
            connection,
            sql.SQL("ALTER TABLE public.docs ADD COLUMN embedding__migrator public.vector(2)"),
        )
        for statement in capture.installation(made, COLUMNS):
            await run(connection, statement)


async def swap(engine: AsyncEngine, made: Capture, live_side: Side) -> None:
    """What the cutover does to names and functions, and nothing else of it."""
    async with transaction(engine) as connection:
        for old, new in (
            ("embedding", "x__"),
            ("embedding__migrator", "embedding"),
            ("x__", "embedding__migrator"),
        ):
            statement = sql.SQL("ALTER TABLE public.docs RENAME COLUMN {} TO {}")
            await run(connection, statement.format(sql.Identifier(old), sql.Identifier(new)))
        for statement in capture.swapped(made, live_side, COLUMNS):
            await run(connection, statement)


def row(connection: psycopg.Connection, key: int = 1) -> tuple[str | None, str | None]:
    """(live, shadow) of a row."""
    found = connection.execute(
        "SELECT embedding::text, embedding__migrator::text FROM docs WHERE id = %s", [key]
    ).fetchone()
    assert found is not None
    return found


def hints(connection: psycopg.Connection) -> list[tuple[str, list[str]]]:
    """(side, key) of every dirty id, oldest first; reading takes them away."""
    found = connection.execute("SELECT side, key FROM migrator.dirty ORDER BY id").fetchall()
    connection.execute("DELETE FROM migrator.dirty")
    return [(side, key) for side, key in found]


def fill(connection: psycopg.Connection, key: int = 1, vector: str = NEW, column: str = "embedding__migrator") -> None:
    """What catch-up does: the missing vector of a row."""
    connection.execute(sql.SQL("UPDATE docs SET {} = %s WHERE id = %s").format(sql.Identifier(column)), [vector, key])
