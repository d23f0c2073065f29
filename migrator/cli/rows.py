"""`migrator rows`.

Floor 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
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
    debt: Annotated[
        bool, typer.Option("--debt", help="Rows instead that lack the old model's vector: what a rollback owes.")
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

        migrator rows docs --debt
    """
    if sum([suspects, debt, reason is not None]) > 1:
        raise typer.BadParameter("--reason, --suspects and --debt list different rows; give one")
    if suspects:
        _suspects(name, limit, json=json)
        return
    if debt:
        _debt(name, limit, json=json)
        return
    _without(name, reason, limit, json=json)


def _without(name: str, reason: str | None, limit: int, *, json: bool) -> None:
    from migrator.cli import session
    from migrator.spending.worker import Worker
    from migrator.state import dispositions, migrations
    from migrator.state.connection import transaction

    async def step(worker: Worker) -> Sequence[Any]:
        async with transaction(worker.engine) as connection:
            found = await migrations.get(connection, name)
            return await dispositions.listed(connection, found.id, reason=reason, limit=limit)

    rows = session.run(step)
    if json:
        console.as_json([dict(row._mapping) for row in rows])  # noqa: SLF001 - SQLAlchemy's public name for it
        return
    shown = [(", ".join(row.key), row.kind, row.reason, str(row.attempts), f"{row.at:%Y-%m-%d %H:%M}") for row in rows]
    console.table(shown, header=("key", "what", "reason", "attempts", "at"))
    if not shown:
        console.say("No such rows.")


def _debt(name: str, limit: int, *, json: bool) -> None:
    from migrator.cli import session
    from migrator.generation import Side
    from migrator.spending.worker import Worker
    from migrator.state import dirty, migrations
    from migrator.state.connection import transaction

    async def step(worker: Worker) -> list[tuple[tuple[str, ...], datetime]]:
        async with transaction(worker.engine, read_only=True) as connection:
            found = await migrations.get(connection, name)
            return await dirty.listed(connection, found.id, Side.FROM, limit=limit)

    rows = session.run(step)
    if json:
        console.as_json([{"key": list(key), "since": at} for key, at in rows])
        return
    console.table([(", ".join(key), f"{at:%Y-%m-%d %H:%M:%S}") for key, at in rows], header=("key", "since"))
    if not rows:
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
