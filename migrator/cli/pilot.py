"""`migrator pilot`.

Floor 4.
"""

from __future__ import annotations

from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from migrator.cli import console, options

if TYPE_CHECKING:
    from migrator.orchestrator.pilot_sample import Prepared, Wanted
    from migrator.spec import Spec
    from migrator.spending.worker import Worker

#: Rows at the most: their vectors are held in memory, and every query is compared with each of them.
_MOST_ROWS = 10_000


def command(
    spec: options.SpecFile,
    *,
    rows: Annotated[int, typer.Option(min=10, max=_MOST_ROWS, help="How many random rows are embedded.")] = 1000,
    queries: Annotated[
        Path | None, typer.Option("--queries", metavar="FILE", help="Queries to ask instead of the spec's own.")
    ] = None,
    max_cost: Annotated[
        float | None, typer.Option(min=0, metavar="USD", help="What pilots of this migration may cost in all.")
    ] = None,
    resample: Annotated[bool, typer.Option("--resample", help="Draw other rows than the last pilot.")] = False,
    skip_provenance: Annotated[
        str | None, typer.Option(metavar="REASON", help="Do not make old vectors again; the reason is kept.")
    ] = None,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Embed a sample with both models, compare them, and mend the plan by what was billed.

    Spends a little, under the migration's cap; the price is shown before. It reads your table and never writes it. A
    pilot that was interrupted goes on when it is run again, and pays for nothing twice.

    Exit 3: the old vectors are not what the spec says, or the new model is worse beyond chance. Exit 4: a cap.

    Examples:
        migrator pilot docs.toml --rows 1000

        migrator pilot docs.toml --rows 300 --queries queries.jsonl --max-cost 0.05 --yes --json
    """
    from migrator import spec as specs
    from migrator.cli import session
    from migrator.orchestrator.pilot import refuse
    from migrator.orchestrator.pilot_sample import Wanted

    loaded = specs.load(spec)
    if skip_provenance is not None and not skip_provenance.strip():
        raise typer.BadParameter("a reason is needed", param_hint="--skip-provenance")
    cap = None if max_cost is None else Decimal(str(max_cost))
    wanted = Wanted(str(spec), rows, queries, cap, resample, skip_provenance)
    page = session.run(lambda worker: _step(worker, loaded, wanted, yes=yes, dry_run=dry_run, json=json))
    if page is not None:
        _show(page, str(spec), json=json)
        refuse(page, str(spec))


async def _step(
    worker: Worker, spec: Spec, wanted: Wanted, *, yes: bool, dry_run: bool, json: bool
) -> dict[str, Any] | None:
    """Prepare, tell the price, ask, look where old vectors come from, and do it; None for a dry run."""
    from migrator.cli import session
    from migrator.orchestrator import pilot, pilot_sample
    from migrator.provenance.page import lines

    actor = session.actor()
    say = _silent if json else console.aside
    prepared = await pilot_sample.prepare(worker, spec, wanted, actor=actor, say=say)
    if dry_run:
        _foretell(prepared, json=json)
        return None
    cap = spec.limits.max_cost_usd if wanted.max_usd is None else float(wanted.max_usd)
    console.ask(f"Embed {prepared.price} (cap {cap:.4g})?", verb="pilot", yes=yes)
    looked = await pilot.look(worker, prepared, actor=actor)
    if looked is not None and looked.outcome != "fits":
        if json:
            told = {"name": spec.name, "done": False, "planned_anew": prepared.planned_anew}
            console.as_json({**told, "provenance": asdict(looked)})
        else:
            for line in lines(looked):
                console.say(line)
        pilot.refuse_origin(looked, spec.name, wanted.path)
    return await pilot.run(worker, prepared, origin_page=looked, actor=actor, say=say)


def _silent(_line: str) -> None:
    """Tell nothing: stderr has to stay JSON."""


def _foretell(prepared: Prepared, *, json: bool) -> None:
    if json:
        told = {"name": prepared.migration.name, "done": False, "planned_anew": prepared.planned_anew}
        console.as_json({**told, "price": prepared.price.as_json()})
    else:
        console.say(f"Would embed {prepared.price}. Nothing was asked.")


def _show(page: dict[str, Any], path: str, *, json: bool) -> None:
    from migrator.pilot.page import lines

    if json:
        console.as_json(page)
        return
    first, *rest = lines(page)
    console.heading(first)
    for line in rest:
        console.say(line)
    console.say()
    plan = page["plan"]
    done = "The plan is mended and stored" if plan["mended"] else f"The plan was not mended: {plan['why_not']}"
    console.say(f"{done}. Next: `migrator start {path}`.")
