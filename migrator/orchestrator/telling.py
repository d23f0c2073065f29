"""Telling hooks: what a tick notices becomes an event, and what is in the outbox is told.

Floor 3. Promise: each event is told at least once by each of its ways, or given up after TRIES with a note; nothing
that goes wrong here moves, holds up or fails a migration. No transaction is open while somebody is told.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from migrator import reasons, settings
from migrator.errors import MigratorError
from migrator.events import FULL_SPEED, Channel, Event, HooksSpec, checked_url
from migrator.hooks import command, webhook
from migrator.orchestrator import progress
from migrator.orchestrator.position import Position
from migrator.spending.worker import Worker
from migrator.state import budget, leases, migrations, outbox, workers
from migrator.state.connection import transaction
from migrator.state.leases import Lease
from migrator.state.migrations import Migration
from migrator.state.outbox import Told

logger = logging.getLogger(__name__)

#: Seconds for which one holder tells before the rest is offered anew: the slot is others' too.
SHIFT_SECONDS = 20.0
#: Bytes of what is told: a pipe holds four times as much, so that a command that reads nothing holds up nobody.
MAX_BYTES = 16_384
#: Raised when a key of what is told changes its meaning.
VERSION = 1
_PROGRESS = ("rows", "batches", "cost", "rate", "catch_up", "live", "rollback")
_VERDICT = ("gate", "passed", "figure", "threshold")
_MAX_BINDING = 200


async def notice(connection: AsyncConnection, seen: Position) -> None:
    """Write what a tick sees and no move tells: costs, and what has lasted too long."""
    migration = seen.migration
    hooks = migration.spec.hooks
    if hooks is None:
        return
    account = seen.account
    await outbox.write_costs(
        connection, migration.id, hooks, migration.status,
        committed_usd=account.committed_usd, max_usd=account.max_usd,
    )  # fmt: skip
    if seen.binding is not None and not seen.binding.startswith(FULL_SPEED):
        minutes = hooks.throttled_minutes
        reason = f"throttled for {minutes:g} minutes: {seen.binding}"
        await _lasting(connection, migration, Event.THROTTLED, reason, seconds=60 * minutes)
    if seen.not_converging:
        await _lasting(connection, migration, Event.NOT_CONVERGING, str(seen.flow), seconds=0.0)


async def _lasting(
    connection: AsyncConnection, migration: Migration, event: Event, reason: str, *, seconds: float
) -> None:
    if await outbox.lasts(connection, migration.id, event, seconds=seconds):
        hooks = migration.spec.hooks
        await outbox.write(connection, migration.id, hooks, event, status=migration.status, reason=reason)


async def cap_reached(engine: AsyncEngine, migration: Migration) -> None:
    """Tell that a request was not sent because of the cap; where that fails, the next one that is not sent tells it."""
    if migration.spec.hooks is None:
        return
    try:
        async with transaction(engine) as connection:
            account = await budget.account(connection, migration.id)
            await outbox.write_costs(
                connection, migration.id, migration.spec.hooks, migration.status,
                committed_usd=account.committed_usd, max_usd=account.max_usd, refused=True,
            )  # fmt: skip
    except MigratorError as error:
        logger.warning("%s: %s", migration.name, error)


@asynccontextmanager
async def cutting_over(engine: AsyncEngine, migration: Migration) -> AsyncIterator[None]:
    """Tell that a cutover is tried, and that it failed. That it is done, the swap's own transaction tells."""
    await _of_cutover(engine, migration, Event.CUTOVER_TRIED, "somebody ran `migrator cutover`")
    try:
        yield
    except MigratorError as error:
        reason = reasons.cut(f"{type(error).__name__}: {error.sentences()[0]}")
        await _of_cutover(engine, migration, Event.CUTOVER_FAILED, reason)
        raise
    except asyncio.CancelledError:
        await asyncio.shield(_of_cutover(engine, migration, Event.CUTOVER_FAILED, "it was interrupted"))
        raise


async def _of_cutover(engine: AsyncEngine, migration: Migration, event: Event, reason: str) -> None:
    hooks = migration.spec.hooks
    if hooks is None or not hooks.channels_of(event):
        return
    try:
        async with transaction(engine) as connection:
            now = await migrations.hold(connection, migration.name)
            if now.epoch == migration.epoch:  # else it was done, and what failed came after it
                await outbox.write(connection, now.id, hooks, event, status=now.status, reason=reason)
    except MigratorError as error:
        logger.warning("%s: %s could not be noted for its hooks: %s", migration.name, event, error)


async def run(worker: Worker, migration: Migration, lease: Lease) -> str:
    """Tell what is due under the duty's lease; returns a line about it."""
    told = await deliver(worker, migration)
    async with transaction(worker.engine) as connection:
        await leases.finish(connection, lease)
    return f"{told} events told"


async def deliver(worker: Worker, migration: Migration, *, seconds: float = SHIFT_SECONDS) -> int:
    """Tell what is due, oldest first, until nothing is or the shift is over; returns how many were told."""
    loop = asyncio.get_running_loop()
    until, told = loop.time() + seconds, 0
    while loop.time() < until:
        async with transaction(worker.engine) as connection:
            claimed = await outbox.claim(connection, migration.id)
        if claimed is None:
            break
        told += await _tell(worker, migration, claimed)
    return told


async def _tell(worker: Worker, migration: Migration, claimed: Told) -> bool:
    hooks = migration.spec.hooks
    assert hooks is not None  # noqa: S101 - specs are frozen, and without hooks there is no event
    try:
        if claimed.tries > outbox.TRIES:
            failure: str | None = "whoever told it died each time"
        else:
            failure = await _send_safely(hooks, claimed, await body(worker.engine, migration, claimed))
    except asyncio.CancelledError:
        await asyncio.shield(_cut_short(worker.engine, claimed))
        raise
    async with transaction(worker.engine) as connection:
        if failure is None:
            return await outbox.settle(connection, claimed)
        given_up = await outbox.put_back(connection, claimed, failure)
        words = f"hook {hooks.place(claimed.channel)} was not told {claimed.event}: {failure}"
        logger.warning("%s: %s (try %d of %d)", migration.name, words, claimed.tries, outbox.TRIES)
        if given_up or claimed.tries == 1:
            then = f"given up after {outbox.TRIES} tries" if given_up else "tried again"
            now = await migrations.get_by_id(connection, migration.id)
            await migrations.note(connection, migration.id, now.status, f"{words}; {then}", worker.holder)
    return False


async def _cut_short(engine: AsyncEngine, claimed: Told) -> None:
    async with transaction(engine) as connection:
        await outbox.put_back(connection, claimed, "shut down", counts=False)


async def _send_safely(hooks: HooksSpec, claimed: Told, message: bytes) -> str | None:
    """Tell one event; whatever that raises is a failure to tell, by its class: its words may quote a URL."""
    try:
        return await _send(hooks, claimed, message)
    except settings.SettingInvalid as error:
        return error.sentences()[0]
    except Exception as error:  # noqa: BLE001 - a defect of telling is a failed try, never a worker's
        return type(error).__name__


async def _send(hooks: HooksSpec, claimed: Told, message: bytes) -> str | None:
    """Tell one event; returns None, or why that was not done."""
    if claimed.channel is Channel.COMMAND:
        if not settings.load().allow_command_hooks:
            return f"MIGRATOR_ALLOW_COMMAND_HOOKS is not 1 on {socket.gethostname()}, so commands are not run there"
        return await command.run(hooks.command or [], message)
    secret = settings.secret(hooks.secret_env or "")
    if secret is None:
        return f"{hooks.secret_env} is not set on {socket.gethostname()}, and nothing is sent unsigned"
    url = hooks.url
    if hooks.url_env is not None:
        url = settings.secret(hooks.url_env)
        if url is None:
            return f"{hooks.url_env} is not set on {socket.gethostname()}"
        try:
            checked_url(url)
        except ValueError as error:
            return f"{hooks.url_env} on {socket.gethostname()} is no URL for a hook: {error}"
    return await webhook.post(url or "", claimed.event_id, message, secret)


async def body(engine: AsyncEngine, migration: Migration, claimed: Told) -> bytes:
    """Return what is told: the event as it was, and how far the migration is now, where that can be read."""
    whole = {
        "version": VERSION,
        "id": claimed.event_id,
        "event": claimed.event,
        "name": migration.name,
        "at": claimed.at.isoformat(),
        "status": claimed.status,
        "reason": claimed.reason,
        "try": claimed.tries,
    }
    try:
        figures = await _figures(engine, migration.id)
    except MigratorError as error:
        logger.warning("%s: a hook is told no figures: %s", migration.name, error)
        figures = None
    made = json.dumps({**whole, "progress": figures}).encode()
    return made if len(made) <= MAX_BYTES else json.dumps({**whole, "progress": None}).encode()


async def _figures(engine: AsyncEngine, migration_id: int) -> dict[str, Any]:
    async with transaction(engine, read_only=True) as connection:
        found = await progress.read(connection, await migrations.get_by_id(connection, migration_id))
        at = await migrations.database_now(connection)
    shown = progress.as_json(found)
    return {
        "at": at.isoformat(),
        "status": shown["status"],
        **{key: shown[key] for key in _PROGRESS},
        "throttle": {"binding": (found.binding or "")[:_MAX_BINDING] or None},
        "verdicts": [{key: each[key] for key in _VERDICT} for each in shown["verdicts"]],
    }


async def waiting(engine: AsyncEngine, name: str) -> str | None:
    """Say that events wait, where no worker is alive to tell them."""
    async with transaction(engine, read_only=True) as connection:
        migration = await migrations.find(connection, name)
        if migration is None or await workers.alive(connection):
            return None
        count = await outbox.count_waiting(connection, migration.id)
    if not count:
        return None
    return f"{count} events wait for their hooks: no worker is alive, and whoever works next tells them."
