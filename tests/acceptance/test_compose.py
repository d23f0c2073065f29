"""docker-compose.yml and the Dockerfile, as far as they can be tried without an engine.

Each of our services' own command is run outside a container, with the environment and the secrets that the file gives
it, and so is its health check; every path, extra and variable is looked up; and Debian's docker-compose reads the file
by its schema.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from migrator.demo import processes
from migrator.demo.processes import free_port
from migrator.state.batches import QUEUE_BACKFILL, QUEUE_CONTROL, QUEUE_INDEX, QUEUE_LIVE
from tests.conftest import find_program
from tests.deployment import KEY, ROOT, Deployment

FILE = ROOT / "docker-compose.yml"
COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = sorted(name for name, service in SERVICES.items() if "build" in service)
SECRETS = "/run/secrets/"


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


def test_the_head_names_every_secret_and_no_secret_stands_in_an_environment() -> None:
    text = FILE.read_text(encoding="utf-8")
    head = text[: text.index("x-migrator")]
    assert set(re.findall(r"^#   secrets/(\w+)  ", head, re.MULTILINE)) == set(COMPOSE["secrets"])
    for name, where in COMPOSE["secrets"].items():
        assert where == {"file": f"./secrets/{name}"}
    for name, service in SERVICES.items():
        for key, value in service.get("environment", {}).items():
            assert key.endswith("_FILE") or not re.search("PASS|SECRET|_KEY|_AUTH$|_URL", key), (name, key)
            if str(value).startswith(SECRETS):
                assert value.removeprefix(SECRETS) in service["secrets"], (name, key)
    assert "${" not in "".join(re.findall(r"image: .*", text)), "images are pinned, not chosen"


def test_images_are_pinned_to_a_version() -> None:
    others = {service["image"] for service in SERVICES.values() if "build" not in service}
    bases = re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    for image in [*others, *bases]:
        assert re.search(r":v?\d+\.\d+\.\d+", image), image


def test_nothing_of_ours_may_more_than_it_needs() -> None:
    for name in OURS:
        service = SERVICES[name]
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
    assert SERVICES["beat"]["secrets"] == ["broker_url"]
    assert "provider_key" not in SERVICES["flower"]["secrets"]
    assert SERVICES["exporter"]["secrets"] == ["database_url"]


def test_every_queue_has_a_worker() -> None:
    served = [word for name in OURS for word in queues(SERVICES[name]["command"])]
    assert sorted(served) == sorted([QUEUE_BACKFILL, QUEUE_CONTROL, QUEUE_INDEX, QUEUE_LIVE])


def queues(command: list[str]) -> list[str]:
    return command[command.index("--queues") + 1].split(",") if "--queues" in command else []


def test_the_dockerfile_copies_what_is_there_and_all_that_the_wheel_needs() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    copied = {word for line in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE) for word in line.split()}
    assert all((ROOT / name).exists() for name in copied)
    assert {"migrator", "workers", "migrations", "pyproject.toml", "README.md", "LICENSE"} <= copied
    ignored = set((ROOT / ".dockerignore").read_text(encoding="utf-8").split())
    assert not copied & ignored
    (extras,) = re.findall(r'"\.\[([\w,]+)\]"', text)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert all(re.search(rf"^{extra} = \[", project, re.MULTILINE) for extra in extras.split(","))
    build, runtime = text.split("\nFROM ")[1:]
    assert "pip install" in build
    assert "pip install" not in runtime, "the image that runs has no build tools, no caches and no sources"
    assert re.search(r"^USER \d+$", runtime, re.MULTILINE), "a number: Kubernetes can't see who a name is"
    (health,) = re.findall(r'^HEALTHCHECK .*CMD \["(.+)"\]', runtime, re.MULTILINE)
    assert health.split('", "') == SERVICES["backfill"]["healthcheck"]["test"][1:]


@pytest.mark.parametrize("name", OURS)
def test_each_of_our_services_runs_by_its_own_command(name: str, deployed: Deployment, tmp_path: Path) -> None:
    """The environment is the file's, with the addresses of this test's servers in place of the containers' names."""
    service, port = SERVICES[name], free_port()
    stored = {
        "database_url": deployed.url, "broker_url": deployed.broker_url, "flower_login": "me:a-password",
        "provider_key": KEY, "hook_secret": "a-secret",
    }  # fmt: skip
    for secret in service["secrets"]:
        (tmp_path / secret).write_text(stored[secret] + "\n")
    given = {"MIGRATOR_LEASE_SECONDS": "5"}
    env = {key: resolved(str(value), given).replace(SECRETS, f"{tmp_path}/")
           for key, value in service["environment"].items()}  # fmt: skip
    # What is said about the network stays as it is; only names and places that a container has are replaced.
    env |= {"MIGRATOR_FLOWER_PORT": str(port), "MIGRATOR_INSTANCE": name, "MIGRATOR_FLOWER_DB": str(tmp_path / "db")}
    env |= {"MIGRATOR_EXPORTER_LISTEN": f"127.0.0.1:{port}"} if "MIGRATOR_EXPORTER_LISTEN" in env else {}
    env |= {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    words = service["command"]
    assert words[:3] == ["celery", "-A", "workers.app"] or words[:2] == ["migrator", "exporter"]
    asked = [
        word.replace(":5555/", f":{port}/").replace(":9464/", f":{port}/") for word in service["healthcheck"]["test"]
    ]
    assert asked[0] == "CMD"

    def healthy() -> bool:
        command = [
            sys.executable,
            *(["-m"] if asked[1] == "migrator" else []),
            *asked[1 if asked[1] != "python" else 2 :],
        ]
        return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, timeout=60, check=False).returncode == 0

    assert not healthy()
    process = processes.spawn([sys.executable, "-m", *words], tmp_path / f"{name}.log", env=env, cwd=ROOT)
    try:
        deployed.wait(healthy, process, f"{name} of docker-compose.yml", seconds=60)
        if "--queues" in words:
            assert deployed.value("SELECT queues FROM migrator.workers") == queues(words)
    finally:
        processes.stop(process)


@pytest.mark.system
def test_docker_compose_reads_it_by_its_schema(tmp_path: Path) -> None:
    command = [str(find_program("docker-compose")), "--file", str(FILE), "config", "--quiet"]
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    broken = tmp_path / "docker-compose.yml"
    broken.write_text(FILE.read_text(encoding="utf-8").replace("stop_grace_period:", "stop_grace:"), encoding="utf-8")
    command[2] = str(broken)
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0, "it would be seen"
    assert "stop_grace" in done.stderr
