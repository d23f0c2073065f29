"""`migrator retry`.

Floor 4.
"""

from __future__ import annotations

from typing import Annotated

import typer

from migrator.cli import console, options


def command(
    name: options.Name,
    *,
    suspects: Annotated[
        bool,
        typer.Option("--suspects", help="Take back written vectors that look like the other generation's instead."),
    ] = False,
    accept_suspects: Annotated[
        str | None,
        typer.Option("--accept-suspects", metavar="REASON", help="Let those vectors stay instead; kept with it."),
    ] = None,
    yes: options.Yes = False,
    json: options.Json = False,
) -> None:
    """Try failed batches and quarantined rows again.

    Their requests are paid once more. With --suspects: take back the vectors that `status` names as suspects, after
    showing what embedding their rows again costs; those of the live column are absent from search until then.

    Examples:
        migrator retry docs

        migrator retry docs --suspects

        migrator retry docs --accept-suspects "recipes, a new kind of text, OPS-123"
    """
    from migrator.cli import session
    from migrator.orchestrator import verbs

    if suspects and accept_suspects is not None:
        raise typer.BadParameter("--suspects and --accept-suspects are two answers; give one")
    if accept_suspects is not None and not accept_suspects.strip():
        raise typer.BadParameter("a reason is needed", param_hint="--accept-suspects")
    if accept_suspects is not None:
        _accept(name, accept_suspects.strip(), json=json)
        return
    if suspects:
        _take_back(name, yes=yes, json=json)
        return
    again, rows = session.run(lambda worker: verbs.retry(worker.engine, name, actor=session.actor()))
    if json:
        console.as_json({"name": name, "batches": again, "rows": rows})
    else:
        console.say(f"{again} batches and {rows} rows will be tried again. Next: `migrator status {name}`.")


def _take_back(name: str, *, yes: bool, json: bool) -> None:
    from migrator.cli import session
    from migrator.orchestrator import suspicious

    seen = session.run(lambda worker: suspicious.look(worker.engine, name))
    price = f"about {seen.tokens:,} tokens, {console.usd(seen.usd)} USD"
    absent = f" {seen.absent:,} of them are absent from search until then." if seen.absent else ""
    question = f"Take back {seen.rows:,} vectors, and let their rows be embedded again for {price}?{absent}"
    console.ask(question, verb="retry", yes=yes)
    rows = session.run(lambda worker: suspicious.take_back(worker.engine, name, actor=session.actor()))
    if json:
        console.as_json({"name": name, "taken_back": rows})
    else:
        console.say(f"{rows:,} vectors were taken back; catch-up embeds their rows. Next: `migrator status {name}`.")


def _accept(name: str, reason: str, *, json: bool) -> None:
    from migrator.cli import session
    from migrator.orchestrator import suspicious

    rows = session.run(lambda worker: suspicious.accept(worker.engine, name, reason=reason, actor=session.actor()))
    if json:
        console.as_json({"name": name, "accepted": rows})
    else:
        console.say(f"{rows:,} suspect vectors stay. Next: `migrator status {name}`.")
