"""H13, H14 on a real hot standby: what its readers are answered, who waits there, and that nobody waits here for it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from benchmarks.cutover_application import SEARCH, checking
from migrator.cutover.swapping import CUTOVER, ROLLBACK
from migrator.demo.servers import Postgres
from migrator.orchestrator import verbs
from migrator.spending.worker import Worker
from tests import standby as standbys
from tests.deployment import V3, Deployment, until
from tests.integration.bystanders import ALLOWED_SECONDS, APPLICATION, bystander, worst
from tests.integration.steps import ready
from tests.integration.swaps import swap
from tests.integration.traffic import NEW, Traffic

pytestmark = [pytest.mark.alone, pytest.mark.timeout(180)]
OLD = f"{V3}@64"
_LIVE = "SELECT migrator.live_generation('public.docs', 'embedding')"
DeploymentOn = Callable[[Postgres], Awaitable[tuple[Deployment, Worker]]]
Pair = tuple[Deployment, Worker, Postgres, Postgres]


@pytest.fixture
async def pair(scratch_server: Callable[..., Postgres], deployment_on: DeploymentOn, scratch: Path) -> Iterator[Pair]:
    """A migration that is ready, with `truth` beside it, on a primary with a standby."""
    primary = scratch_server(wal_level="replica")
    deployment, worker = await deployment_on(primary)
    await ready(deployment, worker, 40)
    Traffic(deployment)  # makes `truth`
    replica = standbys.make(primary, scratch / f"standby-{time.monotonic_ns()}", max_standby_streaming_delay="-1")
    standbys.replayed(primary, replica)
    yield deployment, worker, primary, replica
    replica.remove()


@contextmanager
def reading(url: str) -> Iterator[list[tuple[int, int, float]]]:
    """Somebody who searches the standby all the time; collects (answers, wrong ones, seconds)."""
    stop, seen = threading.Event(), list[tuple[int, int, float]]()

    def read() -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            while not stop.is_set():
                for query in (checking("docs", NEW), checking("docs_outer", NEW), SEARCH):
                    began = time.monotonic()
                    answers, wrong = connection.execute(query.encode()).fetchone() or (0, 0)
                    seen.append((answers, wrong, time.monotonic() - began))
                time.sleep(0.005)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def live_there(replica: Postgres) -> str:
    with psycopg.connect(replica.database_url("app")) as connection:
        return str((connection.execute(_LIVE).fetchone() or ("",))[0])


async def test_h13_the_plan_names_standbys_and_their_readers_are_answered_by_their_own_column(pair: Pair) -> None:
    """There and back twice: no answer of a wrong generation on the standby, and none of its readers is cancelled."""
    deployment, worker, primary, replica = pair
    deployment.spec_data["name"] = "again"
    made, _ = await verbs.make_plan(worker.engine, deployment.spec, actor="test")
    (finding,) = [each for each in made.findings if each.code == "standbys"]
    assert finding.message.startswith("readers on standby1 can hold back the replay of a swap")
    assert live_there(replica) == OLD
    with reading(replica.database_url("app")) as seen:
        for direction, generation in ((CUTOVER, NEW), (ROLLBACK, OLD)) * 2:
            await swap(worker, direction, ladder=[0.1] * 5)
            standbys.replayed(primary, replica)
            assert live_there(replica) == generation
            answered = len(seen)
            deployment.wait(lambda: len(seen) > answered + 6)  # noqa: B023 - waited for here
            if direction is ROLLBACK:
                _ready_again(deployment)
    assert sum(answers for answers, _, _ in seen) > 2_000
    assert [wrong for _, wrong, _ in seen if wrong] == []


async def test_h13_a_long_reader_on_the_standby_makes_its_neighbours_wait_and_nobody_here(pair: Pair) -> None:
    """Replay waits for it, as long as max_standby_streaming_delay lets it, and who reads the table there waits too."""
    deployment, worker, _, replica = pair
    there = replica.database_url("app")
    with psycopg.connect(there) as long_reader:
        long_reader.execute("SELECT count(*) FROM docs")
        with bystander(deployment.url, APPLICATION) as here:
            timing = await swap(worker)
            assert timing.held_ms < 400
            with psycopg.connect(there, autocommit=True) as looking:
                waits = "SELECT count(*) FROM pg_locks WHERE relation = 'docs'::regclass AND NOT granted"
                deployment.wait(lambda: looking.execute(waits.encode()).fetchone() == (1,))
                neighbour = asyncio.create_task(asyncio.to_thread(_ask, there))
                await until(lambda: asyncio.to_thread(lambda: looking.execute(waits.encode()).fetchone() == (2,)))
            await asyncio.sleep(0.5)
            assert not neighbour.done()
        assert worst(here) <= ALLOWED_SECONDS
        assert long_reader.execute(checking("docs", NEW).encode()).fetchone() == (40, 0), "it reads what it read before"
        long_reader.rollback()
        assert await neighbour == (40, 0)
    assert live_there(replica) == NEW


def _ask(url: str) -> tuple[int, ...] | None:
    with psycopg.connect(url) as connection:
        return connection.execute(checking("docs", NEW).encode()).fetchone()


async def test_h14_a_standby_that_does_not_replay_does_not_hold_the_lock(pair: Pair) -> None:
    """remote_apply with replay paused: the swap commits here and now, and is there when replay goes on."""
    deployment, worker, primary, replica = pair
    with deployment.connect() as connection, psycopg.connect(replica.url, autocommit=True) as there:
        connection.execute("SET synchronous_commit = local")
        connection.execute("ALTER SYSTEM SET synchronous_standby_names = 'standby1'")
        connection.execute("ALTER DATABASE app SET synchronous_commit = 'remote_apply'")
        connection.execute("SELECT pg_reload_conf()")
        standbys.replayed(primary, replica)
        there.execute("SELECT pg_wal_replay_pause()")
        await worker.engine.dispose()  # its sessions began before the setting
        # Readers alone: a writer of the application's waits for the standby by its own wish.
        with bystander(deployment.url, APPLICATION[:2]) as seen:
            timing = await asyncio.wait_for(swap(worker), 20)
            await asyncio.sleep(0.2)
        assert worst(seen) <= ALLOWED_SECONDS
        assert timing.held_ms < 400
        assert deployment.status == "completed"
        assert live_there(replica) == OLD
        there.execute("SELECT pg_wal_replay_resume()")
        standbys.replayed(primary, replica)
        assert live_there(replica) == NEW


def _ready_again(deployment: Deployment) -> None:
    """What a resume and its gates do; not what is looked at here."""
    with deployment.connect() as connection:
        connection.execute("UPDATE migrator.migrations SET status = 'ready' WHERE status = 'rolled_back'")
