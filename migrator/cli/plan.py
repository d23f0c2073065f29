"""`migrator plan`.

Floor 4.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from migrator.cli import console, options

if TYPE_CHECKING:
    from migrator.planning.plan import Plan


def command(
    spec: options.SpecFile,
    *,
    exact: Annotated[bool, typer.Option("--exact", help="Count every row, however long that takes.")] = False,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Also write it as one self-contained page.")
    ] = None,
    json: options.Json = False,
) -> int:
    """Tell what a migration would do and cost.

    Changes nothing on the table, and needs no more than SELECT on it. A table of more than 160 MB is not read whole: up
    to 4,000 pages and 1,000 texts are drawn at random, and every figure says between what it lies.

    The plan is stored where the role may write schema `migrator`; `start` uses it while the table is unchanged.

    Examples:
        migrator plan docs.toml

        migrator plan docs.toml --exact --html docs-plan.html

        migrator plan docs.toml --json
    """
    from migrator import settings
    from migrator import spec as specs
    from migrator.cli import session
    from migrator.orchestrator import verbs
    from migrator.spending.worker import Worker

    wanted = specs.load(spec)

    async def step(worker: Worker) -> tuple[Plan, str | None]:
        broker_url = settings.load().broker_url
        return await verbs.make_plan(worker.engine, wanted, actor=session.actor(), exact=exact, broker_url=broker_url)

    made, not_stored = session.run(step, with_schema=False)
    if html is not None:
        _write(html, made.document)
    if json:
        console.as_json({**made.document, "stored": not_stored is None, "not_stored_because": not_stored})
    else:
        show(made.document)
        console.say()
        if not_stored is None:
            console.say(f"The plan is stored. Next: `migrator start {spec}`.")
        else:
            console.say(f"The plan was not stored: {not_stored}.")
        if html is not None:
            console.say(f"Its page is in {html}.")
    return 2 if made.refused else 0


def show(plan: dict[str, Any]) -> None:
    """Print a plan for people."""
    from migrator.report import ticket

    first, *rest = ticket.lines(plan)
    console.heading(first)
    for line in rest:
        console.say(line)


def _write(path: Path, plan: dict[str, Any]) -> None:
    """Write the plan as a page.

    Raises: ReportNotWritten, PlotsMissing.
    """
    from migrator.report import output

    try:
        from migrator.report import plan_page
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in {"jinja2", "markupsafe"}:
            raise
        raise output.PlotsMissing(missing) from None
    output.write(path, plan_page.render(plan))
