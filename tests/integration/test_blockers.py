"""Who stands in the way of the swap's lock: named without a word of what they run, cancelled only when asked (P8)."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Self

import psycopg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from migrator.cutover import swapping
from migrator.demo.servers import Postgres
from migrator.orchestrator import attended, blocking, verbs
from migrator.spending.worker import Worker
from migrator.state.connection import make_engine, transaction
from migrator.target import cancelling, message
from migrator.target.message import Blocker, LockNotObtained
from tests.deployment import Deployment
from tests.integration.steps import ready, stored
from tests.integration.swaps import quiet

#: A ladder that a test can wait for: a try takes up to 0.4 s.
SHORT = (0.1, 0.1, 0.1)
VALUE = "canary of a row"

DeploymentOn = Callable[[Postgres], Awaitable[tuple[Deployment, Worker]]]


class Session:
    """One session of an application: its pid, and what its statement came to."""

    def __init__(
        self, url: str, statement: str, *, application: str = "nightly report", user: str = "postgres"
    ) -> None:
        self.connection = psycopg.connect(url, application_name=application, user=user)
        self.pid = self.connection.info.backend_pid
        self.error: psycopg.Error | None = None
        self.done = False
        self._thread = threading.Thread(target=self._run, args=[statement])

    def _run(self, statement: str) -> None:
        try:
            self.connection.execute(statement.encode())
        except psycopg.Error as error:
            self.error = error
        self.done = True

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(psycopg.Error):
            self.connection.cancel_safe()
        self._thread.join()
        self.connection.close()


def reader(url: str, *, word: str = VALUE, application: str = "nightly report", user: str = "postgres") -> Session:
    """A report that reads the table for a minute."""
    statement = f"SELECT count(*), pg_sleep(60) FROM docs WHERE title <> '{word}' AND n < 4711"
    return Session(url, statement, application=application, user=user)


@contextlib.contextmanager
def idle(url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(url, application_name="forgotten console") as connection:
        connection.execute("SELECT count(*) FROM docs")
        yield connection


async def held(engine: AsyncEngine) -> list[Blocker]:
    async with transaction(engine) as connection:
        (oid,) = (await connection.exec_driver_sql("SELECT 'public.docs'::regclass::oid::bigint")).one()
        return await message.find_blockers(connection, [oid])


async def cut_over(worker: Worker, told: list[str], *, cancel_blockers: bool = True) -> attended.Swapped:
    return await attended.cut_over(
        worker, "docs", max_dirty_rows=100, actor="anna", tell=told.append, cancel_blockers=cancel_blockers
    )


@pytest.fixture(autouse=True)
def short_ladder(monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = swapping.swap.__kwdefaults__
    monkeypatch.setitem(defaults, "ladder", SHORT)


def lasting(deployment: Deployment, *sessions: Session) -> None:
    """Wait until their statements have run for longer than a try lasts."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY(%s) AND state = 'active'"
    query += " AND xact_start < clock_timestamp() - interval '0.5 s'"
    pids = [each.pid for each in sessions]
    deployment.wait(lambda: deployment.value(query, pids) == len(pids))


async def test_p8_what_blocks_is_cancelled_behind_the_first_try_and_the_swap_gets_through(
    deployment: Deployment, worker: Worker
) -> None:
    await ready(deployment, worker, 10)
    told: list[str] = []
    with reader(deployment.url) as report:
        lasting(deployment, report)
        await cut_over(worker, told)
        deployment.wait(lambda: report.done)
        assert isinstance(report.error, psycopg.errors.QueryCanceled)
        report.connection.rollback()
        report.connection.execute("SELECT 1")  # cancelled, never ended
        report.connection.rollback()
    assert deployment.status == "completed"
    assert [line.split(":")[0] for line in told if line.startswith("try")] == ["try 1"]
    (line,) = [line for line in told if line.startswith("cancelled")]
    assert line.startswith(f"cancelled what pid {report.pid} (nightly report, role postgres, active, ")
    ((reason, actor),) = deployment.query(
        "SELECT reason, actor FROM migrator.transitions WHERE reason LIKE 'cutover cancelled%%'"
    )
    assert (reason, actor) == (f"cutover {line}", "anna")
    assert VALUE not in " ".join(told)


async def test_p8_nobody_is_cancelled_unless_it_was_asked_for(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, 10)
    with reader(deployment.url) as report:
        lasting(deployment, report)
        with pytest.raises(LockNotObtained, match="and nobody was cancelled"):
            await cut_over(worker, [], cancel_blockers=False)
        assert not report.done
    assert deployment.status == "ready"


async def test_p8_a_session_that_runs_nothing_is_named_and_left_alone(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, 10)
    told: list[str] = []
    with idle(deployment.url) as console:
        pid = console.info.backend_pid
        with pytest.raises(LockNotObtained, match="forgotten console") as caught:
            await cut_over(worker, told)
        console.execute("SELECT 1")
    assert caught.value.cancelled == 0
    (line,) = [line for line in told if line.startswith("not cancelled")]
    assert f"pid {pid} (forgotten console, role postgres, idle in transaction, " in line
    assert line.endswith("it runs no statement; whoever owns it has to end its transaction")


async def test_p8_start_cancels_too(deployment: Deployment, worker: Worker) -> None:
    deployment.make_table(5)
    await verbs.make_plan(worker.engine, deployment.spec, actor="anna")
    told: list[str] = []
    cancel = blocking.canceller(worker.engine, await stored(worker), "start", "anna", told.append, asked=True)
    with reader(deployment.url) as report:
        lasting(deployment, report)
        await verbs.start(worker.engine, deployment.spec, path="docs.toml", actor="anna", on_wait=quiet, cancel=cancel)
    assert deployment.status == "backfilling"
    assert [line.partition(" what pid")[0] for line in told] == ["cancelled"]


async def test_p8_rollback_and_cleanup_cancel_too(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, 10)
    await cut_over(worker, [])
    told: list[str] = []
    with reader(deployment.url) as report:
        lasting(deployment, report)
        await attended.roll_back(
            worker, "docs", max_dirty_rows=100, actor="anna", tell=told.append, cancel_blockers=True
        )
    with deployment.connect() as connection:
        # Its DROP INDEX CONCURRENTLY waits for every reader first; the lock is what comes behind it.
        connection.execute("DROP INDEX docs_embedding_idx__migrator")
    with reader(deployment.url) as report:
        lasting(deployment, report)
        await attended.clean_up(
            worker, "docs", close_window=False, strays_gone=False, actor="anna", tell=told.append, cancel_blockers=True
        )
    assert deployment.status == "cleaned"
    noted = "FROM migrator.transitions WHERE reason LIKE '%% cancelled what pid %%' ORDER BY id"
    verbs = deployment.query(f"SELECT split_part(reason, ' ', 1) {noted}")
    assert verbs == [("rollback",), ("cleanup",)]


async def test_h29_a_prepared_transaction_is_named_and_left_alone(
    scratch_server: Callable[..., Postgres], deployment_on: DeploymentOn
) -> None:
    deployment, worker = await deployment_on(scratch_server(max_prepared_transactions="2"))
    await ready(deployment, worker, 10)
    with deployment.connect() as connection:
        connection.execute("BEGIN; UPDATE docs SET n = 1 WHERE id = 1; PREPARE TRANSACTION 'branch 7'")
    told: list[str] = []
    with pytest.raises(LockNotObtained, match=r"pid 0 \(prepared transaction branch 7, role postgres, prepared"):
        await cut_over(worker, told)
    (line,) = [line for line in told if line.startswith("not cancelled")]
    assert line.endswith("COMMIT PREPARED or ROLLBACK PREPARED ends it")
    with deployment.connect() as connection:
        connection.execute("COMMIT PREPARED 'branch 7'")
    await cut_over(worker, told)


async def test_p11_a_blocker_is_told_by_the_fingerprint_of_its_query(deployment: Deployment, worker: Worker) -> None:
    """The same statement with other values is the same; its text is nowhere."""
    deployment.make_table(3)
    with reader(deployment.url) as one, reader(deployment.url, word="o''ther") as two, idle(deployment.url):
        lasting(deployment, one, two)
        found = {each.pid: each for each in await held(worker.engine)}
    assert found[one.pid].query == found[two.pid].query != ""
    others = {each.query for pid, each in found.items() if pid not in {one.pid, two.pid}}
    assert others == {next(iter(others))} != {found[one.pid].query}
    assert len(found) == 3, "each once, whatever it locks"
    assert VALUE not in "".join(map(str, found.values()))
    assert f", query {found[one.pid].query})" in str(found[one.pid])


async def test_p11_where_the_server_reckons_query_ids_they_are_told(
    scratch_server: Callable[..., Postgres], deployment_on: DeploymentOn
) -> None:
    deployment, worker = await deployment_on(scratch_server(compute_query_id="on"))
    deployment.make_table(3)
    with reader(deployment.url) as report:
        lasting(deployment, report)
        (found,) = await held(worker.engine)
        known = deployment.value("SELECT query_id::text FROM pg_stat_activity WHERE pid = %s", report.pid)
    assert found.query == known


async def test_p8_what_holds_a_partition_alone_is_named(deployment: Deployment, worker: Worker) -> None:
    with deployment.connect() as connection:
        connection.execute(
            "CREATE TABLE docs (id bigint, title text, n int) PARTITION BY RANGE (id);"
            "CREATE TABLE docs_1 PARTITION OF docs FOR VALUES FROM (0) TO (9)"
        )
    with psycopg.connect(deployment.url) as connection:
        connection.execute("SELECT count(*) FROM docs_1")
        assert [each.pid for each in await held(worker.engine)] == [connection.info.backend_pid]


async def test_p8_what_the_database_does_not_permit_is_told_and_harms_nothing(
    deployment: Deployment,
) -> None:
    """Our role is a plain one: it may not cancel a superuser's statement, nor see what others do."""
    deployment.make_table(3)
    with deployment.connect() as admin:
        admin.execute("CREATE ROLE weak LOGIN")
    url = deployment.url.replace("postgres@", "weak@")
    engine = make_engine(url, "test")
    try:
        with reader(deployment.url) as report:
            lasting(deployment, report)
            (blind,) = await held(engine)
            assert (blind.state, blind.query) == ("", "")
            (outcome,) = await cancelling.cancel(engine, [blind])
            assert outcome.why_not is not None
            assert "pg_read_all_stats" in outcome.why_not
            with deployment.connect() as admin:
                admin.execute("GRANT pg_read_all_stats, pg_signal_backend TO weak")
            (seen,) = await held(engine)
            (outcome,) = await cancelling.cancel(engine, [seen])
            assert outcome.why_not is not None
            assert "does not let our role" in outcome.why_not
            assert not report.done
    finally:
        await engine.dispose()
        with deployment.connect() as admin:
            admin.execute("DROP OWNED BY weak; DROP ROLE weak")


async def test_p8_a_session_of_ours_and_one_that_moved_on_are_left_alone(
    deployment: Deployment, worker: Worker
) -> None:
    deployment.make_table(3)
    with reader(deployment.url, application="migrator worker") as ours, reader(deployment.url) as report:
        lasting(deployment, ours, report)
        found = {each.pid: each for each in await held(worker.engine)}
        stale = replace(found[report.pid], since=datetime(2020, 1, 1, tzinfo=UTC))
        outcomes = await cancelling.cancel(worker.engine, [found[ours.pid], stale])
        assert [each.why_not for each in outcomes] == [
            "a session of this tool, which is done in a moment",
            "it was done by itself",
        ]
        await asyncio.sleep(0.2)
        assert (ours.done, report.done) == (False, False)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"kind": "walsender"}, "walsender"),
        ({"kind": "autovacuum worker"}, "autovacuum"),
        ({"age_seconds": 0.1}, "a moment ago"),
        ({"state": "idle in transaction (aborted)"}, "no statement"),
    ],
)
async def test_p8_whose_statement_is_never_cancelled(worker: Worker, change: dict[str, object], word: str) -> None:
    blocker = Blocker(1, "app", "web", "active", "client backend", 9.0, since=datetime(2020, 1, 1, tzinfo=UTC))
    assert cancelling.why_not(blocker) is None
    (outcome,) = await cancelling.cancel(worker.engine, [replace(blocker, **change)])
    assert outcome.why_not is not None
    assert word in outcome.why_not


@pytest.mark.timeout(180)
def test_p8_the_command_line_tells_whom_and_asks(deployment: Deployment) -> None:
    deployment.make_table(10)
    deployment.must("start", deployment.spec_file, "--yes")
    deployment.must("work", "docs")
    assert "--yes was not given" in deployment.must("cutover", "docs", "--readers-ready", "--cancel-blockers", code=2)
    assert "cancels nobody" in deployment.must("cutover", "docs", "--rehearse", "--cancel-blockers", code=2)
    with reader(deployment.url) as report, idle(deployment.url):
        lasting(deployment, report)
        told = deployment.must("cutover", "docs", "--cancel-blockers", "--dry-run")
        assert f"pid {report.pid} (nightly report, role postgres, active, " in told
        assert "would be cancelled" in told
        assert "would not be cancelled: it runs no statement" in told
        assert not report.done
    assert "Nobody holds the table now" in deployment.must("cutover", "docs", "--cancel-blockers", "--dry-run")
