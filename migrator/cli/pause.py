"""`migrator pause`.

Floor 4.
"""

from __future__ import annotations

from typing import Annotated

import typer

from migrator.cli import console, options


def command(
    name: options.OptionalName = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Pause every migration of this database.")] = False,
    json: options.Json = False,
) -> None:
    """Send no further request.

    What is in flight is finished and written.

    Examples:
        migrator pause docs

        migrator pause --all
    """
    from migrator.cli import session
    from migrator.orchestrator import verbs
    from migrator.spending.worker import Worker

    if (name is None) is not everything:
        raise typer.BadParameter("name one migration, or give --all", param_hint="NAME")

    async def step(worker: Worker) -> list[str]:
        if name is None:
            return await verbs.pause_all(worker.engine, actor=session.actor())
        return [(await verbs.pause(worker.engine, name, actor=session.actor())).name]

    paused = session.run(step)
    if json:
        console.as_json({"paused": paused})
        return
    for each in paused:
        console.say(f"{each} is paused; everything embedded so far is kept. Next: `migrator resume {each}`.")
    if not paused:
        console.say("There was nothing to pause.")
