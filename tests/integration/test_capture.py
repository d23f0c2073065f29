"""The writers' fence: whatever an application does, no column mixes generations and no stale vector goes unseen."""

from __future__ import annotations

import psycopg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from migrator.generation import Side
from migrator.target.capture import Capture
from tests.integration import fence
from tests.integration.fence import NEW, NEW2, OLD, OLD2, V3, V4, fill, hints, row


async def made(engine: AsyncEngine, sql: psycopg.Connection, table: str = fence.PLAIN, **target: object) -> Capture:
    sql.execute(table)
    capture = Capture(fence.target(**target), 1, V3, V4, "public", partitioned="PARTITION" in table)
    await fence.expand(engine, capture)
    return capture


async def expanded(engine: AsyncEngine, sql: psycopg.Connection, **target: object) -> Capture:
    """One row whose two vectors are there, nothing dirty."""
    capture = await made(engine, sql, **target)
    sql.execute("INSERT INTO docs (id, title, body, embedding) VALUES (1, 't', 'b', %s)", [OLD])
    fill(sql)
    hints(sql)
    return capture


async def cut_over(engine: AsyncEngine, sql: psycopg.Connection, **target: object) -> Capture:
    capture = await expanded(engine, sql, **target)
    await fence.swap(engine, capture, Side.TO)
    assert row(sql) == (NEW, OLD)
    return capture


def declare(connection: psycopg.Connection, generation: object) -> None:
    connection.execute("SELECT set_config('migrator.generation', %s, false)", [str(generation)])


async def test_before_cutover_an_insert_keeps_its_vector_and_is_dirty(
    engine: AsyncEngine, sql: psycopg.Connection
) -> None:
    await made(engine, sql)
    sql.execute("INSERT INTO docs (id, title, embedding) VALUES (1, 't', %s)", [OLD])
    assert row(sql) == (OLD, None)
    assert hints(sql) == [("to", ["1"])]


async def test_an_irrelevant_update_costs_nothing(engine: AsyncEngine, sql: psycopg.Connection) -> None:
    await expanded(engine, sql)
    sql.execute("UPDATE docs SET n = n + 1, deleted_at = now()")
    sql.execute("UPDATE docs SET title = title, body = body, embedding = embedding")
    assert row(sql) == (OLD, NEW)
    assert hints(sql) == []


async def test_a_new_text_makes_the_shadow_null_and_dirty(engine: AsyncEngine, sql: psycopg.Connection) -> None:
    await expanded(engine, sql)
    sql.execute("UPDATE docs SET body = 'c', embedding = %s", [OLD2])
    assert row(sql) == (OLD2, None)
    assert hints(sql) == [("to", ["1"])]


async def test_a_new_vector_for_the_same_text_bills_nothing(engine: AsyncEngine, sql: psycopg.Connection) -> None:
    await expanded(engine, sql)
    sql.execute("UPDATE docs SET embedding = %s", [OLD2])
    assert row(sql) == (OLD2, NEW)
    assert hints(sql) == []


async def test_a_text_changed_by_another_before_trigger_is_seen(engine: AsyncEngine, sql: psycopg.Connection) -> None:
    await expanded(engine, sql)
    sql.execute("""
        CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS
          $$ BEGIN NEW.body := NEW.body || '!'; RETURN NEW; END $$;
        CREATE TRIGGER shout BEFORE UPDATE ON docs FOR EACH ROW EXECUTE FUNCTION shout();
    """)
    sql.execute("UPDATE docs SET n = 1")
    assert row(sql) == (OLD, None)
    assert hints(sql) == [("to", ["1"])]


async def test_h21_a_case_edit_that_citext_hides_is_seen(engine: AsyncEngine, sql: psycopg.Connection) -> None:
    """H21: WHEN compares bytes; a nondeterministic collation stands in for citext, which the wheel does not carry."""
    table = fence.PLAIN.replace("title text", "title text COLLATE fold")
    try:
        sql.execute("CREATE COLLATION fold (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
    except psycopg.errors.FeatureNotSupported:
        sql.execute("CREATE DOMAIN folded AS text")
        table = fence.PLAIN.replace("title text", "title folded")
    sql.execute(table)
    await fence.expand(engine, Capture(fence.target(), 1, V3, V4, "public"))
    sql.execute("INSERT INTO docs (id, title, embedding) VALUES (1, 'title', %s)", [OLD])
    fill(sql)
    hints(sql)
    sql.execute("UPDATE docs SET title = 'TITLE'")
    assert row(sql) == (OLD, None)
    assert hints(sql) == [("to", ["1"])]


async def test_h1_upsert_by_an_undeclared_writer_loses_no_vector(engine: AsyncEngine, sql: psycopg.Connection) -> None:
    """EXCLUDED shows what BEFORE INSERT left: a fence that diverts there loses the writer's vector."""
    await cut_over(engine, sql)
    upsert = """INSERT INTO docs (id, title, body, embedding) VALUES (%s, 't', %s, %s)
                ON CONFLICT (id) DO UPDATE SET body = excluded.body, embedding = excluded.embedding"""
    sql.execute(upsert, [1, "c", OLD2])
    assert row(sql) == (None, OLD2)
    assert hints(sql) == [("to", ["1"])]
    sql.execute(upsert, [2, "d", OLD2])
    assert row(sql, 2) == (None, OLD2)
    assert hints(sql) == [("to", ["2"])]


async def test_h1_unchanged_upserts_and_do_nothing_mark_no_row(engine: AsyncEngine, sql: psycopg.Connection) -> None:
    await expanded(engine, sql)
    sql.execute("INSERT INTO docs (id, title, body, embedding) VALUES (1, 't', 'b', %s) ON CONFLICT DO NOTHING", [OLD])
    sql.execute(
        """INSERT INTO docs (id, title, body, embedding) VALUES (1, 't', 'b', %s)
           ON CONFLICT (id) DO UPDATE
             SET title = excluded.title, body = excluded.body, embedding = excluded.embedding""",
        [OLD],
    )
    assert row(sql) == (OLD, NEW)
    assert hints(sql) == []


async def test_h1_a_null_from_an_undeclared_session_never_clears_the_new_column(
    engine: AsyncEngine, sql: psycopg.Connection
) -> None:
    await cut_over(engine, sql)
    sql.execute("UPDATE docs SET embedding = NULL")
    assert row(sql) == (NEW, None)


@pytest.mark.parametrize("verb", ["insert", "copy", "merge", "orm"])
async def test_p1_after_cutover_a_forgotten_writer_is_diverted(
    engine: AsyncEngine, sql: psycopg.Connection, verb: str
) -> None:
    await cut_over(engine, sql)
    if verb == "insert":
        sql.execute("INSERT INTO docs (id, title, embedding) VALUES (2, 't', %s)", [OLD2])
    elif verb == "copy":
        with sql.cursor().copy("COPY docs (id, title, embedding) FROM STDIN") as copy:
            copy.write_row((2, "t", OLD2))
    elif verb == "merge":
        sql.execute(
            """MERGE INTO docs d USING (VALUES (2, 'x', %s::vector), (1, 'y', %s::vector)) AS v (id, title, e)
               ON d.id = v.id WHEN MATCHED THEN UPDATE SET title = v.title, embedding = v.e
               WHEN NOT MATCHED THEN INSERT (id, title, embedding) VALUES (v.id, v.title, v.e)""",
            [OLD2, OLD2],
        )
        assert row(sql, 1) == (None, OLD2)
        sql.execute("DELETE FROM migrator.dirty WHERE key = '{1}'")
    else:
        sql.execute("INSERT INTO docs (id, title) VALUES (2, 't')")
        sql.execute("UPDATE docs SET id = 2, title = 't', body = NULL, embedding = %s WHERE id = 2", [OLD2])
    assert row(sql, 2) == (None, OLD2)
    assert ("to", ["2"]) in hints(sql)
    strays = sql.execute("SELECT application, role FROM migrator.strays").fetchall()
    assert strays
    assert all(role == "postgres" for _, role in strays)


async def test_before_cutover_a_writer_that_declares_v4_is_diverted_to_the_shadow(
    engine: AsyncEngine, sql: psycopg.Connection
) -> None:
    await expanded(engine, sql)
    declare(sql, V4)
    sql.execute("INSERT INTO docs (id, title, embedding) VALUES (2, 't', %s)", [NEW2])
    assert row(sql, 2) == (None, NEW2)
    sql.execute("UPDATE docs SET body = 'c', embedding = %s WHERE id = 1", [NEW2])
    assert row(sql, 1) == (None, NEW2)
    assert hints(sql) == [("from", ["2"]), ("from", ["1"])]


async def test_after_cutover_a_declared_writer_writes_as_before_the_migration(
    engine: AsyncEngine, sql: psycopg.Connection
) -> None:
    await cut_over(engine, sql)
    declare(sql, V4)
    sql.execute("UPDATE docs SET body = 'c', embedding = %s", [NEW2])
    assert row(sql) == (NEW2, None)
    assert hints(sql) == [("from", ["1"])]


async def test_h2_a_row_that_moves_between_partitions_keeps_both_vectors(
    engine: AsyncEngine, sql: psycopg.Connection
) -> None:
    """The second half of a move looks like an INSERT; after cutover it would even swap the two vectors."""
    key = {"key_columns": ("id", "kind"), "key_types": ("bigint", "text")}
    capture = await made(engine, sql, fence.PARTITIONED, **key)
    sql.execute("INSERT INTO docs (id, kind, title, embedding) VALUES (1, 'a', 't', %s)", [OLD])
    fill(sql)
    hints(sql)
    sql.execute("UPDATE docs SET kind = 'b'")
    assert row(sql) == (OLD, NEW)
    assert hints(sql) == []
    await fence.swap(engine, capture, Side.TO)
    sql.execute("UPDATE docs SET kind = 'a'")
    assert row(sql) == (NEW, OLD)
    assert hints(sql) == []
    with sql.transaction():  # not a move: the same key deleted and inserted anew, by a forgotten writer
        sql.execute("UPDATE docs SET kind = 'b'")
        sql.execute("DELETE FROM docs")
        sql.execute("INSERT INTO docs (id, kind, title, embedding) VALUES (1, 'b', 't', %s)", [OLD2])
    assert row(sql) == (None, OLD2)


async def test_h3_an_orm_that_read_before_the_swap_writes_an_echo(engine: AsyncEngine, sql: psycopg.Connection) -> None:
    await cut_over(engine, sql)
    declare(sql, V4)
    sql.execute("UPDATE docs SET title = 't', body = 'b', n = 7, embedding = %s", [OLD])
    assert row(sql) == (NEW, OLD)
    sql.execute("UPDATE docs SET body = 'c', embedding = %s", [OLD])
    assert row(sql) == (NEW, None)
    assert hints(sql) == [("from", ["1"])]


async def test_h6_complete_rows_applied_in_replica_role_keep_their_vectors(
    engine: AsyncEngine, sql: psycopg.Connection
) -> None:
    await expanded(engine, sql)
    sql.execute("SET session_replication_role = replica")
    sql.execute("INSERT INTO docs (id, title, embedding, embedding__migrator) VALUES (2, 't', %s, %s)", [OLD, NEW])
    sql.execute("UPDATE docs SET body = 'c', embedding = %s, embedding__migrator = %s WHERE id = 1", [OLD2, NEW2])
    assert (row(sql, 1), row(sql, 2)) == ((OLD2, NEW2), (OLD, NEW))
    assert hints(sql) == []
    sql.execute("UPDATE docs SET body = 'd', embedding = %s WHERE id = 1", [OLD])
    assert row(sql) == (OLD, None)
    assert hints(sql) == [("to", ["1"])]


async def test_h7_an_unknown_declaration_is_an_error_and_an_empty_one_is_none(
    engine: AsyncEngine, sql: psycopg.Connection
) -> None:
    await cut_over(engine, sql)
    declare(sql, "v44@2")
    for statement in ("INSERT INTO docs (id, title) VALUES (2, 't')", "UPDATE docs SET title = 'x'"):
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="knows only v3@2 and v4@2"):
            sql.execute(statement)
    declare(sql, "")
    sql.execute("UPDATE docs SET embedding = %s", [OLD2])
    assert row(sql) == (NEW, OLD2)


async def test_h20_a_key_change_of_a_row_without_a_vector_is_marked(
    engine: AsyncEngine, sql: psycopg.Connection
) -> None:
    await made(engine, sql)
    sql.execute("INSERT INTO docs (id, title, embedding) VALUES (1, 't', %s)", [OLD])
    hints(sql)
    sql.execute("UPDATE docs SET id = 9")
    assert hints(sql) == [("to", ["9"])]
    fill(sql, 9)
    sql.execute("UPDATE docs SET id = 10")
    assert row(sql, 10) == (OLD, NEW), "the text is the same, so the vector is paid for and stays"
    assert hints(sql) == []


async def test_a_row_that_enters_or_leaves_the_scope(engine: AsyncEngine, sql: psycopg.Connection) -> None:
    await expanded(engine, sql, where="docs.deleted_at IS NULL")
    sql.execute("UPDATE docs SET deleted_at = '2026-01-01'")
    assert row(sql) == (OLD, None)
    assert hints(sql) == []
    sql.execute("UPDATE docs SET deleted_at = NULL")
    assert row(sql) == (OLD, None)
    assert hints(sql) == [("to", ["1"])]


async def test_p6_after_cutover_a_row_that_comes_back_gets_its_vector_whoever_brings_it(
    engine: AsyncEngine, sql: psycopg.Connection
) -> None:
    await cut_over(engine, sql, where="docs.deleted_at IS NULL")
    declare(sql, V4)
    sql.execute("UPDATE docs SET deleted_at = '2026-01-01', embedding = NULL")
    hints(sql)
    sql.execute("UPDATE docs SET deleted_at = NULL")
    assert ("to", ["1"]) in hints(sql)


async def test_only_embedded_leaves_rows_without_a_vector_alone(engine: AsyncEngine, sql: psycopg.Connection) -> None:
    await made(engine, sql, only_embedded=True)
    sql.execute("INSERT INTO docs (id, title) VALUES (1, 't')")
    assert hints(sql) == []
    sql.execute("UPDATE docs SET embedding = %s", [OLD])
    assert hints(sql) == [("to", ["1"])]


async def test_p6_p10_only_embedded_does_not_forget_rows_whose_vectors_an_edit_took(
    engine: AsyncEngine, sql: psycopg.Connection
) -> None:
    """The column that said once that a row is in scope is emptied by us: the other one says so, or what we owe."""
    await cut_over(engine, sql, only_embedded=True)
    declare(sql, V4)
    sql.execute("UPDATE docs SET body = 'c', embedding = %s", [NEW2])
    assert row(sql) == (NEW2, None)
    assert hints(sql) == [("from", ["1"])]
    declare(sql, V3)
    sql.execute("UPDATE docs SET body = 'd'")
    assert row(sql) == (None, None)
    assert sorted(hints(sql)) == [("from", ["1"]), ("to", ["1"])]


async def test_only_embedded_lets_a_row_go_whose_vector_the_application_takes_away(
    engine: AsyncEngine, sql: psycopg.Connection
) -> None:
    await expanded(engine, sql, only_embedded=True)
    sql.execute("UPDATE docs SET body = 'c', embedding = NULL")
    assert row(sql) == (None, None)
    assert hints(sql) == []
    sql.execute("UPDATE docs SET body = 'd'")
    assert hints(sql) == []


async def test_p6_only_embedded_owes_nothing_to_a_row_that_was_let_go_while_it_waited(
    engine: AsyncEngine, sql: psycopg.Connection
) -> None:
    await expanded(engine, sql, only_embedded=True)
    sql.execute("UPDATE docs SET body = 'c'")
    sql.execute("UPDATE docs SET embedding = NULL")
    assert row(sql) == (None, None)
    assert hints(sql) == []


async def test_only_embedded_lets_a_row_go_whose_text_is_the_old_one(
    engine: AsyncEngine, sql: psycopg.Connection
) -> None:
    await expanded(engine, sql, only_embedded=True)
    sql.execute("UPDATE docs SET embedding = NULL")
    assert row(sql) == (None, None)
    assert hints(sql) == []


async def test_only_embedded_owes_nothing_for_a_text_that_never_had_a_vector(
    engine: AsyncEngine, sql: psycopg.Connection
) -> None:
    await made(engine, sql, only_embedded=True)
    sql.execute("INSERT INTO docs (id, title) VALUES (1, 't')")
    declare(sql, V4)
    sql.execute("UPDATE docs SET title = 'u'")
    assert hints(sql) == []


async def test_p6_only_embedded_takes_up_what_a_row_outside_of_the_scope_waits_for(
    engine: AsyncEngine, sql: psycopg.Connection
) -> None:
    """Its vector was the new writer's, in the column that nobody searches: leaving the scope, the row has none."""
    await expanded(engine, sql, only_embedded=True, where="docs.n = 0")
    declare(sql, V4)
    sql.execute("UPDATE docs SET body = 'c', embedding = %s, n = 1", [NEW2])
    assert row(sql) == (None, None)
    assert hints(sql) == []
    sql.execute("UPDATE docs SET id = 2")
    sql.execute("UPDATE docs SET n = 0")
    assert sorted(hints(sql)) == [("from", ["2"]), ("to", ["2"])]
    assert sql.execute("SELECT FROM migrator.parked").fetchall() == []


async def test_p6_a_row_takes_what_it_waits_for_along_when_its_key_changes(
    engine: AsyncEngine, sql: psycopg.Connection
) -> None:
    """After a cutover nobody but the hint knows that the live vector is owed."""
    await cut_over(engine, sql)
    declare(sql, V3)
    sql.execute("UPDATE docs SET body = 'c'")
    declare(sql, V4)
    sql.execute("UPDATE docs SET id = 2")
    assert {side for side, key in hints(sql) if key == ["2"]} == {"from", "to"}


async def test_h25_the_application_needs_no_grant_of_ours(engine: AsyncEngine, sql: psycopg.Connection) -> None:
    await made(engine, sql)
    sql.execute("CREATE ROLE app_capture; GRANT SELECT, INSERT, UPDATE ON docs TO app_capture; SET ROLE app_capture")
    try:
        sql.execute("INSERT INTO docs (id, title, embedding) VALUES (1, 't', %s)", [OLD])
        sql.execute("UPDATE docs SET title = 'u'")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            sql.execute("SELECT * FROM migrator.dirty")
    finally:
        sql.execute("RESET ROLE")
        sql.execute("DROP OWNED BY app_capture; DROP ROLE app_capture")
    assert hints(sql) == [("to", ["1"]), ("to", ["1"])]
