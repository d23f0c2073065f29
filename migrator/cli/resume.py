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
    name: options.OptionalName = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Resume every migration that an operator paused.")] = False,
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
    After `unblock`: the triggers are put on again first, and what was written without them is embedded again. What was
    cancelled stays cancelled, and can be cleaned up then.
    With --all: what a cap, a gate or the provider stopped stays.

    Examples:
        migrator resume docs

        migrator resume docs --accept-canary "announced by the provider, OPS-123"

        migrator resume --all
    """
    from migrator.cli import session
    from migrator.lifecycle import MigrationStatus

    _refuse(name, everything=everything, reembed=reembed, accept_canary=accept_canary)
    if name is None:
        _everything(json=json)
        return
    reason = None if accept_canary is None else accept_canary.strip()
    status = session.run(lambda worker: _one(worker, name, reembed=reembed, reason=reason, yes=yes, json=json))
    if json:
        console.as_json({"name": name, "status": status})
    elif status is MigrationStatus.CANCELLED:
        console.say(f"{name} stays cancelled, with its triggers on again. Next, at once: `migrator cleanup {name}`,")
        console.say("which embeds the rows that lack their live vector: until then they are absent from search.")
    else:
        console.say(f"{name} is {status} again. Next: `migrator status {name}`.")


async def _one(
    worker: Worker, name: str, *, reembed: bool, reason: str | None, yes: bool, json: bool
) -> MigrationStatus:
    from migrator.cli import session
    from migrator.orchestrator import trust, unblocking, verbs

    if reason is None and not reembed and await unblocking.is_off(worker, name):
        return (await unblocking.resume(worker, name, actor=session.actor(), tell=console.aside)).status
    if reason is not None:
        return (await trust.accept(worker, name, reason=reason, actor=session.actor())).status
    if reembed:
        await _reembed(worker, name, yes=yes, json=json)
        return verbs.S.BACKFILLING
    return (await verbs.resume(worker.engine, name, actor=session.actor())).status


def _refuse(name: str | None, *, everything: bool, reembed: bool, accept_canary: str | None) -> None:
    """Refuse what can't be meant together."""
    if (name is None) is not everything:
        raise typer.BadParameter("name one migration, or give --all", param_hint="NAME")
    if everything and (reembed or accept_canary is not None):
        raise typer.BadParameter("--reembed and --accept-canary are said of one migration; name it", param_hint="--all")
    if reembed and accept_canary is not None:
        raise typer.BadParameter("--reembed and --accept-canary are two answers; give one")
    if accept_canary is not None and not accept_canary.strip():
        raise typer.BadParameter("a reason is needed", param_hint="--accept-canary")


def _everything(*, json: bool) -> None:
    from migrator.cli import session
    from migrator.orchestrator import verbs

    resumed, refused = session.run(lambda worker: verbs.resume_all(worker.engine, actor=session.actor()))
    if json:
        console.as_json({"resumed": resumed})
    else:
        for each in resumed:
            console.say(f"{each} goes on. Next: `migrator status {each}`.")
    if refused:
        raise refused[0]
    if not (resumed or json):
        console.say("There was nothing that an operator had paused.")


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
