"""What is given out again is another task to Celery, and the same work to people."""

from __future__ import annotations

import re
from typing import Any

import pytest

from migrator.state.leases import Kind, Ticket
from workers import tasks


def test_a_ticket_given_again_has_another_task_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers drop an id that somebody revoked in Flower for three hours, whatever is sent under it."""
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(tasks.run_batch, "apply_async", lambda **options: sent.append(options))
    ticket = Ticket(1, Kind.BATCH, 7, 3, "docs.b000007.a2", "docs pages 0..31", "backfill")
    tasks.publish([ticket, ticket])
    ids = [each["task_id"] for each in sent]
    assert len(set(ids)) == 2
    assert all(re.fullmatch(r"docs\.b000007\.a2-[0-9a-f]{4}", each) for each in ids)
