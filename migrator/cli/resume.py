"""`migrator resume`.

Floor 4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from migrator.cli import console, options

if TYPE_CHECKING:
    from migrator.lifecycle import MigrationStatus
    from migrator.spending.worker import Worker


def command(
    name: options.Name,
    *,
    reembed: Annotated[
        bool,
        typer.Option("--reembed", help="Take back the vectors written since the canary was right, and pay for them."),
    ] = False,
    accept_canary: Annotated[
        str | None,
        typer.Option("--accept-canary", metavar="REASON", help="Accept what the provider answers now; kept with it."),
    ] = None,
    yes: options.Yes = False,
    json: options.Json = False,
) -> None:
    """Go on where it was paused.

    After a rollback: go on towards another cutover. Before anything is sent, the provider's canary is asked. Where it
    moved, one of two things has to be said: --reembed, which shows its price and asks, or --accept-canary.

    Examples:
        migrator resume docs

        migrator resume docs --accept-canary "announced by the provider, OPS-123"
    """
    from migrator.cli import session
    from migrator.orchestrator import trust, verbs

    if reembed and accept_canary is not None:
        raise typer.BadParameter("--reembed and --accept-canary are two answers; give one")
    if accept_canary is not None and not accept_canary.strip():
        raise typer.BadParameter("a reason is needed", param_hint="--accept-canary")

    async def step(worker: Worker) -> MigrationStatus:
        if accept_canary is not None:
            found = await trust.accept(worker, name, reason=accept_canary.strip(), actor=session.actor())
        elif reembed:
            await _reembed(worker, name, yes=yes, json=json)
            return verbs.S.BACKFILLING
        else:
            found = await verbs.resume(worker.engine, name, actor=session.actor())
        return found.status

    status = session.run(step)
    if json:
        console.as_json({"name": name, "status": status})
    else:
        console.say(f"{name} is {status} again. Next: `migrator status {name}`.")


async def _reembed(worker: Worker, name: str, *, yes: bool, json: bool) -> None:
    from migrator.cli import session
    from migrator.orchestrator import trust

    seen = await trust.look(worker.engine, name)
    price = f"about {seen.tokens:,} tokens, {console.usd(seen.usd)} USD"
    question = f"Take back {seen.rows:,} vectors written since {seen.since}, and embed their rows again for {price}?"
    console.ask(question, verb="resume", yes=yes)
    rows = await trust.reembed(worker.engine, name, actor=session.actor())
    if not json:
        console.say(f"{rows:,} vectors were taken back.")
