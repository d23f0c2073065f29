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
_BEFORE = (
    "An edit leaves a stale vector in the new column, which nobody searches; writers are not fenced: one of {old} that "
    "is deployed already puts its vectors among those of {new}, which are searched."
)
_AFTER = (
    "Readers search what writers write: a writer of {old} that is still there puts its vectors among those of {new}, "
    "and an edit without a vector leaves a stale one."
)
_THEN = (
    "`migrator resume {name}` puts the triggers on again, takes back the vectors of every row written meanwhile, pays "
    "for them again, and has everything proved and every gate measured again."
)
#: Where there is no going on: what was cancelled, and what is being cleaned up.
_THEN_CLEAN_UP = "`migrator cleanup {name}` needs no trigger: it takes the rest off the table."
_THEN_BOTH = (
    "`migrator resume {name}` puts the triggers on again and takes back the vectors of every row written meanwhile; it "
    "stays cancelled, and `migrator cleanup {name}`, which is refused before, pays for them again."
)
_NO_WAY_BACK = "`migrator cleanup {name}` goes on, and nobody looks at what is written from now on, then or later."


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
        verb = "cleanup" if _is_at_its_end(done) else "resume"
        console.say(f"Nothing of ours acts on writes to {done.target} any more. Next: `migrator {verb} {name}`.")


def _is_at_its_end(found: Migration) -> bool:
    """Say whether cleaning up is what follows, and is not refused: before the first cutover no writer is fenced."""
    from migrator.lifecycle import MigrationStatus

    cancelled = found.status is MigrationStatus.CANCELLED and not found.epoch
    return cancelled or found.status is MigrationStatus.CLEANING


def consequences(found: Migration) -> list[str]:
    """Return what holds while nobody sees what is written, and what has to be proved afterwards."""
    from migrator.generation import Side
    from migrator.lifecycle import MigrationStatus

    # After a rollback, too, there are writers of the new generation that the fence kept out.
    told = _AFTER if found.live_side is Side.TO or found.epoch else _BEFORE
    if found.status is MigrationStatus.CLEANING and found.epoch:
        then = _NO_WAY_BACK
    elif _is_at_its_end(found):
        then = _THEN_CLEAN_UP
    else:
        then = _THEN_BOTH if found.status is MigrationStatus.CANCELLED else _THEN
    old, new = found.generation(found.live_side.other), found.live_generation
    return [told.format(old=old, new=new), then.format(name=found.name)]
