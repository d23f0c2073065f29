"""Logs as an operator's collector and an operator's eyes read them, from real workers and a real beat."""

from __future__ import annotations

import json
from typing import Any

from tests.deployment import KEY, Deployment


def refused_by_the_provider(deployed: Deployment, **env: str) -> str:
    """Let workers begin, refuse their key, and return what they wrote."""
    deployed.make_table(60)
    deployed.must("start", deployed.spec_file, "--yes")
    # The first attempt is to be the one that is refused: with two seconds it loses its lease where a process that
    # starts among others gets no turn for so long.
    deployed.lease_seconds = 10
    deployed.simulator.admin(keys=["another"])
    try:
        deployed.worker(env=env)
        deployed.beat("beat", "--loglevel", "INFO", env=env)
        deployed.wait_for("paused")
    finally:
        deployed.simulator.admin(keys=None)
    return (deployed.home / "w1.log").read_text() + (deployed.home / "beat.log").read_text()


def test_p11_each_line_is_json_and_says_what_it_is_about(deployed: Deployment) -> None:
    written = refused_by_the_provider(deployed, MIGRATOR_LOG_FORMAT="json")
    lines: list[dict[str, Any]] = [json.loads(line) for line in written.splitlines() if line.startswith("{")]
    assert {"migrator.orchestrator.perform", "celery.app.trace", "celery.beat"} <= {each["logger"] for each in lines}
    assert all({"event", "level", "timestamp"} <= set(each) for each in lines)
    (failed, *_) = [each for each in lines if each["logger"] == "migrator.orchestrator.perform"]
    assert (failed["level"], failed["migration"], failed["attempt"]) == ("warning", "docs", 1)
    assert failed["batch"].startswith("b0000")
    assert "refuses" in failed["event"]
    assert KEY not in written
    assert deployed.words(1)[1] not in written


def test_people_read_text(deployed: Deployment) -> None:
    written = refused_by_the_provider(deployed)
    (failed, *_) = [line for line in written.splitlines() if "migrator.orchestrator.perform" in line]
    assert "[warning" in failed
    assert "migration=docs" in failed
    assert "attempt=1" in failed
    assert "\x1b" not in failed
