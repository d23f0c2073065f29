"""`migrator cleanup`.

Floor 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from migrator.cli import blockers, console, options

if TYPE_CHECKING:
    from migrator.cutover.cleaning import Leftover


def command(
    name: options.Name,
    *,
    close_window: Annotated[
        bool, typer.Option("--close-window", help="After a cutover: give up the way back. POINT OF NO RETURN.")
    ] = False,
    strays_gone: Annotated[
        bool, typer.Option("--strays-gone", help="The writers that were diverted lately are deployed or stopped.")
    ] = False,
    leave_nullable: Annotated[
        bool, typer.Option("--leave-nullable", help="Rows lack a vector: do not put the column's NOT NULL back.")
    ] = False,
    leave_debt: Annotated[
        bool, typer.Option("--leave-debt", help="Rows lack the live column's vector, and nobody can embed them: go on.")
    ] = False,
    forget_state: Annotated[
        bool,
        typer.Option("--forget-state", help="Afterwards drop our working rows too; what was decided and paid stays."),
    ] = False,
    cancel_blockers: options.CancelBlockers = False,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Drop what is no longer needed.

    The other column, its index, the triggers. The only verb that destroys.

    Examples:
        migrator cleanup docs --dry-run

        migrator cleanup docs --close-window

        migrator cleanup docs --forget-state
    """
    sure = {"close_window": close_window or dry_run, "strays_gone": strays_gone or dry_run}
    found = _look(name, sure, json=json)
    if dry_run:
        _foretell(name, found, cancel_blockers=cancel_blockers, json=json)
        return
    if found:
        question = f"Drop them? The other generation's vectors of {name} are gone then."
        console.ask(question + blockers.asked(cancel_blockers), verb="cleanup", yes=yes)
    said = {**sure, "cancel_blockers": cancel_blockers}
    _clean_up(name, said, nullable=leave_nullable, debt=leave_debt, forget_state=forget_state, json=json)


def _look(name: str, sure: Mapping[str, bool], *, json: bool) -> list[Leftover]:
    from migrator.cli import session
    from migrator.orchestrator import attended

    found = session.run(lambda worker: attended.what_is_left(worker, name, **sure))
    if not json:
        console.table([(f"  {each.kind}", each.name, console.size(each.bytes)) for each in found])
        console.say(f"{len(found)} objects of {name} on the table." if found else "Nothing of ours is on the table.")
    return found


def _foretell(name: str, found: list[Leftover], *, cancel_blockers: bool, json: bool) -> None:
    would = blockers.foreseen(name, None) if cancel_blockers else []
    if json:
        objects = [[each.kind, each.name, each.bytes] for each in found]
        told = [blockers.as_json(each) for each in would]
        console.as_json({"name": name, "objects": objects, "blockers": told})
    else:
        blockers.show(would, asked=cancel_blockers)


def _clean_up(
    name: str, said: Mapping[str, bool], *, nullable: bool, debt: bool, forget_state: bool, json: bool
) -> None:
    from migrator.cli import session
    from migrator.cutover.cleaning import Left
    from migrator.orchestrator import attended

    left = Left(nullable=nullable, debt=debt)
    dropped = session.run(
        lambda worker: attended.clean_up(worker, name, **said, left=left, actor=session.actor(), tell=console.aside)
    )
    forgotten = session.run(lambda worker: attended.forget_state(worker, name)) if forget_state else None
    _told(name, dropped, forgotten, json=json)
    session.tell_waiting(name)


def _told(name: str, dropped: list[Leftover], forgotten: int | None, *, json: bool) -> None:
    if json:
        told = {"name": name, "status": "cleaned", "dropped": [[each.kind, each.name] for each in dropped]}
        console.as_json({**told, "forgotten_rows": forgotten})
        return
    console.say(f"{name} is cleaned; {len(dropped)} objects were dropped.")
    if forgotten is not None:
        console.say(f"{forgotten:,} working rows of schema migrator were forgotten.")
