"""Nobody waits for the swap longer than promised (P8), and nothing keeps it from getting through."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Awaitable, Callable

import pytest

from migrator.cutover.swapping import CUTOVER, ROLLBACK
from migrator.demo.servers import Postgres
from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import attended
from migrator.spending.worker import Worker
from migrator.state import migrations
from migrator.state.connection import transaction
from migrator.target import message
from migrator.target.message import LockNotObtained
from tests.deployment import Deployment
from tests.integration.bystanders import ALLOWED_SECONDS, APPLICATION, bystander, holding, worst
from tests.integration.steps import ready, start, stored, to
from tests.integration.swaps import cut_over, quiet, roll_back, swap

S = MigrationStatus
pytestmark = pytest.mark.alone


DeploymentOn = Callable[[Postgres], Awaitable[tuple[Deployment, Worker]]]


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


async def test_p8_expand_cutover_rollback_and_cleanup_make_nobody_wait(deployment: Deployment, worker: Worker) -> None:
    deployment.make_table(30)
    with bystander(deployment.url, APPLICATION) as seen:
        with holding(deployment.url, "SELECT count(*) FROM docs", 1.5):
            await start(deployment, worker)
        await to(worker, S.READY)
        for swapped in (cut_over, roll_back):
            with holding(deployment.url, "SELECT count(*) FROM docs", 6):
                await swapped(worker)
        with holding(deployment.url, "SELECT count(*) FROM docs_view", 1.5):
            await attended.clean_up(worker, "docs", close_window=False, strays_gone=False, actor="test", tell=quiet)
    assert worst(seen) <= ALLOWED_SECONDS
    assert deployment.status == "cleaned"


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


_FOUR = """
CREATE TABLE docs (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, title text, body text,
                   n int NOT NULL DEFAULT 0, embedding vector(64)) PARTITION BY HASH (id);
CREATE TABLE docs_0 PARTITION OF docs FOR VALUES WITH (MODULUS 4, REMAINDER 0);
CREATE TABLE docs_1 PARTITION OF docs FOR VALUES WITH (MODULUS 4, REMAINDER 1);
CREATE TABLE docs_2 PARTITION OF docs FOR VALUES WITH (MODULUS 4, REMAINDER 2);
CREATE TABLE docs_3 PARTITION OF docs FOR VALUES WITH (MODULUS 4, REMAINDER 3);
CREATE INDEX docs_embedding_idx ON docs USING hnsw (embedding vector_cosine_ops);
CREATE VIEW docs_view AS SELECT id, title, embedding FROM docs;
"""


@pytest.mark.timeout(180)
async def test_h15_four_partitions_have_one_deadline(deployment: Deployment, worker: Worker) -> None:
    """Each partition is held a little longer than the one before: none alone for longer than the deadline."""
    deployment.make_table(40, _FOUR)
    await start(deployment, worker)
    await to(worker, S.READY)
    with bystander(deployment.url, APPLICATION) as seen, contextlib.ExitStack() as stack:
        for number in range(4):
            held = f"SELECT count(*) FROM docs_{number}"
            stack.enter_context(holding(deployment.url, held, 0.35 * (number + 1)))
        with pytest.raises(LockNotObtained) as caught:
            await swap(worker)
        assert "long reader" in {each.application for each in caught.value.blockers}, "who holds a partition, too"
    assert worst(seen) <= ALLOWED_SECONDS
    for swapped in (cut_over, roll_back):
        with bystander(deployment.url, APPLICATION) as seen:
            assert (await swapped(worker)).timing.held_ms < 400
            await asyncio.sleep(0.3)
        assert worst(seen) <= ALLOWED_SECONDS


async def test_h29_a_prepared_transaction_that_holds_the_table_is_named(
    scratch_server: Callable[..., Postgres], deployment_on: DeploymentOn
) -> None:
    deployment, worker = await deployment_on(scratch_server(max_prepared_transactions="2"))
    await ready(deployment, worker, 10)
    with deployment.connect() as connection:
        connection.execute("BEGIN; UPDATE docs SET n = n + 1 WHERE id = 3; PREPARE TRANSACTION 'shop-17'")
        with pytest.raises(LockNotObtained) as caught:
            await swap(worker)
        (blocker,) = caught.value.blockers
        assert (blocker.pid, blocker.application, blocker.role) == (0, "prepared transaction shop-17", "postgres")
        assert "pid 0 (prepared transaction shop-17" in str(caught.value)
        assert "pid 0 (prepared transaction" in deployment.value(
            "SELECT reason FROM migrator.transitions ORDER BY id DESC LIMIT 1"
        )
        connection.execute("COMMIT PREPARED 'shop-17'")
    await swap(worker)


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
