"""`migrator start`.

Floor 4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from migrator.cli import console, options

if TYPE_CHECKING:
    from migrator.spec import Spec
    from migrator.spending.worker import Worker
    from migrator.target.message import Blocker, Timing


def command(
    spec: options.SpecFile,
    *,
    replan: Annotated[bool, typer.Option("--replan", help="Plan anew, over a stored plan that does not hold.")] = False,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Begin: add the shadow column and the capture triggers.

    The workers go on by themselves to `ready`.

    Uses the stored plan while the table is unchanged. Locks the table for a few milliseconds, in tries that make
    nobody wait longer than 0.4 s.

    Examples:
        migrator start docs.toml

        migrator start docs.toml --replan --yes
    """
    from migrator import spec as specs
    from migrator.cli import session

    wanted = specs.load(spec)
    timing = session.run(
        lambda worker: _step(worker, wanted, str(spec), replan=replan, yes=yes, dry_run=dry_run, json=json)
    )
    if json:
        console.as_json({"name": wanted.name, "started": timing is not None})
    elif timing is None:
        console.say("Nothing was done (--dry-run).")
    else:
        console.say(f"{wanted.name} is backfilling; the table was locked for {timing.held_ms:.1f} ms.")
        console.say(f"Next: `migrator status {wanted.name}`; it goes on by itself to ready.")


async def _step(
    worker: Worker, wanted: Spec, path: str, *, replan: bool, yes: bool, dry_run: bool, json: bool
) -> Timing | None:
    """Plan where there is no plan, show it, ask, and expand; None for a dry run."""
    from migrator.cli import plan as plan_verb
    from migrator.cli import session
    from migrator.orchestrator import verbs

    stored = await verbs.stored_plan(worker.engine, wanted)
    if stored is None or replan:
        document = (await verbs.plan_to_start(worker.engine, wanted, path=path, actor=session.actor())).document
    else:
        document = stored.plan
    if not json:
        plan_verb.show(document)
    if dry_run:
        return None
    cost = document["cost_usd"]
    question = (
        f"Add column {wanted.target.column}__migrator and triggers to {wanted.target.table}, and begin to embed "
        f"{document['rows_to_embed']:,} rows for {console.usd(cost['low'])} to {console.usd(cost['high'])} USD "
        f"(cap {wanted.limits.max_cost_usd:.2f})?"
    )
    console.ask(question, verb="start", yes=yes)
    return await verbs.start(worker.engine, wanted, path=path, actor=session.actor(), on_wait=_told)


def _told(number: int, held: list[Blocker], pause: float) -> None:
    who = "; ".join(map(str, held)) or "nobody any more"
    console.aside(f"try {number}: the lock was not to be had (holding it: {who}); next try in {pause:.1f} s")
