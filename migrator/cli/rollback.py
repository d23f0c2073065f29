"""`migrator rollback`.

Floor 4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from migrator.cli import blockers, console, options

if TYPE_CHECKING:
    from migrator.orchestrator.attended import Swapped
    from migrator.spending.worker import Worker


def command(
    name: options.Name,
    *,
    max_dirty_rows: Annotated[
        int | None, typer.Option(min=0, help="Rows that may be absent from search for about a second (default 100).")
    ] = None,
    leave_debt: Annotated[
        bool,
        typer.Option("--leave-debt", help="Ask the old model nothing first; rows that lack its vector are absent."),
    ] = False,
    cancel_blockers: options.CancelBlockers = False,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Make the old generation live again.

    First it settles what the old one lacks; nothing written since is lost. With --leave-debt it goes back at once, for
    when the old model can't be asked: `migrator rows NAME --debt` lists what is absent from search until it can.

    Readers must embed queries with the old model again from that instant on, or send both vectors.

    Examples:
        migrator rollback docs --dry-run

        migrator rollback docs

        migrator rollback docs --leave-debt
    """
    from migrator.cli import cutover, session
    from migrator.cutover import swapping
    from migrator.orchestrator import attended

    if dry_run:
        cutover.foretell(name, swapping.ROLLBACK, cancel_blockers=cancel_blockers, json=json)
        return
    if leave_debt and max_dirty_rows is not None:
        raise typer.BadParameter("with --leave-debt any number of rows may be absent", param_hint="--max-dirty-rows")
    rows = attended.MAX_DIRTY_ROWS if max_dirty_rows is None else max_dirty_rows
    _warn(name, alone=yes)
    question = f"Make the old generation of {name} live again?"
    question += " Rows that lack its vector will be absent from search." if leave_debt else ""
    console.ask(question + blockers.asked(cancel_blockers), verb="rollback", yes=yes)
    swapped = _go_back(name, rows, leave_debt=leave_debt, cancel_blockers=cancel_blockers)
    cutover.told(name, "rolled_back", swapped, json=json)
    if not json:
        console.say(f"Next: `migrator resume {name}` to try again, or `migrator cleanup {name}`.")
    session.tell_waiting(name)


def _warn(name: str, *, alone: bool) -> None:
    """Say which readers can't go back."""
    from migrator.cli import cutover
    from migrator.cutover import swapping

    for each in cutover.readers(name, swapping.ROLLBACK, alone=alone).lacking:
        console.aside(
            f"{each.application or 'A reader'} will search in vain from the swap on, unless it embeds queries with the"
            " old model again."
        )


def _go_back(name: str, rows: int, *, leave_debt: bool, cancel_blockers: bool) -> Swapped:
    from migrator.cli import session
    from migrator.orchestrator import attended

    async def step(worker: Worker) -> Swapped:
        return await attended.roll_back(
            worker,
            name,
            max_dirty_rows=rows,
            actor=session.actor(),
            tell=console.aside,
            leave_debt=leave_debt,
            cancel_blockers=cancel_blockers,
        )

    return session.run(step)
