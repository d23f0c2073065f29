"""`migrator rollback`.

Floor 4.
"""

from __future__ import annotations

from typing import Annotated

import typer

from migrator.cli import console, options


def command(
    name: options.Name,
    *,
    max_dirty_rows: Annotated[
        int | None, typer.Option(min=0, help="Rows that may be absent from search for about a second (default 100).")
    ] = None,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Make the old generation live again.

    First it settles what the old one lacks; nothing written since is lost.

    Readers must embed queries with the old model again from that instant on, or send both vectors.

    Examples:
        migrator rollback docs --dry-run

        migrator rollback docs
    """
    from migrator.cli import cutover, session
    from migrator.cutover import swapping
    from migrator.orchestrator import attended

    if dry_run:
        cutover.foretell(name, swapping.ROLLBACK, json=json)
        return
    rows = attended.MAX_DIRTY_ROWS if max_dirty_rows is None else max_dirty_rows
    console.ask(f"Make the old generation of {name} live again?", verb="rollback", yes=yes)
    swapped = session.run(
        lambda worker: attended.roll_back(worker, name, max_dirty_rows=rows, actor=session.actor(), tell=console.aside)
    )
    cutover.told(name, "rolled_back", swapped, json=json)
    if not json:
        console.say(f"Next: `migrator resume {name}` to try again, or `migrator cleanup {name}`.")
