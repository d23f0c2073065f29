"""`migrator resume`.

Floor 4.
"""

from __future__ import annotations

from migrator.cli import console, options


def command(name: options.Name, *, json: options.Json = False) -> None:
    """Go on where it was paused.

    After a rollback: go on towards another cutover.

    Examples:
        migrator resume docs
    """
    from migrator.cli import session
    from migrator.orchestrator import verbs

    found = session.run(lambda worker: verbs.resume(worker.engine, name, actor=session.actor()))
    if json:
        console.as_json({"name": name, "status": found.status})
    else:
        console.say(f"{name} is {found.status} again. Next: `migrator status {name}`.")
