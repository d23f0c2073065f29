"""`migrator work`.

Floor 4.
"""

from __future__ import annotations

from typing import Annotated

import typer

from migrator.cli import console, options


def command(
    name: options.Name,
    *,
    until: Annotated[str, typer.Option(metavar="STATUS", help="Stop when it is in this status.")] = "ready",
) -> None:
    """Work in the foreground, without a broker.

    The same engine as the workers'.

    Ctrl-C gives back what is in hand. It may run beside Celery workers.

    Examples:
        migrator work docs

        migrator work docs --until indexing
    """
    from migrator.cli import session
    from migrator.lifecycle import MigrationStatus
    from migrator.orchestrator import work
    from migrator.spending.worker import Worker

    if until not in work.WAY:
        raise typer.BadParameter(f"one of {', '.join(work.WAY)}", param_hint="--until")

    async def step(worker: Worker) -> MigrationStatus:
        return await work.work(worker, name, until=MigrationStatus(until), on_line=console.say)

    console.say(f"{name} is {session.run(step)}.")
