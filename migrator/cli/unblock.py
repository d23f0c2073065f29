"""`migrator unblock`.

Floor 4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from migrator.cli import console, options

if TYPE_CHECKING:
    from migrator.spending.worker import Worker
    from migrator.state.migrations import Migration

#: Of both sides of the cutover: what holds from that moment on.
_BEFORE = "An edit leaves a stale vector in the new column, which nobody searches; writers are not fenced."
_AFTER = (
    "Readers search what writers write: a writer of {old} that is still there puts its vectors among those of {new}, "
    "and an edit without a vector leaves a stale one."
)
_THEN = (
    "`migrator resume {name}` puts the triggers on again, takes back the vectors of every row written meanwhile, pays "
    "for them again, and has everything proved and every gate measured again."
)


def command(
    name: options.Name,
    *,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Take our triggers off the table, now.

    For the night when they are what hurts the application. The migration is paused, and every vector is kept; from then
    on nobody sees what is written. The first step takes no lock on the table: the triggers do nothing any more.

    Examples:
        migrator unblock docs

        migrator unblock docs --yes
    """
    from migrator.cli import session
    from migrator.orchestrator import unblocking
    from migrator.state import migrations
    from migrator.state.connection import transaction

    async def look(worker: Worker) -> Migration:
        async with transaction(worker.engine, read_only=True) as connection:
            return await migrations.get(connection, name)

    found = session.run(look)
    if not json:
        for each in consequences(found):
            console.say(each)
    if dry_run:
        if json:
            console.as_json({"name": name, "status": str(found.status), "consequences": consequences(found)})
        return
    console.ask(f"Take the triggers of {name} off its table?", verb="unblock", yes=yes)
    done = session.run(lambda worker: unblocking.unblock(worker, name, actor=session.actor(), tell=console.aside))
    if json:
        told = {"name": name, "status": str(done.status), "capture_off_since": done.capture_off_at}
        console.as_json({**told, "consequences": consequences(done)})
    else:
        console.say(f"Nothing of ours acts on writes to {done.target} any more. Next: `migrator resume {name}`.")


def consequences(found: Migration) -> list[str]:
    """Return what holds while nobody sees what is written, and what has to be proved afterwards."""
    from migrator.generation import Side

    told = _BEFORE if found.live_side is Side.FROM else _AFTER
    return [
        told.format(old=found.from_generation, new=found.to_generation),
        _THEN.format(name=found.name),
    ]
