"""What workers do about hooks of themselves, and what waiting for a back-off does."""

from __future__ import annotations

from migrator.orchestrator.perform import perform
from migrator.orchestrator.tick import tick
from migrator.spending.worker import Worker
from tests.deployment import Deployment


async def tell(worker: Worker) -> None:
    """What the workers do of themselves: ticks offer, and tickets are performed."""
    for ticket in (await tick(worker.engine, actor="test", ticket_seconds=0)).tickets:
        if ".hooks." in ticket.label:
            await perform(worker, ticket)


def due_now(deployment: Deployment) -> None:
    """What waiting for a back-off, or for a dead worker's claim, does."""
    deployment.query("UPDATE migrator.hook_events SET not_before = now() WHERE told_at IS NULL RETURNING 1")
