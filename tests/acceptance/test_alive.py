"""`migrator alive`: no only where starting the process again helps."""

from __future__ import annotations

import os
import re
import signal
import time

from migrator.demo.servers import Valkey
from tests.deployment import Deployment

NOT_ALIVE = 75


def test_a_worker_is_alive_until_it_stands_still(deployed: Deployment) -> None:
    assert "is not alive: Postgres holds no sign of it" in deployed.must("alive", code=NOT_ALIVE)
    worker = deployed.worker()
    began = time.process_time()
    assert deployed.must("alive").strip() == "w1@test is alive"
    assert time.process_time() - began < 5
    assert "w1@test is alive" in deployed.must("alive", "--name", "w1@test")
    assert "w2@test is not alive" in deployed.must("alive", "--name", "w2@test", code=NOT_ALIVE)
    os.kill(worker.pid, signal.SIGSTOP)
    with deployed.connect() as connection:
        connection.execute("UPDATE migrator.workers SET last_seen = clock_timestamp() - interval '36 s'")
    assert "Start it again" in deployed.must("alive", code=NOT_ALIVE)


def test_nobody_is_started_again_because_a_server_is_away(deployed: Deployment, broker: Valkey) -> None:
    broker.stop()
    assert "it waits for its broker, and starting it again would not help" in deployed.must("alive")
    done = deployed.run("alive", env={"MIGRATOR_DATABASE_URL": "postgresql://me:canary@127.0.0.1:1/nowhere"})
    assert done.returncode == 0
    assert "nobody can tell, and starting it again would not help: The database at" in done.stdout
    assert "canary" not in done.stdout + done.stderr


def test_nobody_is_started_again_because_the_schema_is_of_another_revision(deployed: Deployment) -> None:
    with deployed.connect() as connection:
        connection.execute("UPDATE migrator.alembic_version SET version_num = '0001'")
    assert "starting it again would not help: Schema `migrator` is at revision 0001" in deployed.must("alive")
    with deployed.connect() as connection:
        connection.execute("DROP SCHEMA migrator CASCADE")
    assert "starting it again would not help: This database has no schema" in deployed.must("alive")


def test_beat_is_alive_while_it_looks_at_its_schedule(deployed: Deployment) -> None:
    env = {"TMPDIR": str(deployed.home)}
    done = deployed.run("alive", "--beat", env=env)
    assert done.returncode == NOT_ALIVE
    assert "beat is not alive: there is no" in done.stderr
    beat = deployed.beat()
    deployed.wait(lambda: deployed.run("alive", "--beat", env=env).returncode == 0, beat, "beat")
    deployed.kill(beat)
    (sign,) = deployed.home.glob("migrator-beat-*.alive")
    old = time.time() - 61
    os.utime(sign, (old, old))
    done = deployed.run("alive", "--beat", env=env)
    assert done.returncode == NOT_ALIVE
    assert re.search(r"its last sign is 6\d s old", done.stderr)
