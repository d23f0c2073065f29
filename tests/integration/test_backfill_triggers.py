"""The table's own triggers: they do not fire on the rows that we fill, unless the operator says that they may."""

from __future__ import annotations

import psycopg
import pytest

from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import verbs
from migrator.spending.worker import Worker
from tests.deployment import V4, Deployment
from tests.integration.steps import drain, start, to

S = MigrationStatus
TRIGGERS = """
CREATE TABLE fired (id bigint);
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN INSERT INTO public.fired VALUES (NEW.id); RETURN NEW; END $$;
CREATE TRIGGER audit AFTER UPDATE ON docs FOR EACH ROW EXECUTE FUNCTION audit();
"""


def made(deployment: Deployment, *more: str) -> None:
    deployment.make_table(12)
    with deployment.connect() as connection:
        connection.execute(TRIGGERS)
        for statement in more:
            connection.execute(statement.encode())


async def test_triggers_are_silent_on_our_writes_and_fire_on_the_applications(
    deployment: Deployment, worker: Worker
) -> None:
    made(deployment)
    await start(deployment, worker)
    await to(worker, S.READY)
    assert deployment.query("SELECT * FROM fired") == []
    with deployment.connect() as connection:
        connection.execute("UPDATE docs SET n = 1 WHERE id = 3")
    assert deployment.query("SELECT * FROM fired") == [(3,)]


async def test_p6_dispositions_are_counted_where_triggers_are_silent(deployment: Deployment, worker: Worker) -> None:
    """Ours count them: a row that was quarantined and then embedded is no longer one."""
    made(deployment)
    with deployment.connect() as connection:
        connection.execute("UPDATE docs SET body = 'POISON-CONTENT' WHERE id = 4")
    deployment.spec_data["gates"]["max_quarantined_share"] = 1.0
    await start(deployment, worker)
    await to(worker, S.READY)
    counted = (
        "SELECT kind, reason, sum(rows)::int FROM {} WHERE kind = 'quarantined' GROUP BY 1, 2 HAVING sum(rows) <> 0"
    )
    both = counted.format("(TABLE migrator.disposition_sums UNION ALL TABLE migrator.disposition_changes) AS c")
    assert deployment.query(both) == [("quarantined", "content", 1)]
    with deployment.connect() as connection:
        connection.execute("UPDATE docs SET body = 'words' WHERE id = 4")
    await drain(worker)
    assert deployment.query("SELECT * FROM migrator.dispositions") == []
    assert deployment.query(both) == []


async def test_they_fire_where_the_spec_says_that_they_may(deployment: Deployment, worker: Worker) -> None:
    made(deployment, "ALTER TABLE docs ENABLE ALWAYS TRIGGER audit")
    plan, _ = await verbs.make_plan(worker.engine, deployment.spec, actor="test")
    assert [each.code for each in plan.refused] == ["trigger_always"]
    deployment.spec_data["target"]["fire_triggers"] = True
    await start(deployment, worker)
    await to(worker, S.READY)
    assert deployment.value("SELECT count(DISTINCT id) FROM fired") == 12
    assert deployment.mismatches("embedding__migrator", V4) == []


async def test_h26_a_replica_trigger_is_refused_where_our_sessions_would_wake_it(
    deployment: Deployment, worker: Worker
) -> None:
    wakes = "CREATE TRIGGER wakes AFTER UPDATE ON docs FOR EACH ROW EXECUTE FUNCTION audit()"
    made(deployment, wakes, "ALTER TABLE docs ENABLE REPLICA TRIGGER wakes")
    plan, _ = await verbs.make_plan(worker.engine, deployment.spec, actor="test")
    assert [(each.code, each.object) for each in plan.refused] == [("trigger_replica", "wakes on public.docs")]


def test_a_role_without_the_parameter_grant_may_not_silence(database: str, sql: psycopg.Connection) -> None:
    """What the plan's answer rests on: the privilege is what PostgreSQL itself asks for."""
    sql.execute("CREATE ROLE app_silence LOGIN")
    try:
        with psycopg.connect(database, user="app_silence", autocommit=True) as connection:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("SET session_replication_role = replica")
            sql.execute("GRANT SET ON PARAMETER session_replication_role TO app_silence")
            connection.execute("SET session_replication_role = replica")
    finally:
        sql.execute("REVOKE SET ON PARAMETER session_replication_role FROM app_silence")
        sql.execute("DROP ROLE app_silence")
