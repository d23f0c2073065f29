"""Flower, as an operator opens it: names, arguments and results that say what is going on."""

from __future__ import annotations

from typing import Any

import httpx

from tests.acceptance.flower import LOGIN, begin, tasks_of
from tests.deployment import Deployment


def test_flower_shows_batches_in_words_and_asks_for_a_login(deployed: Deployment) -> None:
    process, url = begin(deployed)
    assert httpx.get(f"{url}/tasks").status_code == 401
    assert httpx.get(f"{url}/api/tasks").status_code == 401
    deployed.worker()
    deployed.beat()
    deployed.make_table(60)
    deployed.must("start", deployed.spec_file, "--yes")
    deployed.wait_for("ready")

    def batches() -> list[dict[str, Any]]:
        found = [task for task in tasks_of(url) if task["name"] == "migrator.batch"]
        return [task for task in found if task["state"] == "SUCCESS"]

    deployed.wait(batches, process, "a finished batch in Flower")
    shown = batches()
    assert any("docs pages 0.." in task["args"] for task in shown), [task["args"] for task in shown]
    assert any(task["uuid"].startswith("docs.b") for task in shown)

    def progress_lines() -> list[str]:
        return [task["result"] for task in tasks_of(url) if "docs ready" in (task["result"] or "")]

    deployed.wait(progress_lines, process, "a tick whose result is the progress line")
    queues = httpx.get(f"{url}/api/workers", params={"refresh": "1"}, auth=LOGIN, timeout=20).json()["w1@test"]
    assert {each["name"] for each in queues["active_queues"]} == {"control", "backfill", "live", "index"}
