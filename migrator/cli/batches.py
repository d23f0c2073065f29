"""`migrator batches`.

Floor 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from migrator.cli import console, options


def command(
    name: options.Name,
    *,
    failed: Annotated[bool, typer.Option("--failed", help="Only batches that failed, or were given back.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="How many lines at the most.")] = 50,
    json: options.Json = False,
) -> None:
    """List batches, those that need a look first.

    Examples:
        migrator batches docs

        migrator batches docs --failed --json
    """
    from migrator.cli import session
    from migrator.spending.worker import Worker
    from migrator.state import batches, migrations
    from migrator.state.connection import transaction

    async def step(worker: Worker) -> Sequence[Any]:
        async with transaction(worker.engine) as connection:
            found = await migrations.get(connection, name)
            return await batches.listed(connection, found.id, failed_only=failed, limit=limit)

    rows = session.run(step)
    if json:
        console.as_json([dict(row._mapping) for row in rows])  # noqa: SLF001 - SQLAlchemy's public name for it
        return
    shown = [
        (
            f"{row.number:06d}",
            f"{row.first_page}..{row.last_page}",
            row.status,
            str(row.attempts),
            f"{row.rows_written:,}",
            row.holder or "",
            row.failure or "",
        )
        for row in rows
    ]
    console.table(shown, header=("batch", "pages", "status", "attempts", "rows", "holder", "last failure"))
    if not shown:
        console.say("No such batches.")
