"""What is given out again is another task to Celery, and the same work to people; and what a task does after it."""

from __future__ import annotations

import asyncio
import re
from types import SimpleNamespace
from typing import Any

import pytest

from migrator.orchestrator.tick import Tick
from migrator.state.leases import Kind, Ticket
from workers import runtime, tasks


def test_a_ticket_given_again_has_another_task_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers drop an id that somebody revoked in Flower for three hours, whatever is sent under it."""
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(tasks.run_batch, "apply_async", lambda **options: sent.append(options))
    ticket = Ticket(1, Kind.BATCH, 7, 3, "docs.b000007.a2", "docs pages 0..31", "backfill")
    tasks.publish([ticket, ticket])
    ids = [each["task_id"] for each in sent]
    assert len(set(ids)) == 2
    assert all(re.fullmatch(r"docs\.b000007\.a2-[0-9a-f]{4}", each) for each in ids)


def test_ticks_after_work_tell_how_far_it_is_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that ends ten batches a second hands out ten times, and is read out once."""
    told: list[bool] = []

    async def tick(*_: Any, tells: bool, **__: Any) -> Tick:
        told.append(tells)
        return Tick()

    async def perform(*_: Any) -> str:
        return "done"

    here = SimpleNamespace(engine=None, holder="test", ticket_seconds=1.0)
    monkeypatch.setattr(runtime, "run", lambda step: asyncio.run(step(here)))
    monkeypatch.setattr(tasks, "tick", tick)
    monkeypatch.setattr(tasks, "perform", perform)
    monkeypatch.setattr(tasks._Told, "at", float("-inf"))
    ticket = Ticket(1, Kind.BATCH, 7, 3, "docs.b000007.a2", "docs pages 0..31", "backfill")
    for second in (100.0, 100.1, 100.9, 101.0, 101.5):
        monkeypatch.setattr(tasks, "time", SimpleNamespace(monotonic=lambda now=second: now))
        tasks._perform(ticket)
    assert told == [True, False, False, True, False]
    tasks._tick()
    assert told[-1], "a tick of beat's tells always"
