"""`migrator start`.

Floor 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from migrator.cli import blockers, console, options

if TYPE_CHECKING:
    from migrator.provenance.page import Page
    from migrator.spec import Spec
    from migrator.spending.worker import Worker
    from migrator.target.message import Timing


def command(
    spec: options.SpecFile,
    *,
    replan: Annotated[bool, typer.Option("--replan", help="Plan anew, over a stored plan that does not hold.")] = False,
    skip_provenance: Annotated[
        str | None,
        typer.Option(
            "--skip-provenance", metavar="REASON", help="Begin without making old vectors again; the reason is kept."
        ),
    ] = None,
    cancel_blockers: options.CancelBlockers = False,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Begin: add the shadow column and the capture triggers.

    The workers go on by themselves to `ready`.

    Uses the stored plan while the table is unchanged. Locks the table for a few milliseconds, in tries that make
    nobody wait longer than 0.4 s.

    Before that, a random sample of rows is embedded again with the old model (at most 100,000 tokens, within the cap):
    where the stored vectors do not come out, the spec's text or model is wrong, what fits is shown, and nothing begins.

    Examples:
        migrator start docs.toml

        migrator start docs.toml --replan --yes

        migrator start docs.toml --skip-provenance "the region has no v3, OPS-123"
    """
    from migrator import spec as specs
    from migrator.cli import session

    wanted = specs.load(spec)
    if skip_provenance is not None and not skip_provenance.strip():
        raise typer.BadParameter("a reason is needed", param_hint="--skip-provenance")
    asked = _Asked(
        replan=replan, cancel_blockers=cancel_blockers, yes=yes, dry_run=dry_run, json=json, waiver=skip_provenance
    )
    timing, page = session.run(lambda worker: _step(worker, wanted, str(spec), asked))
    _began(wanted.name, timing, page, json=json)


def _began(name: str, timing: Timing | None, page: Page | None, *, json: bool) -> None:
    from migrator.cli.cutover import locked

    if json:
        shown = page.as_json() if page is not None else None
        console.as_json({"name": name, "started": timing is not None, "provenance": shown})
    elif timing is None:
        console.say("Nothing was done (--dry-run).")
    else:
        console.say(f"{name} is backfilling; {locked(timing)}.")
        console.say(f"Next: `migrator status {name}`; it goes on by itself to ready.")


@dataclass(frozen=True, slots=True)
class _Asked:
    """The options."""

    replan: bool
    cancel_blockers: bool
    yes: bool
    dry_run: bool
    json: bool
    waiver: str | None


async def _step(worker: Worker, wanted: Spec, path: str, asked: _Asked) -> tuple[Timing | None, Page | None]:
    """Plan where there is no plan, show it, ask, look where the vectors come from, and expand; None for a dry run."""
    from migrator import settings
    from migrator.cli import plan as plan_verb
    from migrator.cli import session
    from migrator.orchestrator import attendance, blocking, origin, verbs
    from migrator.planning import plan as plans

    stored = await verbs.stored_plan(worker.engine, wanted)
    if stored is None or asked.replan:
        broker_url = settings.load().broker_url
        made = await verbs.plan_to_start(worker.engine, wanted, path=path, actor=session.actor(), broker_url=broker_url)
        document = made.document
    else:
        plans.refuse_older(stored, path)
        document = stored.plan
    if not asked.json:
        plan_verb.show(document)
    if asked.dry_run:
        return None, None
    cost = document["cost_usd"]
    look = (
        "" if asked.waiver is not None else f", after a look at old vectors for at most {origin.most_usd(wanted):.4f}"
    )
    question = (
        f"Add column {wanted.target.column}__migrator and triggers to {wanted.target.table}, and begin to embed "
        f"{document['rows_to_embed']:,} rows for {console.usd(cost['low'])} to {console.usd(cost['high'])} USD{look} "
        f"(cap {wanted.limits.max_cost_usd:.2f})?"
    )
    console.ask(question + blockers.asked(asked.cancel_blockers), verb="start", yes=asked.yes)
    migration = await verbs.startable(worker.engine, wanted, path=path)
    page = await origin.gate(worker, migration, waiver=asked.waiver, actor=session.actor())
    if page is not None:
        _show(page, json=asked.json)
        origin.refuse(page, wanted.name, path)
        await origin.fingerprint(worker, migration)
    actor, tell = session.actor(), console.aside
    told = attendance.on_wait(tell)
    cancel = blocking.canceller(worker.engine, migration, "start", actor, tell, asked=asked.cancel_blockers)
    timing = await verbs.start(worker.engine, wanted, path=path, actor=actor, on_wait=told, tell=tell, cancel=cancel)
    return timing, page


def _show(page: Page, *, json: bool) -> None:
    """Print the page; with --json only where nothing follows it on stdout."""
    from migrator.provenance.page import lines

    if json:
        if page.outcome != "fits":
            console.as_json({"started": False, "provenance": page.as_json()})
        return
    for line in lines(page):
        console.say(line)
    console.say()
