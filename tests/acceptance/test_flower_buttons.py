"""R25: what Flower's buttons do to a running migration: it takes longer, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.acceptance.flower import LOGIN, begin, push, tasks_of
from tests.chaos import invariants
from tests.chaos.writer import Writer
from tests.deployment import Deployment

#: At four rows a page: five batches for two processes, each of them some eight seconds of answers. Whatever is pushed
#: meets some at work, and some that are still to come.
ROWS, FILLFACTOR, LATENCY_SECONDS = 600, 20, 2.0
#: How long the rest may take, with processes that are started anew: 5 s on a quiet machine, 40 beside other tests.
READY_SECONDS = 120.0


@pytest.fixture
def url(deployed: Deployment) -> Iterator[str]:
    """Flower beside a worker whose batches take long enough to be met by a button."""
    # Two seconds run out where a machine is busy, and what a lost lease costs is no button's doing.
    deployed.lease_seconds = 6
    _, address = begin(deployed)
    deployed.make_table(ROWS)
    with deployed.connect() as connection:
        connection.execute(f"ALTER TABLE docs SET (fillfactor = {FILLFACTOR})".encode())
        connection.execute("VACUUM FULL docs")
    Writer(deployed, 0).make_twin()
    deployed.must("start", deployed.spec_file, "--yes")
    deployed.simulator.admin(latency_seconds=LATENCY_SECONDS)
    deployed.worker()
    deployed.beat()
    deployed.wait(lambda: at_work(address), log="a batch at work in Flower")
    httpx.get(f"{address}/api/workers", params={"refresh": "1"}, auth=LOGIN, timeout=20).raise_for_status()
    yield address
    deployed.simulator.admin(latency_seconds=0.0)


def at_work(url: str) -> list[dict[str, Any]]:
    return [task for task in tasks_of(url, taskname="migrator.batch") if task["state"] == "STARTED"]


def ends_well(deployed: Deployment) -> None:
    """Every row has the right vector once, no batch is given up, nothing was counted against anybody."""
    deployed.simulator.admin(latency_seconds=0.0)
    deployed.wait_for("ready", READY_SECONDS)
    assert deployed.mismatches("embedding__migrator", "text-embedding-v4") == []
    assert deployed.query("SELECT number FROM migrator.batches WHERE status <> 'done' OR deaths > 0") == []
    assert deployed.query("SELECT key FROM migrator.dispositions") == []
    invariants.check(deployed)


def test_r25_terminated_batches_are_done_again_at_once(url: str, deployed: Deployment) -> None:
    """A worker drops a revoked id for three hours: what is given again has another one, or it would wait as long."""
    met = set()

    def terminated() -> bool:
        """Terminate whatever is at work; what had just ended is no batch that Flower can show as revoked."""
        for task in at_work(url):
            if task["uuid"] not in met:
                assert push(url, f"task/revoke/{task['uuid']}", terminate="true").status_code == 200
                met.add(task["uuid"])
        return len(met) >= 3 and "REVOKED" in {task["state"] for task in tasks_of(url, taskname="migrator.batch")}

    deployed.wait(terminated, log="a terminated batch in Flower", seconds=READY_SECONDS)
    ends_well(deployed)
    labels = {uuid.rpartition("-")[0] for uuid in met}
    again = {uuid for (uuid,) in ((task["uuid"],) for task in tasks_of(url, taskname="migrator.batch"))}
    assert labels & {uuid.rpartition("-")[0] for uuid in again - met}, "the same work under another id"


def test_r25_revoked_batches_are_done_all_the_same(url: str, deployed: Deployment) -> None:
    """Whatever was seen is revoked, begun or not, again and again while it runs."""
    for _ in range(5):
        for task in tasks_of(url):
            assert push(url, f"task/revoke/{task['uuid']}").status_code == 200
    ends_well(deployed)


def test_r25_a_worker_shut_down_in_flower_finishes_what_it_has(url: str, deployed: Deployment) -> None:
    assert push(url, "worker/shutdown/w1@test").status_code == 200
    deployed.wait(lambda: not deployed.query("SELECT 1 FROM migrator.workers"), log="the worker said goodbye")
    deployed.wait(
        lambda: not deployed.query("SELECT 1 FROM migrator.batches WHERE status = 'leased'"), log="nothing in hand"
    )
    deployed.worker("w2")
    ends_well(deployed)


def test_r25_what_a_button_holds_up_goes_on_when_it_is_taken_back(url: str, deployed: Deployment) -> None:
    """A cancelled consumer and a rate limit hold up one worker until it is started again or they are taken back."""
    assert push(url, "worker/queue/cancel-consumer/w1@test", queue="backfill").status_code == 200
    limit = {"workername": "w1@test"}
    assert push(url, "task/rate-limit/migrator.batch", ratelimit="1/h", **limit).status_code == 200
    deployed.simulator.admin(latency_seconds=0.0)
    deployed.wait(
        lambda: deployed.query("SELECT 1 WHERE NOT EXISTS (SELECT FROM migrator.batches WHERE status = 'leased')"),
        log="nothing in hand",
    )
    assert deployed.status == "backfilling"
    assert push(url, "task/rate-limit/migrator.batch", ratelimit="0", **limit).status_code == 200
    assert push(url, "worker/queue/add-consumer/w1@test", queue="backfill").status_code == 200
    assert push(url, "worker/pool/grow/w1@test", n="1").status_code == 200
    # Celery refuses to end a process that is busy.
    deployed.wait(lambda: push(url, "worker/pool/shrink/w1@test", n="1").status_code == 200, log="a smaller pool")
    assert push(url, "worker/pool/restart/w1@test").status_code == 403
    assert push(url, "task/abort/docs.b000001.a1").status_code == 503
    ends_well(deployed)


def test_r25_a_task_sent_by_flower_s_api_finds_nothing_to_do(url: str, deployed: Deployment) -> None:
    """The API can send any task: a stale ticket does nothing, and arguments that make no sense fail by themselves."""
    migration = deployed.value("SELECT id FROM migrator.migrations")
    words: list[Any] = [migration, "batch", 1, 999_999, "docs.forged", "forged", "backfill"]
    for arguments in (words, ["x"] * 7):
        answer = httpx.post(f"{url}/api/task/async-apply/migrator.batch", json={"args": arguments}, auth=LOGIN)
        assert answer.status_code == 200, (deployed.home / "flower.log").read_text()
    ends_well(deployed)
    ended = tasks_of(url, taskname="migrator.batch")
    assert "'stale ticket'" in {task["result"] for task in ended}
    assert {task["exception"] for task in ended if task["state"] == "FAILURE"} == {
        "ValueError(\"'x' is not a valid Kind\")"
    }
