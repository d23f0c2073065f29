"""`migrator resume`.

Floor 4.
"""

from __future__ import annotations

from typing import Annotated

import typer

from migrator.cli import console, options


def command(
    name: Annotated[str | None, typer.Argument(help="The migration's name.", show_default=False)] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Resume every migration that an operator paused.")] = False,
    json: options.Json = False,
) -> None:
    """Go on where it was paused.

    After a rollback: go on towards another cutover. With --all: what a cap, a gate or the provider stopped stays.

    Examples:
        migrator resume docs

        migrator resume --all
    """
    from migrator.cli import session
    from migrator.orchestrator import verbs

    if (name is None) is not everything:
        raise typer.BadParameter("name one migration, or give --all", param_hint="NAME")
    if name is not None:
        found = session.run(lambda worker: verbs.resume(worker.engine, name, actor=session.actor()))
        if json:
            console.as_json({"name": name, "status": found.status})
        else:
            console.say(f"{name} is {found.status} again. Next: `migrator status {name}`.")
        return
    resumed = session.run(lambda worker: verbs.resume_all(worker.engine, actor=session.actor()))
    if json:
        console.as_json({"resumed": resumed})
        return
    for each in resumed:
        console.say(f"{each} goes on. Next: `migrator status {each}`.")
    if not resumed:
        console.say("There was nothing that an operator had paused.")
