"""Flower as a process of a deployment, and what it tells by its API."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import httpx

from migrator.demo import processes
from tests.deployment import Deployment

LOGIN = ("operator", "a-password")


def spawn(deployed: Deployment, port: int, *options: str, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "celery", "-A", "workers.app", "flower", *options]
    return deployed.spawn(*command, log="flower.log", env={"MIGRATOR_FLOWER_PORT": str(port), **(env or {})})


def begin(
    deployed: Deployment, *options: str, env: dict[str, str] | None = None
) -> tuple[subprocess.Popen[bytes], str]:
    """Start Flower with a login, unless the environment says otherwise; its process and its address."""
    port = processes.free_port()
    process = spawn(deployed, port, *options, env={"MIGRATOR_FLOWER_AUTH": ":".join(LOGIN)} if env is None else env)
    deployed.wait(lambda: processes.accepts(port), process, "flower")
    return process, f"http://127.0.0.1:{port}"


def tasks_of(url: str, **params: str) -> list[dict[str, Any]]:
    answer = httpx.get(f"{url}/api/tasks", params=params, auth=LOGIN, timeout=20)
    return list(answer.raise_for_status().json().values())


def push(url: str, path: str, **data: str) -> httpx.Response:
    """What a button of Flower's pages does."""
    return httpx.post(f"{url}/api/{path}", data=data, auth=LOGIN, timeout=30)
