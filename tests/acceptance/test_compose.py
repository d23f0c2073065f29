"""docker-compose.yml and the Dockerfile, as far as they can be tried without an engine.

Each of our services' own command is run outside a container, with the environment that the file gives it; every path,
extra and variable is looked up; and Debian's docker-compose reads the file by its schema.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import yaml

from migrator.demo import processes
from migrator.demo.processes import free_port
from tests.conftest import find_program
from tests.deployment import ROOT, Deployment

FILE = ROOT / "docker-compose.yml"
COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = sorted(name for name, service in SERVICES.items() if "build" in service)
#: What the file's head asks for.
WANTED = {"POSTGRES_PASSWORD": "secret1", "MIGRATOR_FLOWER_AUTH": "me:secret2", "THE_ROUTER_API_KEY": "secret3"}


def resolved(value: str, given: dict[str, str]) -> str:
    """A value as compose fills it: ${NAME}, ${NAME:-default}, ${NAME:?message}."""
    pattern = re.compile(r"\$\{(\w+)(?::-((?:[^{}]|\{[^}]*\})*)|:\?[^}]*)?\}")
    while pattern.search(value):
        value = pattern.sub(lambda found: given.get(found[1]) or (found[2] or ""), value, count=1)
    return value


def test_nothing_listens_beyond_this_machine() -> None:
    for name, service in SERVICES.items():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), name


def test_every_volume_and_every_service_that_is_waited_for_is_there() -> None:
    for service in SERVICES.values():
        sources = {each.partition(":")[0] for each in service.get("volumes", [])}
        assert all((ROOT / each).exists() for each in sources if each.startswith("./"))
        assert {each for each in sources if not each.startswith("./")} <= set(COMPOSE["volumes"])
        for other, how in service.get("depends_on", {}).items():
            assert how != {"condition": "service_healthy"} or "healthcheck" in SERVICES[other]


def test_the_head_names_every_variable_that_must_be_set() -> None:
    text = FILE.read_text(encoding="utf-8")
    head = text[: text.index("x-migrator")]
    demanded = set(re.findall(r"\$\{(\w+):\?", text))
    assert demanded <= set(WANTED)
    assert all(f"#   {name}=" in head for name in WANTED)


def test_the_dockerfile_copies_what_is_there_and_all_that_the_wheel_needs() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    copied = {word for line in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE) for word in line.split()}
    assert all((ROOT / name).exists() for name in copied)
    assert {"migrator", "workers", "migrations", "pyproject.toml", "README.md", "LICENSE"} <= copied
    ignored = set((ROOT / ".dockerignore").read_text(encoding="utf-8").split())
    assert not copied & ignored
    (extras,) = re.findall(r'"\.\[([\w,]+)\]"', text)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert all(re.search(rf"^{extra} = \[", project, re.MULTILINE) for extra in extras.split(","))
    assert re.search(r"^USER (?!root)", text, re.MULTILINE)


@pytest.mark.parametrize("name", OURS)
def test_each_of_our_services_runs_by_its_own_command(name: str, deployed: Deployment, tmp_path: Path) -> None:
    """The environment is the file's, with the addresses of this test's servers in place of the containers' names."""
    given = {**WANTED, "MIGRATOR_DATABASE_URL": deployed.url, "MIGRATOR_LEASE_SECONDS": "5"}
    service = SERVICES[name]
    env = {key: resolved(str(value), given) for key, value in service["environment"].items()}
    assert env["MIGRATOR_DATABASE_URL"] == deployed.url
    # What is said about the network stays as it is; only names that a container would resolve are replaced.
    port = free_port()
    env |= {"MIGRATOR_BROKER_URL": deployed.broker_url, "MIGRATOR_FLOWER_PORT": str(port), "MIGRATOR_INSTANCE": name}
    env |= {"MIGRATOR_EXPORTER_LISTEN": f"127.0.0.1:{port}"} if "MIGRATOR_EXPORTER_LISTEN" in env else {}
    words = service["command"]
    assert words[:3] == ["celery", "-A", "workers.app"] or words[:2] == ["migrator", "exporter"]
    alive: dict[str, Callable[[], object]] = {
        "worker": lambda: deployed.query("SELECT 1 FROM migrator.workers"),
        "beat": lambda: "Sending due task" in log.read_text() or "beat: Starting" in log.read_text(),
        "flower": lambda: answers(port, "healthcheck"),
        "exporter": lambda: answers(port, "metrics"),
    }
    log = tmp_path / f"{name}.log"
    process = processes.spawn(
        [sys.executable, "-m", *words], log, env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), **env}, cwd=ROOT
    )
    try:
        deployed.wait(alive[name], process, f"{name} of docker-compose.yml", seconds=60)
    finally:
        processes.stop(process)


def answers(port: int, path: str) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/{path}", timeout=5).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def test_its_database_takes_the_password_that_the_address_holds() -> None:
    """What stands in the URL is what PostgreSQL is given."""
    for name in OURS:
        url = resolved(SERVICES[name]["environment"]["MIGRATOR_DATABASE_URL"], WANTED)
        assert psycopg.conninfo.conninfo_to_dict(url)["password"] == WANTED["POSTGRES_PASSWORD"]
    assert resolved(SERVICES["postgres"]["environment"]["POSTGRES_PASSWORD"], WANTED) == WANTED["POSTGRES_PASSWORD"]


@pytest.mark.system
def test_docker_compose_reads_it_by_its_schema(tmp_path: Path) -> None:
    command = [str(find_program("docker-compose")), "--file", str(FILE), "config", "--quiet"]
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **WANTED}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    without = {key: value for key, value in env.items() if key != "POSTGRES_PASSWORD"}
    done = subprocess.run(command, env=without, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "set it in .env" in done.stderr
