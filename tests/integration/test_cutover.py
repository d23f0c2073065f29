"""The swap and the way back: all or nothing, nobody waits, nothing that names the column is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

import psycopg
import pytest
from psycopg import sql as psql

from migrator.cutover import cleaning, expand, readiness, swapping
from migrator.cutover.cleaning import StraysSeen, WindowOpen
from migrator.cutover.readiness import NotSwappable, OldSnapshots
from migrator.cutover.swapping import CUTOVER, ROLLBACK
from migrator.demo.servers import Postgres
from migrator.errors import GateFailed, StatusConflict
from migrator.generation import Side
from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import attended, verbs
from migrator.spending.worker import Worker
from migrator.state import migrations
from migrator.state.connection import LockBusy, TooDirty, transaction
from migrator.target import message
from migrator.target.message import LockNotObtained
from migrator.target.swap import Bounds
from tests.deployment import V3, V4, Deployment, embed, generation_of, literal, until
from tests.integration import catalog
from tests.integration.steps import begin, drain, ready, start, stored, to
from tests.integration.traffic import Traffic

S = MigrationStatus
DeploymentOn = Callable[[Postgres], Awaitable[tuple[Deployment, Worker]]]
ANY = Bounds(1000, 1000.0)
#: Seconds that P8 allows a bystander: one try's deadline, 50 ms, and what a busy test machine adds to any statement.
SLACK_SECONDS = 0.15
ALLOWED_SECONDS = message.DEADLINE_SECONDS + 0.05 + SLACK_SECONDS


def quiet(*_: object) -> None:
    """Nobody listens."""


async def cut_over(worker: Worker, rows: int = 100) -> attended.Swapped:
    return await attended.cut_over(worker, "docs", max_dirty_rows=rows, actor="test", tell=quiet)


async def roll_back(worker: Worker, rows: int = 100) -> attended.Swapped:
    return await attended.roll_back(worker, "docs", max_dirty_rows=rows, actor="test", tell=quiet)


async def swap(worker: Worker, direction: swapping.Direction = CUTOVER, ladder: Sequence[float] = ()) -> message.Timing:
    """The swap alone, without waiting for anything."""
    return await swapping.swap(
        worker.engine, await stored(worker), direction, bounds=ANY, actor="test", on_wait=quiet, ladder=ladder
    )


async def test_there_and_back_and_there_again(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker)
    before = deployment.query("SELECT id, embedding::text FROM docs_view ORDER BY id")
    swapped = await cut_over(worker)
    assert swapped.absent_rows == 0
    assert 0 < swapped.timing.held_ms < 400
    assert deployment.mismatches("embedding", V4) == []
    assert deployment.mismatches("embedding__migrator", V3) == []
    assert deployment.query("SELECT id, embedding::text FROM docs_view ORDER BY id") != before
    assert deployment.value("SELECT migrator.live_generation('public.docs', 'embedding')") == f"qwen/{V4}@64"
    await roll_back(worker)
    assert deployment.query("SELECT id, embedding::text FROM docs_view ORDER BY id") == before
    await verbs.resume(worker.engine, "docs", actor="test")
    await to(worker, S.READY)
    await cut_over(worker)
    assert deployment.mismatches("embedding", V4) == []


async def test_a_view_keeps_owner_grants_options_and_comment(deployment: Deployment, worker: Worker) -> None:
    deployment.make_table(20)
    with deployment.connect() as connection:
        connection.execute("""
            CREATE ROLE view_reader; GRANT SELECT (id, embedding) ON docs_view TO view_reader;
            ALTER VIEW docs_view SET (security_invoker = true, security_barrier = true);
            COMMENT ON VIEW docs_view IS 'searched by the shop';
            CREATE VIEW outer_view AS SELECT v.embedding AS e, d.id FROM docs_view v JOIN docs d USING (id);
            CREATE VIEW third_view AS SELECT e FROM outer_view;
        """)
    try:
        await start(deployment, worker)
        await to(worker, S.READY)
        facts = "SELECT relname, relowner, relacl::text, reloptions::text, obj_description(oid) FROM pg_class"
        facts += " WHERE relkind = 'v' AND relnamespace = 'public'::regnamespace ORDER BY 1"
        before = deployment.query(facts)
        await cut_over(worker)
        assert deployment.query(facts) == before
        for view in ("docs_view", "outer_view", "third_view"):
            column = "embedding" if view == "docs_view" else "e"
            count = deployment.value(
                f"SELECT count(*) FROM docs d WHERE NOT EXISTS (SELECT FROM {view} v WHERE v.{column} = d.embedding)"
            )
            assert count == 0, view
    finally:
        with deployment.connect() as connection:
            connection.execute("DROP OWNED BY view_reader; DROP ROLE view_reader")


def sweep(deployment: Deployment, whole: Sequence[psql.Composable]) -> int:
    """Kill the connection before each statement in turn; everything must be as it was. Returns how many there were."""
    for stop in range(1, len(whole)):
        before = catalog.picture(deployment.url)
        with psycopg.connect(deployment.url, autocommit=True) as connection:
            for statement in whole[:stop]:
                connection.execute(psql.Composed([statement]))
            with deployment.connect() as killer:
                killer.execute("SELECT pg_terminate_backend(%s)", [connection.info.backend_pid])
                _gone(killer, connection.info.backend_pid)
            with contextlib.suppress(psycopg.OperationalError):
                connection.execute(psql.Composed([whole[stop]]))
        assert catalog.picture(deployment.url) == before, f"killed before statement {stop}"
    return len(whole)


def _gone(connection: psycopg.Connection, pid: int) -> None:
    while connection.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", [pid]).fetchone():
        time.sleep(0.005)


async def test_p9_cutover_killed_between_statements(deployment: Deployment, worker: Worker) -> None:
    for direction, prepare in ((CUTOVER, cut_over), (ROLLBACK, roll_back)):
        if direction is CUTOVER:
            await ready(deployment, worker, 20)
        looked = await readiness.look(worker.engine, await stored(worker), verb=direction.verb)
        statements = looked.statements(direction.side, direction.status, bounds=ANY, actor="test")
        assert sweep(deployment, statements) > 15
        await prepare(worker)
        assert (await stored(worker)).status is direction.status


async def test_p9_expand_and_cleanup_killed_between_statements(deployment: Deployment, worker: Worker) -> None:
    deployment.make_table(5)
    await verbs.make_plan(worker.engine, deployment.spec, actor="test")
    _, expanding = await expand.prepare(worker.engine, await stored(worker), actor="test")
    assert sweep(deployment, expanding) > 15
    await start(deployment, worker)
    await verbs.cancel(worker.engine, "docs", actor="test")
    async with transaction(worker.engine) as connection:
        await migrations.move(connection, await stored(worker), S.CLEANING, actor="test")
    prepared = await cleaning.prepare(worker.engine, await stored(worker), actor="test")
    assert prepared is not None
    assert sweep(deployment, prepared[1]) > 10
    await attended.clean_up(worker, "docs", close_window=False, strays_gone=False, actor="test", tell=quiet)
    assert deployment.status == "cleaned"


async def test_p9_the_connection_lost_just_after_commit_is_told_as_done(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ready(deployment, worker, 10)
    original = message.whole

    def cut(statements: Sequence[psql.Composable]) -> psql.Composed:
        return original([*statements, psql.SQL("SELECT pg_terminate_backend(pg_backend_pid())")])

    monkeypatch.setattr(message, "whole", cut)
    await cut_over(worker)
    assert (await stored(worker)).status is S.COMPLETED
    assert deployment.mismatches("embedding", V4) == []


@contextmanager
def bystander(url: str, statements: Sequence[str]) -> Iterator[list[tuple[float, str]]]:
    """An application that runs statements all the time, at READ COMMITTED; collects (seconds, error)."""
    stop, seen = threading.Event(), list[tuple[float, str]]()

    def live() -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            while not stop.is_set():
                for statement in statements:
                    began = time.monotonic()
                    try:
                        connection.execute(statement.encode())
                        error = ""
                    except psycopg.Error as caught:
                        error = f"{statement}: {caught}"
                    seen.append((time.monotonic() - began, error))
                time.sleep(0.001)

    thread = threading.Thread(target=live)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def worst(seen: list[tuple[float, str]]) -> float:
    assert [error for _, error in seen if error] == []
    assert len(seen) > 50
    return max(seconds for seconds, _ in seen)


@contextmanager
def holding(url: str, statement: str, seconds: float) -> Iterator[threading.Event]:
    """A long reader: a transaction that keeps its locks for a while."""
    taken = threading.Event()

    def hold() -> None:
        with psycopg.connect(url) as connection:
            connection.execute(statement.encode())
            taken.set()
            time.sleep(seconds)

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait(10)
    try:
        yield taken
    finally:
        thread.join()


APPLICATION = (
    "SELECT count(*) FROM docs",
    "SELECT embedding FROM docs_view LIMIT 3",
    "UPDATE docs SET n = n + 1 WHERE id = 2",
)


async def test_p8_cutover_meets_a_long_reader_and_nobody_else_waits(deployment: Deployment, worker: Worker) -> None:
    """20 tries against a reader that holds the table throughout: the worst wait of anybody else."""
    await ready(deployment, worker, 30)
    with (
        holding(deployment.url, "SELECT count(*) FROM docs", 14),
        bystander(deployment.url, APPLICATION) as seen,
        pytest.raises(LockNotObtained) as caught,
    ):
        await swap(worker, ladder=[0.05] * 19)
    assert caught.value.tries == 20
    assert worst(seen) <= ALLOWED_SECONDS
    assert caught.value.exit_code == 75
    assert deployment.status == "ready"
    noted = deployment.value("SELECT reason FROM migrator.transitions ORDER BY id DESC LIMIT 1")
    assert "could not lock" in noted
    assert "count(*)" not in noted, "never the statement's text"
    await cut_over(worker)


async def test_p8_expand_rollback_and_cleanup_make_nobody_wait(deployment: Deployment, worker: Worker) -> None:
    deployment.make_table(30)
    with bystander(deployment.url, APPLICATION) as seen:
        with holding(deployment.url, "SELECT count(*) FROM docs", 1.5):
            await start(deployment, worker)
        await to(worker, S.READY)
        await cut_over(worker)
        with holding(deployment.url, "SELECT count(*) FROM docs", 1.5):
            await roll_back(worker)
        with holding(deployment.url, "SELECT count(*) FROM docs_view", 1.5):
            await attended.clean_up(worker, "docs", close_window=False, strays_gone=False, actor="test", tell=quiet)
    assert worst(seen) <= ALLOWED_SECONDS
    assert deployment.status == "cleaned"


@pytest.mark.timeout(200)
@pytest.mark.parametrize("rounds", [3, pytest.param(20, marks=pytest.mark.long)])
async def test_p1_zero_mixing_through_cutovers_and_rollbacks(
    deployment: Deployment, worker: Worker, rounds: int
) -> None:
    """Readers of four kinds and writers of two, through swaps each way: every answer is of one generation."""
    await ready(deployment, worker, 60)
    traffic = Traffic(deployment.url)
    keep_fresh = asyncio.create_task(_keep_fresh(worker, traffic.stopped))
    with traffic:
        for _ in range(rounds):
            await cut_over(worker, rows=1000)
            await asyncio.sleep(0.3)
            await roll_back(worker, rows=1000)
            await verbs.resume(worker.engine, "docs", actor="test")
            await until(lambda: _is(worker, S.READY), 60)
    await keep_fresh
    assert traffic.wrong == []
    assert traffic.failed == []
    assert traffic.answers > 1000 * rounds
    await drain(worker)
    assert deployment.mismatches("embedding__migrator", V4) == []
    assert deployment.mismatches("embedding", V3) == []


async def _is(worker: Worker, status: MigrationStatus) -> bool:
    return (await stored(worker)).status is status


async def _keep_fresh(worker: Worker, stop: threading.Event) -> None:
    """What the workers do meanwhile."""
    from migrator.orchestrator.perform import perform  # noqa: PLC0415
    from migrator.orchestrator.tick import tick  # noqa: PLC0415

    running: set[asyncio.Task[str]] = set()
    while not stop.is_set():
        for ticket in (await tick(worker.engine, actor="test")).tickets:
            running.add(asyncio.create_task(perform(worker, ticket)))
        await asyncio.sleep(0.1)
        running = {task for task in running if not task.done()}
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def test_h9_two_swaps_at_once_do_not_meet_in_the_functions(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, 10)
    looked = await readiness.look(worker.engine, await stored(worker), verb="cutover")
    statements = looked.statements(Side.TO, S.COMPLETED, bounds=ANY, actor="test", commit=False)

    async def rehearse() -> None:
        async with message.raw_connection(worker.engine) as raw:
            await message.send(raw, message.whole(statements))

    for _ in range(5):
        results = await asyncio.gather(*(rehearse() for _ in range(4)), return_exceptions=True)
        assert [each for each in results if each is not None and not isinstance(each, LockBusy)] == []


async def test_h10_a_snapshot_from_before_the_swap_is_told_of_the_column_it_sees(
    deployment: Deployment, worker: Worker
) -> None:
    await ready(deployment, worker, 10)
    query = """SELECT embedding::real[],
                      migrator.query_vector('public.docs', 'embedding', %s::vector, %s::vector)::real[],
                      coalesce(title, '') || E'\\n' || coalesce(body, '') FROM docs WHERE id = 1"""
    values = [literal(embed(V3, "q")), literal(embed(V4, "q"))]
    for isolation in (psycopg.IsolationLevel.REPEATABLE_READ, psycopg.IsolationLevel.SERIALIZABLE):
        with psycopg.connect(deployment.url) as reader:
            reader.isolation_level = isolation
            reader.execute("SELECT 1")  # the snapshot is taken; the table is not touched
            await swap(worker)
            vector, chosen, text = reader.execute(query.encode(), values).fetchone() or ()
            assert generation_of(vector, text) == generation_of(chosen, "q") == V4
        await swap(worker, ROLLBACK)
        await verbs.resume(worker.engine, "docs", actor="test")
        await to(worker, S.READY)


async def test_the_index_is_used_with_query_vector(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, 300)
    await cut_over(worker)
    with deployment.connect() as connection:
        connection.execute("SET enable_seqscan = off; SET enable_sort = off")
        plan = connection.execute(
            """EXPLAIN SELECT id FROM docs ORDER BY embedding <=>
                 migrator.query_vector('public.docs', 'embedding', %s::vector, %s::vector) LIMIT 5""",
            [literal(embed(V3, "q")), literal(embed(V4, "q"))],
        ).fetchall()
    assert any("docs_embedding_idx" in line for (line,) in plan)


async def test_query_vector_for_an_unknown_target_says_so(deployment: Deployment) -> None:
    with deployment.connect() as connection, pytest.raises(psycopg.errors.UndefinedObject, match="knows no target"):
        connection.execute("SELECT migrator.live_generation('public.docs', 'embedding')")


async def test_listen_migrator_live_tells_of_the_change(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, 5)
    with deployment.connect() as listener:
        listener.execute("LISTEN migrator_live")
        await cut_over(worker)
        heard = next(listener.notifies(timeout=5, stop_after=1))
        assert heard.payload == f"public.docs.embedding qwen/{V4}@64"


async def test_h11_readers_of_views_do_not_deadlock_with_the_swap(deployment: Deployment, worker: Worker) -> None:
    """20 swaps under 6 readers of a view over a view: each gets through on its first tries, none deadlocks."""
    deployment.make_table(30)
    with deployment.connect() as connection:
        connection.execute(
            "CREATE VIEW outer_view AS SELECT v.embedding, d.title FROM docs_view v JOIN docs d USING (id)"
        )
    await start(deployment, worker)
    await to(worker, S.READY)
    with contextlib.ExitStack() as stack:
        all_seen = [
            stack.enter_context(bystander(deployment.url, ["SELECT count(*) FROM outer_view"])) for _ in range(6)
        ]
        for _ in range(10):
            await swap(worker, CUTOVER, ladder=[0.02] * 5)
            await swap(worker, ROLLBACK, ladder=[0.02] * 5)
            async with transaction(worker.engine) as connection:
                found = await stored(worker)
                await migrations.move(connection, found, S.BACKFILLING, actor="test")
                found = await migrations.get(connection, "docs")
                for status in (S.INDEXING, S.VALIDATING, S.READY):
                    await migrations.move(connection, found, status, actor="test")
                    found = await migrations.get(connection, "docs")
    assert max(worst(seen) for seen in all_seen) <= ALLOWED_SECONDS


async def test_h12_autovacuum_leaves_when_the_swap_comes(
    scratch_server: Callable[..., Postgres], deployment_on: DeploymentOn
) -> None:
    """A lock_timeout under deadlock_timeout never gets autovacuum off the table; the first lock waits long enough."""
    server = scratch_server(
        autovacuum_naptime="1s", autovacuum_vacuum_cost_delay="100ms", autovacuum_vacuum_cost_limit="1"
    )
    deployment, worker = await deployment_on(server)
    await ready(deployment, worker, 400)
    with deployment.connect() as connection:
        connection.execute("ALTER TABLE docs SET (autovacuum_vacuum_threshold = 1, autovacuum_vacuum_scale_factor = 0)")
        connection.execute("UPDATE docs SET n = n + 1")
        running = "SELECT 1 FROM pg_stat_progress_vacuum WHERE relid = 'docs'::regclass"
        deployment.wait(lambda: deployment.query(running), seconds=30)
    began = time.monotonic()
    with bystander(deployment.url, APPLICATION) as seen:
        timing = await swap(worker, ladder=[0.1, 0.1])
        await asyncio.sleep(0.3)
    assert timing.held_ms < 400
    assert time.monotonic() - began > 0.9, "it waited for autovacuum's second, and nobody else did"
    assert worst(seen) <= ALLOWED_SECONDS


async def test_h14_a_dead_synchronous_standby_does_not_hold_the_lock(
    scratch_server: Callable[..., Postgres], deployment_on: DeploymentOn
) -> None:
    server = scratch_server()
    deployment, worker = await deployment_on(server)
    await ready(deployment, worker, 10)
    with deployment.connect() as connection:
        connection.execute("SET synchronous_commit = local")
        connection.execute("ALTER SYSTEM SET synchronous_standby_names = 'ghost'")
        connection.execute("ALTER DATABASE app SET synchronous_commit = 'remote_apply'")
        connection.execute("SELECT pg_reload_conf()")
    timing = await asyncio.wait_for(swap(worker), 10)
    assert timing.held_ms < 400
    with deployment.connect() as connection:
        connection.execute("SET synchronous_commit = local")
        connection.execute("ALTER SYSTEM RESET synchronous_standby_names")
        connection.execute("SELECT pg_reload_conf()")
    assert deployment.status == "completed"


async def test_h15_all_locks_together_have_one_deadline(deployment: Deployment, worker: Worker) -> None:
    """Four views, each held a little longer than the one before: lock by lock it would be 1.6 s."""
    deployment.make_table(20)
    with deployment.connect() as connection:
        for number in range(4):
            connection.execute(f"CREATE VIEW v{number} AS SELECT id, embedding FROM docs".encode())
    await start(deployment, worker)
    await to(worker, S.READY)
    lock = "SELECT 1 FROM v{} LIMIT 0"
    with contextlib.ExitStack() as stack:
        for number in range(4):
            stack.enter_context(holding(deployment.url, lock.format(number), 0.3 * (number + 1)))
        began = time.monotonic()
        with pytest.raises(LockNotObtained):
            await swap(worker)
        took = time.monotonic() - began
    assert took < message.DEADLINE_SECONDS + 0.5


async def test_h15_a_frozen_client_cannot_keep_the_lock(deployment: Deployment, worker: Worker) -> None:
    """The whole transaction is one message: once it is sent, the server needs nothing more from the client."""
    await ready(deployment, worker, 10)
    program = (
        "import asyncio, os, signal, threading, time\n"
        "from migrator.target import message\n"
        "from migrator.cli.app import run\n"
        "send = message.send\n"
        "async def frozen(raw, whole):\n"
        "    def freeze():\n"
        "        time.sleep(0.1)\n"
        "        os.kill(os.getpid(), signal.SIGSTOP)\n"
        "    threading.Thread(target=freeze).start()\n"
        "    return await send(raw, whole)\n"
        "message.send = frozen\n"
        "run(['cutover', 'docs', '--yes', '--readers-ready'])\n"
    )
    with holding(deployment.url, "SELECT count(*) FROM docs", 0.25):
        client = deployment.spawn(sys.executable, "-c", program, log="frozen.log")
        try:
            with bystander(deployment.url, APPLICATION) as seen:
                deployment.wait(lambda: _stopped(client.pid), seconds=20)
                await asyncio.sleep(1)
        finally:
            deployment.kill(client)
    assert worst(seen) <= ALLOWED_SECONDS
    held = "SELECT count(*) FROM pg_locks WHERE relation = 'docs'::regclass AND mode = 'AccessExclusiveLock'"
    assert deployment.value(held) == 0


def _stopped(pid: int) -> bool:
    with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123 - a file of the kernel's
        return stat.read().rsplit(")", 1)[1].split()[0] == "T"


async def test_old_snapshots_are_waited_for_and_named(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await begin(deployment, worker, 10)
    with psycopg.connect(deployment.url, application_name="nightly report") as old:
        old.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        old.execute("SELECT 1")
        # Index builds wait for old snapshots by themselves, so the report begins after it.
        old.rollback()
        await to(worker, S.INDEXING)
        await to(worker, S.READY)
        with deployment.connect() as connection:
            connection.execute("UPDATE migrator.migrations SET proved_at = clock_timestamp() + interval '1 min'")
        old.execute("SELECT 1")
        monkeypatch.setattr(attended, "SNAPSHOT_PATIENCE_SECONDS", 0.2)
        with pytest.raises(OldSnapshots, match="nightly report"):
            await cut_over(worker)
        assert deployment.status == "ready"
    with deployment.connect() as connection:
        connection.execute("UPDATE migrator.migrations SET proved_at = clock_timestamp()")
    await cut_over(worker)


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("CREATE MATERIALIZED VIEW m AS SELECT embedding FROM docs", "materialized view public.m"),
        ("CREATE MATERIALIZED VIEW m AS SELECT embedding FROM docs_view", "materialized view public.m"),
        ("ALTER TABLE docs ADD CONSTRAINT c CHECK (embedding IS NOT NULL) NOT VALID", "check constraint c"),
        ("ALTER TABLE docs ALTER embedding SET DEFAULT NULL", "default embedding"),
        ("GRANT SELECT (embedding) ON docs TO PUBLIC", "column grant embedding"),
        ("COMMENT ON COLUMN docs.embedding IS 'x'", "comment embedding"),
        ("DROP INDEX docs_embedding_idx__migrator", "no valid twin"),
        ("ALTER TABLE docs ADD extra int", "column extra was added"),
        ("CREATE PUBLICATION p FOR TABLE docs", "publication p was added"),
    ],
)
async def test_what_came_since_the_start_and_cannot_be_moved_is_refused_by_name(
    deployment: Deployment, worker: Worker, statement: str, problem: str
) -> None:
    await ready(deployment, worker, 5)
    with deployment.connect() as connection:
        connection.execute(statement.encode())
    with pytest.raises(NotSwappable, match=problem):
        await cut_over(worker)
    assert deployment.status == "ready"


async def test_a_view_that_came_since_the_start_is_moved_too(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, 5)
    with deployment.connect() as connection:
        connection.execute("CREATE VIEW late AS SELECT id, embedding FROM docs")
    await cut_over(worker)
    assert deployment.value("SELECT count(*) FROM late l JOIN docs d USING (id) WHERE l.embedding <> d.embedding") == 0


async def test_too_many_dirty_rows_under_the_lock_leave_everything_as_it_was(
    deployment: Deployment, worker: Worker
) -> None:
    await ready(deployment, worker, 10)
    with deployment.connect() as connection:
        connection.execute("UPDATE docs SET body = 'x'")
    before = catalog.picture(deployment.url)
    with pytest.raises(TooDirty):
        await swapping.swap(
            worker.engine, await stored(worker), CUTOVER, bounds=Bounds(5, 60), actor="t", on_wait=quiet, ladder=()
        )
    assert catalog.picture(deployment.url) == before
    swapped = await cut_over(worker, rows=0)
    assert swapped.absent_rows == 0


async def test_rows_without_a_vector_at_the_swap_are_absent_never_wrong(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, 10)
    with deployment.connect() as connection:
        connection.execute("UPDATE docs SET body = 'fresh' WHERE id = 3")
    timing = await swap(worker)
    assert timing.dirty_rows == 1
    assert deployment.query("SELECT id FROM docs WHERE embedding IS NULL") == [(3,)]
    await drain(worker)
    assert deployment.mismatches("embedding", V4) == []


async def test_cutover_needs_fresh_verdicts(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, 5)
    with deployment.connect() as connection:
        connection.execute("UPDATE migrator.verdicts SET at = now() - interval '2 days'")
    with pytest.raises(GateFailed, match="stale"):
        await cut_over(worker)
    await attended.validate(worker, "docs", actor="test")
    await cut_over(worker)


async def test_rehearsal_changes_nothing_and_tells_the_times(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, 10)
    before = catalog.picture(deployment.url)
    timing, text = await attended.rehearse(worker, "docs", max_dirty_rows=0, actor="test")
    assert catalog.picture(deployment.url) == before
    assert [step for step, _ in timing.steps] == ["check", "names", "views", "rules", "state", "done"]
    assert text.startswith("BEGIN;")
    assert text.endswith("ROLLBACK")


async def test_p10_rollback_loses_nothing_that_was_written_since(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, 30)
    await cut_over(worker)
    with deployment.connect() as old, deployment.connect() as new:
        new.execute("SELECT set_config('migrator.generation', %s, false)", [f"qwen/{V4}@64"])
        for number in range(10):
            body = f"since {number}"
            new.execute(
                "UPDATE docs SET title = 't', body = %s, embedding = %s WHERE id = %s",
                [body, literal(embed(V4, f"t\n{body}")), number + 1],
            )
            new.execute(
                "INSERT INTO docs (title, body, embedding) VALUES ('n', %s, %s)",
                [body, literal(embed(V4, f"n\n{body}"))],
            )
            old.execute(
                "UPDATE docs SET title = 'o', body = %s, embedding = %s WHERE id = %s",
                [body, literal(embed(V3, f"o\n{body}")), number + 11],
            )
            old.execute(
                "INSERT INTO docs (title, body, embedding) VALUES ('o', %s, %s)",
                [body, literal(embed(V3, f"o\n{body}"))],
            )
            old.execute("DELETE FROM docs WHERE id = %s", [number + 21])
    debt = deployment.value("SELECT count(DISTINCT key) FROM migrator.dirty WHERE side = 'from'")
    assert debt == 20
    swapped = await roll_back(worker)
    assert swapped.absent_rows == 0
    assert deployment.mismatches("embedding", V3) == []
    assert deployment.value("SELECT spent_tokens FROM migrator.ledger WHERE purpose = 'rollback-debt'") > 0


async def test_rollback_only_in_the_window(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, 5)
    with pytest.raises(StatusConflict, match="needs docs to be completed"):
        await roll_back(worker)
    await cut_over(worker)
    await verbs.pause(worker.engine, "docs", actor="test")
    await roll_back(worker)
    assert deployment.status == "rolled_back"


async def test_cancel_then_cleanup_leaves_the_table_as_found(
    deployment: Deployment, worker: Worker, postgres: Postgres
) -> None:
    deployment.make_table(30)
    before = catalog.dump(postgres, deployment.url)
    await start(deployment, worker)
    await to(worker, S.INDEXING)
    await verbs.cancel(worker.engine, "docs", actor="test")
    assert deployment.value("SELECT count(embedding__migrator) FROM docs") == 30, "cancel keeps what was paid for"
    dropped = await attended.clean_up(worker, "docs", close_window=False, strays_gone=False, actor="t", tell=quiet)
    assert {each.kind for each in dropped} == {"column", "trigger"}
    assert sorted(catalog.dump(postgres, deployment.url).splitlines()) == sorted(before.splitlines())
    assert await attended.clean_up(worker, "docs", close_window=False, strays_gone=False, actor="t", tell=quiet) == []


async def test_cleanup_after_the_window_and_h7_its_refusals(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, 10)
    await cut_over(worker)
    with pytest.raises(WindowOpen):
        await attended.clean_up(worker, "docs", close_window=False, strays_gone=False, actor="t", tell=quiet)
    with deployment.connect() as connection:
        connection.execute("UPDATE docs SET embedding = %s WHERE id = 1", [literal(embed(V3, "stray"))])
    with pytest.raises(StraysSeen, match="the application"):
        await attended.clean_up(worker, "docs", close_window=True, strays_gone=False, actor="t", tell=quiet)
    await attended.clean_up(worker, "docs", close_window=True, strays_gone=True, actor="t", tell=quiet)
    assert deployment.status == "cleaned"
    assert deployment.mismatches("embedding", V4) == []
    left = deployment.query(
        "SELECT attname FROM pg_attribute WHERE attrelid = 'docs'::regclass AND attname LIKE '%%migr%%'"
    )
    assert left == []
    assert deployment.value("SELECT migrator.live_generation('public.docs', 'embedding')") == f"qwen/{V4}@64"


async def test_cleanup_embeds_what_is_dirty_before_the_triggers_go(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, 10)
    await cut_over(worker)
    with deployment.connect() as connection:
        connection.execute("UPDATE docs SET body = 'last edit' WHERE id = 2")
    await attended.clean_up(worker, "docs", close_window=True, strays_gone=True, actor="t", tell=quiet)
    assert deployment.mismatches("embedding", V4) == []
