"""`migrator cancel`.

Floor 4.
"""

from __future__ import annotations

from migrator.cli import console, options


def command(
    name: options.Name, *, yes: options.Yes = False, dry_run: options.DryRun = False, json: options.Json = False
) -> None:
    """Stop a migration for good, before its cutover. Keeps everything; only `cleanup` destroys.

    Examples:
        migrator cancel docs

        migrator cancel docs --yes
    """
    from migrator.cli import session
    from migrator.orchestrator import verbs

    if dry_run:
        console.say(f"{name} would be cancelled; its shadow column and triggers would stay until `cleanup`.")
        return
    console.ask(f"Stop {name} for good? Its shadow column stays until `cleanup`.", verb="cancel", yes=yes)
    found = session.run(lambda worker: verbs.cancel(worker.engine, name, actor=session.actor()))
    if json:
        console.as_json({"name": name, "status": found.status})
    else:
        console.say(f"{name} is {found.status}. Next: `migrator cleanup {name}`.")
