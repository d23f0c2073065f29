"""deploy/systemd, as far as it can be tried without systemd running.

Each unit's own command is run with the environment and the credentials that the unit gives it; systemd-analyze reads
all of them.
"""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from migrator.demo import processes
from migrator.state.batches import QUEUE_BACKFILL, QUEUE_CONTROL, QUEUE_INDEX, QUEUE_LIVE
from tests.conftest import find_program
from tests.deployment import KEY, ROOT, Deployment

UNITS = ROOT / "deploy/systemd"
PROGRAMS = "/opt/pgvector-migrator/bin/"
STORED = "/etc/pgvector-migrator/"
SERVICES = sorted(UNITS.glob("*.service"))
RUNNING = {path.name for path in SERVICES} - {"migrator-alive@.service"}
#: Without any one of these a service could do what it has no need to.
HARDENED = {
    "DynamicUser=yes", "NoNewPrivileges=yes", "ProtectSystem=strict", "ProtectHome=yes", "PrivateTmp=yes",
    "PrivateDevices=yes", "CapabilityBoundingSet=", "RestrictNamespaces=yes", "SystemCallFilter=@system-service",
}  # fmt: skip


def settings_of(path: Path) -> dict[str, list[str]]:
    """A unit's settings, each with all that is said for it."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in path.read_text(encoding="utf-8").splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found[name].append(value)
    return found


def environment(path: Path, deployed: Deployment, home: Path) -> dict[str, str]:
    """What systemd gives a service: its credentials in a folder of its own, and nothing else that is secret."""
    stored = {
        "database_url": deployed.url, "broker_url": deployed.broker_url, "flower_login": "me:a-password",
        "provider_key": KEY, "hook_secret": "a-secret",
    }  # fmt: skip
    found = settings_of(path)
    for each in found["LoadCredential"]:
        name, _, source = each.partition(":")
        assert source == STORED + name
        (home / name).write_text(stored[name] + "\n")
    given = dict(each.split("=", 1) for each in found["Environment"])
    env = {
        name: value.replace("%d", str(home)).replace("%S/migrator-flower", str(home)) for name, value in given.items()
    }
    return {**env, "PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(home), "MIGRATOR_LEASE_SECONDS": "5"}


def command(path: Path, instance: str) -> list[str]:
    (line,) = settings_of(path)["ExecStart"]
    assert line.startswith(PROGRAMS)
    line = line.removeprefix(PROGRAMS).replace("%i", instance).replace("%H", socket.gethostname())
    for each in settings_of(path)["Environment"]:
        name, _, value = each.partition("=")
        line = line.replace(f"${{{name}}}", value)
    words = shlex.split(line)
    return [sys.executable, "-m", *(word.replace("%%", "%") for word in words)]


@pytest.mark.parametrize(
    ("unit", "instance"),
    [
        *[("migrator-worker@.service", queue) for queue in (QUEUE_CONTROL, QUEUE_BACKFILL, QUEUE_LIVE, QUEUE_INDEX)],
        ("migrator-beat.service", ""),
        ("migrator-flower.service", ""),
        ("migrator-exporter.service", ""),
    ],
)
def test_each_service_runs_by_its_own_command(unit: str, instance: str, deployed: Deployment, tmp_path: Path) -> None:
    assert unit in RUNNING
    env, port = environment(UNITS / unit, deployed, tmp_path), processes.free_port()
    env |= {"MIGRATOR_FLOWER_PORT": str(port), "MIGRATOR_EXPORTER_LISTEN": f"127.0.0.1:{port}"}
    asking = tmp_path / "asking"
    asking.mkdir()
    alive = "migrator-alive@.service"
    asked = environment(UNITS / alive, deployed, asking) if instance else env
    checks: dict[str, Callable[[], bool]] = {
        "migrator-beat.service": lambda: ends([sys.executable, "-m", "migrator", "alive", "--beat"], env) == 0,
        "migrator-flower.service": lambda: answers(f"http://127.0.0.1:{port}/healthcheck"),
        "migrator-exporter.service": lambda: answers(f"http://127.0.0.1:{port}/metrics"),
    }
    healthy = checks.get(unit, lambda: ends(command(UNITS / alive, instance), asked) == 0)
    assert not healthy()
    log = tmp_path / f"{instance or unit}.log"
    process = processes.spawn(command(UNITS / unit, instance), log, env=env, cwd=ROOT)
    try:
        deployed.wait(healthy, process, unit, seconds=60)
        if instance:
            assert deployed.value("SELECT queues FROM migrator.workers") == [instance]
    finally:
        processes.stop(process)


def ends(words: list[str], env: dict[str, str]) -> int:
    return subprocess.run(words, env=env, cwd=ROOT, capture_output=True, timeout=60, check=False).returncode


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_a_service_may_no_more_than_it_needs(path: Path) -> None:
    lines = set(path.read_text(encoding="utf-8").splitlines())
    assert lines >= HARDENED, HARDENED - lines
    said = {line for line in lines if line.startswith("Environment=") and "%d/" not in line and "%S/" not in line}
    # A number of processes is no secret; nothing else is said in a unit itself.
    assert said <= {"Environment=PROCESSES=2"}
    assert "provider_key" not in path.read_text() or path.name == "migrator-worker@.service"


def test_a_worker_is_stopped_so_that_it_finishes_its_batch() -> None:
    """Were SIGTERM sent to the whole group, as systemd does by itself, each process would give its batch back."""
    found = settings_of(UNITS / "migrator-worker@.service")
    assert found["KillMode"] == ["mixed"]
    assert int(found["TimeoutStopSec"][0]) >= 120


@pytest.mark.system
def test_systemd_reads_every_unit(tmp_path: Path) -> None:
    """With this environment's programs in the place of /opt's: it looks whether each is there."""
    programs = f"{Path(sys.executable).parent}/"
    for path in UNITS.iterdir():
        (tmp_path / path.name).write_text(
            path.read_text(encoding="utf-8").replace(PROGRAMS, programs), encoding="utf-8"
        )
    for name in ("worker", "alive"):
        shutil.copy(tmp_path / f"migrator-{name}@.service", tmp_path / f"migrator-{name}@backfill.service")
    read = ["migrator-worker@backfill.service", "migrator-alive@backfill.service", "migrator.target"]
    read += [path.name for path in UNITS.iterdir() if "@" not in path.name]
    words = [str(find_program("systemd-analyze")), "verify", "--man=no", *sorted(set(read))]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    beat = tmp_path / "migrator-beat.service"
    beat.write_text(beat.read_text().replace("RestartSec=5", "RestartSeconds=5"), encoding="utf-8")
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert "RestartSeconds" in done.stderr, "it would be seen"
