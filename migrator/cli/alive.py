"""`migrator alive`.

Floor 4. Promise: what a container's or a host's supervisor asks, cheap enough to be asked every minute. It says no
only where starting the process again can help: while the database or the broker is away, nobody would be better off.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from migrator.cli import console
from migrator.errors import MigratorError, TransientError

if TYPE_CHECKING:
    from migrator.settings import Settings

#: Seconds for which a beat may look at nothing: it looks every second.
_BEAT_SECONDS = 60.0


@dataclass(eq=False)
class NotAlive(TransientError):
    """A process of ours gave no sign of life, though it could have."""

    who: str
    sign: str

    runbook = "worker-died"
    happened = "{who} is not alive: {sign}."
    state = "What it had in hand is taken up by others when its lease ends; nothing is lost."
    next = "Start it again, if no supervisor does; `migrator doctor` says what else is wrong."


def command(
    *,
    beat: Annotated[bool, typer.Option("--beat", help="Ask for beat on this machine, not for a worker.")] = False,
    name: Annotated[
        str | None, typer.Option(metavar="NAME@HOST", help="The worker's own name; default any worker of this machine.")
    ] = None,
) -> None:
    """Say whether this machine's worker is alive, for health checks.

    A worker writes a sign of life into Postgres every 10 seconds, from the loop that takes its messages; one that is
    35 seconds old is none. Exit code 0: alive, or it waits for a database or a broker that is away; 75: start it again.

    Examples:
        migrator alive

        migrator alive --name backfill@host1

        migrator alive --beat
    """
    import asyncio

    from migrator import settings

    found = settings.load()
    console.say(_beat(found) if beat else asyncio.run(_worker(found, name)))


def _beat(found: Settings) -> str:
    from migrator.settings import beat_sign

    try:
        age = time.time() - beat_sign(found).stat().st_mtime
    except FileNotFoundError:
        raise NotAlive("beat", f"there is no {beat_sign(found)}") from None
    if age > _BEAT_SECONDS:
        raise NotAlive("beat", f"its last sign is {age:.0f} s old")
    return f"beat is alive: its last sign is {max(age, 0):.0f} s old"


async def _worker(found: Settings, name: str | None) -> str:
    from migrator.state import schema, workers
    from migrator.state.connection import make_engine, transaction

    host = socket.gethostname()
    engine = make_engine(found.required_database_url(), "migrator alive", pool_size=1)
    try:
        async with transaction(engine, read_only=True, statement_timeout_seconds=5) as connection:
            # Of another revision nobody signs: `migrator init`, or the other version, is what helps.
            await schema.require(connection)
            alive = [row.name for row in await workers.alive(connection)
                     if (row.host == host if name is None else row.name == name)]  # fmt: skip
    except MigratorError as error:
        return f"nobody can tell, and starting it again would not help: {error.sentences()[0]}"
    finally:
        await engine.dispose()
    if alive:
        return f"{', '.join(alive)} is alive"
    # Only now: it takes longer to load than all of the rest.
    from migrator.planning import broker

    seen = await broker.look(found.broker_url)
    if not seen.answers:
        return f"it waits for its broker, and starting it again would not help: {seen.shown} {seen.problem}"
    raise NotAlive(name or f"a worker on {host}", "Postgres holds no sign of it from the last 35 s")
