"""Real Celery workers, a real broker, and what operators fear of both."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import redis

from migrator.demo.processes import children
from migrator.demo.servers import Postgres, Valkey
from migrator.demo.simulator.control import Simulator
from tests.deployment import V4, Deployment


def in_flight_tokens(deployment: Deployment) -> int:
    """What the provider billed for requests whose outcome nobody can know."""
    lost = {name for (name,) in deployment.query("SELECT id FROM migrator.reservations WHERE possibly_billed")}
    entries = deployment.simulator.ledger(entries=True)["entries"]
    return sum(entry["tokens"] for entry in entries if entry["request_id"] in lost)


def needed(deployment: Deployment) -> int:
    """Every text once, and what validation embedded again."""
    validation = deployment.value(
        "SELECT coalesce(sum(spent_tokens), 0) FROM migrator.ledger WHERE purpose = 'validation'"
    )
    return deployment.needed_tokens() + int(validation)


def start(deployment: Deployment, rows: int) -> None:
    deployment.make_table(rows)
    deployment.must("start", deployment.spec_file, "--yes")


def test_workers_carry_a_migration_to_ready_by_themselves(deployed: Deployment) -> None:
    worker = deployed.worker(env={"MIGRATOR_NICE": "7"})
    deployed.beat()
    start(deployed, 400)
    deployed.wait_for("ready")
    assert deployed.mismatches("embedding__migrator", V4) == []
    assert deployed.billed() == needed(deployed)
    status = json.loads(deployed.run("status", "docs", "--json").stdout)
    assert status["workers"] == 1
    log = (deployed.home / "w1.log").read_text()
    assert re.search(r"migrator\.batch\[docs\.b000001\.a1-[0-9a-f]{4}\]", log)
    assert deployed.must("doctor").count("ok ") >= 4
    ours = os.getpriority(os.PRIO_PROCESS, 0)
    crew = {os.getpriority(os.PRIO_PROCESS, pid) for pid in children(worker.pid)}
    assert (os.getpriority(os.PRIO_PROCESS, worker.pid), crew) == (ours, {max(ours, 7)}), "others go first"
    autogroup = Path(f"/proc/{worker.pid}/autogroup")
    if autogroup.exists():
        assert autogroup.read_text().strip().endswith(" nice 7"), "niceness counts within a session, and this is it"
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0
    assert deployed.query("SELECT name FROM migrator.workers") == [], "it said goodbye"
    keys = redis.Redis.from_url(deployed.broker_url).keys("*result*")
    assert keys == [], "no result is kept anywhere but in Postgres"


def test_each_message_goes_to_one_queue_and_is_read_once(deployed: Deployment) -> None:
    """Four workers, one a queue: what is for one of them is not delivered to the others."""
    for queue in ("control", "backfill", "live", "index"):
        deployed.worker(queue, "-Q", queue)
    deployed.beat()
    start(deployed, 120)
    deployed.wait_for("ready")
    logs = {path.stem: path.read_text() for path in deployed.home.glob("*.log")}
    assert "stale ticket" not in "".join(logs.values())
    assert "migrator.tick[" in logs["control"]
    assert "migrator.batch[docs.b" in logs["backfill"]
    assert "migrator.index[" in logs["index"]
    assert "migrator.tick[" not in logs["backfill"] + logs["live"] + logs["index"]


def test_catch_up_keeps_a_ready_table_fresh(deployed: Deployment) -> None:
    deployed.worker()
    deployed.beat()
    start(deployed, 30)
    deployed.wait_for("ready")
    for number in range(5):
        with deployed.connect() as connection:
            connection.execute("UPDATE docs SET body = %s WHERE id = 3", [f"edit {number}"])
    deployed.wait(lambda: deployed.mismatches("embedding__migrator", V4) == [], seconds=20)


def test_p2_worker_killed_between_embed_and_write(deployed: Deployment) -> None:
    """SIGKILL of the whole worker while answers are on their way: only those are billed again."""
    deployed.simulator.admin(latency_seconds=0.3)
    first = deployed.worker("w1")
    deployed.beat()
    start(deployed, 300)
    deployed.wait(lambda: deployed.simulator.ledger()["requests"] >= 8)
    deployed.wait(lambda: deployed.simulator.ledger()["in_flight"] > 0)
    deployed.kill(first)
    deployed.simulator.admin(latency_seconds=0)
    deployed.worker("w2")
    deployed.wait_for("ready")
    assert deployed.mismatches("embedding__migrator", V4) == []
    billed, lost = deployed.billed(), in_flight_tokens(deployed)
    assert billed <= needed(deployed) + lost
    assert lost > 0, "it was killed with requests in flight"
    assert deployed.value("SELECT committed_usd FROM migrator.budgets") * 1_000_000 >= billed


def test_p2_postgres_killed_in_mid_run(
    scratch_server: Callable[[], Postgres], simulator: Simulator, tmp_path: Path, broker: Valkey
) -> None:
    """SIGKILL of PostgreSQL itself: what it acknowledged is there when it comes back, and the workers go on."""
    server = scratch_server()
    own = Deployment(server.database_url("app"), tmp_path / "own", simulator, broker.url)
    own.home.mkdir()
    try:
        simulator.admin(latency_seconds=0.2)
        own.worker()
        own.beat()
        start(own, 300)
        own.wait(lambda: own.value("SELECT count(embedding__migrator) FROM docs") >= 40)
        server.kill()
        time.sleep(1)
        server.start()
        simulator.admin(latency_seconds=0)
        own.wait(lambda: _status(own) == "ready")
        assert own.mismatches("embedding__migrator", V4) == []
        assert own.billed() <= needed(own) + in_flight_tokens(own)
    finally:
        own.close()


def _status(deployment: Deployment) -> str:
    with contextlib.suppress(psycopg.OperationalError):
        return deployment.status
    return "unreachable"


def test_p3_redis_flushed_mid_run(deployed: Deployment) -> None:
    deployed.simulator.admin(latency_seconds=0.1)
    deployed.worker()
    deployed.beat()
    start(deployed, 300)
    client = redis.Redis.from_url(deployed.broker_url)
    deployed.wait(lambda: deployed.simulator.ledger()["requests"] >= 5)
    for _ in range(3):
        client.flushall()
        time.sleep(0.3)
    with deployed.connect() as connection:  # a lost ticket is trusted for two minutes: the test does not wait for that
        connection.execute("UPDATE migrator.batches SET ticket_until = NULL")
        connection.execute("UPDATE migrator.duties SET ticket_until = NULL")
    deployed.wait_for("ready")
    assert deployed.billed() == needed(deployed)


def test_a_worker_lives_through_a_broker_restart(deployed: Deployment, broker: Valkey) -> None:
    """Why celery is pinned below 5.7: its workers die with the broker's connection while a task runs."""
    deployed.simulator.admin(latency_seconds=0.2)
    worker = deployed.worker()
    deployed.beat()
    start(deployed, 400)
    for _ in range(2):
        seen = deployed.simulator.ledger()["requests"]
        deployed.wait(lambda seen=seen: deployed.simulator.ledger()["requests"] >= seen + 4)  # type: ignore[misc]
        broker.kill()
        time.sleep(0.5)
        broker.start()
    deployed.wait_for("ready", seconds=90)
    assert worker.poll() is None, "the worker process lived through it"
    assert deployed.mismatches("embedding__migrator", V4) == []
    assert deployed.billed() == needed(deployed), "what was in hand was finished, not done again"
    now = deployed.value("SELECT clock_timestamp()")
    seen = "SELECT 1 FROM migrator.workers WHERE name = 'w1@test' AND last_seen > %s"
    deployed.wait(lambda: deployed.query(seen, now), worker, "a sign of life after the broker's return", seconds=30)


def test_p3_two_beats_and_a_foreground_worker_beside_it(deployed: Deployment) -> None:
    deployed.simulator.admin(latency_seconds=0.02)
    deployed.worker()
    deployed.beat("beat-a")
    deployed.beat("beat-b")
    start(deployed, 400)
    deployed.must("work", "docs")
    deployed.wait_for("ready")
    assert deployed.billed() == needed(deployed)


def test_p7_the_cap_holds_over_processes(deployed: Deployment) -> None:
    deployed.spec_data["limits"]["max_cost_usd"] = 0.004
    deployed.worker("w1")
    deployed.worker("w2")
    deployed.beat()
    start(deployed, 600)
    deployed.wait_for("paused")
    time.sleep(1)
    assert deployed.simulator.ledger()["tokens"] / 1e6 <= 0.004
    printed = deployed.must("status", "docs", "--exit-code", code=4)
    assert "reached its cap" in printed
    deployed.must("limits", "docs", "--max-cost", 1)
    deployed.must("resume", "docs")
    deployed.wait_for("ready")


def test_a_terminated_worker_finishes_its_batch_and_gives_nothing_back(deployed: Deployment) -> None:
    deployed.simulator.admin(latency_seconds=0.1)
    worker = deployed.worker()
    deployed.beat()
    start(deployed, 200)
    deployed.wait(lambda: len(deployed.entries()) >= 4 and deployed.value("SELECT count(*) FROM migrator.batches") > 0)
    deployed.wait(lambda: deployed.value("SELECT count(embedding__migrator) FROM docs") > 0)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0
    assert deployed.query("SELECT status, attempts FROM migrator.batches") == [("done", 1)]
    assert deployed.value("SELECT count(*) FROM migrator.reservations") == 0


def test_p11_nothing_of_a_row_in_messages_logs_or_the_broker(deployed: Deployment, broker: Valkey) -> None:
    deployed.worker()
    deployed.beat()
    deployed.make_table(20)
    with deployed.connect() as connection:
        connection.execute("UPDATE docs SET title = 'canary-title', body = 'canary-body ' || id")
        connection.execute("INSERT INTO docs (title, body) VALUES ('canary-title', 'POISON-CONTENT canary-body')")
    deployed.spec_data["gates"]["max_quarantined_share"] = 0.9
    deployed.must("start", deployed.spec_file, "--yes", "--skip-provenance", "made-up vectors")
    deployed.wait_for("ready")
    logs = "".join(path.read_text() for path in deployed.home.glob("*.log"))
    kept = b"".join(path.read_bytes() for path in broker.home.rglob("*") if path.is_file())
    assert "canary" not in logs
    assert b"canary" not in kept
    assert b"docs pages" in kept


def test_worker_processes_are_small(deployed: Deployment) -> None:
    """Under 250 MB each without a model, measured at work."""
    worker = deployed.worker()
    deployed.beat()
    start(deployed, 400)
    deployed.wait_for("ready")
    children = [int(pid) for pid in Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()]
    sizes = {pid: _rss_megabytes(pid) for pid in [worker.pid, *children]}
    assert len(sizes) >= 3
    assert max(sizes.values()) < 250, sizes


def _rss_megabytes(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
