"""Whoever can write to the broker can at most wake a tick: nothing that comes from there is run, or believed."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

from kombu import Connection, Exchange, Producer

from migrator.state.batches import QUEUE_BACKFILL, QUEUE_CONTROL
from tests.deployment import Deployment


class Evil:
    """What makes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def send(url: str, queue: str, body: Any, **how: Any) -> None:
    """Put a message where workers take theirs."""
    with Connection(url, transport_options={"global_keyprefix": "migrator:"}) as connection:
        producer = Producer(connection.channel(), Exchange("migrator", type="direct"), routing_key=queue)
        producer.publish(body, **how)


def task(name: str, arguments: list[Any]) -> dict[str, Any]:
    """A message as Celery's protocol has it."""
    headers = {"task": name, "id": f"stranger-{name}", "argsrepr": "a stranger's", "lang": "py", "retries": 0}
    return {"body": [arguments, {}, {}], "headers": headers}


def test_a_strangers_message_is_never_run_and_harms_nobody(deployed: Deployment) -> None:
    worker, made = deployed.worker(), deployed.home / "made-by-a-stranger"
    deployed.make_table(60)
    deployed.must("start", deployed.spec_file, "--yes")
    url = deployed.broker_url
    evil = pickle.dumps([[Evil(made)], {}, {}])
    for queue in (QUEUE_CONTROL, QUEUE_BACKFILL):
        send(url, queue, evil, content_type="application/x-python-serialize", content_encoding="binary",
             headers=task("migrator.tick", [])["headers"])  # fmt: skip
        send(url, queue, b"\xff\xfe garbage", content_type="application/data", content_encoding="binary")
        send(url, queue, **task("os.system", [f"touch {made}"]), serializer="json")
        send(
            url,
            queue,
            **task("migrator.batch", [1, "batch", 1, 999_999, "forged", "forged", QUEUE_BACKFILL]),
            serializer="json",
        )
        send(
            url, queue, **task("migrator.batch", ["1; DROP TABLE docs", "batch", "x", "y", 5, 6, 7]), serializer="json"
        )
    log = deployed.home / "w1.log"
    deployed.wait(
        lambda: "Refusing to deserialize" in log.read_text() and "unregistered task" in log.read_text(),
        worker,
        "refusals",
    )
    assert deployed.query("SELECT 1 FROM migrator.batches WHERE status <> 'pending'") == [], "nothing was begun"
    # A tick that anybody sends is as good as one of beat's.
    send(url, QUEUE_CONTROL, **task("migrator.tick", []), serializer="json")
    deployed.beat()
    deployed.wait_for("ready")
    assert deployed.mismatches("embedding__migrator", "text-embedding-v4") == []
    assert not made.exists()
    assert worker.poll() is None
