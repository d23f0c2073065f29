"""What rows outside of the scope wait for, under `only_embedded`, while catch-up settles their hints beside them."""

from __future__ import annotations

import psycopg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.integration.fence import OLD, V3, V4, hints, row
from tests.integration.test_capture import cut_over, declare

_PARK = """
INSERT INTO migrator.parked (migration_id, key, side) SELECT migration_id, key, side FROM migrator.dirty;
DELETE FROM migrator.dirty
"""


@pytest.mark.parametrize("isolation", psycopg.IsolationLevel)
async def test_p6_a_row_that_comes_back_while_it_is_parked_is_not_forgotten(
    engine: AsyncEngine, sql: psycopg.Connection, isolation: psycopg.IsolationLevel
) -> None:
    """Neither sees what the other did; the hint that is settled there is still seen here, and copied."""
    await cut_over(engine, sql, only_embedded=True, where="docs.n = 0")
    declare(sql, V3)
    sql.execute("UPDATE docs SET body = 'c'")
    assert row(sql) == (None, None)
    sql.execute("UPDATE docs SET n = 1")
    with psycopg.connect(sql.info.dsn) as catch_up:
        catch_up.execute(_PARK)
        sql.isolation_level = isolation
        with sql.transaction():
            sql.execute("UPDATE docs SET n = 0")
        catch_up.commit()
    sql.isolation_level = None
    assert {side for side, _ in hints(sql)} == {"from", "to"}


async def test_p8_letting_a_row_go_waits_for_nobody_who_settles_its_hint(
    engine: AsyncEngine, sql: psycopg.Connection
) -> None:
    await cut_over(engine, sql, only_embedded=True)
    declare(sql, V4)
    sql.execute("INSERT INTO migrator.dirty (migration_id, side, key) VALUES (1, 'to', '{1}')")
    with psycopg.connect(sql.info.dsn) as catch_up:
        catch_up.execute("DELETE FROM migrator.dirty")
        sql.execute("SET lock_timeout = '500ms'")
        sql.execute("UPDATE docs SET embedding = NULL")
        assert row(sql) == (None, OLD)
