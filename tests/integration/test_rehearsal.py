"""H16: one more column must not break the application's own statements; expand tries them before it is too late."""

from __future__ import annotations

import pytest

from migrator.cutover import rehearsal
from migrator.cutover.rehearsal import WritesWouldFail
from migrator.demo.servers import Postgres
from migrator.orchestrator import verbs
from migrator.spending.worker import Worker
from tests.deployment import Deployment
from tests.integration import catalog
from tests.integration.steps import start

HISTORY = """
CREATE TABLE hist AS SELECT * FROM docs WITH NO DATA;
CREATE TABLE log (what text);
CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN INSERT INTO hist SELECT OLD.*; RETURN coalesce(NEW, OLD); END $$;
CREATE FUNCTION logs() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN INSERT INTO log (what) VALUES (TG_OP); PERFORM pg_notify('log', TG_OP); RETURN NULL; END $$;
CREATE TRIGGER logs AFTER INSERT OR UPDATE OR DELETE ON docs FOR EACH ROW EXECUTE FUNCTION logs();
"""
WHO = """
CREATE FUNCTION who() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN PERFORM current_setting('app.user'); RETURN NEW; END $$;
"""
KEEPS = {
    "UPDATE": "CREATE TRIGGER keep BEFORE UPDATE ON docs FOR EACH ROW EXECUTE FUNCTION keep()",
    "DELETE": "CREATE TRIGGER keep AFTER DELETE ON docs FOR EACH ROW EXECUTE FUNCTION keep()",
}


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loaded machine is slower than any trigger should be."""
    monkeypatch.setattr(rehearsal, "SLOW_SECONDS", 5.0)
    monkeypatch.setattr(rehearsal, "BOUND_SECONDS", 5.0)
    monkeypatch.setattr("migrator.target.message.DEADLINE_SECONDS", 5.0)


def made(deployment: Deployment, *more: str, rows: int = 12) -> None:
    deployment.make_table(rows)
    with deployment.connect() as connection:
        for statement in (HISTORY, *more):
            connection.execute(statement.encode())


def told(deployment: Deployment) -> str:
    return str(deployment.value("SELECT reason FROM migrator.transitions WHERE reason LIKE 'rehearsed%%'"))


@pytest.mark.parametrize("operation", KEEPS)
async def test_h16_a_history_trigger_that_the_new_column_would_break_is_refused(
    deployment: Deployment, worker: Worker, postgres: Postgres, operation: str
) -> None:
    made(deployment, KEEPS[operation])
    before = catalog.dump(postgres, deployment.url)
    with pytest.raises(
        WritesWouldFail, match=f"every {operation} fails in keep\\(\\): SyntaxError \\(42601\\)"
    ) as failed:
        await start(deployment, worker)
    assert failed.value.exit_code == 2
    assert deployment.status == "planned"
    assert catalog.dump(postgres, deployment.url) == before, "the table is as it was, and no trigger's row is left"
    assert deployment.value("SELECT count(*) FROM migrator.dirty") == 0


async def test_h16_a_trigger_bound_to_a_change_and_one_that_waits_for_commit_are_rehearsed_too(
    deployment: Deployment, worker: Worker
) -> None:
    made(
        deployment,
        "CREATE CONSTRAINT TRIGGER keep AFTER UPDATE ON docs DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
        " WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION keep()",
    )
    with pytest.raises(WritesWouldFail, match="every UPDATE fails in keep"):
        await start(deployment, worker)


async def test_h16_what_does_not_mind_the_column_goes_on_and_nothing_of_the_rehearsal_is_left(
    deployment: Deployment, worker: Worker
) -> None:
    made(
        deployment,
        "ALTER TABLE docs ADD COLUMN owner int NOT NULL DEFAULT 7",
        "ALTER TABLE docs ADD COLUMN half int GENERATED ALWAYS AS (n / 2) STORED",
        "ALTER TABLE docs ALTER owner DROP DEFAULT, ADD CONSTRAINT owners CHECK (owner = 7)",
    )
    rows = deployment.query("SELECT * FROM docs ORDER BY id")
    with deployment.connect() as listener:
        listener.execute("LISTEN log")
        await start(deployment, worker)
        assert list(listener.notifies(timeout=0)) == []
    assert told(deployment) == "rehearsed with the new column: INSERT, UPDATE, DELETE"
    assert [row[:-1] for row in deployment.query("SELECT * FROM docs ORDER BY id")] == rows
    assert deployment.query("SELECT * FROM log") == []
    assert deployment.value("SELECT count(*) FROM migrator.dirty") == 0


@pytest.mark.parametrize(
    ("more", "rows", "expected"),
    [
        ((), 0, "nothing; not INSERT (there is no row to copy); not UPDATE (there is no row to copy);"),
        (
            ("CREATE TABLE notes (doc bigint REFERENCES docs)", "INSERT INTO notes SELECT id FROM docs"),
            12,
            "INSERT, UPDATE, DELETE",
        ),
        (
            (
                WHO,
                "CREATE TRIGGER who BEFORE INSERT OR UPDATE ON docs FOR EACH ROW EXECUTE FUNCTION who()",
            ),
            12,
            "DELETE; not INSERT (it fails: UndefinedObject); not UPDATE (it fails: UndefinedObject)",
        ),
        (("ALTER TABLE docs ADD CONSTRAINT counted CHECK (id > 0)",), 12, "INSERT, UPDATE, DELETE"),
    ],
    ids=["empty", "referenced", "needs the application's session", "no other key"],
)
async def test_h16_what_can_not_be_rehearsed_is_said_and_not_refused(
    deployment: Deployment, worker: Worker, more: tuple[str, ...], rows: int, expected: str
) -> None:
    made(deployment, *more, rows=rows)
    await start(deployment, worker)
    assert told(deployment).startswith(f"rehearsed with the new column: {expected}")


async def test_h16_a_slow_trigger_never_runs_under_the_lock(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rehearsal, "SLOW_SECONDS", 0.3)
    made(
        deployment,
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.4); RETURN NEW; END $$",
        "CREATE TRIGGER slow BEFORE UPDATE ON docs FOR EACH ROW EXECUTE FUNCTION slow()",
    )
    await start(deployment, worker)
    assert "; not UPDATE (it takes too long)" in told(deployment)


async def test_h16_a_table_that_a_trigger_needs_and_somebody_holds_is_waited_for_in_tries(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rehearsal's own lock waits are bounded, and spaced like the lock's: nobody queues behind them for long."""
    monkeypatch.setattr("migrator.target.message.DEADLINE_SECONDS", 0.4)
    made(deployment)
    await planned(deployment, worker)
    waited: list[int] = []
    with deployment.connect() as holder:
        holder.execute("BEGIN; LOCK TABLE log")

        def on_wait(number: int, *_: object) -> None:
            waited.append(number)
            assert deployment.status == "planned"
            if number == 2:
                holder.execute("ROLLBACK")

        await verbs.start(worker.engine, deployment.spec, path="docs.toml", actor="test", on_wait=on_wait)
    assert waited[:2] == [1, 2]
    assert deployment.status == "backfilling"


async def planned(deployment: Deployment, worker: Worker) -> None:
    _, not_stored = await verbs.make_plan(worker.engine, deployment.spec, actor="test")
    assert not_stored is None
