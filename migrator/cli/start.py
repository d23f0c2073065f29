"""`migrator start`.

Floor 4.
"""

from __future__ import annotations

from typing import Annotated

import typer

from migrator.cli import console, options


def command(
    spec: options.SpecFile,
    *,
    replan: Annotated[bool, typer.Option("--replan", help="Plan anew, over a stored plan that does not hold.")] = False,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Add the shadow column and the capture triggers, and begin; the workers go on by themselves to `ready`.

    Uses the stored plan while the table is unchanged. Locks the table for a few milliseconds, in tries that make
    nobody wait longer than 0.4 s.

    Examples:
        migrator start docs.toml

        migrator start docs.toml --replan --yes
    """
    from migrator import spec as specs
    from migrator.cli import plan as plan_verb
    from migrator.cli import session
    from migrator.orchestrator import verbs
    from migrator.planning.findings import PlanRefused, refusals
    from migrator.planning.plan import PlanNotStored
    from migrator.spending.worker import Worker
    from migrator.target.message import Timing

    wanted = specs.load(spec)
    actor = session.actor()

    async def step(worker: Worker) -> Timing | None:
        stored = await verbs.stored_plan(worker.engine, wanted)
        if stored is None or replan:
            made, not_stored = await verbs.make_plan(worker.engine, wanted, actor=actor)
            if made.refused:
                raise PlanRefused(wanted.name, str(spec), refusals(made.findings))
            if not_stored is not None:
                raise PlanNotStored(wanted.name, not_stored)
            document = made.document
        else:
            document = stored.plan
        if not json:
            plan_verb.show(document)
        if dry_run:
            return None
        question = (
            f"Add column {wanted.target.column}__migrator and triggers to {wanted.target.table}, and begin to embed "
            f"{document['rows_to_embed']:,} rows for {document['cost_usd']['low']:.2f} to "
            f"{document['cost_usd']['high']:.2f} USD (cap {wanted.limits.max_cost_usd:.2f})?"
        )
        console.ask(question, verb="start", yes=yes)
        return await verbs.start(worker.engine, wanted, path=str(spec), actor=actor, on_wait=_told)

    timing = session.run(step)
    if json:
        console.as_json({"name": wanted.name, "started": timing is not None})
    elif timing is None:
        console.say("Nothing was done (--dry-run).")
    else:
        console.say(f"{wanted.name} is backfilling; the table was locked for {timing.held_ms:.1f} ms.")
        console.say(f"Next: `migrator status {wanted.name}`; it goes on by itself to ready.")


def _told(number: int, held: object, pause: float) -> None:
    who = "; ".join(map(str, held)) if isinstance(held, list) else ""
    console.aside(
        f"try {number}: the lock was not to be had (holding it: {who or 'nobody any more'}); next try in {pause:.1f} s"
    )
