"""`migrator cutover`.

Floor 4.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from migrator.cli import blockers, console, options

if TYPE_CHECKING:
    from migrator.cutover.swapping import Direction
    from migrator.orchestrator.attended import Swapped
    from migrator.orchestrator.readers import Readiness
    from migrator.spending.worker import Worker
    from migrator.target.message import Timing


def command(
    name: options.Name,
    *,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="Do all of it and roll it back; print the times.")
    ] = False,
    sql_file: Annotated[Path | None, typer.Option("--sql", help="With --rehearse: write the exact SQL there.")] = None,
    max_dirty_rows: Annotated[
        int | None, typer.Option(min=0, help="Rows that may be absent from search for about a second (default 100).")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="No row may be absent; as --max-dirty-rows 0.")] = False,
    readers_ready: Annotated[
        bool, typer.Option("--readers-ready", help="You say that all readers can embed queries with the new model.")
    ] = False,
    keep_fresh: Annotated[
        bool | None, typer.Option("--keep-fresh/--no-keep-fresh", help="Embed later writes with the old model too.")
    ] = None,
    cancel_blockers: options.CancelBlockers = False,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Make the new generation live.

    One transaction, a few milliseconds under the lock, all or nothing.
    Waits for old snapshots, keeps catching up, and tries the lock on a ladder; nobody waits longer than 0.4 s.
    With --keep-fresh the way back owes nothing. With --yes it needs a reader that said in the last 10 minutes that it
    is ready, and none that is not.

    Examples:
        migrator cutover docs --rehearse --sql cutover.sql

        migrator cutover docs --readers-ready --yes
    """
    from migrator.cutover import swapping
    from migrator.orchestrator import attended

    _refuse_mixed(rehearse and dry_run, "--rehearse is no --dry-run: it takes the lock for a moment")
    _refuse_mixed(strict and bool(max_dirty_rows), "--strict is --max-dirty-rows 0")
    _refuse_mixed(sql_file is not None and not rehearse, "--sql goes with --rehearse")
    rows = 0 if strict else attended.MAX_DIRTY_ROWS if max_dirty_rows is None else max_dirty_rows
    if rehearse:
        _rehearse(name, rows, sql_file, cancel_blockers=cancel_blockers, json=json)
        return
    if dry_run:
        foretell(name, swapping.CUTOVER, cancel_blockers=cancel_blockers, json=json)
        return
    if not readers_ready:
        readers(name, swapping.CUTOVER, alone=yes)
    _cut_over(name, rows, keep_fresh=keep_fresh, cancel_blockers=cancel_blockers, yes=yes, json=json)


def _refuse_mixed(mixed: bool, why: str) -> None:  # noqa: FBT001 - a condition and its words
    if mixed:
        raise typer.BadParameter(why)


def _cut_over(name: str, rows: int, *, keep_fresh: bool | None, cancel_blockers: bool, yes: bool, json: bool) -> None:
    from migrator.cli import session
    from migrator.orchestrator import attended, judgement

    for caution in session.run(lambda worker: judgement.cautions(worker, name)):
        console.aside(caution)
    question = (
        f"Make the new generation of {name} live? Readers must embed queries with the new model from that instant on, "
        "or send both vectors to migrator.query_vector."
    )
    console.ask(question + blockers.asked(cancel_blockers), verb="cutover", yes=yes)

    async def step(worker: Worker) -> Swapped:
        return await attended.cut_over(
            worker,
            name,
            max_dirty_rows=rows,
            actor=session.actor(),
            tell=console.aside,
            keep_fresh=keep_fresh,
            cancel_blockers=cancel_blockers,
        )

    told(name, "completed", session.run(step), json=json)
    if not json:
        console.say(f"Next: watch it; then `migrator cleanup {name} --close-window`, or `migrator rollback {name}`.")
    session.tell_waiting(name)


def _rehearse(name: str, rows: int, sql_file: Path | None, *, cancel_blockers: bool, json: bool) -> None:
    from migrator.cli import session
    from migrator.orchestrator import attended

    if cancel_blockers:
        raise typer.BadParameter("a rehearsal is one try, and cancels nobody", param_hint="--cancel-blockers")
    timing, text = session.run(
        lambda worker: attended.rehearse(worker, name, max_dirty_rows=rows, actor=session.actor())
    )
    if sql_file is not None:
        sql_file.write_text(text, encoding="utf-8")
    if json:
        console.as_json({"name": name, "lock_held_ms": timing.held_ms, "steps_ms": dict(timing.steps)})
        return
    for part, took in timing.steps:
        console.say(f"  {part:10} {took:7.2f} ms")
    console.say(f"The lock would be held for {timing.held_ms:.1f} ms. Everything was rolled back.")


def readers(name: str, direction: Direction, *, alone: bool) -> Readiness:
    """Print which readers were heard lately, and whether each can embed queries with the generation to come.

    A cutover that nobody watches (`alone`) goes on only where they are ready.
    """
    from migrator.cli import session
    from migrator.cutover import swapping
    from migrator.orchestrator import attended
    from migrator.orchestrator import readers as readiness

    async def look(worker: Worker) -> Readiness:
        migration = await attended.swappable(worker, name, direction)
        found = await readiness.look(worker, migration, direction)
        for line in found.lines():
            console.aside(line)
        if direction is swapping.CUTOVER:
            if alone:
                found.refuse()
            await readiness.until_told(worker, migration, console.aside)
        return found

    return session.run(look)


def foretell(name: str, direction: Direction, *, cancel_blockers: bool, json: bool) -> None:
    """Print what a swap would do."""
    from migrator.cli import session
    from migrator.orchestrator import foresight, judgement

    found = session.run(lambda worker: foresight.foresee(worker, name, direction))
    would = blockers.foreseen(name, direction) if cancel_blockers else []
    if json:
        shown = {"generation": found.generation, "objects": found.objects, "dirty_rows": found.dirty_rows}
        console.as_json({"name": name, **shown, "blockers": [blockers.as_json(each) for each in would]})
        return
    console.say(f"`{direction.verb}` would make {found.generation} live in one transaction:")
    console.table([(f"  {kind}", each, becomes) for kind, each, becomes in found.objects])
    for caution in session.run(lambda worker: judgement.cautions(worker, name)):
        console.say(caution)
    blockers.show(would, asked=cancel_blockers)
    console.say(f"{found.dirty_rows:,} rows lack its vector now; it catches up first. Nothing was done.")


def locked(timing: Timing) -> str:
    """Say how long the table was locked, as far as that is known."""
    if timing.lost:
        return "the connection was lost at COMMIT, and the database says that it was committed"
    return f"the table was locked for {timing.held_ms:.1f} ms"


def told(name: str, status: str, swapped: Swapped, *, json: bool) -> None:
    """Print what a swap did."""
    if json:
        console.as_json(
            {
                "name": name,
                "status": status,
                "lock_held_ms": None if swapped.timing.lost else swapped.timing.held_ms,
                "absent_rows": swapped.absent_rows,
                "absent_seconds": swapped.absent_seconds,
            }
        )
        return
    console.say(f"{name} is {status}; {locked(swapped.timing)}.")
    if swapped.absent_rows:
        until = "not yet" if swapped.absent_seconds is None else f"after {swapped.absent_seconds:.2f} s"
        console.say(f"{swapped.absent_rows} rows were absent from search; the last of them had its vector {until}.")
    else:
        console.say("No row was absent from search.")
