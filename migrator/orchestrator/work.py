"""Working in the foreground: the same tick and the same performing as the workers', without a broker.

Floor 3. Promise: it may run beside Celery workers, or ten times at once; leases and fences keep them apart. Ctrl-C
gives back what is in hand, and that is no attempt. Who is there lands what catch-up has asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from migrator.errors import AtRest, GateFailed, MigratorError
from migrator.lifecycle import NEXT_STEP, UNATTENDED, MigrationStatus
from migrator.orchestrator import telling
from migrator.orchestrator.perform import perform
from migrator.orchestrator.tick import tick
from migrator.spending.worker import Worker
from migrator.state import migrations
from migrator.state.connection import transaction
from migrator.state.leases import Duty, Ticket
from migrator.state.migrations import Migration

S = MigrationStatus
#: Batches in hand at once: while one waits for its last answers, the next one sends.
IN_HAND = 2
#: The way that the workers go by themselves, and what follows it: `until` is reached by whoever is there or past it.
WAY = (S.BACKFILLING, S.INDEXING, S.VALIDATING, S.READY, S.COMPLETED)
#: Seconds between two ticks when nothing was finished meanwhile, and at least between two that tell how far it is.
_TICK_SECONDS = 1.0


@dataclass(eq=False)
class CameToRest(AtRest):
    """The migration stopped before it was where it should get to."""

    name: str
    status: str
    reason: str

    runbook = "pause-and-resume"
    happened = "{name} is {status}: {reason}."
    state = "Everything paid for is kept, and nothing more is spent."
    next = "Mend the reason, then `migrator resume {name}` and `migrator work {name}`."


@dataclass(slots=True)
class _Ticker:
    """Ticks after every piece of work, and tells how far it is once a second: reading that is half of a tick."""

    worker: Worker
    name: str
    on_line: Callable[[str], None]
    _last: str = ""
    _told_at: float = -_TICK_SECONDS

    async def tick(self) -> list[Ticket]:
        """Return what is to be done."""
        now = asyncio.get_running_loop().time()
        tells = now - self._told_at >= _TICK_SECONDS
        made = await tick(
            self.worker.engine,
            actor=self.worker.holder,
            only=self.name,
            ticket_seconds=self.worker.ticket_seconds,
            tells=tells,
        )
        if tells:
            self._told_at = now
        if tells and str(made) != self._last:
            self._last = str(made)
            self.on_line(self._last)
        return made.tickets


async def work(worker: Worker, name: str, *, until: MigrationStatus, on_line: Callable[[str], None]) -> MigrationStatus:
    """Work on one migration until it is `until` (or past it); tells a line a second and per piece of work.

    Raises: MigrationUnknown, CameToRest, GateFailed.
    """
    try:
        return await _work(worker, name, until=until, on_line=on_line)
    finally:
        # Its end is news, too, and where nobody else works nobody else tells it.
        if not _is_cancelled():
            with contextlib.suppress(MigratorError):
                await telling.deliver(worker, await _look(worker, name))


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _work(
    worker: Worker, name: str, *, until: MigrationStatus, on_line: Callable[[str], None]
) -> MigrationStatus:
    running: dict[asyncio.Task[str], Ticket] = {}
    ticker = _Ticker(worker, name, on_line)
    room = asyncio.Semaphore(IN_HAND)
    try:
        while True:
            found = await _look(worker, name)
            if found.status in WAY and until in WAY and WAY.index(found.status) >= WAY.index(until):
                await _land(worker, name, running, on_line)
                now = await _look(worker, name)
                if now.status is found.status:
                    return now.status
                continue
            try:
                _refuse_rest(found)
            except (CameToRest, GateFailed):
                # What is in flight is paid for: it is finished and written. Nothing further is sent.
                if running:
                    await asyncio.wait(running)
                raise
            for ticket in await ticker.tick():
                running[asyncio.create_task(_in_turn(worker, ticket, room))] = ticket
            if not running:
                await asyncio.sleep(_TICK_SECONDS)
                continue
            done, _ = await asyncio.wait(running, timeout=_TICK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                ticket = running.pop(task)
                on_line(f"{ticket.label}: {task.result()}")
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _land(
    worker: Worker, name: str, running: dict[asyncio.Task[str], Ticket], on_line: Callable[[str], None]
) -> None:
    """Let catch-up land what it has asked for: the status does not wait for it, and the answers are paid for."""
    worker.leaving.set()
    try:
        landing = [task for task, ticket in running.items() if ticket.label.startswith(f"{name}.{Duty.CATCH_UP}.")]
        if landing:
            await asyncio.wait(landing)
        for task in landing:
            on_line(f"{running.pop(task).label}: {task.result()}")
    finally:
        worker.leaving.clear()


async def _in_turn(worker: Worker, ticket: Ticket, room: asyncio.Semaphore) -> str:
    async with room:
        return await perform(worker, ticket)


async def _look(worker: Worker, name: str) -> Migration:
    async with transaction(worker.engine) as connection:
        return await migrations.get(connection, name)


def _refuse_rest(found: Migration) -> None:
    if found.status in UNATTENDED and found.status is not S.ROLLED_BACK:
        return
    reason = (found.reason or NEXT_STEP[found.status].format(name=found.name)).rstrip(".")
    if found.status is MigrationStatus.PAUSED and reason.startswith("a gate failed"):
        raise GateFailed(found.name, reason)
    raise CameToRest(found.name, found.status, reason)
