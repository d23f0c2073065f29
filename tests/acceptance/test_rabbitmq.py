"""The same engine on RabbitMQ: the broker carries hints, whichever it is."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from migrator.demo import processes
from migrator.demo.simulator.control import Simulator
from tests.deployment import V4, Deployment

_PROGRAMS = "/usr/lib/rabbitmq/bin"

pytestmark = pytest.mark.system


@pytest.fixture
def rabbitmq(tmp_path: Path) -> Iterator[str]:
    """A RabbitMQ of our own: its node, its port mapper, its folders; returns its URL."""
    home = tmp_path / "rabbitmq"
    home.mkdir()
    port, distribution, mapper = (processes.free_port() for _ in range(3))
    env = {
        **os.environ,
        "HOME": str(home),
        "RABBITMQ_NODENAME": f"t{os.getpid()}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_MNESIA_BASE": str(home / "data"),
        "RABBITMQ_LOG_BASE": str(home / "log"),
        "RABBITMQ_PID_FILE": str(home / "pid"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "plugins"),
        "ERL_EPMD_PORT": str(mapper),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
    }
    epmd = processes.spawn(["/usr/bin/epmd", "-port", str(mapper)], home / "epmd.log", env=env)
    server = processes.spawn([f"{_PROGRAMS}/rabbitmq-server"], home / "server.log", env=env)
    try:
        processes.wait_until(lambda: processes.accepts(port), server, home / "server.log", seconds=60)
        # It accepts connections before it serves them.
        subprocess.run([f"{_PROGRAMS}/rabbitmqctl", "await_startup"], env=env, check=True, capture_output=True)
        yield f"amqp://guest:guest@127.0.0.1:{port}//"
    finally:
        processes.stop(server)
        processes.stop(epmd)


@pytest.mark.timeout(240)
def test_workers_carry_a_migration_to_ready_over_rabbitmq(
    database: str, simulator: Simulator, rabbitmq: str, tmp_path: Path
) -> None:
    deployment = Deployment(database, tmp_path, simulator, rabbitmq)
    try:
        deployment.worker()
        deployment.beat()
        deployment.make_table(120)
        said = deployment.must("doctor", deployment.spec_file)
        assert "ok    broker" in said
        assert "guest:guest" not in said
        deployment.must("start", deployment.spec_file, "--yes")
        deployment.wait_for("ready")
        assert deployment.mismatches("embedding__migrator", V4) == []
        deployment.must("cutover", "docs", "--readers-ready", "--yes")
        assert deployment.mismatches("embedding", V4) == []
    finally:
        deployment.close()
