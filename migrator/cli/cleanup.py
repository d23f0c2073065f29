"""`migrator cleanup`.

Floor 4.
"""

from __future__ import annotations

from typing import Annotated

import typer

from migrator.cli import console, options


def command(
    name: options.Name,
    *,
    close_window: Annotated[
        bool, typer.Option("--close-window", help="After a cutover: give up the way back. POINT OF NO RETURN.")
    ] = False,
    strays_gone: Annotated[
        bool, typer.Option("--strays-gone", help="The writers that were diverted lately are deployed or stopped.")
    ] = False,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Drop what is no longer needed: the other column, its index, the triggers. The only verb that destroys.

    Examples:
        migrator cleanup docs --dry-run

        migrator cleanup docs --close-window
    """
    from migrator.cli import session
    from migrator.cutover import cleaning
    from migrator.cutover.cleaning import Leftover
    from migrator.orchestrator import attended
    from migrator.spending.worker import Worker
    from migrator.state import migrations
    from migrator.state.connection import transaction

    async def look(worker: Worker) -> list[Leftover]:
        async with transaction(worker.engine) as connection:
            migration = await migrations.get(connection, name)
        await cleaning.refuse_early(
            worker.engine, migration, close_window=close_window or dry_run, strays_gone=strays_gone or dry_run
        )
        return await cleaning.objects(worker.engine, migration)

    found = session.run(look)
    if not json:
        console.table([(f"  {each.kind}", each.name, console.size(each.bytes)) for each in found])
        console.say(f"{len(found)} objects of {name} on the table." if found else "Nothing of ours is on the table.")
    if dry_run:
        if json:
            console.as_json({"name": name, "objects": [[each.kind, each.name, each.bytes] for each in found]})
        return
    if found:
        console.ask(f"Drop them? The other generation's vectors of {name} are gone then.", verb="cleanup", yes=yes)

    async def step(worker: Worker) -> list[Leftover]:
        return await attended.clean_up(
            worker,
            name,
            close_window=close_window,
            strays_gone=strays_gone,
            actor=session.actor(),
            tell=console.aside,
        )

    dropped = session.run(step)
    if json:
        console.as_json({"name": name, "status": "cleaned", "dropped": [[each.kind, each.name] for each in dropped]})
    else:
        console.say(f"{name} is cleaned; {len(dropped)} objects were dropped.")
