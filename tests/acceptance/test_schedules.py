"""Left to itself: wrong clocks, two beats, everything killed at once; what is to be done, and when, is in Postgres."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from migrator.demo.servers import Postgres, Valkey
from migrator.demo.simulator.control import Simulator
from tests.deployment import ROOT, V4, Deployment

#: Seconds by which a clock goes wrong: more than clocks differ, and less than a tick waits for a worker.
SKEW = 300
RESUMED = "SELECT count(*) FROM migrator.transitions WHERE actor = 'schedule' AND to_status = 'backfilling'"


def start(deployment: Deployment, rows: int) -> None:
    deployment.make_table(rows)
    deployment.must("start", deployment.spec_file, "--yes")


def skewed_crew(deployment: Deployment, seconds: int) -> None:
    """A worker and a beat whose clocks go wrong."""
    name = f"skewed{seconds}"
    command = (sys.executable, str(ROOT / "tests/skewed.py"), str(seconds), "-A", "workers.app")
    process = deployment.spawn(*command, "worker", "-n", f"{name}@test", "-c", "2", log=f"{name}.log")
    deployment.spawn(*command, "beat", "-s", str(deployment.home / f"{name}.db"), log=f"{name}-beat.log")
    deployment.wait(lambda: deployment.query("SELECT 1 FROM migrator.workers WHERE name = %s", f"{name}@test"), process)


def clock(deployment: Deployment, minutes: int) -> str:
    """The time of the day that Postgres shows so many minutes from now."""
    return f"{deployment.value('SELECT now()') + timedelta(minutes=minutes):%H:%M}"


def ticks(deployment: Deployment, count: int) -> None:
    """Let so many ticks pass, of every worker; a lease of 2 s has one every 0.7 s."""
    time.sleep(count * 0.7)
    assert deployment.value("SELECT count(*) FROM migrator.workers WHERE last_seen > now() - interval '30 s'") >= 2


@pytest.mark.parametrize("seconds", [SKEW, -SKEW])
def test_two_beats_and_a_wrong_clock_keep_windows_and_try_once(deployed: Deployment, seconds: int) -> None:
    deployed.spec_data["limits"]["max_cost_usd"] = 0.003
    deployed.worker()
    deployed.beat()
    skewed_crew(deployed, seconds)
    # By Postgres's clock it opens in three minutes, or closed two minutes ago; by the wrong one it is open.
    begin, end = (3, 60) if seconds > 0 else (-60, -2)
    zone = deployed.value("SHOW TimeZone")
    deployed.spec_data["limits"]["window"] = f"{clock(deployed, begin)}-{clock(deployed, end)} {zone}"
    start(deployed, 400)
    before = deployed.simulator.ledger()["requests"]
    ticks(deployed, 8)
    assert deployed.status == "backfilling"
    assert deployed.simulator.ledger()["requests"] == before
    deployed.must("schedule", "docs", "--window", "always")
    deployed.wait_for("paused")
    # The day's try: by Postgres's clock its time is three minutes off, or came just now.
    deployed.must("schedule", "docs", "--resume-daily", f"{clock(deployed, 3)} {zone}")
    deployed.query("UPDATE migrator.migrations SET since = since - interval '1 h' RETURNING 1")
    deployed.query("UPDATE migrator.schedules SET resumed_at = resumed_at - interval '1 h' RETURNING 1")
    ticks(deployed, 8)
    assert deployed.value(RESUMED) == 0
    deployed.query("UPDATE migrator.schedules SET resume_daily = %s RETURNING 1", f"{clock(deployed, -1)} {zone}")
    deployed.wait(lambda: deployed.value(RESUMED) == 1 and deployed.status == "paused", log="the day's try")
    ticks(deployed, 8)
    assert deployed.value(RESUMED) == 1, "its cap is still reached, and the next try is tomorrow's"
    deployed.must("limits", "docs", "--max-cost", "1")
    deployed.must("resume", "docs")
    deployed.wait_for("ready")
    assert deployed.mismatches("embedding__migrator", V4) == []


def test_everything_is_killed_and_goes_on_by_its_schedule(
    scratch_server: Callable[[], Postgres], simulator: Simulator, tmp_path: Path, broker: Valkey
) -> None:
    """SIGKILL of worker, beat, broker and PostgreSQL, as when a machine goes down; and nobody who remembers."""
    server = scratch_server()
    own = Deployment(server.database_url("app"), tmp_path / "own", simulator, broker.url)
    own.home.mkdir()
    try:
        own.spec_data["limits"]["requests_per_minute"] = 120
        crew = [own.worker(), own.beat()]
        start(own, 400)
        zone = own.value("SHOW TimeZone")
        far = f"{clock(own, 120)}-{clock(own, 180)} {zone}"
        words = (
            "--start-at",
            "2001-01-01T00:00+00:00",
            "--resume-daily",
            f"{clock(own, 90)} {zone}",
            "--priority",
            "3",
        )
        own.must("schedule", "docs", *words)
        own.wait(lambda: own.value("SELECT count(embedding__migrator) FROM docs") >= 20)
        told = json.loads(own.run("schedule", "docs", "--window", far, "--json").stdout)
        for process in crew:
            own.kill(process)
        broker.kill()
        server.kill()
        time.sleep(0.5)
        before = simulator.ledger()["requests"]
        server.start()
        broker.start()
        assert own.value("SELECT count(embedding__migrator) FROM docs") >= 20, "paid work survives"
        kept = json.loads(own.run("schedule", "docs", "--json").stdout)
        assert {name: kept[name] for name in kept if name not in {"opens", "closes"}} == (
            {name: told[name] for name in told if name not in {"opens", "closes"}}
        )
        own.worker("w2")
        own.beat("beat-2")
        own.wait(lambda: "window" in (own.value("SELECT binding FROM migrator.migrations") or ""))
        time.sleep(5)
        assert simulator.ledger()["requests"] == before, "its window is closed, also for who was just born"
        assert own.status == "backfilling"
        own.must("limits", "docs", "--window", "always", "--rpm", "0")
        own.wait_for("ready")
        assert own.mismatches("embedding__migrator", V4) == []
        assert json.loads(own.must("status", "docs", "--json"))["priority"] == 3
    finally:
        own.close()
