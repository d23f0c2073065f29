"""Flower, as an operator opens it: names, arguments and results that say what is going on."""

from __future__ import annotations

import socket
import sys
from typing import Any

import httpx

from migrator.demo import processes
from tests.deployment import Deployment

LOGIN = ("operator", "a-password")


def flower(deployed: Deployment, port: int) -> Any:
    env = {"MIGRATOR_FLOWER_PORT": str(port), "MIGRATOR_FLOWER_AUTH": ":".join(LOGIN)}
    return deployed.spawn(sys.executable, "-m", "celery", "-A", "workers.app", "flower", log="flower.log", env=env)


def test_flower_shows_batches_in_words_and_asks_for_a_login(deployed: Deployment) -> None:
    port = processes.free_port()
    process = flower(deployed, port)
    deployed.wait(lambda: processes.accepts(port), process, "flower")
    url = f"http://127.0.0.1:{port}"
    assert httpx.get(f"{url}/tasks").status_code == 401
    assert httpx.get(f"{url}/api/tasks").status_code == 401
    deployed.worker()
    deployed.beat()
    deployed.make_table(60)
    deployed.must("start", deployed.spec_file, "--yes")
    deployed.wait_for("ready")

    def batches() -> list[dict[str, Any]]:
        tasks = httpx.get(f"{url}/api/tasks", auth=LOGIN, timeout=20).json()
        found = [task for task in tasks.values() if task["name"] == "migrator.batch"]
        return [task for task in found if task["state"] == "SUCCESS"]

    deployed.wait(batches, process, "a finished batch in Flower")
    shown = batches()
    assert any("docs pages 0.." in task["args"] for task in shown), [task["args"] for task in shown]
    assert any(task["uuid"].startswith("docs.b") for task in shown)

    def progress_lines() -> list[str]:
        tasks = httpx.get(f"{url}/api/tasks", auth=LOGIN, timeout=20).json().values()
        return [task["result"] for task in tasks if "docs ready" in (task["result"] or "")]

    deployed.wait(progress_lines, process, "a tick whose result is the progress line")
    queues = httpx.get(f"{url}/api/workers", params={"refresh": "1"}, auth=LOGIN, timeout=20).json()["w1@test"]
    assert {each["name"] for each in queues["active_queues"]} == {"control", "backfill", "live", "index"}


def test_a_taken_port_is_three_sentences_and_not_a_traceback(deployed: Deployment) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        process = flower(deployed, taken.getsockname()[1])
        assert process.wait(60) == 2
    said = (deployed.home / "flower.log").read_text().strip().splitlines()
    assert len(said) == 3, said
    assert said[0].startswith("Flower can't listen on 127.0.0.1:")
    assert "MIGRATOR_FLOWER_PORT" in said[2]


def test_flower_starts_without_a_login_on_loopback(deployed: Deployment) -> None:
    port = processes.free_port()
    env = {"MIGRATOR_FLOWER_PORT": str(port)}
    command = [sys.executable, "-m", "celery", "-A", "workers.app", "flower"]
    process = deployed.spawn(*command, log="flower.log", env=env)
    deployed.wait(lambda: processes.accepts(port), process, "flower")
    assert httpx.get(f"http://127.0.0.1:{port}/api/tasks", timeout=20).status_code == 401
