"""Capture of what applications do to rows: each kind of statement leaves the vectors and the hints that it must."""

from __future__ import annotations

import psycopg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from migrator.target.capture import Capture
from tests.integration import fence
from tests.integration.fence import NEW, OLD, OLD2, V3, V4, fill, hints, row

KEY = {"key_columns": ("id", "kind"), "key_types": ("bigint", "text")}


async def expanded(engine: AsyncEngine, sql: psycopg.Connection, *, knows_chunks: bool = True) -> Capture:
    """One row whose two vectors are there, nothing dirty; text and vectors lie in TOAST."""
    sql.execute(fence.PLAIN)
    sql.execute("ALTER TABLE docs ALTER embedding SET STORAGE EXTERNAL, ALTER body SET STORAGE EXTERNAL")
    capture = Capture(fence.target(), 1, V3, V4, "public", knows_chunks=knows_chunks)
    await fence.expand(engine, capture)
    sql.execute("INSERT INTO docs (id, title, body, embedding) VALUES (1, 't', repeat('long ', 1000), %s)", [OLD])
    fill(sql)
    hints(sql)
    return capture


@pytest.mark.parametrize("text", ["NULL", "''", "' '"])
async def test_a_text_that_is_taken_away_leaves_no_vector(
    engine: AsyncEngine, sql: psycopg.Connection, text: str
) -> None:
    await expanded(engine, sql)
    sql.execute(f"UPDATE docs SET title = {text}, body = {text}".encode())
    assert row(sql) == (OLD, None), "catch-up finds no text and writes the disposition"
    assert hints(sql) == [("to", ["1"])]


async def test_deletes_and_truncate_need_no_hint(engine: AsyncEngine, sql: psycopg.Connection) -> None:
    await expanded(engine, sql)
    sql.execute("INSERT INTO docs (id, title) VALUES (2, 'u')")
    hints(sql)
    sql.execute("DELETE FROM docs WHERE id = 2")
    sql.execute("TRUNCATE docs")
    assert hints(sql) == []


async def test_copy_marks_every_row_without_a_declared_vector(engine: AsyncEngine, sql: psycopg.Connection) -> None:
    await expanded(engine, sql)
    with sql.cursor().copy("COPY docs (id, title, embedding) FROM STDIN") as copy:
        for number in (2, 3):
            copy.write_row((number, "t", OLD2))
    assert hints(sql) == [("to", ["2"]), ("to", ["3"])]
    assert row(sql, 3) == (OLD2, None)


async def test_merge_updates_inserts_and_deletes(engine: AsyncEngine, sql: psycopg.Connection) -> None:
    await expanded(engine, sql)
    sql.execute("INSERT INTO docs (id, title, embedding) VALUES (5, 'gone', %s)", [OLD])
    hints(sql)
    sql.execute("""
        MERGE INTO docs d USING (VALUES (1, 'new'), (5, NULL), (7, 'added')) AS v (id, title) ON d.id = v.id
        WHEN MATCHED AND v.title IS NULL THEN DELETE
        WHEN MATCHED THEN UPDATE SET title = v.title
        WHEN NOT MATCHED THEN INSERT (id, title) VALUES (v.id, v.title)""")
    assert sorted(hints(sql)) == [("to", ["1"]), ("to", ["7"])]
    assert row(sql) == (OLD, None)


@pytest.mark.parametrize("knows_chunks", [True, False], ids=["by chunk id", "by value"])
async def test_toasted_values_are_compared_without_being_missed(
    engine: AsyncEngine, sql: psycopg.Connection, *, knows_chunks: bool
) -> None:
    """An untouched value is told by its chunk id; the same text written anew is another chunk and the same text."""
    await expanded(engine, sql, knows_chunks=knows_chunks)
    sql.execute("UPDATE docs SET n = n + 1")
    sql.execute("UPDATE docs SET body = repeat('long ', 1000)")
    assert row(sql) == (OLD, NEW)
    assert hints(sql) == []
    sql.execute("UPDATE docs SET body = repeat('long ', 999) || 'LONG '")
    assert row(sql) == (OLD, None)
    assert hints(sql) == [("to", ["1"])]
    sql.execute("UPDATE docs SET body = 'short'")
    sql.execute("UPDATE docs SET body = repeat('long ', 1000)")
    assert hints(sql) == [("to", ["1"])] * 2


async def test_replica_role_does_not_hide_an_edit(engine: AsyncEngine, sql: psycopg.Connection) -> None:
    await expanded(engine, sql)
    sql.execute("SET session_replication_role = replica")
    sql.execute("UPDATE docs SET body = 'applied'")
    sql.execute("INSERT INTO docs (id, title, embedding) VALUES (2, 't', %s)", [OLD])
    assert hints(sql) == [("to", ["1"]), ("to", ["2"])]


async def test_h2_an_edit_and_a_move_in_one_statement_is_dirty_where_it_lies(
    engine: AsyncEngine, sql: psycopg.Connection
) -> None:
    sql.execute(fence.PARTITIONED)
    await fence.expand(engine, Capture(fence.target(**KEY), 1, V3, V4, "public", partitioned=True))
    sql.execute("INSERT INTO docs (id, kind, title, embedding) VALUES (1, 'a', 't', %s)", [OLD])
    fill(sql)
    hints(sql)
    sql.execute("UPDATE docs SET kind = 'b', title = 'u'")
    assert row(sql) == (OLD, None)
    assert set(map(str, hints(sql))) == {"('to', ['1', 'b'])"}


async def test_h1_an_upsert_into_a_partition_marks_what_it_changed(
    engine: AsyncEngine, sql: psycopg.Connection
) -> None:
    sql.execute(fence.PARTITIONED)
    await fence.expand(engine, Capture(fence.target(**KEY), 1, V3, V4, "public", partitioned=True))
    upsert = """INSERT INTO docs (id, kind, title, embedding) VALUES (1, 'a', %s, %s)
                ON CONFLICT (id, kind) DO UPDATE SET title = excluded.title, embedding = excluded.embedding"""
    sql.execute(upsert, ["t", OLD])
    assert hints(sql) == [("to", ["1", "a"])]
    fill(sql)
    sql.execute(upsert, ["t", OLD])
    assert hints(sql) == []
    assert row(sql) == (OLD, NEW)
    sql.execute(upsert, ["u", OLD2])
    assert row(sql) == (OLD2, None)
    assert hints(sql) == [("to", ["1", "a"])]
