"""Hooks told by real Celery workers, one of which is killed while it tells."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter

from tests.deployment import Deployment
from tests.receiving import SECRET, SECRET_ENV, receiving

ENV = {SECRET_ENV: SECRET, "MIGRATOR_ALLOW_COMMAND_HOOKS": "1"}


def worker(deployed: Deployment, name: str) -> subprocess.Popen[bytes]:
    command = (sys.executable, "-m", "celery", "-A", "workers.app", "worker", "-n", f"{name}@test", "-c", "2")
    return deployed.spawn(*command, "--loglevel", "INFO", log=f"{name}.log", env=ENV)


def test_workers_tell_each_event_once_and_a_killed_ones_again(deployed: Deployment) -> None:
    with receiving() as receiver:
        heard = deployed.home / "heard"
        command = ["/bin/sh", "-c", f"cat >> {heard}; echo >> {heard}"]
        deployed.spec_data["hooks"] = {"url": receiver.url, "secret_env": SECRET_ENV, "command": command}
        deployed.make_table(60)
        for words in (("plan",), ("start", "--yes")):
            deployed.must(words[0], deployed.spec_file, *words[1:])
        receiver.hang = threading.Event()
        first = worker(deployed, "w1")
        deployed.beat()
        deployed.wait(lambda: receiver.events == ["started"], first, "the first event")
        deployed.kill(first)
        receiver.hang.set()
        receiver.hang = None
        worker(deployed, "w2")
        deployed.wait_for("ready")
        deployed.wait(lambda: "ready" in receiver.events)
        # What waiting for the dead one's claim does.
        deployed.query("UPDATE migrator.hook_events SET not_before = now() WHERE told_at IS NULL RETURNING 1")
        deployed.wait(lambda: deployed.value("SELECT bool_and(told_at IS NOT NULL) FROM migrator.hook_events"))
        assert Counter(receiver.events) == {"started": 2, "validated": 1, "ready": 1}
        assert receiver.verified()
        by_command = [json.loads(line) for line in heard.read_text().splitlines()]
        assert Counter(each["event"] for each in by_command) == {"started": 1, "validated": 1, "ready": 1}
        assert {each["id"] for each in by_command} == {each["id"] for each in receiver.bodies}
        assert len({each["id"] for each in receiver.bodies}) == 3
    logs = "".join(path.read_text() for path in deployed.home.glob("*.log"))
    assert SECRET not in logs
