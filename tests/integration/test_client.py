"""`migrator.client` on a real column that is cut over and rolled back: no answer of another generation, no failure."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import psycopg
import pytest
from sqlalchemy import create_engine, select, text
from sqlalchemy.ext.asyncio import create_async_engine

import migrator.client.sqlalchemy as alchemy
from migrator import client
from migrator.client import Reader
from migrator.cutover.swapping import CUTOVER, ROLLBACK
from migrator.demo.servers import Postgres
from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import attended, verbs
from migrator.spending.worker import Worker
from tests.deployment import V4, Deployment, embed, generation_of, until
from tests.integration.applications import (
    EMBEDDERS,
    NEAR,
    NEW,
    OLD,
    ROLE,
    Applications,
    Doc,
    explain,
    statement,
    text_of,
)
from tests.integration.searching import let_in, nearest, reader, ready, search
from tests.integration.steps import start, stored, to
from tests.integration.swaps import cut_over, quiet, roll_back, swap

S = MigrationStatus
ROWS = 40
GENERATIONS = "SELECT migrator.generations('public.docs', 'embedding')"


async def _is_ready(worker: Worker) -> bool:
    return (await stored(worker)).status is S.READY


@pytest.mark.timeout(200)
@pytest.mark.parametrize("rounds", [3, pytest.param(20, marks=pytest.mark.long)])
async def test_p1_h10_applications_of_every_kind_through_cutovers_and_rollbacks(
    deployment: Deployment, worker: Worker, app_url: str, rounds: int
) -> None:
    await ready(deployment, worker, ROWS)
    seen = Applications(app_url, ROWS)
    with seen.searching():
        for _ in range(rounds):
            await asyncio.sleep(0.5)
            await cut_over(worker)
            await asyncio.sleep(0.5)
            await roll_back(worker)
            await verbs.resume(worker.engine, "docs", actor="test")
            await to(worker, S.READY)
    assert seen.wrong == []
    assert seen.failed == []
    assert min(seen.answers.values()) > 20 * rounds, seen.answers
    told = deployment.query("SELECT DISTINCT application, generations FROM migrator.readers ORDER BY 1")
    assert [(name, kinds) for name, kinds in told] == [(name, [OLD, NEW]) for name in sorted(seen.answers)]


@pytest.mark.parametrize("isolation", ["REPEATABLE_READ", "SERIALIZABLE"])
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
async def test_h10_a_transaction_from_before_the_swap(
    deployment: Deployment, worker: Worker, app_url: str, isolation: str, *, warm: bool
) -> None:
    """Cold: it first searches after the swap. Warm: this very connection searched before, with its plans cached."""
    await ready(deployment, worker, ROWS)
    found = reader()
    with psycopg.connect(app_url, autocommit=True) as connection:
        connection.isolation_level = psycopg.IsolationLevel[isolation]
        for direction in (CUTOVER, ROLLBACK):
            for _ in range(8 if warm else 0):
                assert nearest(connection, found)
            with connection.transaction():
                connection.execute("SELECT 1")
                found.refresh(connection)
                await swap(worker, direction)
                assert nearest(connection, found)
                assert nearest(connection, found, 8)


async def test_p1_prepared_with_generic_plans(deployment: Deployment, worker: Worker, app_url: str) -> None:
    await ready(deployment, worker, ROWS)
    found = reader()
    with psycopg.connect(app_url, autocommit=True) as connection:
        connection.execute("SET plan_cache_mode = force_generic_plan")
        query = statement(found).encode()
        for direction in (CUTOVER, ROLLBACK):
            for _ in range(3):
                row = connection.execute(query, found.parameters(text_of(7)), prepare=True).fetchone()
                assert row is not None
                assert (row[0], row[1] < NEAR) == (7, True)
            await swap(worker, direction)
            row = connection.execute(query, found.parameters(text_of(7)), prepare=True).fetchone()
            assert row is not None
            assert (row[0], row[1] < NEAR) == (7, True)
        plans = connection.execute(
            "SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE statement LIKE 'SELECT id,%'"
        ).fetchall()
        assert plans == [(8, 0)], "one statement, before and after"


async def test_the_index_is_used_with_the_clients_sql(deployment: Deployment, worker: Worker, app_url: str) -> None:
    await ready(deployment, worker, 300)
    found = reader()
    of_orm = alchemy.Reader("public.docs", "embedding", EMBEDDERS)
    engine = create_engine(app_url.replace("postgresql://", "postgresql+psycopg://"))
    for direction in (CUTOVER, ROLLBACK):
        with psycopg.connect(app_url, autocommit=True) as connection:
            connection.execute(
                "SET enable_seqscan = off; SET enable_sort = off; SET plan_cache_mode = force_generic_plan"
            )
            for prepared in (False, True):
                values = found.parameters("q")
                plan = connection.execute(f"EXPLAIN {statement(found)}".encode(), values, prepare=prepared).fetchall()
                assert any("Index Scan using docs_embedding_idx" in line for (line,) in plan), plan
        clause = of_orm.query_vector("q")
        query = select(Doc.id).order_by(Doc.embedding.cosine_distance(clause)).limit(3)
        assert "Index Scan using docs_embedding_idx" in explain(engine, query)
        await swap(worker, direction)
    engine.dispose()


async def test_a_role_without_rights_of_its_own(deployment: Deployment, worker: Worker, app_url: str) -> None:
    await ready(deployment, worker, ROWS)
    with psycopg.connect(app_url, autocommit=True) as connection:
        found = reader()
        found.refresh(connection)
        assert nearest(connection, found)
        assert connection.execute(GENERATIONS).fetchone() == ([OLD, NEW],)
        for table in ("readers", "migrations", "live"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"SELECT * FROM migrator.{table}".encode())
    assert deployment.value("SELECT role FROM migrator.readers") == ROLE


async def test_what_readers_must_be_prepared_for_in_every_status(
    deployment: Deployment, worker: Worker, app_url: str
) -> None:
    deployment.make_table(ROWS)
    let_in(deployment)
    found = reader(initial=OLD)

    def both() -> tuple[list[str], list[str]]:
        """What the database says, and what a reader that has just asked sends."""
        with psycopg.connect(app_url, autocommit=True) as connection:
            found.forget()
            found.refresh(connection)
            assert nearest(connection, found)
        return deployment.value(GENERATIONS), found.wanted()

    assert both() == ([], [OLD])
    await start(deployment, worker)
    assert both() == ([OLD, NEW], [OLD, NEW])
    await verbs.pause(worker.engine, "docs", actor="test")
    assert both() == ([OLD, NEW], [OLD, NEW])
    await verbs.resume(worker.engine, "docs", actor="test")
    await to(worker, S.READY)
    await cut_over(worker)
    assert both() == ([NEW, OLD], [NEW, OLD])
    await roll_back(worker)
    assert both() == ([OLD, NEW], [OLD, NEW])
    await verbs.resume(worker.engine, "docs", actor="test")
    await to(worker, S.READY)
    await cut_over(worker)
    await attended.clean_up(worker, "docs", close_window=True, strays_gone=False, actor="test", tell=quiet)
    assert both() == ([NEW], [NEW]), "the old one is given up"
    assert deployment.query("SELECT * FROM migrator.readers") == []


async def test_what_was_cancelled_leaves_the_old_generation_alone(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, ROWS)
    await verbs.cancel(worker.engine, "docs", actor="test")
    assert deployment.value(GENERATIONS) == [OLD]


async def test_h9_a_query_vector_that_a_statement_of_its_own_fetched_mixes(
    deployment: Deployment, worker: Worker
) -> None:
    """The misuse that docs/applications.md names, and why it is one: the swap comes between the two statements."""
    await ready(deployment, worker, ROWS)
    with deployment.connect() as connection:
        found = reader()
        values = found.parameters(text_of(7))
        fetched = connection.execute(f"SELECT {found.expression}::text".encode(), values).fetchone()
        assert fetched is not None
        await swap(worker)
        wrong = connection.execute("SELECT min(embedding <=> %s::vector) FROM docs", fetched).fetchone()
        right = connection.execute(
            f"SELECT min(embedding <=> {found.expression}) FROM docs".encode(), values
        ).fetchone()
    assert wrong is not None
    assert right is not None
    assert wrong[0] > 0.3
    assert right[0] < NEAR


async def test_p1_a_reader_that_was_not_told_fails_and_is_never_wrong(deployment: Deployment, worker: Worker) -> None:
    """It sends the old generation's vector alone, having been told so before: by now the new one is live."""
    await ready(deployment, worker, ROWS)
    found = reader()
    found._hear((OLD,))
    with deployment.connect() as connection:
        assert nearest(connection, found)
        await swap(worker)
        with pytest.raises(psycopg.Error, match=f"is searched with vectors of {NEW}, and none") as caught:
            search(connection, found)
        assert client.is_stale(caught.value)
        found.forget()
        assert nearest(connection, found)
        with pytest.raises(psycopg.Error, match="none of them was sent"):
            search(connection, reader(OLD))
    engine = create_engine(deployment.url.replace("postgresql://", "postgresql+psycopg://"))
    of_orm = alchemy.Reader("public.docs", "embedding", {OLD: EMBEDDERS[OLD]})
    query = select(Doc.id).order_by(Doc.embedding.cosine_distance(of_orm.query_vector("q")))
    with engine.connect() as other, pytest.raises(Exception, match="none of them was sent") as caught:
        other.execute(query)
    assert client.is_stale(caught.value)
    engine.dispose()


async def test_p1_after_the_next_migration_a_vector_of_two_models_ago_is_refused(
    deployment: Deployment, worker: Worker
) -> None:
    """By position it would be taken for the old one; it is sent by name."""
    await ready(deployment, worker, ROWS)
    await cut_over(worker)
    await attended.clean_up(worker, "docs", close_window=True, strays_gone=False, actor="test", tell=quiet)
    with deployment.connect() as connection, pytest.raises(psycopg.Error, match="none of them was sent"):
        search(connection, reader(OLD, initial=OLD))


def test_before_the_first_migration_a_misspelt_target_is_not_taken_for_one(deployment: Deployment) -> None:
    deployment.make_table(ROWS)
    with deployment.connect() as connection:
        connection.execute("""
            CREATE TABLE parted (id int, embedding vector(64)) PARTITION BY RANGE (id);
            CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (9);
        """)
        assert nearest(connection, reader(initial=OLD))
        with pytest.raises(psycopg.errors.UndefinedObject, match="knows no target"):
            search(connection, reader())
        for target, column in (
            ("public.dosc", "embedding"),
            ("public.docs", "body"),
            ("docs_view", "embedding"),
            ("parted_1", "embedding"),
        ):
            misspelt = Reader(target, column, EMBEDDERS, initial=OLD)
            with pytest.raises(psycopg.errors.UndefinedObject, match="knows no target"):
                search(connection, misspelt)
            with pytest.raises(psycopg.errors.UndefinedObject, match="knows no target"):
                misspelt.refresh(connection)
        found = Reader("docs", "embedding", EMBEDDERS, initial=OLD)
        found.refresh(connection)
        assert found.wanted() == [OLD]
        assert nearest(connection, found)


async def test_h13_a_standby_is_searched_through_the_swap(
    standby: tuple[Postgres, Postgres], deployment_on: Callable[[Postgres], Awaitable[tuple[Deployment, Worker]]]
) -> None:
    """It replays names and functions with one commit; what the application says of itself goes to the primary."""
    primary, replica = standby
    deployment, worker = await deployment_on(primary)
    await ready(deployment, worker, ROWS)
    found = reader(application="searches a standby")
    with psycopg.connect(replica.database_url("app"), autocommit=True) as connection:
        live = "SELECT migrator.live_generation('public.docs', 'embedding')"

        async def replayed(generation: str) -> bool:
            await asyncio.sleep(0)
            return connection.execute(live.encode()).fetchone() == (generation,)

        for direction, generation in ((CUTOVER, NEW), (ROLLBACK, OLD)):
            found.forget()
            found.refresh(connection)
            assert set(found.wanted()) == {OLD, NEW}
            assert nearest(connection, found)
            await swap(worker, direction)
            await until(lambda wanted=generation: replayed(wanted))
            assert nearest(connection, found)
        assert deployment.query("SELECT * FROM migrator.readers") == [], "a standby writes nothing"
        with deployment.connect() as writable:
            found.sign(writable)
    assert deployment.query("SELECT application FROM migrator.readers") == [("searches a standby",)]


# Writers


async def test_h7_a_declaration_ends_with_its_transaction(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, ROWS)
    await cut_over(worker)
    declared = "SELECT current_setting('migrator.generation', true)"
    vector = str(embed(V4, "a\nb"))
    write = "INSERT INTO docs (title, body, embedding) VALUES ('a', 'b', %s::vector)"
    with deployment.connect() as connection:
        with pytest.raises(client.NotInTransaction):
            client.declare(connection, NEW)
        with connection.transaction():
            with pytest.raises(ValueError, match="nonsense"):
                client.declare(connection, "nonsense")
            client.declare(connection, NEW)
            connection.execute(write, [vector])
        assert connection.execute(declared).fetchone() in {("",), (None,)}
    async with await psycopg.AsyncConnection.connect(deployment.url) as other:
        await client.declare_async(other, NEW)
        await other.execute(write, [vector])
    url = deployment.url.replace("postgresql://", "postgresql+psycopg://")
    engine = create_engine(url)
    with engine.begin() as begun:
        alchemy.declare(begun, NEW)
        begun.exec_driver_sql(write, (vector,))
    alchemy.declare_always(engine, NEW)
    with engine.begin() as begun:
        begun.exec_driver_sql(write, (vector,))
    engine.dispose()
    async_engine = create_async_engine(url)
    async with async_engine.begin() as going:
        await alchemy.declare_async(going, NEW)
        await going.exec_driver_sql(write, (vector,))
    alchemy.declare_always(async_engine, NEW)
    async with async_engine.begin() as going:
        assert (await going.execute(text(declared))).scalar_one() == NEW
        await going.exec_driver_sql(write, (vector,))
    await async_engine.dispose()
    with psycopg.connect(deployment.url, autocommit=True, options=client.options(NEW)) as connection:
        connection.execute(write, [vector])
    written = deployment.query("SELECT embedding::real[] FROM docs WHERE title = 'a'")
    assert [generation_of(found, "a\nb") for (found,) in written] == [V4] * 7
    assert deployment.query("SELECT * FROM migrator.strays") == []
    assert deployment.mismatches("embedding", V4) == []
