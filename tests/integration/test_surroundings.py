"""What a plan finds around a real table: what is set up here is told by name, and only SELECT is needed to look."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from migrator.demo.servers import Postgres
from migrator.planning import plan as plans
from migrator.planning import surroundings
from migrator.spending.worker import Worker
from migrator.state.connection import DatabaseUnreachable, make_engine, transaction
from tests import standby as standbys
from tests.deployment import Deployment, until
from tests.pgbouncer import pooler


async def codes(deployment: Deployment, worker: Worker) -> dict[str, list[str]]:
    """Code -> objects of a plan's findings."""
    found: dict[str, list[str]] = {}
    for each in (await plans.make(worker.engine, deployment.spec)).findings:
        found.setdefault(each.code, []).append(each.object)
    return found


async def test_what_is_around_a_plain_table_is_nothing_but_what_nobody_can_read(
    deployment: Deployment, worker: Worker
) -> None:
    deployment.make_table(20)
    with deployment.connect() as connection:
        connection.execute("ANALYZE docs")
    # The tests' server runs without fsync.
    assert set(await codes(deployment, worker)) == {
        "no_workers",
        "view",
        "statements_unread",
        "not_durable",
        "free_disk_unknown",
    }


async def test_old_snapshots_event_triggers_isolation_and_invalid_indexes_are_named(
    deployment: Deployment, worker: Worker, sql: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment.make_table(20)
    monkeypatch.setattr(surroundings, "OLD_SECONDS", 0.0)
    sql.execute(
        "CREATE FUNCTION audit() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';"
        "CREATE EVENT TRIGGER audit_ddl ON ddl_command_end EXECUTE FUNCTION audit();"
        "CREATE ROLE careful; ALTER ROLE careful IN DATABASE postgres SET default_transaction_isolation = serializable"
    )
    name = sql.info.dbname
    sql.execute(f"ALTER ROLE careful IN DATABASE {name} SET default_transaction_isolation = 'repeatable read'".encode())
    with pytest.raises(psycopg.errors.UniqueViolation):
        sql.execute("CREATE UNIQUE INDEX CONCURRENTLY docs_twice ON docs (n)")
    try:
        with psycopg.connect(deployment.url, application_name="nightly", autocommit=False) as nightly:
            nightly.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            nightly.execute("SELECT count(*) FROM docs")
            found = await codes(deployment, worker)
        assert found["old_snapshot"] == ["nightly"]
        assert found["event_trigger"] == ["audit_ddl"]
        assert found["isolation"] == ["careful"]
        assert found["index_invalid_elsewhere"] == ["public.docs_twice"]
        assert "old_snapshot" not in await codes(deployment, worker)
    finally:
        sql.execute("DROP EVENT TRIGGER audit_ddl; ALTER ROLE careful IN DATABASE postgres RESET ALL")
        sql.execute(f"ALTER ROLE careful IN DATABASE {name} RESET ALL; DROP ROLE careful".encode())


async def test_a_snapshot_of_another_database_and_our_own_sessions_hold_nothing_back_here(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment.make_table(5)
    monkeypatch.setattr(surroundings, "OLD_SECONDS", 0.0)
    elsewhere = f"{deployment.url.rsplit('/', 1)[0]}/postgres"
    with (
        psycopg.connect(elsewhere, application_name="elsewhere") as other,
        psycopg.connect(deployment.url, application_name="migrator cli") as ours,
    ):
        for each in (other, ours):
            each.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            each.execute("SELECT count(*) FROM pg_class")
        assert "old_snapshot" not in await codes(deployment, worker)


async def test_who_owns_a_table_and_may_not_create_in_its_schema_is_told_so_and_could_build_no_index(
    deployment: Deployment, sql: psycopg.Connection
) -> None:
    deployment.make_table(5)
    sql.execute(
        "CREATE ROLE keeper LOGIN; ALTER TABLE docs OWNER TO keeper; GRANT CREATE ON SCHEMA migrator TO keeper;"
        "GRANT USAGE ON SCHEMA migrator TO keeper"
    )
    url = deployment.url.replace("postgres@", "keeper@")
    engine = make_engine(url, "test")
    try:
        found = {each.code: each for each in (await plans.make(engine, deployment.spec)).findings}
        assert found["privilege_missing"].mend.split("; ") == [
            "have `migrator grants` print how schema migrator is given to it",
            "GRANT USAGE, CREATE ON SCHEMA public TO keeper",
        ]  # fmt: skip
        with psycopg.connect(url, autocommit=True) as connection:
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="schema public"):
                connection.execute("CREATE INDEX ON docs USING hnsw (embedding vector_l2_ops)")
            sql.execute("GRANT CREATE ON SCHEMA public TO keeper")
            connection.execute("CREATE INDEX ON docs USING hnsw (embedding vector_l2_ops)")
    finally:
        await engine.dispose()
        sql.execute("REASSIGN OWNED BY keeper TO postgres; DROP OWNED BY keeper; DROP ROLE keeper")


async def test_h16_statements_that_lean_on_the_order_of_columns_are_counted_and_not_quoted(
    deployment: Deployment, worker: Worker, sql: psycopg.Connection
) -> None:
    deployment.make_table(5)
    sql.execute("CREATE EXTENSION pg_stat_statements; SELECT public.pg_stat_statements_reset()")
    assert "by_position" not in await codes(deployment, worker)
    sql.execute("CREATE TABLE hist (LIKE docs)")
    for statement in (
        "SELECT * FROM docs WHERE n = 1",
        'SELECT d.* FROM hist JOIN "public"."docs" AS d USING (id)',
        "INSERT INTO docs VALUES (99, 'canary title', 'b', 1, NULL)",
        "INSERT INTO public.docs SELECT * FROM hist",
    ):
        sql.execute(statement.encode())
    # None of these leans on it.
    sql.execute("SELECT count(*) FROM docs; INSERT INTO docs (title) VALUES ('x'); SELECT * FROM hist")
    made = await plans.make(worker.engine, deployment.spec)
    told = [each for each in made.findings if each.code == "by_position"]
    assert [each.message.split(":")[0] for each in told] == ["INSERT without a column list", "SELECT *"]
    assert [each.message.split(" statements")[0].split()[-1] for each in told] == ["2", "2"]
    assert "canary" not in repr(made.document)


@pytest.mark.system
async def test_a_real_pooler_is_told_from_the_server(deployment: Deployment, worker: Worker, scratch: Path) -> None:
    deployment.make_table(5)
    with pooler(deployment.url, scratch) as url:
        engine = make_engine(url, "test")
        try:

            async def answers() -> bool:
                with contextlib.suppress(DatabaseUnreachable):
                    async with transaction(engine):
                        return True
                return False

            await until(answers)
            assert "pooler" in {each.code for each in (await plans.make(engine, deployment.spec)).findings}
            assert "pooler" not in await codes(deployment, worker)
        finally:
            await engine.dispose()


async def test_slots_and_prepared_transactions_are_named(
    deployment: Deployment, scratch_server: Callable[..., Postgres]
) -> None:
    url = scratch_server(wal_level="logical", max_prepared_transactions="4").database_url("app")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE docs (id bigint PRIMARY KEY, title text, body text, embedding vector(64))")
        connection.execute("INSERT INTO docs SELECT n, 'title', 'some words' FROM generate_series(1, 50) AS n")
        connection.execute("ALTER TABLE docs REPLICA IDENTITY FULL")
        connection.execute("SELECT pg_create_logical_replication_slot('changes', 'pgoutput')")
        connection.execute("SELECT pg_create_physical_replication_slot('gone', true)")
        connection.execute("BEGIN")
        connection.execute("INSERT INTO docs VALUES (99, 't', 'b')")
        connection.execute("PREPARE TRANSACTION 'second phase'")
    engine = make_engine(url, "test")
    try:
        made = await plans.make(engine, deployment.spec)
        found = {each.code: each for each in made.findings}
        assert found["prepared_transaction"].object == "second phase"
        assert {each.object for each in made.findings if each.code == "slot_inactive"} == {"changes", "gone"}
        assert found["cdc_volume"].object == "changes"
        assert "REPLICA IDENTITY FULL" in found["cdc_volume"].message
    finally:
        await engine.dispose()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("ROLLBACK PREPARED 'second phase'")


@pytest.mark.alone
@pytest.mark.parametrize(
    ("slot", "code", "name"),
    [({}, "standby_holds_rows", "standby1"), ({"primary_slot_name": "s1"}, "slot_holds_rows", "s1")],
)
async def test_a_standby_that_holds_back_dead_rows_and_a_failing_archiver_are_named(
    deployment: Deployment,
    scratch_server: Callable[..., Postgres],
    scratch: Path,
    slot: dict[str, str],
    code: str,
    name: str,
) -> None:
    primary = scratch_server(wal_level="replica", archive_mode="on", archive_command="false")
    with psycopg.connect(primary.database_url("app"), autocommit=True) as connection:
        connection.execute("CREATE TABLE docs (id bigint PRIMARY KEY, title text, body text, embedding vector(64))")
        connection.execute("SELECT pg_create_physical_replication_slot('s1')")
        connection.execute("SELECT pg_switch_wal()")
    engine = make_engine(primary.database_url("app"), "test")
    replica = standbys.make(
        primary, scratch / f"feedback-{code}", hot_standby_feedback="on", wal_receiver_status_interval="1s", **slot
    )
    try:

        async def told() -> bool:
            found = {each.code: each.object for each in (await plans.make(engine, deployment.spec)).findings}
            return found.get(code) == name and "archiver_fails" in found

        await until(told)
        other = {"standby_holds_rows", "slot_holds_rows"} - {code}
        assert other.isdisjoint({each.code for each in (await plans.make(engine, deployment.spec)).findings})
    finally:
        await engine.dispose()
        replica.remove()


async def test_a_role_that_may_not_look_into_the_schema_is_told_the_grants(
    deployment: Deployment, sql: psycopg.Connection
) -> None:
    deployment.make_table(5)
    sql.execute("CREATE ROLE owns_docs; CREATE ROLE outside LOGIN; GRANT SELECT ON docs TO outside")
    sql.execute("REVOKE USAGE ON SCHEMA public FROM PUBLIC")
    engine = make_engine(deployment.url.replace("postgres@", "outside@"), "test")
    try:
        found = {each.code: each for each in (await plans.make(engine, deployment.spec)).findings}
        assert found["privilege_schema"].mend == "GRANT USAGE ON SCHEMA public TO outside"
        # A member of a superuser can become it: that is no grant to tell people.
        assert found["privilege_missing"].mend.startswith("superuser postgres owns public.docs")
        assert "GRANT" not in found["privilege_missing"].mend
        assert found["privilege_monitor"].mend == "GRANT pg_monitor TO outside"
        sql.execute("GRANT USAGE ON SCHEMA public TO outside; GRANT pg_monitor TO outside")
        sql.execute("ALTER TABLE docs OWNER TO owns_docs; GRANT SELECT ON docs TO outside")
        found = {each.code: each for each in (await plans.make(engine, deployment.spec)).findings}
        assert found.keys().isdisjoint({"privilege_schema", "privilege_monitor"})
        assert found["privilege_missing"].mend.split("; ")[0] == "GRANT owns_docs TO outside"
    finally:
        await engine.dispose()
        sql.execute("GRANT USAGE ON SCHEMA public TO PUBLIC; DROP OWNED BY outside, owns_docs CASCADE")
        sql.execute("DROP ROLE outside, owns_docs")
