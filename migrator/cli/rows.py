"""`migrator rows`.

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
    reason: Annotated[
        str | None, typer.Option(help="Only rows with this reason (too_long, content, empty ...).")
    ] = None,
    suspects: Annotated[
        bool,
        typer.Option("--suspects", help="Rows instead whose vector a writer brought and that looks like the other's."),
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="How many lines at the most.")] = 50,
    json: options.Json = False,
) -> None:
    """List rows that have no new vector, with the reason.

    Or one of shortened text. Shows keys, never texts.

    Examples:
        migrator rows docs

        migrator rows docs --reason too_long --json

        migrator rows docs --suspects
    """
    from migrator.cli import session
    from migrator.spending.worker import Worker
    from migrator.state import dispositions, migrations
    from migrator.state.connection import transaction

    async def step(worker: Worker) -> Sequence[Any]:
        async with transaction(worker.engine) as connection:
            found = await migrations.get(connection, name)
            return await dispositions.listed(connection, found.id, reason=reason, limit=limit)

    if suspects:
        _suspects(name, limit, json=json)
        return
    rows = session.run(step)
    if json:
        console.as_json([dict(row._mapping) for row in rows])  # noqa: SLF001 - SQLAlchemy's public name for it
        return
    shown = [(", ".join(row.key), row.kind, row.reason, str(row.attempts), f"{row.at:%Y-%m-%d %H:%M}") for row in rows]
    console.table(shown, header=("key", "what", "reason", "attempts", "at"))
    if not shown:
        console.say("No such rows.")


def _suspects(name: str, limit: int, *, json: bool) -> None:
    from migrator.cli import session
    from migrator.orchestrator import suspicious
    from migrator.spending.worker import Worker
    from migrator.state import migrations
    from migrator.state.connection import transaction

    async def step(worker: Worker) -> list[dict[str, Any]]:
        async with transaction(worker.engine, read_only=True) as connection:
            return await suspicious.listed(connection, await migrations.get(connection, name), limit=limit)

    rows = session.run(step)
    if json:
        told = ("key", "generation", "application", "role", "at")
        console.as_json([{column: row[column] for column in told} for row in rows])
        return
    shown = [
        (", ".join(row["key"]), row["generation"], row["application"], row["role"], f"{row['at']:%Y-%m-%d %H:%M}")
        for row in rows
    ]
    console.table(shown, header=("key", "column of", "application", "role", "at"))
    if not shown:
        console.say("No such rows.")
