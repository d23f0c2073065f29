"""Writers declared by their role: `migrator fence`, and what the fence makes of every way to say who writes (H7)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise

import psycopg
import pytest
from psycopg import sql as psql
from sqlalchemy.ext.asyncio import AsyncEngine

from migrator.cutover import capture_off, readiness, swapping
from migrator.cutover.cleaning import StraysSeen
from migrator.errors import StatusConflict
from migrator.generation import Side
from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import attended, verbs, writers
from migrator.orchestrator.writers import GenerationUnknown, RoleUnknown
from migrator.spending.worker import Worker
from migrator.state.connection import CatalogChanged, run, transaction
from migrator.state.migrations import CaptureOff
from migrator.target import message
from migrator.target.capture import Capture
from tests.deployment import V3, V4, Deployment, embed, literal
from tests.integration import fence
from tests.integration.fence import NEW, NEW2, OLD, OLD2, hints, row
from tests.integration.steps import ready, start, stored
from tests.integration.swaps import ANY, cut_over, quiet, roll_back

S = MigrationStatus
FROM, TO = f"{V3}@64", f"qwen/{V4}@64"
#: A name that would end a string, a dollar-quoted body, and a psycopg parameter.
HOSTILE = 'it\'s $capture$ 100%s "x"'


@contextmanager
def roles(url: str, *names: str) -> Iterator[None]:
    """Roles that may write `docs`, each a member of the next, so that it may SET it."""
    with psycopg.connect(url, autocommit=True) as admin:
        for name in names:
            admin.execute(psql.SQL("CREATE ROLE {} LOGIN").format(psql.Identifier(name)))
            admin.execute(psql.SQL("GRANT ALL ON ALL TABLES IN SCHEMA public TO {}").format(psql.Identifier(name)))
        for member, of in pairwise(names):
            admin.execute(psql.SQL("GRANT {} TO {}").format(psql.Identifier(of), psql.Identifier(member)))
        try:
            yield
        finally:
            for name in names:
                admin.execute(psql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(psql.Identifier(name)))


@contextmanager
def session(url: str, role: str, **options: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(url, user=role, autocommit=True, application_name=f"app of {role}"[:60], **options) as made:
        yield made


async def fenced(engine: AsyncEngine, sql: psycopg.Connection, side: Side, **declared: str) -> None:
    """A row with both vectors, that side live, and roles declared."""
    sql.execute(fence.PLAIN)
    made = Capture(fence.target(), 1, fence.V3, fence.V4, "public")
    await fence.expand(engine, made)
    sql.execute("INSERT INTO docs (id, title, embedding) VALUES (1, 't', %s)", [OLD])
    fence.fill(sql)
    hints(sql)
    if side is Side.TO:
        await fence.swap(engine, made, Side.TO)
    async with transaction(engine) as connection:
        for statement in replace(made, writers=declared).functions(side):
            await run(connection, statement)


def write(connection: psycopg.Connection, key: int, vector: str) -> None:
    connection.execute("INSERT INTO docs (id, title, embedding) VALUES (%s, 't', %s)", [key, vector])


async def test_h7_a_declared_roles_vectors_go_where_its_declaration_says(
    engine: AsyncEngine, sql: psycopg.Connection, database: str
) -> None:
    """Before the swap into the shadow; as what is live after it; and the sentinel looks at both (H3)."""
    with roles(database, "app_v2", "app_v1"):
        await fenced(engine, sql, Side.FROM, app_v2="v4@2")
        sql.execute("GRANT ALL ON docs TO app_v2, app_v1")
        with session(database, "app_v2") as new, session(database, "app_v1") as old:
            write(new, 2, NEW2)
            write(old, 3, OLD2)
            assert (row(sql, 2), row(sql, 3)) == ((None, NEW2), (OLD2, None))
            new.execute("UPDATE docs SET body = 'c', embedding = %s WHERE id = 1", [NEW2])
            assert row(sql, 1) == (None, NEW2)
            assert sql.execute("SELECT key[1], role FROM migrator.written ORDER BY id").fetchall() == [
                ("2", "app_v2"),
                ("1", "app_v2"),
            ]


async def test_h7_after_the_swap_only_a_declared_role_writes_the_live_column(
    engine: AsyncEngine, sql: psycopg.Connection, database: str
) -> None:
    with roles(database, "app_v2", "app_v1"):
        await fenced(engine, sql, Side.TO, app_v2="v4@2")
        sql.execute("GRANT ALL ON docs TO app_v2, app_v1")
        with session(database, "app_v2") as new, session(database, "app_v1") as old:
            write(new, 2, NEW2)
            write(old, 3, OLD2)
            assert (row(sql, 2), row(sql, 3)) == ((NEW2, None), (None, OLD2))
            assert sql.execute("SELECT role FROM migrator.strays").fetchall() == [("app_v1",)]


async def test_h7_a_sessions_own_word_wins_over_its_roles(
    engine: AsyncEngine, sql: psycopg.Connection, database: str
) -> None:
    with roles(database, "app_v2"):
        await fenced(engine, sql, Side.TO, app_v2="v4@2")
        sql.execute("GRANT ALL ON docs TO app_v2")
        with session(database, "app_v2", options="-c migrator.generation=v3@2") as made:
            write(made, 2, OLD2)
            assert row(sql, 2) == (None, OLD2)
            made.execute("SET migrator.generation = ''")  # undeclared is not old: the role's word counts again
            write(made, 3, NEW2)
            assert row(sql, 3) == (NEW2, None)
            made.execute("SET migrator.generation = 'v44@2'")
            with pytest.raises(psycopg.errors.InvalidParameterValue, match="knows only v3@2 and v4@2"):
                write(made, 4, NEW2)


async def test_h7_the_role_that_was_set_counts_before_the_one_that_logged_in(
    engine: AsyncEngine, sql: psycopg.Connection, database: str
) -> None:
    """Poolers that SET ROLE share a login; elsewhere SET ROLE to an owner must not lose the login's declaration."""
    with roles(database, "pool", "tenant_v2", "owner"):
        await fenced(engine, sql, Side.TO, tenant_v2="v4@2")
        sql.execute("GRANT ALL ON docs TO pool, tenant_v2, owner")
        with session(database, "pool") as made:
            write(made, 2, OLD2)
            assert row(sql, 2) == (None, OLD2), "a member of a declared role is not declared"
            with made.transaction():
                made.execute("SET LOCAL ROLE tenant_v2")
                write(made, 3, NEW2)
            write(made, 4, OLD2)
            assert (row(sql, 3), row(sql, 4)) == ((NEW2, None), (None, OLD2))
        with session(database, "tenant_v2") as made:
            made.execute("SET ROLE owner")
            write(made, 5, NEW2)
            assert row(sql, 5) == (NEW2, None)
        async with transaction(engine) as connection:
            both = Capture(fence.target(), 1, fence.V3, fence.V4, "public", writers={"pool": "v4@2", "owner": "v3@2"})
            for statement in both.functions(Side.TO):
                await run(connection, statement)
        with session(database, "pool") as made:
            write(made, 6, NEW2)
            made.execute("SET ROLE owner")
            write(made, 7, OLD2)
            assert (row(sql, 6), row(sql, 7)) == ((NEW2, None), (None, OLD2))


async def test_h7_set_role_in_a_function_of_the_applications_own(
    engine: AsyncEngine, sql: psycopg.Connection, database: str
) -> None:
    """Inside SECURITY DEFINER current_user is the definer; who logged in is still known."""
    with roles(database, "app_v2"):
        await fenced(engine, sql, Side.TO, app_v2="v4@2")
        sql.execute("""
            CREATE FUNCTION save(bigint, vector) RETURNS void LANGUAGE sql SECURITY DEFINER AS
              $$ INSERT INTO docs (id, title, embedding) VALUES ($1, 't', $2) $$""")
        with session(database, "app_v2") as made:
            made.execute("SELECT save(2, %s)", [NEW2])
        assert row(sql, 2) == (NEW2, None)


async def test_h7_a_role_sets_the_parameter_for_itself_only_with_a_grant(
    engine: AsyncEngine, sql: psycopg.Connection, database: str
) -> None:
    """ALTER ROLE ... SET is for superusers, and for whom one granted the parameter; others have `migrator fence`."""
    own = "ALTER ROLE app_v2 SET migrator.generation = 'v4@2'"
    with roles(database, "app_v2"):
        await fenced(engine, sql, Side.TO)
        sql.execute("GRANT ALL ON docs TO app_v2")
        with session(database, "app_v2") as made:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                made.execute(own.encode())
            sql.execute("GRANT SET ON PARAMETER migrator.generation TO app_v2")
            made.execute(own.encode())
        with session(database, "app_v2") as made:
            write(made, 2, NEW2)
        assert row(sql, 2) == (NEW2, None)
        sql.execute("REVOKE SET ON PARAMETER migrator.generation FROM app_v2")


async def test_h7_a_role_of_any_name_can_be_declared(
    engine: AsyncEngine, sql: psycopg.Connection, database: str
) -> None:
    with roles(database, HOSTILE):
        await fenced(engine, sql, Side.TO, **{HOSTILE: "v4@2"})
        sql.execute(psql.SQL("GRANT ALL ON docs TO {}").format(psql.Identifier(HOSTILE)))
        with session(database, HOSTILE) as made:
            write(made, 2, NEW2)
        assert row(sql, 2) == (NEW2, None)
        assert row(sql, 1) == (NEW, OLD)


def save(connection: psycopg.Connection, model: str, key: int, word: str) -> None:
    body = f"{Deployment.words(key)[1]} {word}"
    vector = literal(embed(model, f"t\n{body}"))
    connection.execute("UPDATE docs SET title = 't', body = %s, embedding = %s WHERE id = %s", [body, vector, key])


async def test_h7_a_declaration_survives_swaps_and_ends_with_cleanup(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, 20)
    with roles(deployment.url, "app_v2"), session(deployment.url, "app_v2") as new:
        save(new, V3, 1, "before")
        done = await writers.declare(worker.engine, "docs", "app_v2", TO, actor="test")
        assert (done.before, done.generation, done.changes) == (None, TO, True)
        save(new, V4, 2, "declared")
        assert deployment.value("SELECT embedding IS NULL FROM docs WHERE id = 2"), "the same session, at once"
        await cut_over(worker)
        save(new, V4, 3, "live")
        assert deployment.mismatches("embedding", V4) == []
        assert deployment.value("SELECT embedding__migrator IS NULL FROM docs WHERE id = 3")
        await roll_back(worker)
        save(new, V4, 4, "back")
        assert deployment.mismatches("embedding", V3) == [4]
        assert deployment.value("SELECT embedding IS NULL FROM docs WHERE id = 4")
        assert await writers.listed(worker.engine, "docs") == {"app_v2": TO}
        # Its vectors are kept out of the column that is live again; without the fence they would not be.
        with pytest.raises(StraysSeen, match="app_v2"):
            await attended.clean_up(worker, "docs", close_window=False, strays_gone=False, actor="test", tell=quiet)
        await attended.clean_up(worker, "docs", close_window=False, strays_gone=True, actor="test", tell=quiet)
        assert await writers.listed(worker.engine, "docs") == {}
        with pytest.raises(StatusConflict, match="not cleaned up"):
            await writers.declare(worker.engine, "docs", "app_v2", TO, actor="test")
    ours = "pronamespace = 'migrator'::regnamespace AND prosrc LIKE '%%app_v2%%'"
    assert deployment.value(f"SELECT count(*) FROM pg_proc WHERE {ours}") == 0


async def test_h7_a_declaration_waits_for_nobody_and_nobody_for_it(deployment: Deployment, worker: Worker) -> None:
    """The application holds the table, in a transaction that has fired the trigger; another holds all of it."""
    deployment.make_table(3)
    await start(deployment, worker)
    with roles(deployment.url, "app_v2"), deployment.connect() as first, deployment.connect() as second:
        with first.transaction():
            first.execute("UPDATE docs SET body = 'held' WHERE id = 1")
            await writers.declare(worker.engine, "docs", "app_v2", TO, actor="test")
        with second.transaction():
            second.execute("LOCK TABLE docs IN ACCESS EXCLUSIVE MODE")
            await writers.declare(worker.engine, "docs", "app_v2", None, actor="test")
    noted = deployment.query(
        "SELECT reason, actor FROM migrator.transitions WHERE reason LIKE 'role app_v2%%' ORDER BY id"
    )
    assert noted == [
        (f"role app_v2 is declared to write {TO}", "test"),
        ("role app_v2 is no longer declared", "test"),
    ]


async def test_h9_a_declaration_between_the_last_look_and_the_lock_is_not_lost(
    deployment: Deployment, worker: Worker
) -> None:
    await ready(deployment, worker, 10)
    with roles(deployment.url, HOSTILE), session(deployment.url, HOSTILE) as new:
        before = await stored(worker)
        looked = await readiness.look(worker.engine, before, verb="cutover")
        whole = message.whole(looked.statements(Side.TO, S.COMPLETED, bounds=ANY, actor="test"))
        await writers.declare(worker.engine, "docs", HOSTILE, TO, actor="test")
        with pytest.raises(CatalogChanged):
            async with message.raw_connection(worker.engine) as raw:
                await message.send(raw, whole)
        assert deployment.status == "ready"
        # Read before the declaration, as by a step that waited for rows since: the look reads it anew.
        await swapping.swap(worker.engine, before, swapping.CUTOVER, bounds=ANY, actor="test", on_wait=quiet, ladder=())
        save(new, V4, 1, "live")
    assert deployment.mismatches("embedding", V4) == []


async def test_h7_what_cannot_be_declared_is_refused_by_name(deployment: Deployment, worker: Worker) -> None:
    deployment.make_table(3)
    await verbs.make_plan(worker.engine, deployment.spec, actor="test")
    with pytest.raises(StatusConflict, match="started and not cleaned up"):
        await writers.declare(worker.engine, "docs", "postgres", TO, actor="test")
    await start(deployment, worker)
    with pytest.raises(GenerationUnknown, match=f"qwen/{V4}@63; it knows {FROM} and {TO}"):
        await writers.declare(worker.engine, "docs", "postgres", f"qwen/{V4}@63", actor="test")
    for generation in (TO, None):
        with pytest.raises(RoleUnknown, match="no role nobody_at_all"):
            await writers.declare(worker.engine, "docs", "nobody_at_all", generation, actor="test")
    with roles(deployment.url, "gone"):
        await writers.declare(worker.engine, "docs", "gone", TO, actor="test")
    assert (await writers.declare(worker.engine, "docs", "gone", None, actor="test")).changes, "dropped since"
    assert await writers.listed(worker.engine, "docs") == {}


async def test_h30_functions_that_were_silenced_stay_silent(deployment: Deployment, worker: Worker) -> None:
    deployment.make_table(3)
    await start(deployment, worker)
    await capture_off.silence(worker.engine, "docs", actor="test")
    with pytest.raises(CaptureOff, match="Capture of docs is off"):
        await writers.declare(worker.engine, "docs", "postgres", TO, actor="test")
    with deployment.connect() as connection:
        connection.execute("UPDATE docs SET body = 'unseen' WHERE id = 1")
    assert deployment.value("SELECT count(*) FROM migrator.dirty WHERE key = '{1}'") == 0


async def test_h7_a_role_that_others_still_use_is_warned_about(deployment: Deployment, worker: Worker) -> None:
    """Two deployments under one login: a declaration would let the old one's vectors through."""
    await ready(deployment, worker, 10)
    await cut_over(worker)
    with deployment.connect() as old:
        save(old, V3, 1, "stray")
    (warning,) = (await writers.foresee(worker.engine, "docs", "postgres", TO)).warnings
    assert f"the application wrote {FROM} as postgres in the last 24 hours (1 writes)" in warning
    assert (await writers.foresee(worker.engine, "docs", "postgres", FROM)).warnings == ()


async def test_h23_a_not_null_column_is_warned_about_before_the_swap(deployment: Deployment, worker: Worker) -> None:
    deployment.make_table(5)
    with deployment.connect() as connection:
        connection.execute("ALTER TABLE docs ALTER embedding SET NOT NULL")
    await start(deployment, worker)
    (warning,) = (await writers.foresee(worker.engine, "docs", "postgres", TO)).warnings
    assert "embedding is NOT NULL until the swap" in warning
