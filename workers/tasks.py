"""The tasks: a few lines each. What Flower shows of them is written for the operator.

Floor 4. Promise: no retry, no countdown, no canvas, no result that anybody reads: attempts, delays and outcomes are in
Postgres. Arguments are ids and fences; task ids and `argsrepr` are words such as `docs.b000120.a2` and
`docs pages 1200..1319`, and never hold a text or a key (P11).
"""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from collections.abc import Sequence

from kombu.exceptions import OperationalError

from migrator.errors import MigratorError
from migrator.orchestrator.perform import perform
from migrator.orchestrator.tick import Tick, tick
from migrator.spending.worker import Worker
from migrator.state.batches import QUEUE_INDEX
from migrator.state.leases import Kind, Ticket
from workers import runtime
from workers.app import INDEX_SECONDS, app

logger = logging.getLogger(__name__)

#: Seconds between two ticks of this process that tell how far it is; beat's all do.
TELL_SECONDS = 1.0


class _Told:
    """When this process told last, on the monotonic clock."""

    at: float = float("-inf")


@app.task(name="migrator.tick")
def run_tick() -> str:
    """Hand out what is to be done; the result is the progress line."""
    return _tick()


@app.task(name="migrator.batch")
def run_batch(migration_id: int, kind: str, row_id: int, fence: int, label: str, arguments: str, queue: str) -> str:
    """Do one batch, or a spell of catch-up, if the ticket still holds; then tick."""
    return _perform(Ticket(migration_id, Kind(kind), row_id, fence, label, arguments, queue))


@app.task(name="migrator.index", soft_time_limit=INDEX_SECONDS, time_limit=INDEX_SECONDS)
def run_index(migration_id: int, kind: str, row_id: int, fence: int, label: str, arguments: str, queue: str) -> str:
    """Do what takes as long as it takes: the proof, the indexes, the gates; then tick."""
    return _perform(Ticket(migration_id, Kind(kind), row_id, fence, label, arguments, queue))


def _perform(ticket: Ticket) -> str:
    ending = False
    try:
        return runtime.run(lambda worker: perform(worker, ticket))
    except SystemExit:
        ending = True
        raise
    finally:
        # In this process, so that progress never waits behind a full queue; not where this process was told to end.
        with contextlib.suppress(MigratorError):
            if not ending:
                _tick(tells=_tells())


def _tells() -> bool:
    """Say whether a tick after a piece of work tells how far it is: that is half of it, and changes by the second."""
    now = time.monotonic()
    if now - _Told.at < TELL_SECONDS:
        return False
    _Told.at = now
    return True


def _tick(*, tells: bool = True) -> str:
    async def step(worker: Worker) -> Tick:
        return await tick(worker.engine, actor=worker.holder, ticket_seconds=worker.ticket_seconds, tells=tells)

    made = runtime.run(step)
    publish(made.tickets)
    return str(made)


def publish(tickets: Sequence[Ticket]) -> None:
    """Send tickets to their queues; one that can't be sent is offered again when its time is over."""
    for ticket in tickets:
        task = run_index if ticket.queue == QUEUE_INDEX else run_batch
        words = (ticket.migration_id, str(ticket.kind), ticket.row_id, ticket.fence)
        try:
            task.apply_async(
                args=(*words, ticket.label, ticket.arguments, ticket.queue),
                # Workers drop an id that was revoked in Flower for three hours: what is given again is not called so.
                task_id=f"{ticket.label}-{uuid.uuid4().hex[:4]}",
                queue=ticket.queue,
                argsrepr=ticket.arguments,
                kwargsrepr="",
            )
        except OperationalError:
            logger.warning("the broker took no ticket; %s and later ones are offered again", ticket.label)
            return
